"""What a run was estimated at and what it takes, for its status and for the estimates of later runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.contract.cost import Cost, corrected, past_costs
from engine.contract.errors import UserError
from engine.contract.estimate import operations
from engine.contract.fit import cost_of
from engine.contract.recipe import Recipe
from engine.contract.strategy import Strategy, gpus_of, known_memory, sharded
from engine.data.preview import TaskFacts, micro_batch_tokens
from engine.launch.devices import inventory


class CostWatch:
    """Follows what a run takes.

    Args:
        cost: With its estimate.
        operations_per_token: Of a training step.
    """

    def __init__(self, cost: Cost, operations_per_token: float) -> None:
        self.cost, self._each = cost, operations_per_token
        self._tokens, self._seconds, self._rows = 0.0, 0.0, 0

    def measured(self, *, peak_bytes: int, tokens: float, seconds: float) -> Cost:
        """Return the cost after another row of metrics.

        Args:
            peak_bytes: Highest memory so far.
            tokens: Of the steps since the last row, over all processes; the first row is a warm-up.
            seconds: That these steps took.
        """
        self._rows += 1
        if self._rows > 1:
            self._tokens, self._seconds = self._tokens + tokens, self._seconds + seconds
        speed = self._each * self._tokens / self._seconds if self._seconds else 0.0
        self.cost = replace(self.cost, peak_bytes=peak_bytes, operations_per_second=speed)
        return self.cost


def watch_cost(
    recipe: Recipe,
    config: Mapping[str, Any],
    facts: Sequence[TaskFacts],
    *,
    device: str,
    strategy: Strategy,
    runs: Path,
) -> CostWatch | None:
    """Return the watch of a run, or None if its model's sizes are not known.

    Args:
        recipe: The recipe.
        config: Values of the model's config.json.
        facts: Of its tasks.
        device: cuda or cpu.
        strategy: How its processes share the model.
        runs: Where earlier runs are.
    """
    machine = inventory()
    gpus = gpus_of(recipe, machine) if device == "cuda" else ()
    tokens = micro_batch_tokens(recipe, facts)
    memory = known_memory(
        recipe,
        gpus,
        config,
        native_bf16=machine.cpu_bf16,
        device="cuda" if device == "cuda" else "cpu",
        tokens=tokens,
    )
    if memory is None:
        return None
    memory = sharded(memory, strategy, recipe, config) if device == "cuda" else memory
    like = cost_of(recipe, gpus, config)
    shown = corrected(memory, like, past_costs(runs))
    cost = replace(
        like,
        low_bytes=memory.low_bytes,
        high_bytes=memory.high_bytes,
        shown_low_bytes=shown.low_bytes,
        shown_high_bytes=shown.high_bytes,
    )
    try:
        return CostWatch(cost, operations(recipe, config, 1))
    except UserError:
        return None


def peak_memory() -> int:
    """Return the most memory this process has held so far, bytes: of its GPU, else of the machine."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
