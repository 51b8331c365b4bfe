"""The order of a run: shares kept at every step, each row once per pass, the same from any position."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.data.collate import MixtureSampler
from engine.data.mixture import MixTask, mixing_probabilities, plan_mixture


def tasks_of(*sizes: int, **extra) -> list[MixTask]:
    return [MixTask(name=f"t{index}", num_rows=size, **extra) for index, size in enumerate(sizes)]


def order_of(mixture) -> np.ndarray:
    return np.concatenate(list(mixture.stream()))


def task_of(mixture, rows) -> np.ndarray:
    return np.searchsorted(mixture.offsets, rows, side="right") - 1


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("natural", [0.9, 0.1]),
        ("equal", [0.5, 0.5]),
        ("square_root", [0.75, 0.25]),  # 30 : 10
        ("custom", [0.2, 0.8]),
    ],
)
def test_shares_by_hand(strategy, expected):
    tasks = [MixTask(name="a", num_rows=900, mixing_weight=1), MixTask(name="b", num_rows=100, mixing_weight=4)]
    assert mixing_probabilities(tasks, strategy).tolist() == pytest.approx(expected)


def test_temperature_goes_from_natural_to_equal():
    tasks = tasks_of(10_000, 1)
    assert mixing_probabilities(tasks, "temperature", 1.0)[0] == pytest.approx(10_000 / 10_001)
    assert mixing_probabilities(tasks, "temperature", 2.0).tolist() == pytest.approx([100 / 101, 1 / 101])
    assert mixing_probabilities(tasks, "temperature", 1000.0)[0] == pytest.approx(0.5, abs=0.01)


def test_one_natural_epoch_is_every_row_exactly_once():
    mixture = plan_mixture(tasks_of(31, 7, 9), num_train_epochs=1, rows_per_step=47, seed=3)
    assert mixture.num_steps == 1
    assert sorted(order_of(mixture).tolist()) == list(range(47))


@pytest.mark.parametrize("strategy", ["natural", "equal", "square_root"])
def test_every_row_comes_once_before_any_comes_twice(strategy):
    mixture = plan_mixture(tasks_of(31, 7, 9), strategy=strategy, num_train_epochs=5.5, rows_per_step=4, seed=3)
    rows = order_of(mixture)
    for task, size in enumerate((31, 7, 9)):
        own = (rows - mixture.offsets[task])[task_of(mixture, rows) == task]
        passes = [own[start : start + size].tolist() for start in range(0, len(own) // size * size, size)]
        assert passes and all(sorted(one) == list(range(size)) for one in passes)
        assert len(passes) < 2 or passes[0] != passes[1]


@pytest.mark.parametrize("seed", range(12))
def test_after_any_number_of_rows_each_task_has_had_its_share_to_within_two(seed):
    random = np.random.default_rng(seed)
    tasks = [
        MixTask(name=f"t{i}", num_rows=int(random.integers(1, 300)), mixing_weight=random.random()) for i in range(9)
    ]
    mixture = plan_mixture(tasks, strategy="custom", num_train_epochs=2.3, rows_per_step=8, seed=seed)
    rows = order_of(mixture)
    seen = (task_of(mixture, rows)[:, None] == np.arange(9)).cumsum(axis=0)
    due = mixture.probabilities * np.arange(1, len(rows) + 1)[:, None]
    assert np.abs(seen - due).max() < 2
    assert seen[-1].tolist() == mixture.drawn.tolist()


def test_a_capped_task_gives_its_share_to_the_others_and_stays_to_the_end():
    tasks = [MixTask(name="small", num_rows=10, max_epochs=2), *tasks_of(100, 100)]
    mixture = plan_mixture(tasks, strategy="equal", max_steps=30, rows_per_step=10, seed=1)
    assert mixture.drawn.tolist() == [20, 140, 140]
    small = np.flatnonzero(task_of(mixture, order_of(mixture)) == 0)
    assert len(small) == 20 and small[-1] > 280 and not mixture.ended_by_caps


def test_a_run_ends_when_every_task_has_reached_its_cap():
    mixture = plan_mixture(tasks_of(10, 30, max_epochs=2), num_train_epochs=5, rows_per_step=8)
    assert mixture.ended_by_caps and mixture.num_steps == 10
    assert mixture.drawn.tolist() == [20, 60]


def test_a_task_of_share_zero_is_never_seen():
    tasks = [MixTask(name="a", num_rows=5), MixTask(name="b", num_rows=5, mixing_weight=0)]
    assert plan_mixture(tasks, strategy="custom", max_steps=9, rows_per_step=3).drawn.tolist() == [27, 0]
    with pytest.raises(ValueError, match="no task"):
        plan_mixture(tasks[1:], strategy="custom")


def test_the_order_goes_on_from_any_position_and_does_not_depend_on_the_cut():
    mixture = plan_mixture(tasks_of(31, 7, 9), strategy="equal", num_train_epochs=4, rows_per_step=4, seed=3)
    rows = order_of(mixture)
    for start in (1, 46, 47, 48, 150):
        assert np.concatenate(list(mixture.stream(start))).tolist() == rows[start:].tolist()
    assert mixture.task_order(40).tolist() == task_of(mixture, rows)[:40].tolist()
    longer = plan_mixture(tasks_of(31, 7, 9), strategy="equal", num_train_epochs=8, rows_per_step=4, seed=3)
    first_block = 47
    assert order_of(longer)[:first_block].tolist() == rows[:first_block].tolist()
    other = plan_mixture(tasks_of(31, 7, 9), strategy="equal", num_train_epochs=4, rows_per_step=4, seed=4)
    assert order_of(other).tolist() != rows.tolist()


def test_the_sampler_shuffles_within_a_step_only():
    mixture = plan_mixture(tasks_of(31, 7, 9), num_train_epochs=3, rows_per_step=6, seed=3)
    sampled, plain = list(MixtureSampler(mixture)), order_of(mixture).tolist()
    assert sampled != plain and len(sampled) == mixture.total_rows
    for step in range(mixture.num_steps):
        cut = slice(step * 6, step * 6 + 6)
        assert sorted(sampled[cut]) == sorted(plain[cut])


def test_grouping_by_length_keeps_every_row_and_puts_similar_ones_together():
    mixture = plan_mixture(tasks_of(310, 70), num_train_epochs=1, rows_per_step=4, seed=3)
    lengths = np.random.default_rng(0).integers(1, 900, 380)
    grouped = list(MixtureSampler(mixture, lengths=lengths))
    assert sorted(grouped) == list(range(380))

    def padding(order: list[int]) -> float:
        steps = [lengths[order[start : start + 4]] for start in range(0, 380, 4)]
        return 1 - sum(s.sum() for s in steps) / sum(4 * s.max() for s in steps)

    assert padding(grouped) < 0.05 < 0.3 < padding(list(MixtureSampler(mixture)))


def test_tasks_that_take_turns_do_not_always_meet_the_same_rank():
    mixture = plan_mixture(tasks_of(64, 64), num_train_epochs=1, rows_per_step=2, seed=1)
    first = itertools.islice(MixtureSampler(mixture), 0, None, 2)
    assert {index < 64 for index in first} == {True, False}
