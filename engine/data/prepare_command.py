"""`python -m engine prepare recipe.yaml`: read, encode and plan without training.

What it encodes, a run finds in the cache; what it reports, a run writes as its data/report.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from engine.contract.files import replace_json
from engine.contract.places import data_root
from engine.contract.recipe_io import load_recipe, override


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", type=Path, help="recipe YAML, e.g. presets/starter.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a recipe field")
    parser.add_argument("--json", action="store_true", help="print the report as JSON on standard output")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report (a run's data/report.json) there")


def run(arguments: argparse.Namespace) -> int:
    """Prepare every task of the recipe and print what a run would see."""
    from engine.data.hub import local_recipe
    from engine.data.prepare import prepare, report_json
    from engine.model.sources import resolve_tokenizer
    from engine.model.tokenizer import load_codec

    recipe, root = override(load_recipe(arguments.recipe), arguments.set), data_root().make()
    started = time.monotonic()
    folder = resolve_tokenizer(recipe.model_name_or_path, root=root, revision=recipe.model.revision)
    recipe = local_recipe(recipe, root, lambda text, _: _progress(text, 0.0))
    codec = load_codec(folder, root.codecs, chat_template=recipe.data.chat_template)
    prepared = prepare(recipe, codec, root.prepared, _progress)
    report = report_json(recipe, prepared)
    if arguments.report:
        replace_json(arguments.report, report)
    if arguments.json:
        json.dump(report, sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        print("\n".join(_lines(report, seconds=time.monotonic() - started)))
    return 0


def _progress(text: str, share: float) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{share:4.0%} {text}", end="", file=sys.stderr, flush=True)


def _lines(report: dict[str, Any], *, seconds: float) -> list[str]:
    """Write the report for a terminal; names are slugs, reasons are escaped."""
    lines = []
    mixture = {task["name"]: task for task in report["mixture"]["tasks"]}
    for task in report["tasks"]:
        plan, length = mixture[task["name"]], task["length"]
        where = "from the cache" if task["from_cache"] else "encoded now"
        lines += [
            f"{task['name']}: {task['num_records']} records, {task['num_skipped']} skipped, {task['num_rows']} rows to "
            f"train, {task['num_heldout']} held out ({where})",
            f"  tokens {task['num_tokens']:,}, supervised {task['num_supervised_tokens']:,}, "
            f"length p50 {length['p50']}, p95 {length['p95']}, max {length['max']}",
            f"  in the run: {plan['rows']:,} rows ({plan['share']:.1%}), {plan['epochs']:.2f} epochs, "
            f"{plan['loss_share']:.1%} of the loss" + (" - repeats often" if plan["repeats_often"] else ""),
        ]
        lines += ["".join(c if c.isprintable() else "?" for c in f"  note: {note}") for note in task["warnings"]]
    mix = report["mixture"]
    fill = f", packs {mix['pack_fill']:.1%} full" if mix["pack_fill"] else ""
    lines.append(
        f"{mix['steps']:,} steps of {mix['rows_per_step']} rows: {mix['tokens']:,} tokens, "
        f"{mix['supervised_tokens']:,} supervised, padding {mix['padding_share']:.1%}{fill} ({seconds:.1f} s)"
    )
    return lines
