"""`python -m engine fetch-data hf://org/name`: bring a data set to this machine; prints where it lies."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.hub_path import parse_hub_path
from engine.contract.places import data_root
from engine.launch.jobs import write_job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", help="hf://org/name?config=...&split=..., or modelscope://org/name")
    parser.add_argument("--status-file", type=Path, help="report progress there")


def run(arguments: argparse.Namespace) -> int:
    """Fetch the data set."""
    from engine.data.hub import fetch_dataset

    status = arguments.status_file
    try:
        dataset = parse_hub_path(arguments.path)
        write_job(status, phase=f"asking for {dataset.name}")
        root = data_root().make()
        found = fetch_dataset(dataset, root, lambda text, share: write_job(status, phase=text, fraction=share))
    except UserError as error:
        write_job(status, state="failed", phase="failed", problem=error.problem, fix=error.fix)
        raise
    write_job(status, state="done", phase="done", result={"path": str(found)})
    print(found)
    return 0
