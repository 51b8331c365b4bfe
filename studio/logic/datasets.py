"""The Datasets page without gradio: what the table and an opened task show.

    look(root, project)         -> rows: samples of the checkout first, then uploads; table(...) as plain values
    detail(root, project, name) -> one task: skipped rows, warnings, first examples
    request_delete(root, name)  -> note

Files are kept in `studio.logic.dataset_store`.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.contract.hub_path import is_hub_path, parse_hub_path
from engine.contract.places import DataRoot
from studio.logic.colors import task_colors
from studio.logic.dataset_store import Note, delete_task, sample_files, stored_file
from studio.logic.task_scan import TaskReport, scan_here, scan_in_child

State = Literal["ready", "warnings", "unusable"]
EMPTY_DETAIL: dict[str, Any] = {
    **dict.fromkeys(("name", "state", "original_name", "problem", "fix", "format", "used_text", "heldout_text"), ""),
    **{"can_delete": False, "num_skipped": 0, "skipped": [], "warnings": [], "examples": []},
    **{"columns": {}, "found_columns": [], "is_guess": False},
}
"""What the page shows of an opened task; `detail` fills it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One line of the table of tasks."""

    name: str
    """Unique among samples and uploads; the task's name in a recipe."""
    kind: Literal["sample", "upload", "file"]
    """`file` is a task file that a recipe names and that is neither."""
    path: str
    eval_path: str
    """Held-out file; empty if there is none."""
    columns: Mapping[str, str] | None = None
    """What the columns mean, where their names do not say it."""
    original_name: str
    """The file's name as the person had it. Text of strangers: show as text only."""
    report: TaskReport | None
    heldout: TaskReport | None
    state: State
    problem: str = ""
    """Why it is unusable, or the first warning."""
    fix: str = ""
    found_columns: tuple[str, ...] = ()
    """Columns of the file, if they had to be named."""
    is_guess: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetsView:
    """Everything the page shows besides an opened task."""

    rows: tuple[TaskRow, ...]
    headline: str


def look(root: DataRoot, project: Path) -> DatasetsView:
    """Return all tasks, samples first, then uploads by name."""
    samples, uploads = _samples(project), _uploads(root)
    unusable = sum(row.state == "unusable" for row in uploads)
    now = f"Now here: {len(samples)} sample tasks, {len(uploads)} of your own."
    if unusable:
        now = f"Now here: {len(samples)} sample tasks, {len(uploads)} of your own, {unusable} unusable."
    return DatasetsView(rows=(*samples, *uploads), headline=now)


def headline(root: DataRoot, project: Path) -> dict[str, str]:
    """Return title and subtitle of the page."""
    what = "A task is one file of conversations or prompt and completion pairs: JSON Lines, JSON, CSV, TSV or Parquet."
    return {"title": "Datasets", "text": f"{what} {look(root, project).headline}"}


def table(root: DataRoot, project: Path) -> list[dict[str, Any]]:
    """Return the rows of the table as plain values; a task without report has None for its numbers."""
    shown = []
    rows = look(root, project).rows
    colors = task_colors(root, (row.name for row in rows))
    for row in rows:
        report = row.report
        shown.append(
            {
                "name": row.name,
                "color": colors[row.name],
                "kind": row.kind,
                "original_name": row.original_name,
                "format": report.format if report else "",
                "num_records": report.num_records if report else None,
                "num_used": report.num_used if report else None,
                "num_skipped": report.num_skipped if report else 0,
                "num_heldout": row.heldout.num_used if row.heldout else None,
                "num_bytes": report.num_bytes if report else None,
                "state": row.state,
                "problem": row.problem,
            }
        )
    return shown


def detail(root: DataRoot, project: Path, name: str) -> dict[str, Any]:
    """Return one opened task as plain values.

    Raises:
        UserError: If there is no such task.
    """
    row = find_task(root, project, name)
    shown = {**EMPTY_DETAIL, "name": row.name, "state": row.state, "can_delete": row.kind == "upload"}
    shown |= {"original_name": row.original_name, "problem": row.problem, "fix": row.fix}
    shown |= {"columns": dict(row.columns or {}), "found_columns": list(row.found_columns), "is_guess": row.is_guess}
    if row.report:
        shown |= {
            "format": row.report.format,
            "used_text": f"{row.report.num_used:,} of {row.report.num_records:,} records used",
            "num_skipped": row.report.num_skipped,
            "skipped": [list(item) for item in row.report.skipped],
            "warnings": list(row.report.warnings),
            "examples": [[list(turn) for turn in turns] for turns in row.report.examples],
        }
    if row.heldout:
        shown["heldout_text"] = f"{row.heldout.num_used:,} held out"
        shown["warnings"] = shown["warnings"] + [f"Held-out file: {text}" for text in row.heldout.warnings]
    return shown


