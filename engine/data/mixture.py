"""Mix tasks into one stream of rows: how often each task is seen, and in which order.

    rows per task, strategy -> probability per task -> caps -> rows per task in this run -> one seeded order

After every optimizer step each task has had its share to within a row or two: tasks take turns (Sainte-Lague) instead
of being drawn by lot, and within a task every row comes once before any comes twice.  Position i is the same row at any
number of ranks, micro-batches or resumes.  Pure arithmetic without torch: the studio's preview runs this same code.

T = tasks, N_t = rows of task t (examples, or packs), G = rows per optimizer step.  Source of `temperature`: T5 (Raffel
et al. 2020, arXiv:1910.10683, sec. 3.5.2).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.data.scramble import IntArray, scramble

Strategy = Literal["natural", "equal", "square_root", "temperature", "custom"]
FloatArray = NDArray[np.float64]
BLOCK_ROWS = 1 << 17
"""Rows whose order is worked out at once."""
_TASK_ORDER, _ROW_ORDER, _STEP_ORDER = 11, 12, 13
"""Seeds of our three kinds of order, so that they never repeat each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixTask:
    """What the mixture needs to know of a task."""

    name: str
    num_rows: int
    mixing_weight: float = 1.0
    """Relative share under the strategy `custom`."""
    max_epochs: float | None = None
    """See this task's rows at most this often; its share beyond that goes to the others."""


def mixing_probabilities(tasks: Sequence[MixTask], strategy: Strategy, temperature: float = 2.0) -> FloatArray:
    """Return how often each task is seen, before caps, shape (T,), sum 1.

        natural  p ~ N        equal  p ~ 1        square_root  p ~ N^(1/2)
        temperature  p ~ N^(1/temperature)        custom  p ~ mixing_weight

    Raises:
        ValueError: If no task has both rows and a share.
    """
    rows = np.array([task.num_rows for task in tasks], dtype=np.float64)
    power = {"natural": 1.0, "equal": 0.0, "square_root": 0.5, "temperature": 1.0 / temperature}
    if strategy == "custom":
        wanted = np.array([task.mixing_weight for task in tasks], dtype=np.float64)
    else:
        wanted = rows ** power[strategy]
    wanted = np.where(rows > 0, wanted, 0.0)
    if not wanted.sum() > 0:
        raise ValueError("no task has both rows and a share of the mixture")
    return wanted / wanted.sum()


@dataclass(frozen=True)
class Mixture:
    """The plan of a run: see `plan_mixture`."""

    tasks: tuple[MixTask, ...]
    configured: FloatArray
    """Share of the rows per task as asked for, shape (T,)."""
    probabilities: FloatArray
    """The same after caps, shape (T,)."""
    num_steps: int
    rows_per_step: int
    seed: int
    ended_by_caps: bool
    """Whether the run is shorter than asked for, because every task has reached its `max_epochs`."""

    @property
    def total_rows(self) -> int:
        """Rows of the whole run."""
        return self.num_steps * self.rows_per_step

    @cached_property
    def num_rows(self) -> IntArray:
        """N_t, shape (T,)."""
        return np.array([task.num_rows for task in self.tasks], dtype=np.int64)

    @cached_property
    def offsets(self) -> IntArray:
        """Where each task's rows begin in one list of all rows, shape (T + 1,)."""
        return np.concatenate([[0], np.cumsum(self.num_rows)])

    @cached_property
    def drawn(self) -> IntArray:
        """Rows per task in the whole run, shape (T,); they add up to `total_rows`."""
        return sum((counts for counts in self._block_counts()), start=np.zeros(len(self.tasks), dtype=np.int64))

    @cached_property
    def epochs(self) -> FloatArray:
        """How often each task's rows are seen, shape (T,)."""
        return self.drawn / np.maximum(self.num_rows, 1)

    def task_order(self, count: int) -> IntArray:
        """Return the tasks of the first `count` rows of the run, cheaply; at most one block of them."""
        counts = next(self._block_counts())
        total = int(counts.sum())
        enough = [min(int(c), int(np.ceil(c * count / total)) + 2) for c in counts] if total else counts
        return self._turns(counts, enough, block=0)[:count]

    def stream(self, start: int = 0) -> Iterator[IntArray]:
        """Yield the rows of the run from position `start`, in arrays; a row is its place in one list of all rows."""
        position, seen = 0, np.zeros(len(self.tasks), dtype=np.int64)
        orders: dict[int, tuple[int, IntArray]] = {}
        for block, counts in enumerate(self._block_counts()):
            end = position + int(counts.sum())
            if end > start:
                yield self._block(block, counts, seen, orders)[max(0, start - position) :]
            position, seen = end, seen + counts

    def _block_counts(self) -> Iterator[IntArray]:
        """Yield how many rows of each task a block holds; after any number of blocks each task has its share."""
        size = min(max(int(self.num_rows.sum()), 1), BLOCK_ROWS)
        done, given = 0, np.zeros(len(self.tasks), dtype=np.int64)
        while done < self.total_rows:
            end = min(done + size, self.total_rows)
            expected = self.probabilities * end - given
            counts = np.maximum(np.floor(expected + 1e-9), 0).astype(np.int64)
            missing = end - done - int(counts.sum())
            if missing < 0:  # shares far below a row were rounded up to 0 from below: the largest gives way
                counts[np.argmax(counts)] += missing
            else:
                counts[np.argsort(counts - expected, kind="stable")[:missing]] += 1
            done, given = end, given + counts
            yield counts

    def _turns(self, counts: IntArray, first: Sequence[int] | IntArray, block: int) -> IntArray:
        """Return tasks in the order of their turns: the j-th of c rows is due at (j + 1/2) / c of the block."""
        task = np.repeat(np.arange(len(counts)), first)
        turn = np.concatenate([np.arange(n) for n in first])
        due = (turn + 0.5) / np.maximum(counts, 1)[task]
        chance = scramble(turn * len(counts) + task, self.seed, _TASK_ORDER, block)
        return task[np.lexsort((chance, due))]

    def _block(self, block: int, counts: IntArray, seen: IntArray, orders: dict[int, tuple[int, IntArray]]) -> IntArray:
        order = self._turns(counts, counts, block)
        rows = np.empty(len(order), dtype=np.int64)
        for index in np.flatnonzero(counts):
            own = self._rows_of(int(index), int(seen[index]), int(counts[index]), orders)
            rows[order == index] = own + self.offsets[index]
        return rows

    def _rows_of(self, index: int, first: int, count: int, orders: dict[int, tuple[int, IntArray]]) -> IntArray:
        """Return a task's rows number `first` to `first + count` of its own endless sequence of shuffled passes."""
        task, parts = self.tasks[index], []
        while count > 0:
            epoch, place = divmod(first, task.num_rows)
            if orders.get(index, (-1,))[0] != epoch:
                name = zlib.crc32(task.name.encode())
                chance = scramble(np.arange(task.num_rows), self.seed, _ROW_ORDER, name, epoch)
                orders[index] = (epoch, np.argsort(chance, kind="stable"))
            part = orders[index][1][place : place + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts)


