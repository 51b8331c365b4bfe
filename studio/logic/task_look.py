"""A closer look at one task: its tokens under a model, the exact training text, duplicates and leaks.

    look(...)      everything the page shows of the opened task
    tokens(...)    histogram and truncated share at a max_length, measured by a child process in the background
    text(...)      the first examples as they are trained, what is learned marked; a child that answers in a second
    insight(...)   duplicates, overlaps, benchmark problems: a background job, asked for by a person
    clean(...)     a new task without what was found; the source stays as it is

Everything about the text of a task happens in child processes; this module only starts them and reads their answers.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.contract.models import STARTER_MODEL, find_local
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import recipe_from_values
from engine.launch.jobs import JobStatus, start_job
from engine.launch.processes import child_environment
from studio.logic.dataset_store import Note, add_cleaned
from studio.logic.datasets import TaskRow, find_task
from studio.logic.datasets import look as task_rows
from studio.logic.measure import facts_of, progress_text, request_facts

PROJECT = Path(__file__).resolve().parents[2]
SHOW_LIMIT_S = 60
CLEAN_LIMIT_S = 1800
MAX_COMPARED = 20
"""Other tasks that a task is compared with."""


def look(name: str, model: str, max_length: Any, root: DataRoot, project: Path) -> dict[str, Any]:
    """Return the closer look at a task; nothing for one that is gone or cannot be read."""
    try:
        row = find_task(root, project, name)
    except UserError:
        return {}
    if row.state == "unusable":
        return {}
    away = _not_here(model, root)
    return {
        "name": row.name,
        "tokens": {"problem": away} if away else tokens(row, model, max_length, root),
        "text": {"problem": away} if away else text(row, model),
        "insight": insight(row, root),
    }


def is_waiting(shown: Mapping[str, Any]) -> bool:
    """Whether a child process is at work on what is shown."""
    return "measuring" in shown.get("tokens", {}) or "running" in shown.get("insight", {})


def search(name: str, root: DataRoot, project: Path) -> None:
    """Start the search for duplicates of a task; nothing happens if the task is gone."""
    try:
        request_insight(find_task(root, project, name), task_rows(root, project).rows, root)
    except UserError:
        return


def clean_task(name: str, actions: Sequence[str], root: DataRoot, project: Path) -> Note:
    """Make a cleaned copy of a task; never raises for a user's mistake."""
    try:
        return clean(find_task(root, project, name), actions, root, project)
    except UserError as error:
        return Note(ok=False, text=f"{error.problem} {error.fix}".strip())


def _not_here(model: str, root: DataRoot) -> str:
    """Return why a tokenizer should not be asked for: looking at a task never downloads the whole starter."""
    if not model.strip():
        return "Choose a model to see tokens."
    if model == STARTER_MODEL and find_local(model, root) is None:
        return "The starter model is not on this machine yet; `make studio` fetches it."
    return ""


def tokens(row: TaskRow, model: str, max_length: Any, root: DataRoot) -> dict[str, Any]:
    """Return the task's length histogram, or what keeps it from being known.

    Args:
        row: A usable task.
        model: Hub id or folder.
        max_length: As typed; wrong values are refused in words.
        root: Where facts are kept.
    """
    try:
        recipe = _recipe(row, model, max_length)
    except UserError as error:
        return {"problem": f"{error.problem} {error.fix}".strip()}
    measuring = request_facts(recipe, root)
    (known,) = facts_of(recipe, root)
    if known is None or (known.facts is None and measuring):
        return {"measuring": f"Measuring tokens: {progress_text(root) or 'starting'} ..."}
    if known.facts is None:
        text = f"{known.problem} {known.fix}".strip()
        return {"problem": text[:1].upper() + text[1:]}
    facts, limit = known.facts, recipe.data.max_length
    total = sum(count for _, count in facts.all_lengths)
    return {
        "bars": [list(bar) for bar in facts.all_lengths],
        "max_length": limit,
        "num_examples": total,
        "num_too_long": facts.num_too_long,
        "lengths": [facts.percentile(0.5), facts.percentile(0.95), facts.percentile(1.0)],
        "num_tokens": facts.num_tokens,
        "num_supervised": facts.num_supervised_tokens,
        "notes": [note for note in known.notes if note not in (row.report.warnings if row.report else ())],
    }


def text(row: TaskRow, model: str) -> dict[str, Any]:
    """Return the first examples as they are trained: {"examples": ...} or {"problem": ...}."""
    try:
        version = Path(row.path).stat().st_mtime_ns
    except OSError:
        return {"problem": "The file is not there any more."}
    return _shown(row.path, version, model, json.dumps(row.columns) if row.columns else "")


