"""Metrics in further places: TensorBoard's files say what metrics.jsonl says, and no place can end a run."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.trackers import check_trackers
from engine.train.record import RunRecord
from engine.train.sinks import Sinks, TensorBoard, open_sinks, tag_of
from tests.fake_runs import RECIPE, fake_run


def events_of(folder: Path) -> list[Event]:
    """Read TensorBoard files record by record: length, its checksum, data, its checksum."""
    found = []
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {(v.tag, e.step): v.simple_value for e in events_of(folder) for v in e.summary.value}


def test_event_files_hold_the_rows_under_mftcoders_tags(tmp_path):
    run = fake_run(tmp_path, "running")
    record = RunRecord(run, attempt=1, rank=0)
    record.sinks = open_sinks(run, RECIPE, lambda *_: pytest.fail("told"))
    row = {"train/loss": 2.5, "task/sql/loss": 1.5, "task/sql/weight": 0.25, "optim/learning_rate": 1e-4, "epoch": None}
    record.metrics({"step": 11, **row})
    record.metrics({"step": 11, "eval/loss": 2.0, "task/sql/eval_loss": 1.0, "task/bug-fix/eval_loss": math.nan})
    record.sinks.close()
    found = scalars(run.path / "tensorboard")
    assert {key: round(value, 6) for key, value in found.items()} == {
        ("Loss/train", 11): 2.5,
        ("sql_loss/train", 11): 1.5,
        ("sql_weight/train", 11): 0.25,
        ("optim/learning_rate", 11): 1e-4,
        ("Loss/valid", 11): 2.0,
        ("sql_loss/valid", 11): 1.0,
        ("Perplexity/valid", 11): round(math.exp(2.0), 6),
    }
    assert run.metrics()[0][-2]["train/loss"] == 2.5


def test_a_resumed_run_hides_the_steps_it_repeats(tmp_path):
    run = fake_run(tmp_path, "running")
    for step in (10, 6):
        sink = TensorBoard(run)
        sink.row(step, {"train/loss": 1.0})
        sink.close()
    starts = [(e.step, e.session_log.status) for e in events_of(run.path / "tensorboard") if e.HasField("session_log")]
    assert starts == [(6, 1)]  # SessionLog.START: TensorBoard drops what was written for step 6 and later


def test_a_place_that_fails_is_told_once_and_left_out():
    class Broken:
        name = "broken"

        def row(self, step, values):
            raise RuntimeError("no network")

        def close(self):
            pytest.fail("it was left out")

    told: list[tuple[str, str]] = []
    sinks = Sinks([Broken()], lambda *words: told.append(words))
    sinks.row({"step": 1, "train/loss": 1.0})
    sinks.row({"step": 2, "train/loss": 1.0})
    sinks.close()
    assert told == [("warning", "Metrics no longer go to broken: no network")]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_service_gets_the_numbers_of_every_step(tmp_path, monkeypatch, name):
    calls: list[tuple] = []
    stub = types.ModuleType(name)
    stub.init = lambda **given: calls.append(("init", given["resume"])) or stub
    stub.log = lambda values, step: calls.append((step, values))
    stub.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, name, stub)
    recipe = override(RECIPE, [f"record.report_to=[{name}]"])
    sinks = open_sinks(fake_run(tmp_path, "running"), recipe, lambda *_: pytest.fail("told"))
    sinks.row({"step": 3, "time": 1.0, "train/loss": 2.0, "note": "x", "bad": math.inf})
    sinks.close()
    assert calls == [("init", "allow"), (3, {"train/loss": 2.0}), ("finish",)]


def test_what_is_missing_is_said_before_the_run(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("trackio", "wandb") else object())
    with pytest.raises(UserError) as caught:
        check_trackers(("tensorboard", "trackio", "wandb"))
    assert len(caught.value.problems) == 2 and "requirements-trackers.txt" in str(caught.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match="logged in"):
        check_trackers(("wandb",))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(("wandb", "tensorboard"))


def test_tags():
    assert tag_of("task/a/slope") == "task/a/slope" and tag_of("perf/step_time_s") == "perf/step_time_s"
