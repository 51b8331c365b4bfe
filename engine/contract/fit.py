"""Whether a recipe can run on a machine, in one sentence; and the largest model that can.

MemoryEstimate + Strategy + machine -> Fit
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.contract.cost import Cost, corrected
from engine.contract.errors import UserError
from engine.contract.estimate import GpuLike, MachineLike
from engine.contract.memory import MemoryEstimate, gigabytes
from engine.contract.model_facts import count_parameters, num_parameters
from engine.contract.recipe import Recipe
from engine.contract.strategy import Strategy, choose_strategy, gpus_of, known_memory, sharded

CPU_TRAINING_LIMIT = 1_500_000_000
"""More parameters than this are not trained on a CPU here: one optimizer step would take many minutes."""


SIZES = {
    "0.1B": (49152, 576, 30, 9, 3, 1536),
    "0.5B": (151936, 896, 24, 14, 2, 4864),
    "1.5B": (151936, 1536, 28, 12, 2, 8960),
    "3B": (151936, 2048, 36, 16, 2, 11008),
    "7B": (152064, 3584, 28, 28, 4, 18944),
    "14B": (152064, 5120, 48, 40, 8, 13824),
    "32B": (152064, 5120, 64, 40, 8, 27648),
    "72B": (152064, 8192, 80, 64, 8, 29568),
}
"""Usual sizes of dense models, smallest first, in the order of `SHAPE` (those of SmolLM2 and Qwen2.5)."""
SHAPE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a recipe can run on this machine, in one sentence."""

    ok: bool
    sentence: str
    needs_bytes: int = 0
    """High end of the estimate; 0 if nothing is known about the model."""
    tight: bool = False
    """True if only the low end of the estimate fits."""
    memory: MemoryEstimate | None = None
    strategy: Strategy | None = None
    """How several processes would share the model; None for one."""


def fit(
    recipe: Recipe,
    machine: MachineLike,
    config: Mapping[str, Any] | None,
    *,
    past: Sequence[Cost] = (),
    tokens: tuple[int, int] | None = None,
) -> Fit:
    """Say whether the recipe fits on this machine and why not.

    An unknown model (`config` None or without sizes) is let through with a sentence that says so.

    Args:
        recipe: The recipe.
        machine: Where it would run.
        config: Values of the model's config.json.
        past: What earlier runs on this machine took, newest first.
        tokens: Fewest and most tokens of the largest micro-batch, if the tasks were measured.
    """
    if recipe.launch.scheduler == "slurm":
        return Fit(ok=True, sentence="runs where Slurm puts it: whether it fits there is not known here")
    gpus = gpus_of(recipe, machine)
    needs_gpu = recipe.launch.device == "cuda" and not gpus
    like = cost_of(recipe, gpus, config)
    memory = known_memory(
        recipe,
        gpus,
        config,
        native_bf16=needs_gpu or machine.cpu_bf16,
        device="cuda" if gpus or needs_gpu else "cpu",
        tokens=tokens,
    )
    if needs_gpu:
        size, high = (f" with about {memory.text}", memory.high_bytes) if memory else ("", 0)
        return Fit(ok=False, sentence=f"needs a GPU{size}; this machine has none", needs_bytes=high, memory=memory)
    if memory is None or config is None:
        return Fit(ok=True, sentence="memory unknown: the model's config.json is not on this machine yet")
    if gpus:
        strategy = choose_strategy(recipe, machine, config)
        split = corrected(sharded(memory, strategy, recipe, config), like, past)
        answer = _fit_gpus(recipe, gpus, len(machine.gpus), split, strategy)
        answer = _fit_host(answer, recipe, machine, config)
        return replace(answer, strategy=strategy) if recipe.launch.num_processes > 1 else answer
    if num_parameters(config) > CPU_TRAINING_LIMIT:  # what matters is the GPU it needs
        memory = known_memory(recipe, gpus, config, tokens=tokens) or memory
    return _fit_cpu(recipe, machine, corrected(memory, like, past), num_parameters(config))


def cost_of(recipe: Recipe, gpus: Sequence[GpuLike], config: Mapping[str, Any] | None) -> Cost:
    """Return what makes runs comparable: device, method, size."""
    try:
        parameters = count_parameters(config).active if config else 0
    except UserError:
        parameters = 0
    return Cost(
        device=gpus[0].name if gpus else "cpu",
        method=recipe.method,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        num_processes=recipe.launch.num_processes,
        parameters=parameters,
    )


