"""Best-fit-decreasing packs: every row once, never above the capacity, exactly what the plain algorithm does."""

from __future__ import annotations

import numpy as np
import pytest

from engine.data.pack import count_packs, pack


def plain_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """The textbook algorithm, one row at a time; returns the room left in each pack, sorted."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda index: rooms[index])] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@pytest.mark.parametrize("seed", range(40))
def test_packs_are_those_of_the_plain_algorithm(seed):
    random = np.random.default_rng(seed)
    capacity, count = int(random.integers(5, 80)), int(random.integers(1, 150))
    lengths = np.clip(random.exponential(capacity / (1 + seed % 5), count).astype(np.int64), 1, capacity)
    packs = pack(lengths, capacity, seed=seed)
    sums = packs.sums(lengths)
    assert sorted(packs.rows.tolist()) == list(range(count))  # no row lost or doubled
    assert sums.sum() == lengths.sum() and sums.max() <= capacity
    assert sorted((capacity - sums).tolist()) == plain_best_fit(lengths.tolist(), capacity)
    counts = dict(zip(*(part.tolist() for part in np.unique(lengths, return_counts=True)), strict=True))
    assert count_packs(counts, capacity) == len(packs)


def test_the_seed_decides_which_equal_rows_lie_together():
    lengths = np.full(60, 10)
    first, again, other = (pack(lengths, 30, seed=seed) for seed in (1, 1, 2))
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    assert len(first) == 20


def test_a_row_longer_than_a_pack_is_refused():
    with pytest.raises(ValueError, match="1 to 8"):
        pack(np.array([9]), 8)


def test_no_rows_make_no_packs():
    assert len(pack(np.zeros(0, dtype=np.int64), 8)) == 0
