"""Run directories of every state, written the way the engine writes them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from engine.contract.files import append_json, replace_json
from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import Attempt, ProcessId, RunDir, Status, claim_attempt, create_run_at
from engine.contract.samples import samples_file

RECIPE = parse_recipe(
    "model_name_or_path: some/model-1b\nname: Fake\ntasks: [{name: sql, path: a.jsonl}, {name: bug-fix, path: b.jsonl}]"
)
STATES = ("queued", "preparing", "running", "stopping", "finished", "stopped", "failed", "lost")


def dead_process() -> ProcessId:
    """Return the identity of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessId.of(process.pid)
    process.kill()
    process.wait()
    return identity


def metrics_row(step: int) -> dict:
    """Return a row with losses known by hand: total 5 - step/10, sql 4 - step/10, bug-fix absent on odd steps."""
    row = {"step": step, "time": 1000.0 + step, "tokens_seen": 100 * step, "train/loss": 5 - step / 10}
    row.update({"task/sql/loss": 4 - step / 10, "task/sql/num_tokens": 10, "task/sql/weight": 0.5})
    if step % 2 == 0:
        row.update({"task/bug-fix/loss": 6 - step / 10, "task/bug-fix/num_tokens": 20, "task/bug-fix/weight": 0.5})
    return row


def sample_row(step: int, task: str, *, done: bool) -> dict:
    """Return an answer as a run writes it: one word off the wanted one before the training, the very one after it."""
    gold = f"SELECT name FROM {task} WHERE <b>age</b> > 30"
    return {
        "step": step, "task": task, "prompt": 0, "question": "Who is older than 30?", "gold": gold,
        "output": gold if done else gold.replace("name", "everything"), "num_tokens": 9, "end": "end of turn",
    }  # fmt: skip


def fake_run(runs: Path, state: str, *, steps: int = 10) -> RunDir:
    """Make a run in a state, with `steps` rows and evaluations at step 0 and the last one."""
    run = create_run_at(runs / f"20260101-{state}", RECIPE)
    if state == "queued":
        return run
    me = ProcessId.of(os.getpid())
    process = dead_process() if state == "lost" else me
    attempt = Attempt(number=1, supervisor=asdict(process), started_at=time.time() - 60, command=("x",))
    claim_attempt(run, attempt)
    if state == "preparing":
        replace_json(
            run.status_file,
            asdict(
                Status(attempt=1, state="preparing", phase="reading and encoding the tasks", stage="data", share=0.4)
            ),
        )
        return run
    append_json(
        run.metrics_file, {"step": 0, "eval/loss": 5.0, "task/sql/eval_loss": 4.0, "task/bug-fix/eval_loss": 6.0}
    )
    for step in range(1, steps + 1):
        append_json(run.metrics_file, metrics_row(step))
    last = {"step": steps, "eval/loss": 4.0, "task/sql/eval_loss": 3.0, "task/bug-fix/eval_loss": 6.6}
    append_json(run.metrics_file, last)
    append_json(
        run.events_file, {"time": time.time(), "step": 0, "kind": "eval", "text": "<b>Evaluation</b>", "data": {}}
    )
    said = "running" if state in ("running", "stopping", "lost") else state
    now = time.time()
    status = Status(attempt=1, state=said, step=steps, total_steps=2 * steps, started_at=now - 20, updated_at=now)
    replace_json(run.status_file, asdict(status))
    checkpoint = run.checkpoints / f"step-{steps:06d}"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    if state == "stopping":
        replace_json(run.control_file, {"attempt": 1, "request": "stop", "id": 1})
    if state in ("finished", "stopped", "failed"):
        problem = "Out of memory." if state == "failed" else ""
        attempt = replace(attempt, kind="out_of_memory" if problem else "")
        ended = replace(
            attempt, ended_at=now, end=state, problem=problem, fix="halve the batch size." if problem else ""
        )
        replace_json(run.attempts / "001.json", asdict(ended))
    for at in (0, steps) if state != "stopped" else ():
        for task in ("sql", "bug-fix"):
            append_json(samples_file(run), sample_row(at, task, done=at > 0))
    run.log_file.write_text("line one\n\x1b[31mred <script>\n")
    return run
