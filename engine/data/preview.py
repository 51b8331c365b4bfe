"""What a mixture will do, in numbers, before and at the start of a run - by the code that then does it.

    facts per task (rows, tokens, histogram of lengths) + recipe -> rows, tokens, supervised tokens, epochs, share of
    the loss, padding, steps

The studio asks again at every move of a slider, so everything follows from a histogram of lengths; 20 tasks of a
million rows take milliseconds.  Pure numpy, no torch.  T = tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from engine.contract.recipe import Recipe
from engine.data.mixture import FloatArray, MixTask, Mixture, plan_mixture
from engine.data.pack import count_packs

LOOKED_AT_STEPS = 500
"""Optimizer steps whose composition is looked at for the share of the loss."""
REPEATS_OFTEN = 4.0
"""A task that is seen more often than this is pointed out: beyond it repeated data stop helping (Muennighoff et al.
2023, arXiv:2305.16264)."""
GROUPED_STEPS = 32
"""`length_grouped` sorts the rows of this many optimizer steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What became of a task's file under the recipe's tokenizer, template and length policy."""

    name: str
    num_records: int
    num_skipped: int
    num_refused: int
    """Examples that the chat template refused."""
    num_heldout: int
    num_too_long: int
    """Training examples above `max_length`: dropped, truncated or split, as the recipe says."""
    num_unsupervised: int
    """Rows without a token that carries loss; dropped."""
    num_rows: int
    """Rows to train on: examples, or parts of them."""
    num_tokens: int
    num_supervised_tokens: int
    lengths: tuple[int, ...]
    """Distinct lengths of the training rows, tokens, ascending."""
    counts: tuple[int, ...]
    """How many rows have each of them."""
    all_lengths: tuple[tuple[int, int], ...] = ()
    """(length, examples) of all examples before the length policy, for the histogram; may be grouped."""
    num_packs: int = 0
    """Packs of `max_length` tokens, if packing is `bfd`."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> TaskFacts:
        """Rebuild from JSON.

        Raises:
            KeyError, TypeError: If the value is something else.
        """
        arrays = {name: tuple(value[name]) for name in ("lengths", "counts")}
        pairs = tuple((int(length), int(count)) for length, count in value["all_lengths"])
        return cls(**{**value, **arrays, "all_lengths": pairs})

    def units(self, packing: str) -> int:
        """Return what a batch counts: packs with `bfd`, else rows."""
        return self.num_packs if packing == "bfd" else self.num_rows

    def percentile(self, share: float) -> int:
        """Return the length that this share of the rows does not exceed, tokens."""
        if not self.num_rows:
            return 0
        below = np.cumsum(self.counts)
        return int(self.lengths[int(np.searchsorted(below, share * self.num_rows))])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPreview:
    """What a run does with one task."""

    name: str
    rows: int
    """Rows (packs with `bfd`) the run sees of it."""
    share: float
    """Its share of all rows."""
    epochs: float
    """How often its data are seen."""
    tokens: int
    supervised_tokens: int
    loss_share: float
    """Its share of the loss, on average over the steps."""
    repeats_often: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MixPreview:
    """What a run does with its mixture."""

    tasks: tuple[TaskPreview, ...]
    steps: int
    rows_per_step: int
    tokens: int
    supervised_tokens: int
    padding_share: float
    """Share of the computed positions that hold no token."""
    pack_fill: float | None
    """Share of a pack's room that holds tokens; None without packs."""
    ended_by_caps: bool

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def with_packs(facts: TaskFacts, recipe: Recipe) -> TaskFacts:
    """Return the facts with the number of packs, if the recipe packs."""
    if recipe.data.packing != "bfd" or not facts.num_rows:
        return facts
    return replace(facts, num_packs=_num_packs(facts.lengths, facts.counts, recipe.data.max_length))


@lru_cache(maxsize=512)
def _num_packs(lengths: tuple[int, ...], counts: tuple[int, ...], capacity: int) -> int:
    return count_packs(dict(zip(lengths, counts, strict=True)), capacity)


def plan(recipe: Recipe, facts: Sequence[TaskFacts]) -> Mixture:
    """Plan the mixture of a recipe; tasks of weight 0 are only evaluated and take no part.

    Raises:
        ValueError: If no task has both rows and a share.
    """
    tasks = [
        MixTask(
            name=section.name,
            num_rows=known.units(recipe.data.packing) if section.weight > 0 else 0,
            mixing_weight=section.mixing_weight,
            max_epochs=section.max_epochs,
        )
        for section, known in zip(recipe.tasks, facts, strict=True)
    ]
    return plan_mixture(
        tasks,
        strategy=recipe.mixing.strategy,
        temperature=recipe.mixing.temperature,
        num_train_epochs=recipe.optim.num_train_epochs,
        max_steps=recipe.optim.max_steps,
        rows_per_step=rows_per_step(recipe),
        seed=recipe.order_seed,
    )


def rows_per_step(recipe: Recipe) -> int:
    """Return the rows of an optimizer step over all micro-batches and processes."""
    optim = recipe.optim
    return optim.per_device_train_batch_size * optim.gradient_accumulation_steps * recipe.launch.num_processes


