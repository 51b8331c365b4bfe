"""A run from recipe to checkpoints on a tiny model, in this process: record, resume bit by bit, stop, methods."""

from __future__ import annotations

import json

import pytest

from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run_at, request
from engine.train.main import main, train
from tests.engine.test_sinks import scalars
from tests.tiny_run import new_attempt, train_losses


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> RunDir:
    run = create_run_at(tmp_path_factory.mktemp("runs") / "whole", recipe)
    train(run, new_attempt(run))
    return run


def test_a_run_leaves_the_directory_of_the_contract(finished):
    status = finished.status()
    assert (status.state, status.step, status.total_steps) == ("finished", 6, 6)
    rows = finished.metrics()[0]
    assert [row["step"] for row in rows if "eval/loss" in row] == [0, 3, 6]
    assert sorted(train_losses(finished)) == [1, 2, 3, 4, 5, 6]
    assert {"task/short/loss", "task/long/loss", "task/long/num_tokens", "perf/tokens_per_second"} <= set(rows[1])
    assert [path.name for path in finished.checkpoint_dirs()] == ["step-000003", "step-000006"]
    report = json.loads(finished.report_file.read_text())
    assert [(t["name"], t["num_rows"], t["num_heldout"]) for t in report["tasks"]] == [
        ("short", 16, 4),
        ("long", 7, 2),
    ]
    kinds = [event["kind"] for event in finished.events()[0]]
    assert {"model", "data", "start", "eval", "save", "end"} <= set(kinds)


def test_tensorboard_holds_what_the_record_holds(finished):
    found = scalars(finished.path / "tensorboard")
    rows = finished.metrics()[0]
    for tag, key in (
        ("Loss/train", "train/loss"),
        ("Loss/valid", "eval/loss"),
        ("short_loss/valid", "task/short/eval_loss"),
    ):
        wanted = {row["step"]: row[key] for row in rows if key in row}
        assert {step: value for (name, step), value in found.items() if name == tag} == pytest.approx(wanted, rel=1e-6)


def test_the_weights_of_the_record_are_the_recipes(finished):
    """Each task's share of the loss is its weight over the run, and the loss is the sum of the tasks' by share."""
    rows = [row for row in finished.metrics()[0] if "train/loss" in row]
    for row in rows:
        parts = (row[f"task/{name}/weight"] * row.get(f"task/{name}/loss", 0.0) for name in ("short", "long"))
        assert row["train/loss"] == pytest.approx(sum(parts), rel=1e-5)
    shares = [sum(row[f"task/{name}/weight"] for row in rows) for name in ("short", "long")]
    assert shares[1] / sum(shares) == pytest.approx(2 / 3, abs=0.03)


def test_training_learns(finished):
    evaluations = [row for row in finished.metrics()[0] if "eval/loss" in row]
    assert evaluations[-1]["eval/loss"] < evaluations[0]["eval/loss"]


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_by_bit(recipe, finished, tmp_path):
    """Stop after step 2 (mid-epoch, with dropout), resume, and compare every number of every step."""
    run = create_run_at(tmp_path / "cut", override(recipe, ["record.save_steps=2"]))
    record = new_attempt(run)
    request(run, "stop")
    train(run, record)
    assert run.status().state == "stopped"
    stopped_at = run.status().step
    assert stopped_at == 1 and run.checkpoint_dirs()[-1].name == "step-000001"
    train(run, new_attempt(run), resume_from="latest")
    assert run.status().state == "finished"
    assert train_losses(run) == train_losses(finished)
    ours, theirs = (r.checkpoint_dirs()[-1] / "adapter_model.safetensors" for r in (run, finished))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_checkpoint_can_be_asked_for_while_running(recipe, tmp_path):
    run = create_run_at(tmp_path / "save", override(recipe, ["optim.max_steps=2"]))
    record = new_attempt(run)
    request(run, "save")
    train(run, record)
    assert [path.name for path in run.checkpoint_dirs()] == ["step-000001", "step-000002"]
    assert run.status().handled_control == 1


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_every_method_trains_and_saves_what_it_says(recipe, tmp_path, method):
    run = create_run_at(tmp_path / method, override(recipe, [f"method={method}", "optim.max_steps=2"]))
    train(run, new_attempt(run))
    saved = {path.name for path in run.checkpoint_dirs()[-1].iterdir()}
    weights = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert {weights, "tokenizer.json", "trainer_state.json", "manifest.json"} <= saved
    assert not any(name.endswith(".bin") for name in saved)
    words = " ".join(event["text"] for event in run.events()[0])
    assert ("nf4" in words) == (method == "qlora")


def test_all_broken_tasks_are_told_at_once(recipe, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{broken\n")
    run = create_run_at(
        tmp_path / "r", override(recipe, [f"tasks.0.path={tmp_path / 'missing.jsonl'}", f"tasks.1.path={bad}"])
    )
    with pytest.raises(UserError) as caught:
        train(run, new_attempt(run))
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["tasks.0.path", "tasks.1.path"]


def test_a_task_whose_examples_are_all_too_long_says_what_to_do(recipe, tmp_path):
    run = create_run_at(tmp_path / "r", override(recipe, ["data.max_length=16"]))
    with pytest.raises(UserError, match="longer than 16 tokens") as caught:
        train(run, new_attempt(run))
    assert caught.value.field == "data.max_length"


def test_the_entry_point_turns_a_failure_into_a_sentence(recipe, tmp_path, monkeypatch):
    run = create_run_at(tmp_path / "r", override(recipe, ["tasks.0.path=/nowhere.jsonl"]))
    new_attempt(run)
    monkeypatch.setattr("sys.argv", ["main", "--run", str(run.path)])
    monkeypatch.setattr("engine.train.main.die_with_parent", lambda _: None)
    assert main() == 1
    error = json.loads((run.errors / "rank-0.json").read_text())
    assert "short" in error["problem"] and error["fix"]
    assert run.status().state == "failed" and run.status().error["field"] == "tasks.0.path"
