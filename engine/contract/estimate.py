"""Say before a run what it will take: parameters, memory, steps, time, disk.

    config.json values + Recipe -> ParameterCount -> MemoryEstimate        whether it fits: engine.contract.fit
    task sizes + Recipe         -> Plan (optimizer steps, seconds)

Arithmetic only: no model is loaded, no torch.  Every answer is a range: activations depend on the real example lengths
and on the kernels.  The weights and optimizer terms agree with sizes measured on SmolLM2-135M (see the tests).

N = tokens in a micro-batch, H = hidden size, I = MLP width, L = layers, V = vocabulary.  All sizes in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.contract.errors import UserError
from engine.contract.model_facts import (
    config_size,
    count_parameters,
    num_trainable,
)
from engine.contract.recipe import Recipe

GIB = 2**30
NF4_BYTES = 0.516
"""Bytes per weight in 4-bit NormalFloat with double quantization: 0.5 + 1/64 for the block scales and their scales."""
TENSOR_FLOPS = {
    "B200": 2250e12, "H200": 990e12, "H100": 990e12, "H800": 990e12, "A100": 312e12, "A800": 312e12, "L40": 181e12,
    "4090": 165e12, "3090": 71e12, "A6000": 155e12, "A10": 125e12, "T4": 65e12,
}  # fmt: skip
"""Dense 16-bit operations per second from the makers' data sheets, found by a part of the GPU's name."""
ACTIVATION_BYTES = {("lora", 2): 2.35, ("lora", 4): 3.4, ("full", 2): 3.2, ("full", 4): 3.9}
"""(adapter or full, bytes of the computing type) -> bytes kept for the backward pass per number of the formula below;
counted with `saved_tensors_hooks` on a two-layer Llama (sdpa, LoRA on all linear layers), torch 2.13."""
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
class MemoryEstimate:
    """Peak memory of one device, as a range."""

    low_bytes: int
    high_bytes: int
    parts: tuple[tuple[str, int], ...]
    """What the high end is made of, in bytes: weights, adapter, gradients, optimizer, activations, logits, overhead."""

    @property
    def text(self) -> str:
        """`9-12 GB`, in the unit in which GPUs are sold (2**30 bytes)."""
        low, high = _gib(self.low_bytes), _gib(self.high_bytes)
        return f"{high} GB" if low == high else f"{low}-{high} GB"


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


def estimate_memory(recipe: Recipe, config: Mapping[str, Any], *, native_bf16: bool = True) -> MemoryEstimate:
    """Estimate the peak memory of one process.

        weights      full: 4 bytes each (float32 masters); else 2, or 4 where the device has no bfloat16;
                     `qlora`: 0.516 for attention, MLP and experts
        experts      `qlora`: those of one layer, in 16 bit while they compute
        gradients    4 per trained weight;  optimizer: 8 (AdamW)
        activations  N * L * (10 H + 2 KV + 4 I) numbers, or N * L * H and one layer with gradient checkpointing
        logits       10 V per supervised token, where alone the head is computed: number, float32 copy, gradient
        overhead     CUDA context or Python and torch, and 5 % fragmentation

    The low end takes 0.4 of the activations (rows shorter than `max_length`) and a quarter of the tokens supervised;
    the high end 1.1 of the activations and every token.

    Args:
        recipe: The recipe.
        config: Values of the model's config.json.
        native_bf16: Whether the device multiplies bfloat16 natively, which decides `dtype: auto`.

    Raises:
        UserError: If the config lacks a size.
    """
    count, trained = count_parameters(config), num_trainable(recipe, config)
    config = config.get("text_config") or config
    number = 4 if recipe.model.dtype == "float32" or (recipe.model.dtype == "auto" and not native_bf16) else 2
    adapter = 0 if recipe.method == "full" else 4 * trained
    if recipe.method == "full":
        weights = 4 * count.total
    elif recipe.method == "qlora":
        weights = int(NF4_BYTES * count.quantized) + number * (count.total - count.quantized)
    else:
        weights = number * count.total
    tokens = recipe.optim.per_device_train_batch_size * recipe.data.max_length
    activations, vocab = _activations(recipe, config, tokens, number), config_size(config, "vocab_size")
    logits_low, logits_high = tokens * vocab * 10 // 4, tokens * vocab * 10
    layers = config_size(config, "num_hidden_layers", "n_layer")
    unpacked = number * count.experts // layers if recipe.method == "qlora" else 0
    fixed, base = weights + unpacked + adapter + (4 + 8) * trained, int(0.8 * GIB)
    low = fixed + int(0.4 * activations) + logits_low + base
    overhead = base + (fixed + activations) // 20
    parts = [("weights", weights), ("experts", unpacked), ("adapter", adapter), ("gradients", 4 * trained),
             ("optimizer", 8 * trained), ("activations", int(1.1 * activations)), ("logits", logits_high),
             ("overhead", overhead)]  # fmt: skip
    kept = tuple(part for part in parts if part[1])
    return MemoryEstimate(low_bytes=low, high_bytes=sum(size for _, size in kept), parts=kept)


def steps_and_time(
    recipe: Recipe, sizes: Sequence[TaskSize], config: Mapping[str, Any] | None, *, machine: MachineLike
) -> Plan:
    """Return the length of a run in optimizer steps and, roughly, in seconds.

        steps = ceil( epochs * examples / (batch * accumulation * processes) )        unless `max_steps` is set

    Args:
        recipe: The recipe.
        sizes: One per task of the recipe, in its order.
        config: Shapes of the model, or None.
        machine: Where it would run.
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
        seconds=_seconds(recipe, sizes, num_train=num_train, seen=steps * batch, config=config, machine=machine)
        if examples and config
        else None,
    )


