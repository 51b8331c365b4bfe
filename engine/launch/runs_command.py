"""`python -m engine runs`: list the runs of the data root, or stop one."""

from __future__ import annotations

import argparse

from engine.contract.places import data_root
from engine.contract.rundir import effective_state, list_runs, open_run, request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--stop", metavar="RUN", help="ask a run to save a checkpoint and stop")


def run(arguments: argparse.Namespace) -> int:
    """Print one line per run, newest first."""
    root = data_root()
    if arguments.stop:
        request(open_run(root.runs, arguments.stop), "stop")
        print(f"{arguments.stop}: asked to stop after its step")
        return 0
    runs = list_runs(root.runs)
    for item in runs:
        status = item.status()
        print(f"{effective_state(item):10} {status.step:>6}/{status.total_steps:<6} {item.id}")
    if not runs:
        print(f"no runs in {root.runs}")
    return 0
