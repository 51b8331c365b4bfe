"""The Runs page and the lists of recent runs: one line per run, its tags and note, and the way to the trash."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import read_json, replace_json
from engine.contract.places import DataRoot
from engine.contract.rundir import RunDir, Status, effective_state, is_waiting, list_runs, open_run
from engine.launch import slurm
from studio.logic.colors import task_colors
from studio.logic.run import STATE_WORDS
from studio.logic.run_glance import glance, recipe_of

LIVE = ("preparing", "running", "stopping")
MAX_TAGS, MAX_TAG, MAX_NOTE = 12, 32, 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One run in a list."""

    id: str
    name: str
    model: str
    method: str
    tasks: tuple[str, ...]
    colors: tuple[int, ...]
    """Colour of each task."""
    state: str
    tone: str
    word: str
    step: int
    total: int
    spark: tuple[float, ...]
    """Training loss over the run, a few values."""
    eval_loss: float | None
    """Newest evaluation loss, nats per token."""
    best: float | None
    """Best evaluation, nats per token."""
    when: str
    seconds: float
    """From the start of the newest attempt until its end, or until now."""
    devices: str
    tags: tuple[str, ...] = ()
    note: str = ""
    waiting: str = ""
    """Why it waits for devices; empty if it does not."""


def look(root: DataRoot, *, limit: int = 500) -> list[RunLine]:
    """Return the newest runs; one that cannot be read is left out of the list, not of the disk."""
    lines = []
    for run in list_runs(root.runs)[:limit]:
        try:
            lines.append(_line(root, run))
        except UserError:
            continue
    return lines


def request_delete(root: DataRoot, run_id: str) -> str:
    """Move a run to the trash and return a sentence.

    Raises:
        UserError: If there is no such run, or it is still alive.
    """
    run = open_run(root.runs, run_id)
    if effective_state(run) in LIVE or is_waiting(run):
        raise UserError("The run is still running, or waits for its turn.", fix="stop it first.")
    trash = root.path / "trash"
    trash.mkdir(mode=0o700, exist_ok=True)
    os.rename(run.path, trash / f"{run.id}-{int(time.time())}")
    return f"{run.id} is in the trash folder of the data root."


def request_note(root: DataRoot, run_id: str, value: Mapping[str, Any]) -> str:
    """Keep the tags (a text with commas) and the note of a run and return a sentence.

    Raises:
        UserError: If there is no such run, or they are too long.
    """
    run = open_run(root.runs, run_id)
    tags = [tag.strip() for tag in str(value.get("tags") or "").split(",")]
    tags = list(dict.fromkeys(tag for tag in tags if tag))
    note = str(value.get("note") or "").strip()
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_TAG for tag in tags):
        raise UserError(f"At most {MAX_TAGS} tags of at most {MAX_TAG} characters.", fix="use fewer or shorter ones.")
    if len(note) > MAX_NOTE:
        raise UserError(f"A note has at most {MAX_NOTE} characters.", fix="shorten it.")
    replace_json(run.notes_file, {"tags": tags, "note": note})
    return f"Saved for {run.id}."


def notes_of(run: RunDir) -> tuple[tuple[str, ...], str]:
    """Return the tags and the note of a run; what is broken is empty."""
    found = read_json(run.notes_file)
    if not isinstance(found, dict):
        return (), ""
    tags = found.get("tags")
    return tuple(str(tag)[:MAX_TAG] for tag in tags) if isinstance(tags, list) else (), str(found.get("note") or "")


def _line(root: DataRoot, run: RunDir) -> RunLine:
    slurm.look(run)
    recipe, status, state = recipe_of(run), run.status(), effective_state(run)
    attempt = run.last_attempt()
    tone, word = STATE_WORDS[state]
    seen = glance(run, recipe.record.metric_for_best_model)
    when = attempt.started_at if attempt else run.recipe_file.stat().st_mtime
    names = tuple(task.name for task in recipe.tasks)
    colors, (tags, note) = task_colors(root, names), notes_of(run)
    return RunLine(
        id=run.id,
        name=recipe.display_name,
        model=recipe.model_name_or_path,
        method={"qlora": "QLoRA", "lora": "LoRA", "full": "Full"}[recipe.method],
        tasks=names,
        colors=tuple(colors[name] for name in names),
        state=state,
        tone=tone,
        word=word,
        step=status.step,
        total=status.total_steps,
        spark=seen.spark,
        eval_loss=seen.eval_loss,
        best=seen.best,
        waiting=attempt.waiting if attempt and state == "queued" else "",
        when=time.strftime("%Y-%m-%d %H:%M", time.localtime(when)),
        seconds=_seconds(attempt.started_at if attempt else 0.0, attempt.ended_at if attempt else 0.0, status, state),
        devices=", ".join(attempt.devices) if attempt else "",
        tags=tags,
        note=note,
    )


def _seconds(started_at: float, ended_at: float, status: Status, state: str) -> float:
    if not started_at or state == "queued":
        return 0.0
    until = ended_at or (time.time() if state in LIVE else status.updated_at)
    return max(0.0, until - started_at)
