"""What a run notices: the best evaluation, stalls, spikes, losses that are no numbers."""

from __future__ import annotations

import pytest
import torch

from engine.contract.best import best_and_stall, best_checkpoint, evaluations
from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.model.tiny_tokenizer import character_tokenizer
from engine.train.callbacks import RunCallback
from engine.train.main import train
from engine.train.watch import RECENT, LossWatch, convergence
from tests.tiny_run import new_attempt


def test_the_best_is_the_first_lowest_and_the_stall_counts_since_the_last_improvement():
    values = [(10, 2.0), (20, 1.5), (30, 1.5), (40, 1.49), (50, 1.6)]
    assert best_and_stall(values) == (40, 1)
    assert best_and_stall(values, threshold=0.1) == (40, 3)  # 1.49 is lowest, but no improvement worth waiting for
    assert best_and_stall([]) == (0, 0)


def test_evaluations_leave_out_the_base_model_and_what_is_no_number():
    rows = [
        {"step": 0, "eval/loss": 9.0, "task/a/eval_loss": 9.0},
        {"step": 5, "eval/loss": None, "task/a/eval_loss": 3.0},
        {"step": 5, "eval/loss": 2.0, "task/a/eval_loss": 4.0},
        {"step": 6, "train/loss": 1.0},
    ]
    assert evaluations(rows, "mean") == [(5, 2.0)]
    assert evaluations(rows, "a") == [(5, 4.0)]


def test_a_spike_stands_out_from_the_recent_rows_of_its_own_task():
    watch = LossWatch()
    for step in range(RECENT):
        assert watch.spikes({"a": 2.0 + 0.1 * (step % 3), "b": 9.0}) == []
    assert watch.spikes({"a": 2.4, "b": 9.0}) == []
    assert watch.spikes({"a": 7.0, "b": 9.0}) == ["a"]
    assert watch.spikes({"a": float("nan")}) == []


def test_convergence_is_told_relative_to_the_start():
    rows = [{"step": step, "task/a/eval_loss": loss} for step, loss in ((0, 4.0), (50, 3.0), (100, 2.0))]
    assert convergence(rows[:1], "a") == {"task/a/relative_loss": 1.0}
    told = convergence(rows, "a")
    assert told["task/a/relative_loss"] == 0.5 and told["task/a/slope"] == pytest.approx(-0.5)
    assert convergence(rows, "b") == {}


def learn(recipe, folder, *settings):
    run = create_run_at(folder, override(recipe, list(settings)))
    train(run, new_attempt(run))
    return run


def test_the_best_checkpoint_is_kept_besides_the_newest(recipe, tmp_path, monkeypatch):
    """The held-out losses are dictated: step 2 is best, of all that are saved only it and the last remain."""
    dictate(monkeypatch, {0: 5.0, 1: 4.0, 2: 1.0, 3: 2.0, 4: 3.0, 5: 2.5, 6: 4.0})
    run = learn(recipe, tmp_path / "r", "record.eval_steps=1", "record.save_steps=1", "record.save_total_limit=1")
    assert [path.name for path in run.checkpoint_dirs()] == ["step-000002", "step-000006"]
    assert best_checkpoint(run).name == "step-000002"
    assert any("best checkpoint is step-000002" in event["text"] for event in run.events()[0])


def test_a_best_evaluation_is_saved_even_between_two_checkpoints(recipe, tmp_path, monkeypatch):
    dictate(monkeypatch, {0: 5.0, 1: 4.0, 2: 4.5, 3: 2.0, 4: 3.0, 5: 2.5, 6: 4.0})
    run = learn(recipe, tmp_path / "r", "record.eval_steps=1", "record.save_steps=6")
    assert [path.name for path in run.checkpoint_dirs()] == ["step-000001", "step-000003", "step-000006"]
    settings = ["record.eval_steps=1", "record.save_steps=6", "record.save_best=false"]
    assert len(learn(recipe, tmp_path / "s", *settings).checkpoint_dirs()) == 1


def test_a_run_ends_early_when_a_task_no_longer_improves(recipe, tmp_path, monkeypatch):
    dictate(monkeypatch, {0: 5.0, 1: 1.0, 2: 1.1, 3: 1.2, 4: 0.5})
    early = ["record.early_stopping_patience=2", "record.metric_for_best_model=long", "record.eval_steps=1"]
    run = learn(recipe, tmp_path / "r", *early, "record.save_steps=100")
    status = run.status()
    assert (status.state, status.step, status.total_steps) == ("finished", 3, 6)
    told = next(event for event in run.events()[0] if event["kind"] == "early_stop")
    assert "long" in told["text"] and told["data"]["best"] == 1
    assert [path.name for path in run.checkpoint_dirs()] == ["step-000001", "step-000003"]


def dictate(monkeypatch, losses):
    """Make every task's held-out loss at a step what `losses` says."""
    monkeypatch.setattr(
        "engine.train.trainer.MultiTaskTrainer.evaluate_tasks",
        lambda self, limit=None: ([losses[self.state.global_step]] * 2, [1.0] * 2),
    )


def test_a_loss_that_is_no_number_ends_the_run_and_is_never_saved(recipe, tmp_path, monkeypatch):
    """A letter that only the task `long` uses is poisoned before step 3."""
    plain = RunCallback.on_step_begin

    def poison(self, args, state, control, **rest):
        if state.global_step == 2:
            model = rest["model"].get_base_model().model
            with torch.no_grad():
                model.embed_tokens.weight[character_tokenizer().convert_tokens_to_ids("q")] = float("nan")
        return plain(self, args, state, control, **rest)

    monkeypatch.setattr(RunCallback, "on_step_begin", poison)
    # one example per forward pass: in a row that several share, all of it breaks
    settings = ["record.save_steps=1", "optim.per_device_train_batch_size=1", "optim.gradient_accumulation_steps=8"]
    with pytest.raises(UserError, match=r"The loss of long is not a number at step 3") as caught:
        learn(recipe, tmp_path / "r", *settings)
    assert "resume from step-000002" in caught.value.problems[0].fix
    kept = learn(recipe, tmp_path / "s", *settings, "record.stop_on_nan=false")
    assert [path.name for path in kept.checkpoint_dirs()] == ["step-000001", "step-000002"]
    assert any("is not saved" in event["text"] for event in kept.events()[0])


def test_a_metric_without_held_out_examples_is_refused(recipe, tmp_path):
    with pytest.raises(UserError, match="no held-out examples"):
        learn(recipe, tmp_path / "r", "record.metric_for_best_model=long", "data.eval_split=0")
    with pytest.raises(UserError, match="use mean, or a task"):
        override(recipe, ["record.metric_for_best_model=other"])
