"""`python -m engine insight FILE...`: duplicates, benchmark problems and overlaps; with --clean a new, cleaned file."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import replace_json
from engine.contract.recipe import ColumnsSection
from engine.launch.jobs import write_job

ACTIONS = "exact_duplicates,near_duplicates,contaminated,heldout_overlap"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="task files; several are compared")
    parser.add_argument("--columns", help="what the first file's columns mean, as JSON")
    parser.add_argument("--heldout", type=Path, help="held-out file of the first one, to find leaks")
    parser.add_argument("--json", action="store_true", help="print the insight of every file as JSON")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the insight of the first file as JSON")
    parser.add_argument("--clean", type=Path, metavar="NEW", help="write the first file again without what is removed")
    parser.add_argument("--remove", default=ACTIONS.rsplit(",", 1)[0], help=f"what --clean removes, of {ACTIONS}")
    parser.add_argument("--status-file", type=Path, help="report progress there")


def run(arguments: argparse.Namespace) -> int:
    """Look into the files, or clean the first."""
    columns = ColumnsSection.model_validate_json(arguments.columns) if arguments.columns else None
    status = arguments.status_file
    try:
        write_job(status, phase="reading")
        if arguments.clean:
            return _clean(arguments, columns)
        told = _look(arguments, columns)
        if arguments.output:
            replace_json(arguments.output, told[0])
        write_job(status, state="done", phase="done")
    except UserError as error:
        write_job(status, state="failed", phase="failed", problem=error.problem, fix=error.fix)
        raise
    if arguments.json:
        print(json.dumps(told, ensure_ascii=True, indent=1))
    elif not arguments.output:
        for path, insight in zip(arguments.files, told, strict=True):
            print("\n".join(_lines(path, insight)))
    return 0


def _look(arguments: argparse.Namespace, columns: ColumnsSection | None) -> list[dict[str, Any]]:
    from engine.data.insight import inspect_task, overlap

    made = []
    for number, path in enumerate(arguments.files):
        write_job(arguments.status_file, phase=f"reading {path.name}", fraction=number / len(arguments.files))
        first = number == 0
        made.append(inspect_task(path, columns if first else None, heldout=arguments.heldout if first else None))
    told = []
    for number, (insight, signatures) in enumerate(made):
        others = [(str(arguments.files[i]), overlap(signatures, s)) for i, (_, s) in enumerate(made) if i != number]
        told.append(replace(insight, overlaps=tuple(item for item in others if item[1])).as_json())
    return told


def _clean(arguments: argparse.Namespace, columns: ColumnsSection | None) -> int:
    from engine.data.clean import ACTIONS as KNOWN
    from engine.data.clean import clean

    asked = [name.strip() for name in arguments.remove.split(",") if name.strip()]
    unknown = [name for name in asked if name not in KNOWN]
    if unknown:
        raise UserError(f"There is nothing called `{unknown[0]}` to remove.", fix=f"use some of {', '.join(KNOWN)}.")
    actions = tuple(action for action in KNOWN if action in asked)
    report = clean(arguments.files[0], arguments.clean, actions, columns=columns, heldout=arguments.heldout)
    write_job(arguments.status_file, state="done", phase="done", result=asdict(report))
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.removed.items())
    print(f"{arguments.clean}: {report.num_kept} of {report.num_examples} examples kept; removed {words}")
    return 0


def _lines(path: Path, insight: dict[str, Any]) -> list[str]:
    answer = insight["answer_characters"]
    lines = [
        f"{path}: {insight['num_examples']} examples",
        f"  answers: p50 {answer['p50']}, p95 {answer['p95']}, max {answer['max']} characters; "
        f"{insight['num_fenced']} examples with code fences",
        f"  duplicates: {insight['num_exact']} exact, {insight['num_near']} near; "
        f"HumanEval: {insight['num_contaminated']} examples contain a problem",
    ]
    lines += [f"  line {b} is a copy of line {a}" for a, b in insight["exact"][:5]]
    lines += [f"  line {b} is nearly line {a} (similarity {s:.2f})" for a, b, s in insight["near"][:5]]
    lines += [f"  line {h['line']} contains {h['task_id']} ({h['part']})" for h in insight["contaminated"][:5]]
    if insight["num_in_heldout"]:
        lines.append(f"  {insight['num_in_heldout']} training examples are held out too")
    lines += [f"  {count} examples are in {name} too" for name, count in insight["overlaps"]]
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines]
