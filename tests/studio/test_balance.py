"""The Balance tab: bins that are weighted by tokens, shares that add up, a sentence that fits."""

from __future__ import annotations

import json

import pytest

from studio.logic.balance import BINS, balance, sentence
from studio.logic.history import Table


def row(step: int, **tasks: tuple[float | None, int, float, int]) -> dict:
    """Return a training row; per task: loss, supervised tokens, share of the loss, rows."""
    made: dict = {"step": step, "train/loss": 1.0}
    for name, (loss, tokens, share, rows) in tasks.items():
        if loss is not None:
            made |= {f"task/{name}/loss": loss, f"task/{name}/num_tokens": tokens}
        made |= {f"task/{name}/weight": share, f"task/{name}/num_rows": rows}
    return made


def evaluation(step: int, **losses: float) -> dict:
    return {"step": step, "eval/loss": 1.0, **{f"task/{name}/eval_loss": loss for name, loss in losses.items()}}


def test_shares_add_up_and_losses_are_relative_to_the_start():
    rows = [row(i + 1, a=(4.0 / (i + 1), 10, 0.5, 3), b=(2.0, 30, 0.5, 1)) for i in range(4)]
    found = balance(Table.of(rows), [], ["a", "b"])
    assert found["step"] == [1, 2, 3, 4]
    assert found["relative"] == [[1.0, 0.5, pytest.approx(1 / 3), 0.25], [1.0, 1.0, 1.0, 1.0]]
    assert found["loss_share"][0] == [0.5, 0.5] and found["row_share"][0] == [0.75, 0.25]
    assert found["factor"] == [] and found["table"][0]["row_share"] == 0.75
    json.dumps(found, allow_nan=False)


def test_a_bin_is_weighted_by_tokens_and_an_absent_task_leaves_a_gap():
    rows = [
        row(i + 1, a=(1.0 if i % 2 else 3.0, 10 if i % 2 else 30, 1.0, 1), b=(None, 0, 0.0, 0)) for i in range(2 * BINS)
    ]
    found = balance(Table.of(rows), [], ["a", "b"])
    assert len(found["step"]) == BINS
    assert found["relative"][0] == [1.0] * BINS  # every bin: (3 * 30 + 1 * 10) / 40 = 2.5
    assert set(found["relative"][1]) == {None} and found["table"][1]["relative"] is None


def test_a_run_without_steps_and_one_with_broken_numbers():
    assert balance(Table(), [], ["a"])["step"] == []
    rows = [{"step": 1, "train/loss": None, "task/a/loss": None, "task/a/weight": "x"}]
    found = balance(Table.of(rows), [{"step": 1}], ["a"])
    assert found["table"][0]["loss_share"] is None


def words(*evaluations: dict, names: tuple[str, ...] = ("a", "b")) -> str:
    found = balance(Table.of([row(1, a=(1.0, 1, 0.5, 1), b=(1.0, 1, 0.5, 1))]), list(evaluations), list(names))
    assert found["sentence"] == sentence(found["table"], list(evaluations))
    return found["sentence"]


def test_the_sentence_names_what_stands_out():
    assert "a converges 4.0x faster than b; consider 0.5 times" in words(
        evaluation(0, a=1.0, b=1.0), evaluation(100, a=0.67032, b=0.90484)
    )
    assert words(evaluation(0, a=2.0, b=1.0), evaluation(50, a=1.8, b=0.9)) == "All tasks converge at a similar pace."
    assert words(evaluation(0, a=1.0, b=1.0), evaluation(9, a=0.9, b=1.1)).startswith("b does not improve")
    rising = [
        evaluation(step, a=loss, b=1.0 - step / 100) for step, loss in ((0, 2.0), (10, 1.0), (20, 1.2), (30, 1.4))
    ]
    assert words(*rising).startswith("a overfits since step 10")
    assert "second evaluation" in words(evaluation(0, a=1.0, b=1.0))
