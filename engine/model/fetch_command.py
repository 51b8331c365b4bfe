"""`python -m engine fetch MODEL`: bring a model to this machine, with progress in a terminal."""

from __future__ import annotations

import argparse

from engine.contract.models import STARTER_MODEL
from engine.contract.places import data_root
from engine.model.progress_line import progress_line, without_foreign_bars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    where = "hub id, modelscope://org/name, local folder or .gguf file (default: the starter)"
    parser.add_argument("model", nargs="?", default=STARTER_MODEL, help=where)
    parser.add_argument("--revision", help="branch, tag or commit")


def run(arguments: argparse.Namespace) -> int:
    """Fetch the model and print where it lies."""
    without_foreign_bars()
    from engine.model.sources import resolve_model

    with progress_line() as progress:
        folder = resolve_model(arguments.model, root=data_root().make(), revision=arguments.revision, progress=progress)
    print(f"{arguments.model}\n  {folder}")
    return 0
