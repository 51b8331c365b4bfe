"""The Run page's values for every state, what a viewer gets anew, and what the buttons do."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.files import append_json, read_json
from engine.contract.places import DataRoot
from engine.contract.rundir import Attempt, ProcessId, claim_attempt, effective_state
from studio.logic import runs
from studio.logic.run import RunWatcher, request_action
from studio.logic.run_log import read_log
from tests.fake_runs import STATES, fake_run, metrics_row


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path).make()


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_a_view_that_is_json(root, state):
    run = fake_run(root.runs, state)
    assert effective_state(run) == state
    view = RunWatcher(root).look(run.id)
    json.dumps(view, allow_nan=False)
    assert view["state"] == state and view["word"]
    alive = state in ("preparing", "running", "stopping")
    assert view["actions"]["stop"] == (state in ("preparing", "running"))
    assert view["actions"]["resume"] == (state in ("stopped", "failed", "lost"))
    assert bool(view["failure"]) == (state in ("failed", "lost"))
    assert not (alive and view["actions"]["resume"])


def test_numbers_by_hand(root):
    run = fake_run(root.runs, "running")
    view = RunWatcher(root).look(run.id)
    sql, bug = view["tasks"]
    assert (sql["base"], sql["eval"], sql["change"]) == (4.0, 3.0, -0.25)
    assert bug["change"] == pytest.approx(0.1)
    assert (sql["tokens"], bug["tokens"]) == (100, 100)
    assert (sql["share"], bug["share"]) == pytest.approx((2 / 3, 1 / 3))  # bug-fix is in every other step only
    assert view["train"]["values"][1][:2] == [None, 5.8]  # absent at step 1: no point
    assert view["remaining_s"] == pytest.approx(20, abs=1)  # 10 steps took 20 s, 10 are left
    assert view["best"] == 10


def test_a_viewer_gets_only_what_is_new(root):
    run = fake_run(root.runs, "running")
    watcher = RunWatcher(root)
    first = watcher.look(run.id)
    append_json(run.metrics_file, metrics_row(11))
    second = watcher.look(run.id, cursor=first["cursor"])
    assert (second["reset"], second["train"]["row"], second["train"]["step"]) == (False, [8, 9, 10], [9, 10, 11])
    assert "config" in first and "config" not in second
    assert (second["eval"]["row"], second["events"], second["marks"]) == ([0, 1], [], [])  # the bin that is not full
    third = watcher.look(run.id, cursor=second["cursor"])
    assert not third["reset"] and third["balance"] is None
    append_json(run.metrics_file, {**metrics_row(12), "host/cpu_percent": 7.0})  # a curve that was not there
    assert watcher.look(run.id, cursor=third["cursor"])["reset"]
    for cursor in (
        "",
        "x",
        "1.2.3.4.5",
        "9.1.0.0.0.0.0",
        "0.9.0.0.0.0.0",
        "0.1.999.0.0.0.0",
        "0.1.0.0.999.0.0",
        "0.1.0.0.0.0.-1",
    ):
        assert watcher.look(run.id, cursor=cursor)["reset"]


def test_a_resumed_run_makes_viewers_start_over_and_the_later_row_wins(root):
    run = fake_run(root.runs, "running")
    watcher = RunWatcher(root)
    first = watcher.look(run.id)
    append_json(run.metrics_file, {**metrics_row(6), "train/loss": 1.0})
    again = watcher.look(run.id, cursor=first["cursor"])
    assert again["reset"] and again["train"]["step"] == [1, 2, 3, 4, 5, 6]
    assert again["run"]["values"][0][-1] == 1.0 and again["run_keys"][0]["key"] == "train/loss"


def test_text_from_logs_is_text(root):
    run = fake_run(root.runs, "running")
    view = RunWatcher(root).look(run.id)
    assert "\\x1b[31mred <script>" in read_log(run, -1)["lines"]
    assert view["events"][0]["text"] == "<b>Evaluation</b>"  # the page puts it into textContent


def test_broken_lines_do_not_stop_the_page(root):
    run = fake_run(root.runs, "running")
    with open(run.metrics_file, "ab") as file:
        file.write(b'\x00\xff garbage\n{"step": "x"}\n[1]\n{"step": 11, "train/loss": null}\n{"torn')
    assert RunWatcher(root).look(run.id)["train"]["step"][-1] == 11


def test_buttons(root):
    run = fake_run(root.runs, "running")
    assert "checkpoint" in request_action(root, run.id, "save")
    assert read_json(run.control_file) == {"attempt": 1, "request": "save", "id": 1}
    request_action(root, run.id, "stop")
    assert effective_state(run) == "stopping"
    for action in ("resume", "nonsense"):
        with pytest.raises(UserError):
            request_action(root, run.id, action)
    with pytest.raises(UserError, match="not running"):
        request_action(root, fake_run(root.runs, "finished").id, "stop")


@pytest.mark.parametrize("run_id", ["", "..", "../x", "nothing", "a/b", ".hidden", "x\0y"])
def test_names_that_are_no_runs_are_refused(root, run_id):
    with pytest.raises(UserError):
        RunWatcher(root).look(run_id)
    with pytest.raises(UserError):
        runs.request_delete(root, run_id)


def test_the_list_of_runs_and_the_trash(root):
    for state in STATES:
        fake_run(root.runs, state)
    (root.runs / "broken").mkdir()
    (root.runs / "broken" / "recipe.yaml").write_text("{")
    lines = {line.state: line for line in runs.look(root)}
    assert set(lines) == set(STATES)
    assert lines["finished"].eval_loss == 4.0 and lines["finished"].step == 10
    assert "trash" in runs.request_delete(root, lines["finished"].id)
    assert len(runs.look(root)) == len(STATES) - 1
    assert len(list((root.path / "trash").iterdir())) == 1
    with pytest.raises(UserError, match="still running"):
        runs.request_delete(root, lines["running"].id)


def test_a_run_that_waits_says_why_and_can_be_moved_or_taken_out(root):
    run = fake_run(root.runs, "queued")
    me = asdict(ProcessId.of(os.getpid()))
    claim_attempt(run, Attempt(number=1, supervisor=me, started_at=1.0, waiting="GPU 0 is used by run x."))
    view = RunWatcher(root).look(run.id)
    assert (view["state"], view["phase"]) == ("queued", "Waits: GPU 0 is used by run x.")
    assert {name for name, possible in view["actions"].items() if possible} == {"first", "leave"}
    assert runs.look(root)[0].waiting == "GPU 0 is used by run x."
    with pytest.raises(UserError, match="waits for its turn"):
        runs.request_delete(root, run.id)
    for action in ("first", "cancel"):
        request_action(root, run.id, action)
        assert read_json(run.control_file)["request"] == action