def request_delete(root: DataRoot, name: str) -> Note:
    """Delete a task and say what happened. Never raises for a user's mistake."""
    try:
        delete_task(root, name)
    except UserError as error:
        return Note(ok=False, text=f"{error.problem} {error.fix}".strip())
    return Note(ok=True, text=f"Task `{name}` is in the trash.")


def find_task(root: DataRoot, project: Path, name: str) -> TaskRow:
    """Return one task by name.

    Raises:
        UserError: If there is none.
    """
    for row in look(root, project).rows:
        if row.name == name:
            return row
    raise UserError(f"There is no task {name[:80]!r}.", fix="choose one from the table.")


def describe_file(path: str, eval_path: str | None, name: str) -> TaskRow:
    """Describe a task file that a recipe names by path. Never raises: an unreadable file is an unusable row."""
    if is_hub_path(path):
        return _hub_row(name, path, eval_path)
    return _row(name, "file", Path(path), Path(eval_path) if eval_path else None)


def _hub_row(name: str, path: str, eval_path: str | None) -> TaskRow:
    """Describe a data set on a hub that a recipe names: usable, what it holds is known once it is here."""
    problem = fix = ""
    try:
        parse_hub_path(path)
    except UserError as error:
        problem, fix = error.problem, error.fix
    return TaskRow(
        name=name, kind="file", path=path, eval_path=eval_path or "", original_name=path, report=None, heldout=None,
        state="unusable" if problem else "ready", problem=problem, fix=fix,
    )  # fmt: skip


def _samples(project: Path) -> list[TaskRow]:
    rows = []
    for path in sample_files(project):
        heldout = path.with_suffix(f".heldout{path.suffix}")
        rows.append(_row(path.stem, "sample", path, heldout if heldout.is_file() else None))
    return rows


def _uploads(root: DataRoot) -> list[TaskRow]:
    rows = []
    for folder in sorted(root.datasets.glob("*/meta.json")):
        if folder.parent.name.startswith("."):
            continue
        rows.append(_upload_row(folder.parent))
    return rows


def _upload_row(folder: Path) -> TaskRow:
    meta = read_json(folder / "meta.json") or {}
    data, heldout = stored_file(folder, "data"), stored_file(folder, "heldout")
    report = TaskReport.read(meta.get("report")) if data else None
    problem = meta.get("problem") or (
        {} if report else {"problem": "The stored file is missing.", "fix": "delete it and upload again."}
    )
    return TaskRow(
        name=folder.name,
        kind="upload",
        path=str(data or folder),
        eval_path=str(heldout or ""),
        columns=meta.get("columns"),
        found_columns=tuple(str(name) for name in meta.get("found", ())),
        is_guess=meta.get("guessed") is True,
        original_name=str(meta.get("original_name", "")),
        report=report,
        heldout=TaskReport.read(meta.get("heldout")) if heldout else None,
        state=_state(report),
        problem=str(problem.get("problem", "")) or _first_warning(report),
        fix=str(problem.get("fix", "")),
    )


def _row(
    name: str,
    kind: Literal["sample", "file"],
    path: Path,
    eval_path: Path | None,
) -> TaskRow:
    report, heldout, problem, fix = None, None, "", ""
    try:
        report = _scan_cached(path)
        heldout = _scan_cached(eval_path) if eval_path else None
    except UserError as error:
        report, problem, fix = None, error.problem, error.fix
    return TaskRow(
        name=name,
        kind=kind,
        path=str(path),
        eval_path=str(eval_path or ""),
        original_name=path.name,
        report=report,
        heldout=heldout,
        state=_state(report),
        problem=problem or _first_warning(report),
        fix=fix,
    )


def _state(report: TaskReport | None) -> State:
    if report is None or report.num_used == 0:
        return "unusable"
    return "warnings" if report.warnings or report.num_skipped else "ready"


def _first_warning(report: TaskReport | None) -> str:
    if report is None:
        return ""
    return (
        report.warnings[0]
        if report.warnings
        else (f"{report.num_skipped} row{'s' * (report.num_skipped != 1)} skipped" if report.num_skipped else "")
    )


def _scan_cached(path: Path) -> TaskReport:
    """Scan once per version of a file."""
    try:
        info = path.stat()
    except OSError:
        raise UserError(f"The file {path.name} is not there.", fix="check its path.") from None
    if not stat.S_ISREG(info.st_mode):
        raise UserError(f"{path.name} is no regular file.", fix="check its path.")
    return _scan_version(path, info.st_mtime_ns, info.st_size)


@lru_cache(maxsize=256)
def _scan_version(path: Path, mtime_ns: int, size: int) -> TaskReport:
    """Scan a file of the checkout here, any other in a child; a pure function of the version."""
    ours = Path(__file__).resolve().parents[2] / "assets" / "samples"
    return scan_here(path) if path.parent == ours else scan_in_child(path)
