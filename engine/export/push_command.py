"""`python -m engine push RUN EXPORT REPO`: an export to the Hugging Face hub, private unless --public."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.export_formats import find_result
from engine.export.merge_command import find_run
from engine.export.push import push_folder
from engine.launch.jobs import write_job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run directory, or the id of a run in the data root")
    parser.add_argument("export", help="merged/NAME, exports/NAME or adapters/NAME")
    parser.add_argument("repo", help="name or owner/name on the hub")
    parser.add_argument("--public", action="store_true", help="let everybody see it (default: private)")
    parser.add_argument("--update", action="store_true", help="add to a repository that is there already")
    parser.add_argument("--status-file", type=Path, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Push, and print the address."""

    def progress(phase: str, fraction: float | None) -> None:
        print(f"  {phase}", flush=True)
        write_job(arguments.status_file, phase=phase, fraction=fraction)

    progress("asking the hub", None)
    try:
        folder = find_result(find_run(arguments.run), arguments.export)
        address = push_folder(
            folder, arguments.repo, public=arguments.public, update=arguments.update, progress=progress
        )
    except UserError as error:
        write_job(arguments.status_file, state="failed", phase="failed", problem=error.problem, fix=error.fix)
        raise
    write_job(arguments.status_file, state="done", phase="done", fraction=1.0, result={"address": address})
    print(address)
    return 0
