"""`python -m engine import-mftcoder CONFIG`: a configuration of MFTCoder as a recipe, and what changed in meaning."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.files import replace_text
from engine.contract.mftcoder import Note, import_mftcoder
from engine.contract.recipe_io import dump_recipe, override, recipe_from_values

TITLES = {"changed": "Changed in meaning", "mapped": "Taken over", "ignored": "Not needed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="train_config.json of mftcoder_accelerate")
    parser.add_argument("--out", type=Path, metavar="YAML", help="where the recipe goes (default: standard output)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the recipe and tell what became of every option, on standard error."""
    try:
        config = json.loads(arguments.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{arguments.config} cannot be read: {error.strerror}.", fix="check the path.") from None
    except ValueError as error:
        raise UserError(f"{arguments.config} is no JSON: {error}.", fix="give MFTCoder's own file.") from None
    if not isinstance(config, dict):
        raise UserError(f"{arguments.config} holds no object.", fix="give MFTCoder's own file.")
    values, notes = import_mftcoder(config)
    recipe = override(recipe_from_values(values, source=str(arguments.config)), arguments.set)
    text = dump_recipe(recipe, all_fields=False)
    if arguments.out:
        replace_text(arguments.out, text)
        print(f"{arguments.out} is written: python -m engine prepare {arguments.out}")
    else:
        print(text, end="")
    print("\n".join(_lines(notes)), file=sys.stderr)
    return 0


def _lines(notes: tuple[Note, ...]) -> list[str]:
    lines = []
    for kind, title in TITLES.items():
        chosen = [note for note in notes if note.kind == kind]
        lines += [f"{title}:", *(f"  {note.option}: {note.text}" for note in chosen)] if chosen else []
    return lines
