"""Broken state files: pages go on, the run next door is untouched, nothing raises at a person."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.contract.places import DataRoot
from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import RunDir, create_run_at, effective_state
from engine.contract.strategy import Strategy
from engine.launch.queue import waiting
from studio.logic import runs
from studio.logic.run import RunWatcher

BREAKS = {
    "empty": b"",
    "half": b'{"state": "running", "attempt": 1, "ste',
    "binary": bytes(range(256)) * 4,
    "a list": b"[1, 2, 3]",
    "null": b"null",
    "of the future": json.dumps(
        {"state": "dreaming", "attempt": 1, "number": 1, "supervisor": {}, "new": [1]}
    ).encode(),
    "wrong types": json.dumps({"state": 5, "step": "many", "attempt": "1", "ranks": 7, "number": "x"}).encode(),
    "deep": b"[" * 100_000,
}
FILES = ("status.json", "control.json", "attempts/001.json", "strategy.json", "data/report.json", "errors/rank-0.json")


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    made = DataRoot(tmp_path / "home").make()
    for name in ("broken", "whole"):
        run = create_run_at(made.runs / name, parse_recipe("model_name_or_path: a\ntasks: [{name: t, path: t.jsonl}]"))
        (run.attempts / "001.json").write_text(
            json.dumps({"number": 1, "supervisor": {}, "ended_at": 5, "end": "failed"})
        )
        run.metrics_file.write_text('{"step": 1, "train/loss": 2.5, "task/t/loss": 2.5}\n')
    return made


@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_state_file_breaks_neither_its_run_nor_the_list(root, name, kind):
    run = RunDir(root.runs / "broken")
    (run.path / name).write_bytes(BREAKS[kind])
    assert effective_state(run) in ("failed", "lost", "queued", "preparing", "running", "stopped", "finished")
    seen = RunWatcher(root).look("broken")
    assert seen["train"]["row"] == [0]
    lines = {line.id: line for line in runs.look(root)}
    assert set(lines) == {"broken", "whole"} and lines["whole"].state == "failed"
    assert Strategy.read(read_json(run.strategy_file)) is None


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_recipe_is_a_sentence_and_the_other_run_stays(root, kind):
    (root.runs / "broken" / "recipe.yaml").write_bytes(BREAKS[kind])
    with pytest.raises(UserError):
        RunWatcher(root).look("broken")
    assert "whole" in {line.id for line in runs.look(root)}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_broken_ticket_does_not_stop_the_queue(root, kind):
    root.waiting.mkdir(exist_ok=True)
    (root.waiting / "a.json").write_bytes(BREAKS[kind])
    assert waiting(root) == []


def test_torn_binary_and_huge_rows_of_the_record_are_passed_over(root):
    run = RunDir(root.runs / "broken")
    rows = [b"\0\0\0", b"\xff\xfe{", b'{"step": 2', b"[]", b'"text"', b'{"step": "x", "train/loss": 1}']
    with open(run.metrics_file, "ab") as file:
        file.write(b"\n".join(rows) + b"\n" + b'{"text": "' + b"x" * 5_000_000 + b'"}\n')
        file.write(b'{"step": 3, "train/loss": 1.5, "task/t/loss": 1.5}\n{"step": 4, "train')
    watcher = RunWatcher(root)
    assert watcher.look("broken")["train"]["step"] == [1, 3]
    with open(run.metrics_file, "ab") as file:
        file.write(b'/loss": 1.25}\n')
    assert watcher.look("broken")["train"]["step"] == [1, 3, 4]
    os.truncate(run.metrics_file, 0)
    assert watcher.look("broken")["state"] == "failed"


@pytest.mark.parametrize("jump", [-86_400, 86_400, 3_600, -3_600])
def test_a_clock_that_jumps_makes_no_negative_time_and_no_false_alarm(root, monkeypatch, jump):
    import time

    run, now = RunDir(root.runs / "broken"), time.time()
    status = {"attempt": 1, "state": "running", "phase": "training", "step": 5, "total_steps": 10, "started_at": now}
    me = {"pid": os.getpid(), "started_at": 1.0, "boot_id": "x"}
    run.status_file.write_text(json.dumps({**status, "updated_at": now, "ranks": [me]}))
    monkeypatch.setattr(time, "time", lambda: now + jump)
    seen = RunWatcher(root).look("broken")
    assert seen["elapsed_s"] >= 0 and (seen["remaining_s"] is None or seen["remaining_s"] >= 0)
