"""Measured facts of the tasks of a draft: found on disk, or asked of a child process that tokenizes.

    facts_of(recipe, root)         -> per task: facts | a reason | nothing yet; cheap, asked at every click
    request_facts(recipe, root)    -> starts `python -m engine measure` for what is missing, one at a time

The studio never tokenizes itself: a tokenizer is somebody's code path and a large file is a minute of work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.facts import facts_key
from engine.contract.files import read_json, replace_text
from engine.contract.models import STARTER_MODEL, find_local
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe
from engine.data.preview import TaskFacts
from engine.launch.jobs import JobStatus, start_job

RETRY_S = 60.0
"""A task that could not be measured is tried again after this long: a model may have arrived meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of one task."""

    facts: TaskFacts | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""
    fix: str = ""
    is_stale: bool = False
    """Whether a problem is old enough to be looked at again."""


def facts_of(recipe: Recipe, root: DataRoot) -> list[Measured | None]:
    """Return what is known of each task of a recipe; None for a task that was not measured yet."""
    found: list[Measured | None] = []
    for task in recipe.tasks:
        path = root.facts / f"{facts_key(recipe, task)}.json"
        try:
            version = path.stat().st_mtime_ns
        except OSError:
            found.append(None)
            continue
        found.append(_read(path, version, task.name))
    return found


def request_facts(recipe: Recipe, root: DataRoot) -> bool:
    """Have what is missing measured; return whether somebody is measuring now. Never raises for a user's mistake."""
    status_file = root.facts / "job.json"
    status = JobStatus.read(status_file)
    if status is not None and status.state == "running":
        return True
    if recipe.model_name_or_path == STARTER_MODEL and find_local(STARTER_MODEL, root) is None:
        return False  # a look at the page must not download the starter
    known = facts_of(recipe, root)
    missing = [task for task, facts in zip(recipe.tasks, known, strict=True) if facts is None or facts.is_stale]
    if not missing:
        return False
    root.facts.mkdir(mode=0o700, parents=True, exist_ok=True)
    request = root.facts / "request.yaml"
    replace_text(request, dump_recipe(recipe.model_copy(update={"tasks": tuple(missing)})))
    argv = [sys.executable, "-m", "engine", "measure", str(request), "--output", str(root.facts)]
    try:
        start_job(status_file, [*argv, "--status-file", str(status_file)], root.facts / "job.log")
    except UserError:  # another page was a moment faster
        return True
    return True


def progress_text(root: DataRoot) -> str:
    """Return what the measuring process is doing."""
    status = JobStatus.read(root.facts / "job.json")
    return status.phase if status is not None and status.state == "running" else ""


@lru_cache(maxsize=512)
def _load(path: Path, version: int) -> tuple[TaskFacts | None, Sequence[str], str, str, float]:
    value = read_json(path)
    if not isinstance(value, dict):
        return None, (), "The measurement could not be read.", "", 0.0
    try:
        facts = TaskFacts.read(value["facts"]) if "facts" in value else None
        return facts, value.get("notes", ()), value.get("problem", ""), value.get("fix", ""), float(value["time"])
    except (KeyError, TypeError, ValueError):
        return None, (), "The measurement could not be read.", "", 0.0


def _read(path: Path, version: int, name: str) -> Measured:
    facts, notes, problem, fix, measured_at = _load(path, version)
    if facts is None:
        return Measured(problem=problem, fix=fix, is_stale=time.time() - measured_at > RETRY_S)
    return Measured(facts=facts, notes=tuple(notes))
