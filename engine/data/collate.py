"""Encoded examples -> one padding-free row: documents side by side, told apart by `position_ids` alone.

    input_ids     [1, N]   all examples of the micro-batch, one after another
    position_ids  [1, N]   0, 1, 2 ... restarting at each example; this alone isolates them (no attention_mask: an
                           all-ones mask silently lets them see each other)
    keep          [M]      positions whose next token is supervised: the head is computed there only
    targets       [M]      that next token
    target_task   [M]      index of its task

N = tokens of the micro-batch, M = supervised tokens.  Nothing is padded, so no work is wasted on padding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from engine.data.taskset import Task
from engine.data.tokenize import IGNORE, Encoded

TaskExample = tuple[int, Encoded]
"""Index of the task, and the example."""


class MixtureDataset(Dataset[TaskExample]):
    """The training examples of all tasks in one row; the sampler shuffles them."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        # a task of weight 0 is only evaluated
        self._items = [
            (index, example) for index, task in enumerate(tasks) if task.weight > 0 for example in task.train
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> TaskExample:
        return self._items[index]


class StreamSampler(Sampler[int]):
    """One long stream of shuffled epochs, a pure function of the seed: position i is the same example in every run.

    Epochs follow each other without a seam, so every optimizer step is full and step s is stream[s*B : (s+1)*B] for the
    global batch size B - whatever the micro-batch, the number of ranks, or the step a run was resumed at.  Each example
    comes exactly once per epoch.

    Args:
        num_examples: Examples in the dataset.
        seed: Seed of the recipe.
        total: Length of the stream: optimizer steps times global batch size.
    """

    def __init__(self, num_examples: int, *, seed: int, total: int) -> None:
        self.num_examples, self.seed, self.total = num_examples, seed, total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        epochs = (epoch_order(self.num_examples, seed=self.seed, epoch=epoch) for epoch in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(epochs), self.total)


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> list[int]:
    """Return the shuffled order of one pass over the data."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(num_examples, generator=generator).tolist()


def collate(examples: Sequence[TaskExample]) -> dict[str, Tensor]:
    """Lay examples side by side; see the module's header for shapes."""
    input_ids: list[int] = []
    position_ids: list[int] = []
    keep: list[int] = []
    targets: list[int] = []
    target_task: list[int] = []
    for task, example in examples:
        start = len(input_ids)
        input_ids += example.input_ids
        position_ids += range(len(example.input_ids))
        for position, label in enumerate(example.labels):
            if label != IGNORE and position > 0:
                keep.append(start + position - 1)
                targets.append(label)
                target_task.append(task)
    return {
        "input_ids": torch.tensor([input_ids]),
        "position_ids": torch.tensor([position_ids]),
        "keep": torch.tensor(keep, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long),
        "target_task": torch.tensor(target_task, dtype=torch.long),
    }
