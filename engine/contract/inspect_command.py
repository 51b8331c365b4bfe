"""`python -m engine inspect FILE...`: what a task file holds, which records are skipped and why."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.taskfile import TaskScan, UnusableFile, scan_task_file

SHOWN = 20
"""Skipped records that are printed for people; --json tells all that are kept."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON list on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Print a report per file; 2 if any file is refused."""
    reports = [report(path) for path in arguments.files]
    if arguments.json:
        print(json.dumps(reports, ensure_ascii=True, indent=1))
    else:
        print("\n".join(_lines(item) for item in reports))
    return 2 if any(item["error"] for item in reports) else 0


def report(path: Path) -> dict[str, Any]:
    """Return what is known of a file, JSON-ready; `error` is None if it can be used."""
    try:
        return {**_counts(scan_task_file(path)), "file": str(path), "error": None}
    except UnusableFile as error:
        return {**_counts(error.scan), "file": str(path), "error": error.problem}
    except UserError as error:
        nothing: dict[str, Any] = {"format": None, "records": None, "used": 0, "skipped": [], "warnings": []}
        return {**nothing, "file": str(path), "error": error.problem}


def _counts(scan: TaskScan) -> dict[str, Any]:
    return {
        "format": scan.format or None,
        "records": scan.num_records,
        "used": scan.num_used,
        "skipped": [{"line": row.line, "reason": row.reason} for row in scan.skipped],
        "warnings": list(scan.warnings),
    }


def _lines(item: dict[str, Any]) -> str:
    """Write one report for a terminal; control characters of the data are escaped."""
    lines = [f"{item['file']}: {item['error'] or item['format']}"]
    if item["records"] is not None:
        lines.append(f"  {item['records']} records, {item['used']} used")
    lines += [f"  line {row['line']}: skipped, {row['reason']}" for row in item["skipped"][:SHOWN]]
    if len(item["skipped"]) > SHOWN:
        lines.append(f"  ... and {len(item['skipped']) - SHOWN} more")
    lines += [f"  note: {warning}" for warning in item["warnings"]]
    return "\n".join("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line) for line in lines)
