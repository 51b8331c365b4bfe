"""`python -m engine combine RUN:CHECKPOINT RUN:CHECKPOINT ...`: several adapters of one base into one."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.combinations import COMBINATIONS
from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.contract.places import data_root
from engine.export.merge_command import find_run
from engine.launch.jobs import reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "adapters", nargs="+", metavar="RUN[:CHECKPOINT]", help="run, and a checkpoint if not its newest"
    )
    parser.add_argument("--method", default=next(iter(COMBINATIONS)), choices=tuple(COMBINATIONS), help="default: cat")
    parser.add_argument("--weights", default="", metavar="W,W", help="one per adapter (default: equal, 1 in all)")
    parser.add_argument("--density", type=float, default=0.5, help="share of values that TIES and DARE keep")
    parser.add_argument("--seed", type=int, default=0, help="for DARE")
    parser.add_argument(
        "--output", default="", metavar="NAME", help="name of the result under adapters/ of the first run"
    )
    parser.add_argument("--status-file", type=Path, help=argparse.SUPPRESS)


def parse_weights(text: str, count: int) -> list[float]:
    """Return the weights of `count` adapters.

    Raises:
        UserError: If there is something else than numbers.
    """
    if not text.strip():
        return [1 / count] * count
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"The weights `{text[:80]}` are not numbers.", fix="write for example 0.5,0.5.") from None


def run(arguments: argparse.Namespace) -> int:
    """Combine, and print where the result lies and how far it is from the sum."""
    with reporting(arguments.status_file) as job:
        sources = []
        for text in arguments.adapters:
            name, colon, checkpoint = text.rpartition(":")
            sources.append((find_run(name if colon else text), checkpoint if colon else "latest"))
        weights = parse_weights(arguments.weights, len(sources))
        job.progress("loading the libraries", None)
        from engine.export.combine import combine_adapters

        folder = combine_adapters(
            sources, weights, arguments.method, arguments.output,
            density=arguments.density, seed=arguments.seed, root=data_root(), progress=job.progress,
        )  # fmt: skip
        job.result = {"folder": str(folder)}
    told = read_json(folder / "export.json") or {}
    print("\n".join(f"  {key}: {value}" for key, value in told.items()))
    print(folder)
    return 0
