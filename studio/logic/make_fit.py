"""What would make a recipe fit: concrete changes of the form, each tried with the estimator.

    recipe that does not fit -> (Change("Gradient checkpointing", {"model.gradient_checkpointing": True}, ...), ...)

Only what really makes it fit is offered, what costs least first; two changes together only where one is not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pydantic import ValidationError

from engine.contract.estimate import MachineLike
from engine.contract.fit import Fit
from engine.contract.recipe import Recipe

MOST = 4
"""Changes that are offered."""
SHORTEST = 256
"""`max_length` is never offered below this."""
Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One way to make a recipe fit."""

    labels: tuple[str, ...]
    """What changes, a few words each."""
    values: Mapping[str, Any]
    """Recipe path -> new value."""
    text: str
    """What it needs then, and how long it takes."""


def changes_that_fit(
    recipe: Recipe, machine: MachineLike, try_fit: Callable[[Recipe], Fit], tell_time: Callable[[Recipe], str]
) -> tuple[Change, ...]:
    """Return the changes after which the recipe fits for sure, at most `MOST`, the least costly first.

    Args:
        recipe: One that does not fit, or may just fit.
        machine: Where it would run.
        try_fit: The estimate of a changed recipe.
        tell_time: How long a changed recipe would take; empty if that is not known.
    """
    single = [list(group) for group in _groups(recipe, machine)]
    found: list[Change] = []
    for group in single:
        for label, values in group:  # from small to large: the first that is enough
            if (change := _tried(recipe, [(label, values)], try_fit, tell_time)) is not None:
                found.append(change)
                break
    if not found:
        for one, other in combinations(single, 2):
            pairs = ([a, b] for a in one for b in other)
            change = next((c for pair in pairs if (c := _tried(recipe, pair, try_fit, tell_time)) is not None), None)
            found += [change] if change else []
            if len(found) == MOST:
                break
    return tuple(found[:MOST])


def _groups(recipe: Recipe, machine: MachineLike) -> Iterator[Iterator[tuple[str, Values]]]:
    """Yield kinds of changes, the least costly first, each from small to large."""
    yield _smaller_batches(recipe)
    if not recipe.model.gradient_checkpointing:
        yield iter([("Gradient checkpointing", {"model.gradient_checkpointing": True})])
    if recipe.launch.device != "cpu" and recipe.launch.scheduler == "local" and not recipe.launch.gpus:
        yield _more_gpus(recipe, len(machine.gpus))
    if recipe.method == "full" and recipe.optim.optimizer == "adamw_torch":
        yield iter([("8-bit AdamW", {"optim.optimizer": "adamw_8bit"})])
    if recipe.method == "lora" and not recipe.lora.target_experts:
        yield iter([("QLoRA instead of LoRA", {"method": "qlora"})])
    if recipe.method == "full":
        yield iter([("LoRA instead of full fine-tuning", {"method": "lora"})])
    yield _shorter_rows(recipe)
    if recipe.launch.num_processes > 1 and not recipe.launch.cpu_offload and machine.gpus:
        yield iter([("CPU offload with fsdp2", {"launch.cpu_offload": True, "launch.strategy": "fsdp2"})])


def _smaller_batches(recipe: Recipe) -> Iterator[tuple[str, Values]]:
    """Halve the micro-batch and double the accumulation: the same effective batch, the same loss."""
    batch, steps = recipe.optim.per_device_train_batch_size, recipe.optim.gradient_accumulation_steps
    smaller, more = batch, steps
    while smaller % 2 == 0:
        smaller, more = smaller // 2, 2 * more
        label = f"Batch {batch} → {smaller}, accumulation {steps} → {more}"
        yield label, {"optim.per_device_train_batch_size": smaller, "optim.gradient_accumulation_steps": more}


def _shorter_rows(recipe: Recipe) -> Iterator[tuple[str, Values]]:
    length = recipe.data.max_length
    while length // 2 >= SHORTEST:
        length //= 2
        yield f"Longest example {recipe.data.max_length} → {length} tokens", {"data.max_length": length}


def _more_gpus(recipe: Recipe, present: int) -> Iterator[tuple[str, Values]]:
    """Take more GPUs, which split the model; the effective batch stays where it can be divided."""
    count, steps = recipe.launch.num_processes, recipe.optim.gradient_accumulation_steps
    while 2 * count <= present:
        count *= 2
        times = count // recipe.launch.num_processes
        values: Values = {"launch.num_processes": count, "launch.strategy": "fsdp2"}
        if steps % times == 0:
            values["optim.gradient_accumulation_steps"] = steps // times
        yield f"{count} GPUs with fsdp2", values


def _tried(
    recipe: Recipe,
    steps: list[tuple[str, Values]],
    try_fit: Callable[[Recipe], Fit],
    tell_time: Callable[[Recipe], str],
) -> Change | None:
    """Return the change if the recipe is whole with it and surely fits."""
    values = {path: value for _, step in steps for path, value in step.items()}
    try:
        changed = changed_recipe(recipe, values)
    except ValidationError:
        return None
    fits = try_fit(changed)
    if not fits.ok or fits.tight or fits.memory is None:
        return None
    told = [f"{fits.memory.text}", tell_time(changed)]
    return Change(labels=tuple(label for label, _ in steps), values=values, text=", ".join(filter(None, told)))


def changed_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other values at some paths.

    Raises:
        ValidationError: If they do not go together.
    """
    plain = recipe.model_dump()
    for path, value in values.items():
        *sections, name = path.split(".")
        place = plain
        for section in sections:
            place = place[section]
        place[name] = value
    return Recipe.model_validate(plain)