def micro_batch_tokens(recipe: Recipe, facts: Sequence[TaskFacts]) -> tuple[int, int] | None:
    """Return the fewest and most tokens that the largest micro-batch may hold, padding included; None without rows."""
    batch, limit = recipe.optim.per_device_train_batch_size, recipe.data.max_length
    trained = [known for known, task in zip(facts, recipe.tasks, strict=True) if task.weight > 0 and known.num_rows]
    counts: dict[int, int] = {}
    for length, count in itertools.chain.from_iterable(zip(k.lengths, k.counts, strict=True) for k in trained):
        counts[length] = counts.get(length, 0) + count
    if not counts:
        return None
    mean = sum(length * count for length, count in counts.items()) / sum(counts.values())
    if recipe.data.packing == "bfd":
        packs = sum(known.num_packs for known in trained)
        mean = sum(known.num_tokens for known in trained) / packs if packs else mean
        return int(batch * mean), batch * limit
    if recipe.data.packing != "padding_free":
        return int(batch * mean), batch * max(counts)
    left, most = batch, 0
    for length in sorted(counts, reverse=True):
        taken = min(left, counts[length])
        most, left = most + taken * length, left - taken
    return int(batch * mean), max(most, int(batch * mean))


def preview(recipe: Recipe, facts: Sequence[TaskFacts]) -> MixPreview:
    """Say what a run of the recipe does with its tasks.

    Args:
        recipe: The recipe.
        facts: Of each task, in the recipe's order, with packs (`with_packs`).

    Raises:
        ValueError: If no task has both rows and a share.
    """
    mixture = plan(recipe, facts)
    loss = loss_shares(recipe, mixture, facts)
    lines = []
    for index, (task, known) in enumerate(zip(mixture.tasks, facts, strict=True)):
        drawn, units = int(mixture.drawn[index]), max(task.num_rows, 1)
        lines.append(
            TaskPreview(
                name=task.name,
                rows=drawn,
                share=drawn / mixture.total_rows,
                epochs=float(mixture.epochs[index]),
                tokens=round(drawn / units * known.num_tokens),
                supervised_tokens=round(drawn / units * known.num_supervised_tokens),
                loss_share=float(loss[index]),
                repeats_often=float(mixture.epochs[index]) > REPEATS_OFTEN,
            )
        )
    packs = sum(known.num_packs for known in facts)
    return MixPreview(
        tasks=tuple(lines),
        steps=mixture.num_steps,
        rows_per_step=mixture.rows_per_step,
        tokens=sum(line.tokens for line in lines),
        supervised_tokens=sum(line.supervised_tokens for line in lines),
        padding_share=padding_share(recipe, mixture, facts),
        pack_fill=sum(k.num_tokens for k in facts) / (packs * recipe.data.max_length) if packs else None,
        ended_by_caps=mixture.ended_by_caps,
    )


def expected_counts(mixture: Mixture, facts: Sequence[TaskFacts]) -> tuple[list[float], list[float]]:
    """Return the supervised tokens and the examples of each task that an optimizer step is expected to hold."""
    units = np.maximum(mixture.num_rows, 1)
    rows = mixture.drawn / mixture.num_steps
    tokens = rows * np.array([known.num_supervised_tokens for known in facts]) / units
    samples = rows * np.array([known.num_rows for known in facts]) / units  # a pack holds several
    return tokens.tolist(), samples.tolist()


def loss_shares(recipe: Recipe, mixture: Mixture, facts: Sequence[TaskFacts]) -> FloatArray:
    """Return each task's share of the loss, averaged over the first steps as they will be composed, shape (T,).

    `token_mean`, `sample_mean`: its share of the supervised tokens or examples.  `task_mean`, `task_sample_mean`: its
    weight; with the estimator `global_batch` its weight among the tasks of each step, so that a task that is absent
    from many steps has less than its weight says.
    """
    tokens, samples = (np.array(counts) for counts in expected_counts(mixture, facts))
    if recipe.loss.reduction in ("token_mean", "sample_mean"):
        counts = tokens if recipe.loss.reduction == "token_mean" else samples
        return counts / counts.sum() if counts.sum() > 0 else mixture.drawn / mixture.total_rows
    weights = np.array([section.weight for section in recipe.tasks])
    if recipe.loss.estimator == "dataset":
        weighted = np.where(mixture.drawn > 0, weights, 0.0)
        return weighted / max(weighted.sum(), 1e-300)
    size = mixture.rows_per_step
    order = mixture.task_order(size * min(mixture.num_steps, LOOKED_AT_STEPS))
    order = order[: max(size, len(order) // size * size)]
    step = np.arange(len(order)) // size
    present = np.zeros((int(step[-1]) + 1, len(weights)))
    present[step, order] = 1.0
    weighted = present * weights
    total = weighted.sum(axis=1, keepdims=True)
    return np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0).mean(axis=0)


def padding_share(recipe: Recipe, mixture: Mixture, facts: Sequence[TaskFacts]) -> float:
    """Return the share of computed positions that hold no token.

    `padding`: 1 - mean length / expected longest of a micro-batch.  `length_grouped`: the same over quantiles of the
    window that is sorted.  Without padding: 0.
    """
    packing, batch = recipe.data.packing, recipe.optim.per_device_train_batch_size
    if packing not in ("padding", "length_grouped") or batch == 1:
        return 0.0
    lengths = np.array(sorted(set(itertools.chain.from_iterable(known.lengths for known in facts))), dtype=np.int64)
    density = np.zeros(len(lengths))
    for probability, known in zip(mixture.probabilities, facts, strict=True):
        if known.num_rows:
            places = np.searchsorted(lengths, known.lengths)
            density[places] += probability * np.array(known.counts) / known.num_rows
    density /= density.sum()
    mean, below = float(lengths @ density), np.cumsum(density)
    if packing == "padding":
        longest = float(lengths @ np.diff(np.concatenate([[0.0], below**batch])))
        return 1.0 - mean / longest
    window = mixture.rows_per_step * GROUPED_STEPS
    ranks = (np.arange(window) + 0.5) / window
    sorted_lengths = lengths[np.minimum(np.searchsorted(below, ranks), len(lengths) - 1)]
    grouped = sorted_lengths[: window // batch * batch].reshape(-1, batch)
    return float(1.0 - grouped.sum() / (grouped.max(axis=1).sum() * batch))