def plan_mixture(
    tasks: Sequence[MixTask],
    *,
    strategy: Strategy = "natural",
    temperature: float = 2.0,
    num_train_epochs: float = 1.0,
    max_steps: int | None = None,
    rows_per_step: int = 1,
    seed: int = 0,
) -> Mixture:
    """Plan a run.

    Args:
        tasks: The tasks; one without rows is left out.
        strategy: See `mixing_probabilities`.
        temperature: For the strategy of that name; 1 is natural, large is equal.
        num_train_epochs: Rows of the run in units of all rows of all tasks; used without `max_steps`.
        max_steps: Optimizer steps.
        rows_per_step: Rows per optimizer step over all micro-batches and ranks.
        seed: Seed of the recipe.

    Raises:
        ValueError: If no task has both rows and a share.
    """
    configured = mixing_probabilities(tasks, strategy, temperature)
    all_rows = sum(task.num_rows for task in tasks)
    steps = max_steps or max(1, int(np.ceil(num_train_epochs * all_rows / rows_per_step - 1e-9)))
    caps = np.array([np.inf if t.max_epochs is None else np.floor(t.max_epochs * t.num_rows) for t in tasks])
    limit = float(caps[configured > 0].sum())
    ended = steps * rows_per_step > limit
    if ended and (not max_steps) and (steps - 1) * rows_per_step < limit:
        ended = False  # only the last, partial step is short
    if steps * rows_per_step > limit:
        steps = max(1, int(limit // rows_per_step))
    quota = _fill(configured * steps * rows_per_step, caps)
    return Mixture(tuple(tasks), configured, quota / quota.sum(), steps, rows_per_step, seed, ended)


def _fill(wanted: FloatArray, caps: FloatArray) -> FloatArray:
    """Hand out the same total under caps: what a capped task cannot take goes to the others in proportion."""
    total, share = wanted.sum(), wanted / wanted.sum()
    full = np.zeros(len(wanted), dtype=bool)
    given = wanted.copy()
    for _ in range(len(wanted)):
        over = ~full & (given > caps + 1e-9)
        if not over.any():
            break
        full |= over
        open_share = share[~full].sum()
        given = np.where(full, caps, 0.0)
        if open_share > 0:
            given = np.where(full, caps, share / open_share * (total - caps[full].sum()))
    return np.minimum(given, caps)


def rows_of_step(step_rows: IntArray, *, seed: int, step: int) -> IntArray:
    """Shuffle the rows of one optimizer step, so that tasks that take turns do not always meet the same rank."""
    return step_rows[np.argsort(scramble(np.arange(len(step_rows)), seed, _STEP_ORDER, step), kind="stable")]
