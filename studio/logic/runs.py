"""The Runs page and the lists of recent runs: one line per run, and the way to the trash."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.rundir import RunDir, effective_state, is_waiting, list_runs, open_run
from engine.launch import slurm
from studio.logic.run import STATE_WORDS


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in a list."""

    id: str
    name: str
    model: str
    method: str
    tasks: tuple[str, ...]
    state: str
    tone: str
    word: str
    step: int
    total: int
    eval_loss: float | None
    """Newest evaluation loss, nats per token."""
    when: str
    waiting: str = ""
    """Why it waits for devices; empty if it does not."""


def look(root: DataRoot, *, limit: int = 200) -> list[RunLine]:
    """Return the newest runs; one that cannot be read is left out of the list, not of the disk."""
    lines = []
    for run in list_runs(root.runs)[:limit]:
        try:
            lines.append(_line(run))
        except UserError:
            continue
    return lines


def request_delete(root: DataRoot, run_id: str) -> str:
    """Move a run to the trash and return a sentence.

    Raises:
        UserError: If there is no such run, or it is still alive.
    """
    run = open_run(root.runs, run_id)
    if effective_state(run) in ("preparing", "running", "stopping") or is_waiting(run):
        raise UserError("The run is still running, or waits for its turn.", fix="stop it first.")
    trash = root.path / "trash"
    trash.mkdir(mode=0o700, exist_ok=True)
    os.rename(run.path, trash / f"{run.id}-{int(time.time())}")
    return f"{run.id} is in the trash folder of the data root."


def _line(run: RunDir) -> RunLine:
    slurm.look(run)
    recipe, status, state = run.recipe(), run.status(), effective_state(run)
    attempt = run.last_attempt()
    tone, word = STATE_WORDS[state]
    evaluations = [row["eval/loss"] for row in run.metrics()[0] if isinstance(row.get("eval/loss"), (int, float))]
    when = attempt.started_at if attempt else run.recipe_file.stat().st_mtime
    return RunLine(
        id=run.id,
        name=recipe.display_name,
        model=recipe.model_name_or_path,
        method={"qlora": "QLoRA", "lora": "LoRA", "full": "Full"}[recipe.method],
        tasks=tuple(task.name for task in recipe.tasks),
        state=state,
        tone=tone,
        word=word,
        step=status.step,
        total=status.total_steps,
        eval_loss=evaluations[-1] if evaluations else None,
        waiting=attempt.waiting if attempt and state == "queued" else "",
        when=time.strftime("%Y-%m-%d %H:%M", time.localtime(when)),
    )
