"""Look into a task file from a child process, so that a hostile file can hurt nobody but the child.

    scan_in_child(path, columns) -> TaskReport(counts, skipped rows, warnings, first examples) | UserError
    python -m studio.logic.task_scan PATH [COLUMNS]   the child: limited memory and CPU time, one JSON object on stdout

The rules of a task file live in `engine.contract.taskfile`; this module only puts a fence around it.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.contract.errors import Problem, UserError
from engine.contract.records import Columns
from engine.contract.taskfile import UnusableFile

TIME_LIMIT_S = 180
MEMORY_LIMIT_BYTES = 3 * 2**30
MAX_SKIPPED_SHOWN = 50
MAX_PREVIEWS = 3
MAX_TEXT = 4000
"""Characters of one message or reason that are kept for people to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """What a task file holds, small enough to keep beside it."""

    format: str
    num_records: int
    num_used: int
    num_bytes: int
    sha256: str
    skipped: tuple[tuple[int, str], ...]
    """First skipped rows: line number, reason."""
    warnings: tuple[str, ...]
    examples: tuple[tuple[tuple[str, str], ...], ...]
    """First examples as (role, content) turns; long content is cut."""

    @property
    def num_skipped(self) -> int:
        """Rows that are not used; records = used + skipped."""
        return self.num_records - self.num_used

    def as_json(self) -> dict[str, Any]:
        """Return plain values for `meta.json`."""
        return asdict(self)

    @classmethod
    def read(cls, value: Any) -> TaskReport | None:
        """Rebuild from JSON; None if the value is no report."""
        try:
            return cls(
                format=str(value["format"]),
                num_records=int(value["num_records"]),
                num_used=int(value["num_used"]),
                num_bytes=int(value["num_bytes"]),
                sha256=str(value["sha256"]),
                skipped=tuple((int(line), str(reason)) for line, reason in value["skipped"]),
                warnings=tuple(str(text) for text in value["warnings"]),
                examples=tuple(tuple((str(r), str(c)) for r, c in turns) for turns in value["examples"]),
            )
        except (KeyError, TypeError, ValueError):
            return None


class UnknownColumns(UserError):
    """A file whose columns must be named before it can be used."""

    def __init__(self, problems: Sequence[Problem], columns: tuple[str, ...], guess: dict[str, str]) -> None:
        super().__init__(problems[0].problem, problems[0].fix)
        self.columns, self.guess = columns, guess


def scan_in_child(
    path: Path, columns: Mapping[str, str] | None = None, *, time_limit_s: float = TIME_LIMIT_S
) -> TaskReport:
    """Scan a task file in a process of its own.

    Args:
        path: A file whose path we made or checked ourselves.
        columns: Role -> column, where the names of the columns do not say it.
        time_limit_s: Wall time after which the child is ended.

    Raises:
        UserError: If the file is unusable, takes too long or too much memory.
    """
    argv = [sys.executable, "-m", "studio.logic.task_scan", str(path.resolve())]
    argv += [json.dumps(dict(columns))] if columns else []
    project = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            argv, cwd=project, capture_output=True, timeout=time_limit_s, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        limit = f"Reading the file took longer than {time_limit_s:.0f} s and was ended."
        raise UserError(limit, fix="split it into smaller files.") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and (report := TaskReport.read(answer.get("report"))):
        return report
    if isinstance(answer, dict) and answer.get("problems") and answer.get("columns"):
        problems = [Problem(**problem) for problem in answer["problems"]]
        raise UnknownColumns(problems, tuple(answer["columns"]), dict(answer["guess"]))
    if isinstance(answer, dict) and answer.get("problems"):
        raise UserError.of([Problem(**problem) for problem in answer["problems"]])
    raise UserError(
        "The file could not be read: checking it used too much memory or ended unexpectedly.",
        fix="check that it is one JSON object per line, and split very large files.",
    )


def scan_here(path: Path, columns: Columns | None = None) -> TaskReport:
    """Scan a task file in this process: for files that came with the studio, and for the child.

    Raises:
        UserError: If the file is unusable.
    """
    from engine.contract.taskfile import iter_examples, scan_task_file

    scan = scan_task_file(path, columns)
    first = tuple(itertools.islice(iter_examples(path, columns), MAX_PREVIEWS))
    return TaskReport(
        format=str(scan.format),
        num_records=scan.num_records,
        num_used=scan.num_used,
        num_bytes=scan.num_bytes,
        sha256=scan.sha256,
        skipped=tuple((row.line, row.reason[:MAX_TEXT]) for row in scan.skipped[:MAX_SKIPPED_SHOWN]),
        warnings=tuple(str(text)[:MAX_TEXT] for text in scan.warnings),
        examples=tuple(tuple((m.role, _cut(m.content)) for m in example.messages[:20]) for example in first),
    )


def main(argv: list[str]) -> int:
    """Run the child: scan `argv[0]`, print one JSON object."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT_S, TIME_LIMIT_S))
    try:
        columns = Columns.model_validate_json(argv[1]) if len(argv) > 1 else None
        answer: dict[str, Any] = {"report": scan_here(Path(argv[0]), columns).as_json()}
    except ValidationError as error:
        answer = {"problems": [{"problem": str(error.errors()[0]["msg"]), "fix": "name other columns.", "field": ""}]}
    except UserError as error:
        answer = {"problems": [problem.as_json() for problem in error.problems[:20]]}
        if isinstance(error, UnusableFile):
            answer |= {"columns": error.columns, "guess": error.guess.named() if error.guess else {}}
    sys.stdout.write(json.dumps(answer))
    return 0


def _cut(text: str) -> str:
    """Shorten a long text and say so."""
    left = len(text) - MAX_TEXT
    return text if left <= 0 else f"{text[:MAX_TEXT]}\n[... {left} more characters]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
