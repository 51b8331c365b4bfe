"""How several processes share one model: which strategy, what a GPU holds then, and why.

    single   one process
    ddp      every GPU holds everything
    zero2    gradients and optimizer are split                       (DeepSpeed)
    fsdp2    weights, gradients and optimizer are split              (PyTorch's fully_shard)
    zero3    the same                                                (DeepSpeed)

`auto` takes the first of ddp, fsdp2, fsdp2 with CPU offload that fits: each holds less on a GPU and sends more over the
wire than the one before.  Arithmetic only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from engine.contract.errors import UserError
from engine.contract.estimate import GpuLike, MachineLike
from engine.contract.memory import Device, MemoryEstimate, estimate_memory, gigabytes
from engine.contract.model_facts import config_size, count_parameters
from engine.contract.recipe import Recipe

Name = Literal["single", "ddp", "fsdp2", "zero2", "zero3"]
SPLIT: dict[str, tuple[str, ...]] = {
    "single": (),
    "ddp": (),
    "zero2": ("gradients", "sent gradients", "optimizer"),
    "fsdp2": ("weights", "16-bit copy", "adapter", "gradients", "optimizer"),
    "zero3": ("weights", "16-bit copy", "adapter", "gradients", "optimizer"),
}
"""Parts of the memory estimate that are split among the processes."""
SHARDED = ("fsdp2", "zero3")
"""Strategies that split the weights themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """What was chosen."""

    name: Name = "single"
    cpu_offload: bool = False
    reason: str = ""

    @property
    def shards_weights(self) -> bool:
        """Whether a process holds a part of the weights only."""
        return self.name in SHARDED

    @property
    def text(self) -> str:
        """As people read it: `fsdp2 with CPU offload`."""
        return self.name + (" with CPU offload" if self.cpu_offload else "")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, value: Any) -> Strategy | None:
        """Return what `to_json` wrote, or None if it is something else."""
        if not isinstance(value, dict) or value.get("name") not in SPLIT:
            return None
        offload, reason = value.get("cpu_offload") is True, str(value.get("reason", ""))
        return cls(name=value["name"], cpu_offload=offload, reason=reason)


def choose_strategy(recipe: Recipe, machine: MachineLike, config: Mapping[str, Any] | None) -> Strategy:
    """Return the strategy of a recipe on this machine.

    Args:
        recipe: `launch.strategy` other than `auto` is taken as it is.
        machine: Its GPUs.
        config: Shapes of the model, or None.
    """
    launch = recipe.launch
    if launch.num_processes == 1:
        return Strategy(name="single", reason="one process")
    if launch.strategy != "auto":
        return Strategy(name=launch.strategy, cpu_offload=launch.cpu_offload, reason="as the recipe says")
    if launch.cpu_offload:
        return Strategy(name="fsdp2", cpu_offload=True, reason="CPU offload, as the recipe says, needs split weights")
    gpus = gpus_of(recipe, machine)
    if not gpus:
        return Strategy(name="ddp", reason="processes on the CPU share its memory anyway")
    memory = known_memory(recipe, gpus, config)
    if memory is None or config is None:
        return Strategy(name="ddp", reason="the size of the model is not known yet")
    smallest = min(gpu.total_bytes for gpu in gpus)
    needs = f"everything takes {memory.text} and each GPU has {gigabytes(smallest)}"
    if memory.high_bytes <= smallest:
        return Strategy(name="ddp", reason=needs)
    for choice in (Strategy(name="fsdp2"), Strategy(name="fsdp2", cpu_offload=True)):
        split = sharded(memory, choice, recipe, config)
        if split.high_bytes <= smallest or choice.cpu_offload:
            return replace(choice, reason=f"{needs}; {choice.text} takes {split.text} on each")
    raise AssertionError("unreachable")


def sharded(memory: MemoryEstimate, strategy: Strategy, recipe: Recipe, config: Mapping[str, Any]) -> MemoryEstimate:
    """Return what one GPU holds when the strategy splits an estimate.

    Two layers and the embeddings are always whole: the one that computes and the one that is fetched meanwhile.  What
    is offloaded lies in the memory of the machine.
    """
    count, ranges = recipe.launch.num_processes, {name: (low, high) for name, low, high in memory.ranges}
    weights = ranges.get("weights", (0, 0))[1]
    for part in SPLIT[strategy.name]:
        offloaded = strategy.cpu_offload and (part == "optimizer" or strategy.shards_weights)
        if part in ranges:
            ranges[part] = (0, 0) if offloaded else (ranges[part][0] // count, ranges[part][1] // count)
    if strategy.shards_weights:
        ranges.pop("sent gradients", None)
        layers = max(1, config_size(config.get("text_config") or config, "num_hidden_layers", "n_layer"))
        counted = count_parameters(config)
        whole = (counted.embeddings + counted.head) / counted.total
        gathered = int(weights * (whole + (1 - whole) * min(1.0, 2 / layers)))
        ranges["gathered"] = (gathered, gathered)
    kept = tuple((name, low, high) for name, (low, high) in ranges.items() if high)
    return MemoryEstimate(ranges=kept)


def known_memory(
    recipe: Recipe,
    gpus: tuple[GpuLike, ...],
    config: Mapping[str, Any] | None,
    *,
    native_bf16: bool = True,
    device: Device = "cuda",
    tokens: tuple[int, int] | None = None,
) -> MemoryEstimate | None:
    """Return the memory of one process that holds everything, or None if the model's sizes are not known."""
    native = all(gpu.bf16 for gpu in gpus) if gpus else native_bf16
    try:
        return estimate_memory(recipe, config, device=device, native_bf16=native, tokens=tokens) if config else None
    except UserError:
        return None


def gpus_of(recipe: Recipe, machine: MachineLike) -> tuple[GpuLike, ...]:
    """Return the GPUs that the recipe would take, empty on the CPU."""
    if recipe.launch.device == "cpu":
        return ()
    if chosen := recipe.launch.gpu_indices():
        return tuple(machine.gpus[index] for index in chosen if index < len(machine.gpus))
    return tuple(machine.gpus[: recipe.launch.processes_here])
