"""`python -m engine inspect PATH...`: what a task file or folder holds, which records are skipped and why."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.contract.errors import Problem, UserError
from engine.contract.taskfile import Columns, TaskScan, UnusableFile, scan_task_file

SHOWN = 20
"""Skipped records that are printed for people; --json tells all that are kept."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="PATH", help="task files, or folders of them")
    parser.add_argument(
        "--columns", metavar="ROLE=NAME,...", help="what the columns mean: prompt=question,completion=solution"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Print a report per path; 2 if any of them is refused."""
    columns = parse_columns(arguments.columns) if arguments.columns is not None else None
    told = [_inspect(path, columns) for path in arguments.files]
    if arguments.json:
        print(json.dumps([item for item, _ in told], ensure_ascii=True, indent=1))
    else:
        print("\n".join(_lines(item, fix) for item, fix in told))
    return 2 if any(item["error"] for item, _ in told) else 0


def report(path: Path, columns: Columns | None = None) -> dict[str, Any]:
    """Return what is known of a file or folder, JSON-ready; `error` is None if it can be used."""
    return _inspect(path, columns)[0]


def parse_columns(text: str) -> Columns:
    """Read `role=column,role=column`.

    Raises:
        UserError: For a malformed part, an unknown role, or roles that do not go together; all problems at once.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    problems = [
        Problem(problem=f"--columns: `{role}{sign}{name}` is no assignment.", fix="write role=column,role=column.")
        for role, sign, name in pairs
        if not (role.strip() and sign and name)
    ]
    roles = [role.strip() for role, _, _ in pairs]
    problems += [
        Problem(problem=f"--columns: `{role}` is named twice.", fix="name each role once.")
        for role in sorted(set(roles))
        if role and roles.count(role) > 1
    ]
    if problems:
        raise UserError.of(problems)
    try:
        return Columns.model_validate({role.strip(): name for role, _, name in pairs})
    except ValidationError as error:
        known = ", ".join(Columns.model_fields)
        raise UserError.of(
            [
                Problem(problem=f"--columns: there is no role `{item['loc'][-1]}`.", fix=f"roles: {known}.")
                if item["type"] == "extra_forbidden"
                else Problem(problem=f"--columns: {item.get('ctx', {}).get('error', item['msg'])}.")
                for item in error.errors()
            ]
        ) from None


def _inspect(path: Path, columns: Columns | None) -> tuple[dict[str, Any], str]:
    """Return the report on a path, and what to do if it is refused."""
    try:
        if path.parts[:1] in (("hf:",), ("modelscope:",)):
            fix = "fetch it first: `python -m engine fetch-data`, then inspect the folder that it prints."
            raise UserError("This looks at files, not at a hub.", fix=fix)
        return {**_counts(scan_task_file(path, columns)), "file": str(path), "error": None}, ""
    except UnusableFile as error:
        return {**_counts(error.scan), "file": str(path), "error": error.problem}, error.fix
    except UserError as error:
        nothing: dict[str, Any] = {"format": None, "records": None, "used": 0, "skipped": [], "warnings": []}
        return {**nothing, "file": str(path), "error": error.problem}, error.fix


def _counts(scan: TaskScan) -> dict[str, Any]:
    return {
        "format": scan.format or None,
        "records": scan.num_records,
        "used": scan.num_used,
        "skipped": [
            {"line": row.line, "reason": row.reason, **({"file": row.file} if row.file else {})} for row in scan.skipped
        ],
        "warnings": list(scan.warnings),
    }


def _lines(item: dict[str, Any], fix: str) -> str:
    """Write one report for a terminal; control characters of the data are escaped."""
    lines = [f"{item['file']}: {item['error'] or item['format']}"]
    if fix:
        lines.append(f"  -> {fix}")
    if item["records"] is not None:
        lines.append(f"  {item['records']} records, {item['used']} used")
    for row in item["skipped"][:SHOWN]:
        place = f"{row['file']} line {row['line']}" if "file" in row else f"line {row['line']}"
        lines.append(f"  {place}: skipped, {row['reason']}")
    if len(item["skipped"]) > SHOWN:
        lines.append(f"  ... and {len(item['skipped']) - SHOWN} more")
    lines += [f"  note: {warning}" for warning in item["warnings"]]
    return "\n".join("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line) for line in lines)
