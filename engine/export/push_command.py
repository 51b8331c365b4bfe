"""`python -m engine push RUN EXPORT REPO`: an export to the Hugging Face hub, private unless --public."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.export_formats import find_result
from engine.export.merge_command import find_run
from engine.export.push import push_folder
from engine.launch.jobs import reporting


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
    with reporting(arguments.status_file) as job:
        job.progress("asking the hub", None)
        folder = find_result(find_run(arguments.run), arguments.export)
        address = push_folder(
            folder, arguments.repo, public=arguments.public, update=arguments.update, progress=job.progress
        )
        job.result = {"address": address}
    print(address)
    return 0
