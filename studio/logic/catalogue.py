"""Known data sets, and any other one on a hub: one press downloads it, then it is a task like an uploaded file.

    look(root, project)               -> entries with their state: not here | downloading | here as a task | failed
    request(root, path)               -> starts `python -m engine fetch-data` for it; asking twice is asking once
    adopt(root, project)              -> makes tasks of what has arrived since; returns notes

Offline an entry says so and stays.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from engine.contract.errors import UserError
from engine.contract.files import read_json, replace_json, slug
from engine.contract.hub_path import HubDataset, is_hub_path, parse_hub_path
from engine.contract.places import DataRoot
from engine.contract.recipe import TASK_NAME, ColumnsSection
from engine.contract.recipe_base import Section
from engine.launch.jobs import JobStatus, start_job
from studio.logic.dataset_store import Note, add_files, name_columns

FILE = "assets/catalogue.yaml"


class Entry(Section):
    """A known data set; what its card does not tell is None."""

    name: str = Field(pattern=f"^{TASK_NAME.pattern}$")
    """The name of the task it becomes."""
    title: str
    path: str
    """Where it is, see `engine.contract.hub_path`."""
    licence: str | None
    rows: int | None = Field(gt=0)
    format: str
    """How its rows look, in words of the reader."""
    columns: ColumnsSection | None = None
    """What the columns mean, where their names do not say it."""
    about: str
    """One line for people."""

    @field_validator("path")
    @classmethod
    def _means_a_data_set(cls, path: str) -> str:
        return parse_hub_path(path).path


def look(root: DataRoot, project: Path) -> dict[str, Any]:
    """Return the catalogue as plain values, and whether something is on its way."""
    entries = [_entry(dict(entry), root) for entry in _read(project / FILE)]
    known = {entry["path"] for entry in entries}
    wanted = [_entry({"path": path, "title": path, "name": _task_name(path)}, root) for path in _asked(root)]
    shown = [*entries, *(entry for entry in wanted if entry["path"] not in known)]
    return {"entries": shown, "is_busy": any(entry["state"] in ("running", "arrived") for entry in shown)}


def request(root: DataRoot, text: str) -> Note:
    """Start the download of a data set; `text` is a hub path, or a plain `org/name` of the Hugging Face hub."""
    path = text.strip()
    try:
        dataset = parse_hub_path(path if is_hub_path(path) else f"hf://{path}")
        status_file = _status_file(dataset, root)
        argv = [sys.executable, "-m", "engine", "fetch-data", dataset.path, "--status-file", str(status_file)]
        _remember(root, dataset.path)
        _marker(dataset, root).unlink(missing_ok=True)  # a deleted or failed task is made again
        if dataset.find(root) is not None:
            return Note(ok=True, text=f"{dataset.name} is on this machine already; it becomes a task.")
        current = JobStatus.read(status_file)
        if current is not None and current.state == "running":
            return Note(ok=True, text=f"{dataset.name} is being downloaded already.")
        start_job(status_file, argv, status_file.with_suffix(".log"))
    except UserError as error:
        return Note(ok=False, text=f"{error.problem} {error.fix}".strip())
    return Note(ok=True, text=f"Downloading {dataset.name}. You can close this page.")


def adopt(root: DataRoot, project: Path) -> list[Note]:
    """Make tasks of the data sets that have arrived and are none yet; one page at a time does."""
    notes = []
    entries = {str(entry["path"]): entry for entry in _read(project / FILE)}
    waiting = [path for path in _asked(root) if _is_waiting(parse_hub_path(path), root)]
    if not waiting:
        return []
    with open(root.datasets / ".hub" / ".adopt.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another page is at it, and tells
            return []
        for path in waiting:
            dataset, entry = parse_hub_path(path), entries.get(path, {})
            found = dataset.find(root)
            if found is None or not _is_waiting(dataset, root):
                continue
            (note,) = add_files(root, project, [(f"{entry.get('name') or _task_name(path)}.jsonl", found)])
            if note.task and entry.get("columns"):
                note = name_columns(root, note.task, entry["columns"])
            replace_json(_marker(dataset, root), {"task": note.task, "problem": "" if note.task else note.text})
            notes.append(note)
    return notes


def _marker(dataset: HubDataset, root: DataRoot) -> Path:
    """Return the file that says which task a copy became, or why it became none."""
    return dataset.folder(root) / "task.json"


def _is_waiting(dataset: HubDataset, root: DataRoot) -> bool:
    """Whether a copy is here that nobody has tried to make a task of."""
    became = read_json(_marker(dataset, root)) or {}
    return dataset.find(root) is not None and not (became.get("task") or became.get("problem"))


def _entry(entry: dict[str, Any], root: DataRoot) -> dict[str, Any]:
    """Return an entry with its state."""
    dataset = parse_hub_path(entry["path"])
    status = JobStatus.read(_status_file(dataset, root))
    became = read_json(_marker(dataset, root)) or {}
    task, problem = str(became.get("task", "")), str(became.get("problem", ""))
    if task and (root.datasets / task).is_dir():
        state, text = "here", f"here as task {task}"
    elif status is not None and status.state == "running":
        share = f" ({status.fraction:.0%})" if status.fraction is not None else ""
        state, text = "running", status.phase + share
    elif problem:
        state, text = "failed", problem
    elif dataset.find(root) is not None:
        state, text = "arrived", "downloaded"
        if task or dataset.path not in _asked(root):  # fetched by a run or in a terminal: a task when somebody asks
            state, text = "away", "on this machine already" + ("; its task was deleted" if task else "")
    elif status is not None and status.state in ("failed", "lost"):
        state, text = "failed", f"{status.problem} {status.fix}".strip()
    else:
        state, text = "away", ""
    kept = ("name", "title", "path", "licence", "rows", "format", "about")
    return {**{key: entry.get(key) for key in kept}, "state": state, "text": text, "task": task}


@lru_cache(maxsize=4)
def _read(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the entries of the catalogue; a wrong one is a mistake of ours, not of a user."""
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else []
    return tuple(Entry.model_validate(value).model_dump(exclude_none=True) for value in values)


def _status_file(dataset: HubDataset, root: DataRoot) -> Path:
    folder = root.cache / "fetch"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{dataset.folder(root).name}.json"


def _asked(root: DataRoot) -> list[str]:
    """Return the hub paths that people asked for, oldest first."""
    value = read_json(root.datasets / ".hub" / "asked.json")
    return [str(path) for path in value] if isinstance(value, list) else []


def _remember(root: DataRoot, path: str) -> None:
    asked = _asked(root)
    if path not in asked:
        (root.datasets / ".hub").mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_json(root.datasets / ".hub" / "asked.json", [*asked, path])


def _task_name(path: str) -> str:
    return slug(parse_hub_path(path).name.rsplit("/", 1)[-1], fallback="task")
