"""`python -m engine fetch MODEL`: bring a model to this machine, with progress in the terminal or in a status file."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.models import STARTER_MODEL
from engine.contract.places import data_root
from engine.launch.jobs import write_job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    where = "hub id, modelscope://org/name, local folder or .gguf file (default: the starter)"
    parser.add_argument("model", nargs="?", default=STARTER_MODEL, help=where)
    parser.add_argument("--revision", help="branch, tag or commit")
    parser.add_argument("--status-file", type=Path, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Fetch the model and print where it lies."""
    from engine.model.sources import resolve_model

    def progress(phase: str, fraction: float | None) -> None:
        print(f"  {phase}", flush=True)
        write_job(arguments.status_file, phase=phase, fraction=fraction)

    try:
        folder = resolve_model(arguments.model, root=data_root().make(), revision=arguments.revision, progress=progress)
    except UserError as error:
        write_job(arguments.status_file, state="failed", phase="failed", problem=error.problem, fix=error.fix)
        raise
    write_job(arguments.status_file, state="done", phase="done", fraction=1.0, result={"folder": str(folder)})
    print(f"{arguments.model}\n  {folder}")
    return 0
