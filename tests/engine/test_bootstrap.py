"""Intervals: exact where hand arithmetic is, right as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.contract.bootstrap import _draws, _tail, difference, interval, student_quantile, verdict
from engine.contract.eval_results import Scores


def test_the_value_is_sum_over_sum_and_perplexity_its_exponential():
    scores = Scores(values=(6.0, 20.0), counts=(3.0, 5.0))
    assert interval(scores).value == 26 / 8
    assert interval(scores, np.exp).value == pytest.approx(math.exp(26 / 8))
    assert interval(Scores.of([None, None])) is None


def test_examples_without_a_score_in_one_of_two_are_left_out():
    found = difference(Scores.of([1.0, None, 0.5]), Scores.of([0.0, 1.0, 0.5]))
    assert found.value == 0.5  # (1 + 0.5) / 2 - (0 + 0.5) / 2


def test_two_examples_give_the_quantiles_of_their_four_resamples():
    """Of two examples with differences 0 and 1 the mean is 0, 1/2, 1/2 or 1."""
    drawn = _draws(2) @ np.array([0.0, 1.0]) / 2
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / len(drawn) == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_the_same_numbers_give_the_same_interval():
    scores, other = Scores.of([0.1 * i for i in range(20)]), Scores.of([0.1] * 20)
    first = difference(scores, other)
    _draws.cache_clear()
    assert difference(scores, other) == first


@pytest.mark.parametrize(("freedom", "table"), [(4, 2.776), (5, 2.571), (11, 2.201), (30, 2.042), (200, 1.972)])
def test_quantiles_of_student_are_those_of_the_tables(freedom: int, table: float):
    assert student_quantile(0.975, freedom) == pytest.approx(table, abs=1.1e-3)


def test_a_large_sample_has_the_interval_of_the_normal_distribution():
    rng = np.random.default_rng(1)
    values = rng.normal(0.3, 2.0, size=1000)
    found = interval(Scores.of(values.tolist()))
    width = 1.96 * values.std() / math.sqrt(1000)
    assert found.low == pytest.approx(values.mean() - width, abs=0.06 * width)
    assert found.high == pytest.approx(values.mean() + width, abs=0.06 * width)


def test_of_twelve_examples_without_a_difference_one_in_twenty_shows_one():
    """Coverage on normal differences: 5 % of 2000 experiments, three standard errors are 1.5 %."""
    rng = np.random.default_rng(7)
    samples = rng.normal(size=(2000, 12))
    means = _draws(12)[:2000] @ samples.T / 12
    low, high = np.quantile(means, [_tail(12), 1 - _tail(12)], axis=0)
    missed = float(((low > 0) | (high < 0)).mean())
    assert 0.03 < missed < 0.07


def test_verdicts_follow_the_direction_and_need_examples():
    up = difference(Scores.of([1.0] * 8), Scores.of([0.0] * 8))
    down = difference(Scores.of([0.0] * 8), Scores.of([1.0] * 8))
    none = difference(Scores.of([0.0, 1.0] * 4), Scores.of([1.0, 0.0] * 4))
    assert [verdict(found, "higher", 8) for found in (up, down, none)] == ["better", "worse", "no difference shown"]
    assert [verdict(found, "lower", 8) for found in (up, down)] == ["worse", "better"]
    assert verdict(up, "higher", 4) == "no difference shown"
    assert verdict(None, "higher", 8) == "no difference shown"


def test_unequal_numbers_of_examples_are_a_bug():
    with pytest.raises(ValueError, match="3 examples cannot be paired with 2"):
        difference(Scores.of([1.0] * 3), Scores.of([1.0] * 2))
