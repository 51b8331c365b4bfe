"""Say before a run what it will take: steps, time, disk.  Memory: `engine.contract.memory`.

    task sizes + Recipe + config.json values -> Plan (optimizer steps, seconds)

Arithmetic only: no model is loaded, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.contract.errors import UserError
from engine.contract.memory import OPTIMIZER_BYTES
from engine.contract.model_facts import count_parameters, num_trainable
from engine.contract.recipe import Recipe

TENSOR_FLOPS = {
    "B200": 2250e12, "H200": 990e12, "H100": 990e12, "H800": 990e12, "A100": 312e12, "A800": 312e12, "L40": 181e12,
    "4090": 165e12, "3090": 71e12, "A6000": 155e12, "A10": 125e12, "T4": 65e12,
}  # fmt: skip
"""Dense 16-bit operations per second from the makers' data sheets, found by a part of the GPU's name."""
CPU_FLOPS_PER_CORE = (20e9, 55e9)
"""Training operations per second and core, slow and fast; SmolLM2-135M ran at 36e9 (float32) to 52e9 (bfloat16)."""


class GpuLike(Protocol):
    """What is read of a GPU; `engine.launch.devices.Gpu` has it."""

    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def bf16(self) -> bool: ...


class MachineLike(Protocol):
    """What is read of a machine; `engine.launch.devices.Machine` has it."""

    @property
    def gpus(self) -> Sequence[GpuLike]: ...
    @property
    def cpu_count(self) -> int: ...
    @property
    def ram_total(self) -> int: ...
    @property
    def cpu_bf16(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """What is known of a task's data before it is tokenized."""

    num_used: int
    num_bytes: int
    """Size of the file; about 3.5 bytes of JSON make a token."""
    has_heldout: bool = False
    num_records: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long a run is."""

    effective_batch: int
    """Examples per optimizer step over all processes."""
    num_train: tuple[int, ...]
    """Training examples per task of the recipe, held-out ones left out; 0 for a task of weight 0."""
    steps: int
    epochs: float
    seconds: tuple[float, float] | None
    """Low and high; None if the speed of the device or the size of the model is not known."""


def steps_and_time(
    recipe: Recipe,
    sizes: Sequence[TaskSize],
    config: Mapping[str, Any] | None,
    *,
    machine: MachineLike,
    tokens: int | None = None,
    speed: float | None = None,
) -> Plan:
    """Return the length of a run in optimizer steps and, roughly, in seconds.

        steps = ceil( epochs * examples / (batch * accumulation * processes) )        unless `max_steps` is set

    Args:
        recipe: The recipe.
        sizes: One per task of the recipe, in its order.
        config: Shapes of the model, or None.
        machine: Where it would run.
        tokens: Tokens of the whole run, if the tasks were measured; None = from the size of the files.
        speed: Operations per second that this machine reached in comparable runs; None = from data sheets.
    """
    optim, processes = recipe.optim, recipe.launch.num_processes
    num_train = tuple(_num_train(recipe, i, size) for i, size in enumerate(sizes))
    examples = sum(num_train)
    batch = optim.per_device_train_batch_size * optim.gradient_accumulation_steps * processes
    steps = optim.max_steps or math.ceil(optim.num_train_epochs * examples / batch)
    return Plan(
        effective_batch=batch,
        num_train=num_train,
        steps=steps if examples else 0,
        epochs=steps * batch / examples if examples else 0.0,
        seconds=_seconds(
            recipe, tokens or _guessed_tokens(recipe, sizes, num_train, steps * batch), config, machine, speed
        )
        if examples and config
        else None,
    )


def disk_bytes(recipe: Recipe, config: Mapping[str, Any]) -> int:
    """Return the disk a run needs at its fullest: the kept checkpoints and the one being written.

    A checkpoint holds the trained weights and the AdamW state: 4 bytes each, and 8 or 2.
    """
    each = 4 + OPTIMIZER_BYTES[recipe.optim.optimizer][1]
    return each * num_trainable(recipe, config) * (recipe.record.save_total_limit + 1) + 20 * 2**20


def duration_text(seconds: tuple[float, float]) -> str:
    """Write a range of seconds as people say it: `2-6 min`, `1-3 h`."""
    low, high = seconds
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if high >= 2 * size:
            a, b = max(1, round(low / size)), round(high / size)
            return f"{b} {unit}" if a == b else f"{a}-{b} {unit}"
    return "about a minute" if high > 45 else "under a minute"


def chosen_and_heldout(recipe: Recipe, index: int, num_used: int) -> tuple[int, int]:
    """Return how many of a task's usable examples are chosen, and how many of those are held out from the training."""
    task = recipe.tasks[index]
    chosen = min(num_used, task.max_samples) if task.max_samples else num_used
    if task.eval_path or recipe.data.eval_split == 0 or chosen < 2:
        return chosen, 0
    return chosen, min(chosen - 1, max(1, round(chosen * recipe.data.eval_split)))


def _num_train(recipe: Recipe, index: int, size: TaskSize) -> int:
    if recipe.tasks[index].weight == 0:
        return 0
    chosen, heldout = chosen_and_heldout(recipe, index, size.num_used)
    return chosen if size.has_heldout else chosen - heldout


def _guessed_tokens(recipe: Recipe, sizes: Sequence[TaskSize], num_train: Sequence[int], seen: int) -> float:
    """Return the tokens of `seen` examples."""
    lengths = [
        min(recipe.data.max_length, size.num_bytes / 3.5 / max(1, size.num_records or size.num_used)) for size in sizes
    ]
    return seen * sum(n * length for n, length in zip(num_train, lengths, strict=True)) / max(1, sum(num_train))


def operations(recipe: Recipe, config: Mapping[str, Any], tokens: float) -> float:
    """Return the operations of training on so many tokens: 4 or 6 per weight and token, 2 more with checkpointing.

    Raises:
        UserError: If the config lacks a size.
    """
    passes = (6 if recipe.method == "full" else 4) + (2 if recipe.model.gradient_checkpointing else 0)
    return passes * count_parameters(config).active * tokens


def _seconds(
    recipe: Recipe, tokens: float, config: Mapping[str, Any], machine: MachineLike, speed: float | None
) -> tuple[float, float] | None:
    try:
        work = operations(recipe, config, tokens)
    except UserError:
        return None
    if speed:
        return 0.8 * work / speed, 1.3 * work / speed
    gpus = () if recipe.launch.device == "cpu" else tuple(machine.gpus)[: recipe.launch.num_processes]
    if not gpus:
        cores = min(32, max(1, machine.cpu_count))
        return work / (CPU_FLOPS_PER_CORE[1] * cores), 1.3 * work / (CPU_FLOPS_PER_CORE[0] * cores)
    peaks = [next((flops for part, flops in TENSOR_FLOPS.items() if part in gpu.name), 0.0) for gpu in gpus]
    peak = min(peaks) * len(gpus)
    return (work / (0.45 * peak), 1.3 * work / (0.12 * peak)) if peak else None