def largest_that_fits(machine: MachineLike, method: str) -> str:
    """Return the largest of the usual sizes that surely fits, `14B`; empty if none does.

    With rows of 2048 tokens, one at a time, gradient checkpointing, and all GPUs of the machine.
    """
    recipe = Recipe.model_validate(
        {
            "model_name_or_path": "any",
            "method": method,
            "tasks": [{"name": "any", "path": "any.jsonl"}],
            "model": {"gradient_checkpointing": True},
            "data": {"max_length": 2048},
            "optim": {"per_device_train_batch_size": 1},
            "launch": {"num_processes": max(1, len(machine.gpus))},
        }
    )
    largest = ""
    for name, sizes in SIZES.items():
        found = fit(recipe, machine, {"model_type": "llama", **dict(zip(SHAPE, sizes, strict=True))})
        largest = name if found.ok and not found.tight else largest
    return largest


def _fit_gpus(
    recipe: Recipe, gpus: tuple[GpuLike, ...], present: int, memory: MemoryEstimate, strategy: Strategy
) -> Fit:
    wanted = recipe.launch.processes_here
    if wanted > len(gpus):
        sentence = f"asks for {wanted} GPUs; this machine has {present}"
        return Fit(ok=False, sentence=sentence, needs_bytes=memory.high_bytes, memory=memory)
    gpu = min(gpus, key=lambda g: g.total_bytes - g.used_bytes)
    free, total = gpu.total_bytes - gpu.used_bytes, gigabytes(gpu.total_bytes)
    is_shared = free < memory.high_bytes <= gpu.total_bytes or gpu.used_bytes > 0.1 * gpu.total_bytes
    ok, tight = memory.low_bytes <= free, memory.low_bytes <= free < memory.high_bytes
    has = _maybe(f"{total}, {gigabytes(free)} of it free" if is_shared else total, tight)
    if wanted > 1:
        sentence = f"needs about {memory.text} each, {strategy.text}; GPU {gpu.index} has {has}"
    else:
        sentence = f"needs about {memory.text}; GPU {gpu.index} has {has}"
    return Fit(ok=ok, sentence=sentence, needs_bytes=memory.high_bytes, tight=tight, memory=memory)


def _maybe(has: str, tight: bool) -> str:
    """Return what is there, with a word of doubt where it is not surely enough."""
    return f"{has}: it may just fit" if tight else has


def _fit_host(answer: Fit, recipe: Recipe, machine: MachineLike, config: Mapping[str, Any]) -> Fit:
    """Take the machine's own memory into account: experts pass through it in 16 bit before they are quantized."""
    if recipe.method != "qlora" or not count_parameters(config).experts:
        return answer
    needed = 2 * num_parameters(config) * recipe.launch.processes_here
    if needed <= machine.ram_total:
        return answer
    through, there = gigabytes(needed), gigabytes(machine.ram_total)
    sentence = f"{answer.sentence}; its experts are loaded through {through} of main memory; this machine has {there}"
    return replace(answer, ok=False, sentence=sentence)


def _fit_cpu(recipe: Recipe, machine: MachineLike, memory: MemoryEstimate, parameters: int) -> Fit:
    processes = recipe.launch.processes_here
    if parameters > CPU_TRAINING_LIMIT:
        why = "the recipe says `launch.device: cpu`" if machine.gpus else "this machine has none"
        size = f"{parameters / 1e9:.1f}"
        sentence = (
            f"needs a GPU with about {memory.text}: {size} billion parameters are too many to train on a CPU; {why}"
        )
        return Fit(ok=False, sentence=sentence, needs_bytes=memory.high_bytes, memory=memory)
    low, high = processes * memory.low_bytes, processes * memory.high_bytes
    ok, tight = low <= machine.ram_total, low <= machine.ram_total < high
    has = _maybe(f"{gigabytes(machine.ram_total)} of memory", tight)
    if processes > 1:
        sentence = f"needs about {memory.text} for each of {processes} processes; this machine has {has}"
    else:
        sentence = f"needs about {memory.text}; this machine has {has}"
    return Fit(ok=ok, sentence=sentence, needs_bytes=high, tight=tight, memory=memory)
