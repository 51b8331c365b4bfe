"""`python -m engine merge RUN`: merge a run's adapter into its base model."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.files import read_json
from engine.contract.places import data_root
from engine.contract.rundir import RunDir, open_run
from engine.launch.jobs import reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run directory, or the id of a run in the data root")
    parser.add_argument("--checkpoint", default="latest", help="for example step-000060 (default: the newest)")
    parser.add_argument("--output", default="", metavar="NAME", help="name of the result under merged/")
    parser.add_argument("--status-file", type=Path, help=argparse.SUPPRESS)


def find_run(name: str) -> RunDir:
    """Return a run by path or id.

    Raises:
        UserError: If there is none.
    """
    path = Path(name)
    if (path / "recipe.yaml").is_file():
        return RunDir(path.resolve())
    return open_run(data_root().runs, name)


def run(arguments: argparse.Namespace) -> int:
    """Merge and print where the result lies and how it compares."""
    with reporting(arguments.status_file) as job:
        source = find_run(arguments.run)
        job.progress("loading the libraries", None)
        from engine.export.merge import merge_run

        folder = merge_run(source, arguments.checkpoint, arguments.output, root=data_root(), progress=job.progress)
        job.result = {"folder": str(folder)}
    told = read_json(folder / "merge.json") or {}
    print("\n".join(f"  {key}: {value}" for key, value in told.items()))
    print(folder)
    return 0
