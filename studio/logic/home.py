"""The Home page and the header: presets with what they need, recent runs, the machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.contract.places import DataRoot, free_bytes
from engine.contract.rundir import effective_state, list_runs
from engine.launch.devices import Gpu, inventory
from engine.launch.queue import waiting
from studio.logic import runs
from studio.logic.model_choice import why_unreachable
from studio.logic.presets import STARTER, PresetCard, groups, preset_cards

GIB = 2**30
LIVE = ("preparing", "running", "stopping")


@dataclass(frozen=True, slots=True)
class Header:
    """What the header shows on every page."""

    machine: str
    detail: str
    live: dict[str, Any] | None
    """The newest living run: id, name, percent, state."""
    num_waiting: int = 0
    """Runs that wait for devices."""


def look(root: DataRoot, project: Path) -> dict[str, Any]:
    """Return everything the Home page shows, JSON-ready."""
    cards = preset_cards(root, project)
    return {
        "starter": next((asdict(card) for card in cards if card.preset == STARTER), None),
        "notes": _notes(cards),
        "groups": groups([card for card in cards if card.preset != STARTER]),
        "runs": [asdict(line) for line in runs.look(root, limit=6)],
        "disk": f"{free_bytes(root.path) / GIB:.0f} GiB free at {root.path}",
    }


def _notes(cards: list[PresetCard]) -> list[str]:
    """Return what holds for many presets, said once."""
    machine, notes = inventory(), []
    if not machine.gpus:
        notes.append(f"{machine.gpu_note} Models above 1.5 billion parameters need a GPU.".strip())
    if any(card.is_missing for card in cards):
        reason = why_unreachable()
        notes.append(f"Models that are not on this machine cannot be fetched: {reason or 'the hub is out of reach.'}")
    return notes


def header(root: DataRoot) -> Header:
    """Return the machine and the running run in a few words."""
    machine = inventory()
    live = None
    for run in list_runs(root.runs)[:20]:
        state = effective_state(run)
        if state in LIVE:
            status = run.status()
            percent = status.step / status.total_steps if status.total_steps else 0.0
            live = {"id": run.id, "name": run.recipe().display_name, "percent": percent, "state": state}
            break
    if machine.gpus:
        words = " · ".join(
            f"GPU {g.index} {g.used_bytes / GIB:.0f}/{g.total_bytes / GIB:.0f} GiB" for g in machine.gpus
        )
        return Header(words, "\n".join(map(_about, machine.gpus)), live, len(waiting(root)))
    used = f"{machine.ram_used / GIB:.0f}/{machine.ram_total / GIB:.0f} GiB"
    words = f"CPU {machine.cpu_percent:.0f} % · {used}"
    return Header(words, f"{machine.cpu_count} cores. {machine.gpu_note}", live, len(waiting(root)))


def _about(gpu: Gpu) -> str:
    """Return what the strip tells of a GPU when it is pointed at."""
    facts = [gpu.name]
    facts += [f"{gpu.utilization} % busy"] if gpu.utilization is not None else []
    facts += [f"{gpu.temperature_c} °C"] if gpu.temperature_c is not None else []
    facts += [f"{gpu.power_w} W"] if gpu.power_w is not None else []
    facts += [f"{one.name} of {one.user}: {one.used_bytes / GIB:.1f} GiB" for one in gpu.processes]
    return f"GPU {gpu.index}: {', '.join(facts)}"