def insight(row: TaskRow, root: DataRoot) -> dict[str, Any]:
    """Return what is known: {"insight": ...}, {"running": phase}, {"problem": ...} or {} before anybody asked."""
    answer, status_file = _insight_files(row, root)
    status = JobStatus.read(status_file)
    if status is not None and status.state == "running":
        return {"running": status.phase}
    if (value := read_json(answer)) is not None:
        return {"insight": value}
    if status is not None and status.state != "done":
        return {"problem": f"{status.problem} {status.fix}".strip()}
    return {}


def request_insight(row: TaskRow, others: Sequence[TaskRow], root: DataRoot) -> None:
    """Start the search for duplicates, leaks and benchmark problems; one at a time per task."""
    answer, status_file = _insight_files(row, root)
    usable = [other for other in others if other.name != row.name and other.state != "unusable" and not other.columns]
    files = [row.path, *(other.path for other in usable[:MAX_COMPARED])]
    argv = [sys.executable, "-m", "engine", "insight", *files, *_options(row), "--output", str(answer)]
    try:
        start_job(status_file, [*argv, "--status-file", str(status_file)], status_file.with_suffix(".log"))
    except UserError:  # it runs already
        return


def clean(row: TaskRow, actions: Sequence[str], root: DataRoot, project: Path) -> Note:
    """Make a new task without what is to be removed."""
    folder = root.datasets / f".new-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    target = folder / "data.jsonl"
    argv = [sys.executable, "-m", "engine", "insight", row.path, *_options(row), "--clean", str(target)]
    try:
        done = _run([*argv, "--remove", ",".join(actions)], CLEAN_LIMIT_S)
        if done.returncode != 0:
            told = done.stderr.decode("utf-8", "replace").removeprefix("insight: ").replace("\n  -> ", " ").strip()
            return Note(ok=False, text=told.splitlines()[-1][:300] if told else "Cleaning ended unexpectedly.")
        name = add_cleaned(root, project, row.name, target)
        words = done.stdout.decode("utf-8", "replace").strip().rpartition(": ")[2]
        return Note(ok=True, text=f"`{name}` is a new task: {words}. `{row.name}` is unchanged.", task=name)
    except (UserError, subprocess.TimeoutExpired) as error:
        return Note(ok=False, text=error.problem if isinstance(error, UserError) else "Cleaning took too long.")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _recipe(row: TaskRow, model: str, max_length: Any) -> Recipe:
    if not model.strip():
        raise UserError("Choose a model to see tokens.")
    task: dict[str, Any] = {"name": row.name, "path": row.path}
    task |= {"eval_path": row.eval_path} if row.eval_path else {}
    task |= {"columns": dict(row.columns)} if row.columns else {}
    whole = int(max_length) if isinstance(max_length, float) and max_length.is_integer() else max_length
    values = {"model_name_or_path": model, "tasks": [task], "data": {"max_length": whole}}
    return recipe_from_values(values, source="The page")


def _options(row: TaskRow) -> list[str]:
    options = ["--heldout", row.eval_path] if row.eval_path else []
    return [*options, "--columns", json.dumps(dict(row.columns))] if row.columns else options


def _insight_files(row: TaskRow, root: DataRoot) -> tuple[Path, Path]:
    """Return where the answer and the job's status are kept for this version of the file."""
    try:
        version = Path(row.path).stat().st_mtime_ns
    except OSError:
        version = 0
    told = json.dumps([row.path, version, row.eval_path, dict(row.columns or {})])
    key = hashlib.sha256(told.encode()).hexdigest()[:32]
    folder = root.cache / "insight"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{key}.json", folder / f"{key}.job.json"


@lru_cache(maxsize=64)
def _shown(path: str, version: int, model: str, columns: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "engine", "show", path, "--model", model, "--json"]
    try:
        done = _run([*argv, *(["--columns", columns] if columns else [])], SHOW_LIMIT_S)
        return dict(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return {"problem": "Rendering the examples took too long."}
    except ValueError:
        told = done.stderr.decode("utf-8", "replace").removeprefix("show: ").replace("\n  -> ", " ").strip()
        return {"problem": told.splitlines()[-1][:300] if told else "The examples could not be rendered."}


def _run(argv: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv,
        cwd=PROJECT,
        env=child_environment(),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=limit_s,
        check=False,
    )
