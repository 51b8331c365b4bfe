"""Encoded rows -> one batch of tensors, padding-free or padded.

padding-free: documents side by side in one row, told apart by `position_ids` alone
    input_ids     [1, N]   all examples of the micro-batch, one after another
    position_ids  [1, N]   0, 1, 2 ... restarting at each example; this alone isolates them (no attention_mask: an
                           all-ones mask silently lets them see each other)
padded: one row per example, filled up at the right
    input_ids, attention_mask  [B, L]
both:
    keep          [K]      columns whose next token is supervised in some row: the head is computed there only
    row, column   [M]      where in [B, K] the supervised tokens are
    targets       [M]      the token that comes next
    target_task   [M]      index of its task
    target_count  [M]      supervised tokens of the example it belongs to
    target_example [M]     number of that example within the batch
    num_samples   [T]      examples with supervised tokens of each task
    num_rows      [T]      rows (packs) of each task

N = tokens, M = supervised tokens, B = examples of the micro-batch, L = the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from engine.data.mixture import Mixture, rows_of_step
from engine.data.prepare import Task
from engine.data.preview import GROUPED_STEPS
from engine.data.scramble import IntArray, scramble
from engine.data.tokenize import IGNORE, Encoded

Unit = tuple[int, Sequence[Encoded]]
"""Index of the task, and the rows of one unit: a single example, or a pack."""
_GROUP_ORDER = 21


class MixtureDataset(Dataset[Unit]):
    """The training units of all tasks in one list, a task's units together; the sampler orders them."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        # a task of weight 0 is only evaluated
        sizes = [len(task.train) if task.weight > 0 else 0 for task in tasks]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Unit:
        task = int(np.searchsorted(self._starts, index, side="right")) - 1
        return task, self.tasks[task].train[index - int(self._starts[task])]

    def lengths(self) -> IntArray:
        """Return the tokens of every unit."""
        parts = [
            task.lengths
            if task.lengths is not None
            else np.array([sum(len(e.input_ids) for e in u) for u in task.train])
            for task in self.tasks
            if task.weight > 0
        ]
        return np.concatenate(parts)


class MixtureSampler(Sampler[int]):
    """The order of a run: step s is positions s*G to (s+1)*G, whatever the micro-batch, the ranks, or a resume.

    Args:
        mixture: The plan.
        lengths: Tokens of every unit: group units of similar length within `GROUPED_STEPS` steps. None = do not.
    """

    def __init__(self, mixture: Mixture, *, lengths: IntArray | None = None) -> None:
        self.mixture, self.lengths = mixture, lengths

    def __len__(self) -> int:
        return self.mixture.total_rows

    def __iter__(self) -> Iterator[int]:
        for step, rows in enumerate(self._steps()):
            yield from rows_of_step(rows, seed=self.mixture.seed, step=step).tolist() if self.lengths is None else rows

    def _steps(self) -> Iterator[Any]:
        size = self.mixture.rows_per_step
        window = size if self.lengths is None else size * GROUPED_STEPS
        left = np.zeros(0, dtype=np.int64)
        number = 0
        for block in self.mixture.stream():
            left = np.concatenate([left, block])
            whole = len(left) // window * window
            for start in range(0, whole, window):
                yield from self._cut(left[start : start + window], number)
                number += 1
            left = left[whole:]
        yield from self._cut(left, number)

    def _cut(self, rows: IntArray, window: int) -> Iterator[Any]:
        """Yield the steps of a window; grouped, a step's units have similar lengths and stand longest first."""
        size = self.mixture.rows_per_step
        if self.lengths is not None:
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
        steps = [rows[start : start + size] for start in range(0, len(rows), size)]
        if self.lengths is not None:
            seed = self.mixture.seed
            order = np.argsort(scramble(np.arange(len(steps)), seed, _GROUP_ORDER, window), kind="stable")
            steps = [steps[int(index)] for index in order]
        yield from steps


@dataclass(frozen=True, slots=True)
class Collator:
    """Makes batches of units; see the module's header for shapes."""

    num_tasks: int
    padded: bool = False

    def __call__(self, units: Sequence[Unit]) -> dict[str, Tensor]:
        documents = [(task, example) for task, rows in units for example in rows]
        num_rows = torch.bincount(torch.tensor([task for task, _ in units]), minlength=self.num_tasks)
        batch = pad(documents) if self.padded else lay_side_by_side(documents)
        learned = [task for task, example in documents if example.num_supervised]
        num_samples = torch.bincount(torch.tensor(learned, dtype=torch.long), minlength=self.num_tasks)
        return {**batch, "num_rows": num_rows, "num_samples": num_samples}


def lay_side_by_side(documents: Sequence[tuple[int, Encoded]]) -> dict[str, Tensor]:
    """Return a padding-free batch of (task, example) pairs."""
    ids = [np.asarray(example.input_ids) for _, example in documents]
    starts = np.cumsum([0, *map(len, ids)])
    keep, targets, task = _supervised(documents)
    keep = np.concatenate([k + s for k, s in zip(keep, starts)]) if keep else np.zeros(0)
    return {
        "input_ids": _tensor(np.concatenate(ids))[None],
        "position_ids": _tensor(np.concatenate([np.arange(len(part)) for part in ids]))[None],
        "keep": _tensor(keep),
        "row": torch.zeros(len(keep), dtype=torch.long),
        "column": torch.arange(len(keep)),
        "targets": _tensor(np.concatenate(targets)),
        "target_task": _tensor(np.concatenate(task)),
        **_of_example(targets),
    }


def pad(documents: Sequence[tuple[int, Encoded]]) -> dict[str, Tensor]:
    """Return a batch with one row per example, filled up at the right; the filling is masked and carries no loss."""
    lengths = [len(example.input_ids) for _, example in documents]
    input_ids = np.zeros((len(documents), max(lengths)), dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for index, (_, example) in enumerate(documents):
        input_ids[index, : lengths[index]] = example.input_ids
        mask[index, : lengths[index]] = 1
    keep, targets, task = _supervised(documents)
    row = np.concatenate([np.full(len(part), index) for index, part in enumerate(keep)])
    union, column = np.unique(np.concatenate(keep), return_inverse=True)
    return {
        "input_ids": _tensor(input_ids),
        "attention_mask": _tensor(mask),
        "keep": _tensor(union),
        "row": _tensor(row),
        "column": _tensor(column),
        "targets": _tensor(np.concatenate(targets)),
        "target_task": _tensor(np.concatenate(task)),
        **_of_example(targets),
    }


def _supervised(documents: Sequence[tuple[int, Encoded]]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return, per document, the positions before supervised tokens, those tokens, and their task."""
    keep, targets, tasks = [], [], []
    for task, example in documents:
        labels = np.asarray(example.labels)[1:]  # nothing stands before the first token, so it cannot be predicted
        positions = np.flatnonzero(labels != IGNORE)
        keep.append(positions)
        targets.append(labels[positions])
        tasks.append(np.full(len(positions), task))
    return keep, targets, tasks


def _of_example(targets: Sequence[Any]) -> dict[str, Tensor]:
    """Return, for every supervised token, how many its example has and which one that is."""
    counts = [len(part) for part in targets]
    return {
        "target_count": _tensor(np.repeat(counts, counts)),
        "target_example": _tensor(np.repeat(np.arange(len(counts)), counts)),
    }


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))
