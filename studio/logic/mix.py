"""The mixture of a draft in numbers: rows, tokens, epochs, share of the loss per task, as the training will have them.

    recipe + measured facts -> engine.data.preview -> plain values for the page

Without measured facts (no model chosen yet, or still measuring) the rows are planned from the number of examples and
the tokens are left out: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.contract.estimate import chosen_and_heldout
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.data.preview import MixPreview, TaskFacts, micro_batch_tokens, preview, with_packs
from studio.logic.measure import Measured, facts_of, progress_text, request_facts


@dataclass(frozen=True, slots=True, kw_only=True)
class MixView:
    """What the page shows of a mixture."""

    value: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    """Optimizer steps, if every task was measured."""
    is_measuring: bool = False
    tokens: int | None = None
    """Tokens of the whole run, if every task was measured."""
    measured: tuple[TaskFacts, ...] = ()
    """Facts of every task, if all were measured."""

    def micro_batch_tokens(self, recipe: Recipe) -> tuple[int, int] | None:
        """Return the fewest and most tokens of the largest micro-batch of a recipe over the same tasks."""
        found = micro_batch_tokens(recipe, self.measured) if self.measured else None
        limit = recipe.optim.per_device_train_batch_size * recipe.data.max_length
        return (min(found[0], limit), min(found[1], limit)) if found else None


EMPTY = MixView(value={"tasks": [], "text": ""})


def look(recipe: Recipe, num_used: Sequence[int], root: DataRoot, *, measure: bool) -> MixView:
    """Describe the mixture of a recipe.

    Args:
        recipe: With the chosen tasks.
        num_used: Usable records of each task.
        root: Where facts are kept.
        measure: Whether the model is chosen, so that what is missing may be measured.
    """
    measuring = measure and request_facts(recipe, root)
    known: list[Measured | None] = list(facts_of(recipe, root)) if measure else [None] * len(recipe.tasks)
    complete = all(item is not None and item.facts is not None for item in known)
    facts = [
        with_packs(replace(item.facts, name=task.name), recipe)
        if item is not None and item.facts is not None
        else _by_rows(index, count, recipe)
        for index, (task, item, count) in enumerate(zip(recipe.tasks, known, num_used, strict=True))
    ]
    planned = recipe if complete else _unpacked(recipe)
    try:
        mix = preview(planned, facts)
    except ValueError as error:
        return MixView(value={"tasks": [], "text": f"{error}."}, is_measuring=measuring)
    value = {
        "tasks": [_line(mix, index, facts[index], item) for index, item in enumerate(known)],
        "is_complete": complete,
        "text": _text(complete, measuring, root, known),
        "facts": _summary(mix) if complete else [],
        "notes": _notes(recipe, known),
    }
    if not complete:
        return MixView(value=value, is_measuring=measuring)
    return MixView(value=value, steps=mix.steps, is_measuring=measuring, tokens=mix.tokens, measured=tuple(facts))


def _by_rows(index: int, count: int, recipe: Recipe) -> TaskFacts:
    """Return what is known of a task before it is measured: its examples."""
    chosen, heldout = chosen_and_heldout(recipe, index, count)
    return TaskFacts(
        name=recipe.tasks[index].name,
        num_records=count,
        num_skipped=0,
        num_refused=0,
        num_heldout=heldout,
        num_too_long=0,
        num_unsupervised=0,
        num_rows=chosen - heldout,
        num_tokens=0,
        num_supervised_tokens=0,
        lengths=(),
        counts=(),
    )


def _unpacked(recipe: Recipe) -> Recipe:
    """Plan rows of single examples: how many packs there will be is not known yet."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"packing": "padding_free"})})


def _line(mix: MixPreview, index: int, facts: TaskFacts, known: Measured | None) -> dict[str, Any]:
    task = mix.tasks[index]
    measured = known is not None and known.facts is not None
    return {
        "name": task.name,
        "rows": task.rows,
        "share": task.share,
        "epochs": task.epochs,
        "loss_share": task.loss_share,
        "repeats_often": task.repeats_often,
        "tokens": task.tokens if measured else None,
        "supervised_tokens": task.supervised_tokens if measured else None,
        "lengths": [facts.percentile(0.5), facts.percentile(0.95), facts.percentile(1.0)] if measured else None,
        "too_long": facts.num_too_long if measured else 0,
    }


def _text(complete: bool, measuring: bool, root: DataRoot, known: Sequence[Measured | None]) -> str:
    if measuring:
        return f"Measuring tokens: {progress_text(root) or 'starting'} ..."
    if complete:
        return ""
    if any(item is not None and item.problem for item in known):
        return ""  # told as a remark
    return "Tokens and packs are measured once the model is chosen and on this machine."


def _summary(mix: MixPreview) -> list[list[str]]:
    facts = [
        ["Steps", f"{mix.steps:,}, each of {mix.rows_per_step} rows"],
        ["Tokens", f"{mix.tokens:,}, {mix.supervised_tokens:,} of them supervised"],
        ["Padding", f"{mix.padding_share:.1%} of the computed positions"],
    ]
    if mix.pack_fill is not None:
        facts.append(["Packs", f"{mix.pack_fill:.1%} full"])
    if mix.ended_by_caps:
        facts.append(["Ends early", "every task reaches its max_epochs"])
    return facts


def _notes(recipe: Recipe, known: Sequence[Measured | None]) -> list[str]:
    told: dict[str, list[str]] = {}
    for task, item in zip(recipe.tasks, known, strict=True):
        if item is None:
            continue
        fix = item.fix[:1].upper() + item.fix[1:]
        for text in (f"{item.problem} {fix}".strip(), *item.notes):
            if text:
                told.setdefault(text, []).append(task.name)
    everywhere = len(recipe.tasks) if len(recipe.tasks) > 1 else 0
    return [text if len(names) == everywhere else f"{', '.join(names)}: {text}" for text, names in told.items()][:12]
