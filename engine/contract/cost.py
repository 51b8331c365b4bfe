"""What runs really took, and what that says of the next one on this machine.

    status.json "cost" of every finished run  ->  Cost, ...  ->  where peaks lay in their range, speed

A run's rank 0 writes both its estimate and what it measured into its own status; nothing else is kept.  A range is
never scaled, which would scale known sizes too: it is narrowed around the place where the last peaks lay.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.files import read_json
from engine.contract.memory import MemoryEstimate
from engine.contract.stored import restore

LAST_RUNS = 5
"""Only the newest comparable runs count."""
MIN_STEPS = 2
"""Shorter runs say nothing."""
NARROWED = 0.3
"""How far on both sides of that place the corrected range goes, as a share of the uncorrected one."""
BOUNDS = (-0.5, 2.0)
"""The place in a range is believed within these."""
SIMILAR_SIZE = 4.0
"""Throughput is taken from models that are at most this many times larger or smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run was estimated at, and what it took."""

    device: str = "cpu"
    """`cpu`, or the name of the GPU."""
    method: str = ""
    gradient_checkpointing: bool = False
    num_processes: int = 1
    parameters: int = 0
    """Active ones."""
    low_bytes: int = 0
    high_bytes: int = 0
    """The estimate of one process, uncorrected."""
    shown_low_bytes: int = 0
    shown_high_bytes: int = 0
    """The same as it was told: corrected by the runs before."""
    peak_bytes: int = 0
    """Highest memory of rank 0 so far."""
    operations_per_second: float = 0.0
    """Of all processes, evaluations left out; 0 = not measured yet."""

    @property
    def place(self) -> float:
        """Where the peak lies in the uncorrected range: 0 = its low end, 1 = its high end."""
        return (self.peak_bytes - self.low_bytes) / max(1, self.high_bytes - self.low_bytes)

    def is_like(self, other: Cost) -> bool:
        """Whether the memory of two runs can be compared."""
        kind, others = self.device == "cpu", other.device == "cpu"
        return (kind, self.method, self.gradient_checkpointing) == (others, other.method, other.gradient_checkpointing)


_known: dict[Path, tuple[int, Cost | None]] = {}


def past_costs(runs_root: Path) -> tuple[Cost, ...]:
    """Return what the finished runs of this machine took, newest first; a status is read once per change."""
    found, seen = [], set()
    for path in sorted(runs_root.glob("*/status.json"), reverse=True):
        try:
            version = path.stat().st_mtime_ns
        except OSError:
            continue
        seen.add(path)
        if path not in _known or _known[path][0] != version:
            _known[path] = (version, _cost_of(read_json(path)))
        if (cost := _known[path][1]) is not None:
            found.append(cost)
    for path in [path for path in _known if path.parent.parent == runs_root and path not in seen]:
        _known.pop(path, None)
    return tuple(found)


def corrected(memory: MemoryEstimate, like: Cost, past: Sequence[Cost]) -> MemoryEstimate:
    """Return the estimate as past runs correct it; unchanged if none can be compared.

    Args:
        memory: The uncorrected estimate.
        like: Device, method and checkpointing of the run it is for.
        past: Newest first.
    """
    places = [cost.place for cost in past if cost.is_like(like)][:LAST_RUNS]
    if not places:
        return memory
    middle = min(max(statistics.median(places), BOUNDS[0]), BOUNDS[1])
    reach = max(NARROWED, min(1.0, (max(places) - min(places)) / 2))
    return memory.between(middle - reach, middle + reach, num_past_runs=len(places))


def measured_speed(like: Cost, past: Sequence[Cost]) -> float | None:
    """Return the operations per second that this machine reached in comparable runs; None if there is none."""
    alike = [
        cost.operations_per_second
        for cost in past
        if (cost.device, cost.method, cost.num_processes) == (like.device, like.method, like.num_processes)
        and cost.operations_per_second > 0
        and like.parameters / SIMILAR_SIZE <= cost.parameters <= like.parameters * SIMILAR_SIZE
    ]
    return statistics.median(alike[:LAST_RUNS]) if alike else None


def _cost_of(status: Any) -> Cost | None:
    """Return the cost in a status if its run ended well and was long enough."""
    if not isinstance(status, dict) or status.get("state") not in ("finished", "stopped"):
        return None
    step = status.get("step")
    cost = restore(Cost, status.get("cost"))
    whole = cost is not None and cost.peak_bytes > 0 and cost.high_bytes > cost.low_bytes
    return cost if whole and isinstance(step, int) and step >= MIN_STEPS else None
