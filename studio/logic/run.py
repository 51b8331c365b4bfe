"""The Run page: a run directory as plain values, and what people may ask of a run.

`RunWatcher` keeps one snapshot per run for all viewers (`studio.logic.snapshot`): files are read from a byte offset, a
viewer gets what is new since its cursor.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import OrderedDict
from typing import Any

from engine.contract.best import best_and_stall
from engine.contract.best import evaluations as best_of
from engine.contract.errors import UserError
from engine.contract.files import tail_text
from engine.contract.memory import range_text
from engine.contract.metrics import task_key
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe
from engine.contract.rundir import (
    STAGES,
    TERMINAL,
    Attempt,
    RunDir,
    Status,
    effective_state,
    is_waiting,
    open_run,
    request,
)
from engine.launch import slurm
from engine.launch.command import (
    accelerate_text,
    cli_equivalent,
    display_command,
    node_command,
    resolve_device,
    train_command,
)
from engine.launch.supervisor import start_run
from studio.logic import run_checkpoints
from studio.logic.colors import task_colors
from studio.logic.evaluate import forgetting
from studio.logic.history import Row
from studio.logic.run_failure import failure
from studio.logic.snapshot import AXES, Snapshot

KEPT_RUNS = 16
LOG_LINES = 40
STALLED_S, STALLED_STEPS = 300.0, 10
"""Seconds, and usual steps, without a step after which a run looks hung."""
WARNED_STEPS = 50
"""Steps that a spike is shown for."""

STATE_WORDS: dict[str, tuple[str, str]] = {
    "queued": ("", "Waiting"),
    "preparing": ("warn", "Preparing"),
    "running": ("ok", "Running"),
    "stopping": ("warn", "Stopping"),
    "finished": ("ok", "Finished"),
    "stopped": ("warn", "Stopped"),
    "failed": ("bad", "Failed"),
    "lost": ("bad", "Lost"),
}
"""Tone and word of every state."""


class RunWatcher:
    """Snapshots of the runs that people look at, shared by all viewers.

    Args:
        root: The data root.
    """

    def __init__(self, root: DataRoot) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._snapshots: OrderedDict[str, Snapshot] = OrderedDict()

    def look(self, run_id: str, *, cursor: str = "") -> dict[str, Any]:
        """Return the run as it is now, with what is new of its curves.

        Args:
            run_id: Name of the run.
            cursor: What the viewer got last as `cursor`; empty = everything.

        Raises:
            UserError: If there is no such run.
        """
        snapshot = self._snapshot(run_id)
        slurm.look(snapshot.run)
        with snapshot.lock:
            snapshot.update()
            return _view(snapshot.run, snapshot, cursor)

    def detail(self, run_id: str, *, axis: str, low: float, high: float) -> dict[str, Any]:
        """Return a part of the curves at the resolution it deserves.

        Args:
            run_id: Name of the run.
            axis: `step`, `tokens` or `time`.
            low: Where the part begins on this axis; of `time`, seconds since the first row.
            high: Where it ends.

        Raises:
            UserError: If there is no such run or part.
        """
        if axis not in AXES or not low <= high:
            raise UserError("There is no such part of the curves.", fix="reload the page.")
        snapshot = self._snapshot(run_id)
        with snapshot.lock:
            snapshot.update()
            return snapshot.detail(axis, low, high)

    def _snapshot(self, run_id: str) -> Snapshot:
        run = open_run(self.root.runs, run_id)
        with self._lock:
            snapshot = self._snapshots.pop(run_id, None)
            if snapshot is None:
                names = [task.name for task in run.recipe().tasks]
                snapshot = Snapshot(run, names, task_colors(self.root, names))
            self._snapshots[run_id] = snapshot
            while len(self._snapshots) > KEPT_RUNS:
                self._snapshots.popitem(last=False)
        return snapshot


def request_action(root: DataRoot, run_id: str, action: str) -> str:
    """Carry out a button of the page and return a sentence about it.

    Raises:
        UserError: If it cannot be done.
    """
    run = open_run(root.runs, run_id)
    state = effective_state(run)
    if action in ("first", "cancel") and is_waiting(run):
        request(run, action)  # type: ignore[arg-type]
        return "It is the next in the queue." if action == "first" else "It leaves the queue."
    if action in ("stop", "save", "cancel"):
        if state not in ("preparing", "running", "stopping"):
            raise UserError("The run is not running.", fix="reload the page.")
        request(run, action)  # type: ignore[arg-type]
        return {
            "stop": "It stops after the current step, with a checkpoint.",
            "save": "A checkpoint is written after the current step.",
            "cancel": "The processes are being ended.",
        }[action]
    if action == "resume":
        if not run.checkpoint_dirs():
            raise UserError("There is no checkpoint to continue from.", fix="start a new run from the same recipe.")
        start_run(run, resume_from="latest")
        return "The run continues from its newest checkpoint."
    if action == "start":
        start_run(run)
        return "The run starts."
    raise UserError(f"There is no action {action[:40]!r}.", fix="reload the page.")


def _view(run: RunDir, snapshot: Snapshot, cursor: str) -> dict[str, Any]:
    recipe, status, state = run.recipe(), run.status(), effective_state(run)
    attempt = run.last_attempt()
    news = snapshot.news(cursor)
    evaluations = snapshot.history.evaluations()
    tone, word = STATE_WORDS[state]
    checkpoints = [int(path.name[5:]) for path in run.checkpoint_dirs()]
    recent = list(snapshot.history.recent)
    last = recent[-1] if recent else {}
    best = best_and_stall(best_of(evaluations, recipe.record.metric_for_best_model))[0] or None
    elapsed, remaining = _times(status, state, attempt.ended_at if attempt else 0.0)
    return {
        "id": run.id,
        "name": recipe.display_name,
        "state": state,
        "tone": tone,
        "word": word,
        "phase": _phase(status.phase, state, attempt),
        "meta": _meta(recipe, attempt),
        "step": status.step,
        "total": status.total_steps,
        "elapsed_s": elapsed,
        "remaining_s": remaining,
        "stats": _stats(last, evaluations, status),
        "tasks": _tasks(snapshot, recent, evaluations),
        "checkpoints": checkpoints,
        "best": best,
        "saved": run_checkpoints.rows(run, evaluations, best=best, over=state in TERMINAL),
        "warning": (_stalled(status, recent) or _warning(snapshot.events, status.step)) if state == "running" else "",
        "failure": failure(run, recipe, attempt, state),
        "stages": _stages(status) if state == "preparing" else [],
        "actions": _actions(
            state, checkpoints, waits=state == "queued" and attempt is not None, job=bool(attempt and attempt.job)
        ),
        **news,
        "forgot": forgetting(run),
        "log": tail_text(run.log_file, max_lines=LOG_LINES) if state in ("failed", "lost") else "",
        **({"config": _config(run, recipe)} if news["reset"] else {}),
    }


def _phase(phase: str, state: str, attempt: Attempt | None) -> str:
    if state == "queued" and attempt is not None:
        return f"Waits: {attempt.waiting}"
    return phase if state in ("preparing", "running", "stopping") else ""


def _stages(status: Status) -> list[dict[str, Any]]:
    """Return the steps before training, each done, under way (with its share, if known) or still to come."""
    at = STAGES.index(status.stage) if status.stage in STAGES else 0

    def state_of(index: int) -> str:
        return "done" if index < at else "now" if index == at else "later"

    return [
        {"name": name, "state": state_of(i), "share": status.share if i == at else None}
        for i, name in enumerate(STAGES)
    ]


def _actions(state: str, checkpoints: list[int], *, waits: bool, job: bool) -> dict[str, bool]:
    over = state in TERMINAL
    return {
        "first": waits and not job,
        "leave": waits,
        "stop": state in ("preparing", "running"),
        "save": state == "running",
        "resume": over and state != "finished" and bool(checkpoints),
        "start": (state == "queued" and not waits) or (over and state != "finished" and not checkpoints),
        "use": bool(checkpoints),
    }


def _meta(recipe: Recipe, attempt: Attempt | None) -> list[tuple[str, str]]:
    started_at = attempt.started_at if attempt else 0.0
    method = {"qlora": "QLoRA", "lora": "LoRA", "full": "full fine-tuning"}[recipe.method]
    rank = f" r={recipe.lora.r}" if recipe.method != "full" else ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(started_at)) if started_at else "not yet"
    since = "Waiting since" if attempt and attempt.waiting and not attempt.ended_at else "Started"
    found = [("Model", recipe.model_name_or_path), ("Method", method + rank), (since, when)]
    found += [("On", ", ".join(attempt.devices))] if attempt and attempt.devices else []
    return [*found, ("Memory", attempt.released)] if attempt and attempt.released else found


def _times(status: Any, state: str, ended_at: float) -> tuple[float, float | None]:
    """Return seconds since the first step and seconds left; a clock that jumps never makes them negative."""
    if not status.started_at:
        return 0.0, None
    until = ended_at or (status.updated_at if state in TERMINAL else time.time())
    elapsed = max(0.0, until - status.started_at)
    done = status.step - status.started_step
    if state not in ("running", "stopping") or done < 2 or status.step >= status.total_steps:
        return elapsed, None
    until_step = max(0.0, status.updated_at - status.started_at)
    return elapsed, max(0.0, until_step / done * (status.total_steps - status.step))


def _stats(last: dict[str, Any], evaluations: list[dict[str, Any]], status: Status) -> list[dict[str, str]]:
    def number(value: Any, form: str) -> str:
        return format(value, form) if isinstance(value, (int, float)) else "–"

    base, newest = (evaluations[0], evaluations[-1]) if evaluations else ({}, {})
    change = ""
    if len(evaluations) > 1 and base.get("eval/loss") and newest.get("eval/loss"):
        change = f"{100 * (newest['eval/loss'] / base['eval/loss'] - 1):+.1f} % vs base".replace("-", "−")
    memory, cost = last.get("perf/memory_bytes"), status.cost
    expected = f"{range_text(cost.shown_low_bytes, cost.shown_high_bytes)} expected" if cost else ""
    stats = [
        {"label": "Training loss", "value": number(last.get("train/loss"), ".3f"), "note": ""},
        {"label": "Evaluation loss", "value": number(newest.get("eval/loss"), ".3f"), "note": change},
        {"label": "Throughput", "value": number(last.get("perf/tokens_per_second"), ",.0f"), "note": "tokens/s"},
        {"label": "Tokens seen", "value": number(last.get("tokens_seen"), ",d"), "note": f"epoch {status.epoch:.2f}"},
        {"label": "Learning rate", "value": number(last.get("optim/learning_rate"), ".2e"), "note": ""},
        {"label": "Peak memory", "value": number(memory / 2**30 if memory else None, ".1f"), "note": "GiB"},
    ]
    for stat in stats:
        if stat["value"] == "–":
            stat["note"] = ""  # nothing has no unit
    stats[-1]["note"] = ", ".join(filter(None, [stats[-1]["note"], expected]))
    return stats


def _tasks(snapshot: Snapshot, rows: list[Row], evaluations: list[Row]) -> list[dict[str, Any]]:
    def series(name: str, key: str, source: list[Row]) -> list[float]:
        values = [row.get(task_key(name, key)) for row in source]
        return [value for value in values if isinstance(value, (int, float))]

    counted = {name: sum(series(name, "weight", rows[-20:])) for name in snapshot.names}
    table = []
    for name in snapshot.names:
        train, evals = series(name, "loss", rows), series(name, "eval_loss", evaluations)
        table.append(
            {
                "name": name,
                "color": snapshot.colors[name],
                "train": sum(train[-10:]) / len(train[-10:]) if train else None,
                "base": evals[0] if evals else None,
                "eval": evals[-1] if len(evals) > 1 else None,
                "change": evals[-1] / evals[0] - 1 if len(evals) > 1 and evals[0] else None,
                "share": counted[name] / sum(counted.values()) if any(counted.values()) else None,
                "tokens": snapshot.tokens(name),
            }
        )
    return table


def _warning(events: list[dict[str, Any]], step: int) -> str:
    """Return what a running run should be looked at for: the newest spike, while it is fresh."""
    newest = next((event for event in reversed(events) if event.get("kind") == "spike"), None)
    if newest is None or step - int(newest.get("step") or 0) > WARNED_STEPS:
        return ""
    return f"Step {newest['step']}: {newest['text']}"


def _stalled(status: Status, rows: list[dict[str, Any]]) -> str:
    """Return a warning if no step has ended for ten times as long as they take, and for five minutes."""
    if status.phase != "training" or not rows:
        return ""
    usual = statistics.median(float(row.get("perf/step_time_s") or 0.0) for row in rows)
    silent = time.time() - status.updated_at
    if silent < max(STALLED_S, STALLED_STEPS * usual):
        return ""
    text = f"No step has ended for {silent / 60:.0f} minutes; they take {usual:.1f} s. A device may hang: "
    return text + "look at the log, stop the run and resume it from the last checkpoint."


def _config(run: RunDir, recipe: Recipe) -> dict[str, str]:
    command = display_command(cli_equivalent("recipe.yaml", f"runs/{run.id}"))
    try:
        device = resolve_device(recipe)
    except UserError:  # made on another machine: as it would be there
        device = "cuda"
    return {
        "yaml": dump_recipe(recipe, all_fields=False),
        "command": command,
        "path": str(run.path),
        "launch": display_command(train_command(recipe, run)),
        "accelerate": accelerate_text(recipe, device),
        "machines": "\n".join(
            f"# on {host}\n{display_command(node_command(run, machine))}"
            for machine, host in enumerate(recipe.launch.machines)
            if machine
        ),
    }
