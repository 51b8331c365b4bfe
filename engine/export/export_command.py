"""`python -m engine export RUN --format FORMAT`: a checkpoint for another program; `merge` is the format `merged`."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.export_formats import FORMATS
from engine.contract.files import read_json
from engine.contract.places import data_root
from engine.export.merge_command import find_run
from engine.launch.jobs import reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run directory, or the id of a run in the data root")
    parser.add_argument("--format", default="merged", choices=tuple(FORMATS), help="what to make (default: merged)")
    parser.add_argument("--checkpoint", default="latest", help="for example step-000060 (default: the newest)")
    parser.add_argument("--output", default="", metavar="NAME", help="name of the result")
    parser.add_argument("--status-file", type=Path, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Export, and print where the result lies and how it compares."""
    with reporting(arguments.status_file) as job:
        source = find_run(arguments.run)
        job.progress("loading the libraries", None)
        from engine.export.export import export_run

        folder = export_run(
            source, arguments.checkpoint, arguments.format, arguments.output,
            root=data_root(), progress=job.progress,
        )  # fmt: skip
        job.result = {"folder": str(folder)}
    told = read_json(folder / "export.json") or read_json(folder / "merge.json") or {}
    print("\n".join(f"  {key}: {value}" for key, value in told.items()))
    print(folder)
    return 0
