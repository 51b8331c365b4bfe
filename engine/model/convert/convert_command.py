"""`python -m engine convert SOURCE [TARGET]`: rewrite an old model, once, for the native classes of transformers."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.models import cache_folder, is_local_path
from engine.contract.places import data_root
from engine.model.progress_line import progress_line, without_foreign_bars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", help="model folder, or hub id: Qwen 1, Baichuan 7B, ChatGLM2/3, CodeGeeX2, Aquila, "
                        "InternLM 1/2, or a native model that has only .bin files")  # fmt: skip
    parser.add_argument("target", nargs="?", type=Path, help="folder to make (default for a hub id: our models folder)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")


def run(arguments: argparse.Namespace) -> int:
    """Convert and print what was checked, and where the model differs."""
    without_foreign_bars()
    from transformers.utils import logging

    from engine.model.convert.convert import convert_model
    from engine.model.sources import fetch_original

    logging.set_verbosity_error()
    root = data_root().make()
    local, target = is_local_path(arguments.source) or Path(arguments.source).is_dir(), arguments.target
    if target is None and local:
        fix = f"python -m engine convert {arguments.source} NEW_FOLDER"
        raise UserError("A target folder is needed, beside the source.", fix=fix)
    origin = "" if target else arguments.source
    with progress_line() as progress:
        source = (
            Path(arguments.source).expanduser()
            if local
            else fetch_original(arguments.source, arguments.revision, progress)
        )
        target = target or cache_folder(arguments.source, root)
        made = convert_model(source, target.expanduser(), progress=progress, origin=origin)
    print(f"{made.model_type}, {made.num_weights / 1e6:,.1f} million weights\n  {made.folder}")
    for line in made.checks:
        print(f"  checked: {line}")
    for line in made.notes:
        print(f"  note: {line}")
    print(f"  use it as: {origin or made.folder}")
    return 0
