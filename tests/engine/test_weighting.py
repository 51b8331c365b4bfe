"""Task weights that change: who gets more, what cannot be measured, resume bit by bit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.contract.errors import UserError
from engine.contract.recipe import WeightingSection
from engine.contract.recipe_io import override, recipe_from_values
from engine.contract.rundir import create_run_at, request
from engine.train.main import train
from engine.train.weighting.schedule import TaskWeighting
from tests.tiny_run import new_attempt, train_losses


def weighting(method: str, measured=(True, True, True), **settings) -> TaskWeighting:
    numbers = {"warmup_steps": 3, "history_length": 20, **settings}
    return TaskWeighting(WeightingSection(method=method, **numbers), measured)


def converge(made: TaskWeighting, steps: int = 30, rates=(0.05, 0.01, 0.01)) -> np.ndarray:
    """Let losses fall at constant rates and return the factors at the end."""
    for step in range(steps + 1):
        made.observe(step, [2.0 * np.exp(-rate * step) for rate in rates])
    return made.factors


def test_the_task_that_converges_fastest_gets_less_from_coba():
    fast, *slow = converge(weighting("coba"))
    assert fast < 1 < min(slow)


def test_famo_asks_less_of_the_task_that_improves_fastest():
    """Its weights are on log losses: the logit of the fast task falls, though its small loss magnifies the factor."""
    made = weighting("famo")
    converge(made)
    assert made._famo.xi.argmin() == 0 and made._famo.xi[1] == pytest.approx(made._famo.xi[2])


def test_coba_holds_back_a_task_that_diverges():
    made = weighting("coba")
    for step in range(40):
        rising = 2.0 * np.exp(-0.02 * min(step, 20)) * (1.03 ** max(0, step - 20))
        made.observe(step, [2.0 * np.exp(-0.02 * step), 2.0 * np.exp(-0.02 * step), rising])
    assert made.factors[2] == made.factors.min() < 1


@pytest.mark.parametrize("method", ["coba", "famo", "self_paced"])
def test_a_task_that_cannot_be_measured_keeps_the_average_and_nothing_is_nan(method):
    made = weighting(method, measured=(True, False, True, True))
    for step in range(40):
        lost = float("nan") if step % 3 else 2.0  # and one is missing most of the time
        made.observe(step, [2.0 * 0.95**step, float("nan"), 2.0 * 0.99**step, lost])
        assert np.isfinite(made.factors).all() and made.factors[1] == 1.0
    assert made.factors.mean() == pytest.approx(1.0)


def test_one_task_needs_no_weighting():
    assert not weighting("coba", measured=(True, False)).is_active and not weighting("static").is_active


@pytest.mark.parametrize("method", ["coba", "famo", "self_paced"])
def test_the_state_goes_on_where_it_was(method):
    one, two = weighting(method), weighting(method)
    converge(one, 12)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for step in range(13, 30):
        losses = [2.0 * 0.9**step, 2.0 * 0.97**step, 1.5]
        one.observe(step, losses)
        two.observe(step, losses)
        assert one.factors.tolist() == two.factors.tolist()
    with pytest.raises(ValueError, match="another recipe"):
        weighting("coba" if method != "coba" else "famo").load_state_dict(one.state_dict())


@pytest.mark.parametrize("method", ["coba", "famo"])
def test_a_resumed_run_repeats_the_uninterrupted_one_bit_by_bit(recipe, tmp_path, method):
    settings = [f"weighting.method={method}", "weighting.warmup_steps=3", "record.save_steps=4", "optim.max_steps=8"]
    changing = override(recipe, settings)
    whole = create_run_at(tmp_path / "whole", changing)
    train(whole, new_attempt(whole))
    rows = {row["step"]: row for row in whole.metrics()[0] if "train/loss" in row}
    factors = [rows[step]["task/short/factor"] for step in sorted(rows)]
    assert factors[-1] != 1.0 and len(set(factors)) > 2

    cut = create_run_at(tmp_path / "cut", changing)
    record = new_attempt(cut)
    request(cut, "stop")  # after the first step, with a checkpoint
    train(cut, record)
    train(cut, new_attempt(cut), resume_from="latest")
    again = {row["step"]: row for row in cut.metrics()[0] if "train/loss" in row}
    assert train_losses(cut) == train_losses(whole)
    assert [again[step]["task/short/factor"] for step in sorted(again)] == factors


def test_weights_that_are_not_used_cannot_change(recipe):
    with pytest.raises(UserError, match="needs task weights, which token_mean does not use"):
        override(recipe, ["weighting.method=coba", "loss.reduction=token_mean"])
    values = recipe.model_dump(mode="json") | {"weighting": {"method": "coba", "warmup_steps": 50, "history_length": 9}}
    with pytest.raises(UserError) as caught:
        recipe_from_values(values)
    assert caught.value.field == "weighting.history_length"