def disk_bytes(recipe: Recipe, config: Mapping[str, Any]) -> int:
    """Return the disk a run needs at its fullest: the kept checkpoints and the one being written.

    A checkpoint holds the trained weights and the AdamW state: 4 + 8 bytes each.
    """
    return 12 * num_trainable(recipe, config) * (recipe.record.save_total_limit + 1) + 20 * 2**20


def duration_text(seconds: tuple[float, float]) -> str:
    """Write a range of seconds as people say it: `2-6 min`, `1-3 h`."""
    low, high = seconds
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if high >= 2 * size:
            a, b = max(1, round(low / size)), round(high / size)
            return f"{b} {unit}" if a == b else f"{a}-{b} {unit}"
    return "about a minute" if high > 45 else "under a minute"


def gigabytes(size: int) -> str:
    """Write bytes as GB of 2**30, one decimal below ten."""
    return f"{_gib(size)} GB" if size >= 0.1 * GIB else f"{size / 2**20:.0f} MB"


def _gib(size: int) -> str:
    value = size / GIB
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _activations(recipe: Recipe, config: Mapping[str, Any], tokens: int, number: int) -> int:
    hidden, layers = (
        config_size(config, "hidden_size", "n_embd", "d_model"),
        config_size(config, "num_hidden_layers", "n_layer"),
    )
    heads = config_size(config, "num_attention_heads", "n_head")
    keys = hidden * config_size(config, "num_key_value_heads", default=heads) // heads
    inner = config_size(config, "intermediate_size", "n_inner", default=4 * hidden)
    if config_size(config, "num_local_experts", "num_experts", default=0):
        inner = config_size(config, "moe_intermediate_size", default=inner) * config_size(
            config, "num_experts_per_tok", default=2
        )
    kind = "full" if recipe.method == "full" else "lora"
    per_layer = ACTIVATION_BYTES[kind, number] * tokens * (10 * hidden + 2 * keys + 4 * inner)
    if recipe.model.attn_implementation == "eager":
        per_layer += 2 * number * heads * tokens * recipe.data.max_length
    if recipe.model.gradient_checkpointing:
        return int(layers * tokens * hidden * number + per_layer)
    return int(layers * per_layer)


def _num_train(recipe: Recipe, index: int, size: TaskSize) -> int:
    task = recipe.tasks[index]
    if task.weight == 0:
        return 0
    chosen = min(size.num_used, task.max_samples) if task.max_samples else size.num_used
    if size.has_heldout or task.eval_path or recipe.data.eval_split == 0 or chosen < 2:
        return chosen
    return chosen - min(chosen - 1, max(1, round(chosen * recipe.data.eval_split)))


def _seconds(
    recipe: Recipe,
    sizes: Sequence[TaskSize],
    *,
    num_train: Sequence[int],
    seen: int,
    config: Mapping[str, Any],
    machine: MachineLike,
) -> tuple[float, float] | None:
    lengths = [
        min(recipe.data.max_length, size.num_bytes / 3.5 / max(1, size.num_records or size.num_used)) for size in sizes
    ]
    tokens = seen * sum(n * length for n, length in zip(num_train, lengths, strict=True)) / max(1, sum(num_train))
    try:
        weights = count_parameters(config).active
    except UserError:
        return None
    passes = (6 if recipe.method == "full" else 4) + (2 if recipe.model.gradient_checkpointing else 0)
    work = passes * weights * tokens
    gpus = () if recipe.launch.device == "cpu" else tuple(machine.gpus)[: recipe.launch.num_processes]
    if not gpus:
        cores = min(32, max(1, machine.cpu_count))
        return work / (CPU_FLOPS_PER_CORE[1] * cores), 1.3 * work / (CPU_FLOPS_PER_CORE[0] * cores)
    peaks = [next((flops for part, flops in TENSOR_FLOPS.items() if part in gpu.name), 0.0) for gpu in gpus]
    peak = min(peaks) * len(gpus)
    return (work / (0.45 * peak), 1.3 * work / (0.12 * peak)) if peak else None
