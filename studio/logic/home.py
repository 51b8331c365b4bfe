"""The Home page and the header: presets with what they need, recent runs, the machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.fit import fit
from engine.contract.places import DataRoot, free_bytes
from engine.contract.recipe_io import load_recipe
from engine.contract.rundir import effective_state, list_runs
from engine.launch.devices import Gpu, Machine, inventory
from engine.launch.queue import waiting
from studio.logic import runs
from studio.logic.model_choice import look_up

GIB = 2**30
STARTER_PRESET = "starter"
LIVE = ("preparing", "running", "stopping")


@dataclass(frozen=True, slots=True)
class PresetCard:
    """One preset as a card."""

    preset: str
    """File stem: `/new?preset=<preset>`."""
    name: str
    description: str
    model: str
    method: str
    tasks: tuple[str, ...]
    need: str
    """What it needs and whether that is here, one sentence."""
    fits: bool
    """Whether it can run here."""


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
        "starter": next((asdict(card) for card in cards if card.preset == STARTER_PRESET), None),
        "presets": [asdict(card) for card in cards if card.preset != STARTER_PRESET],
        "runs": [asdict(line) for line in runs.look(root, limit=6)],
        "disk": f"{free_bytes(root.path) / GIB:.0f} GiB free at {root.path}",
    }


def preset_cards(root: DataRoot, project: Path) -> list[PresetCard]:
    """Return a card for every file in presets/, the starter first; a broken one says so instead of hiding."""
    files = sorted((project / "presets").glob("*.yaml"), key=lambda path: (path.stem != STARTER_PRESET, path.stem))
    machine = inventory()
    return [_card(path, root, machine) for path in files]


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


def _card(path: Path, root: DataRoot, machine: Machine) -> PresetCard:
    try:
        recipe = load_recipe(path)
    except UserError as error:
        return PresetCard(path.stem, path.stem, error.problem, "", "", (), error.fix, False)
    known = look_up(recipe.model_name_or_path, recipe.model.revision, root)
    verdict = fit(recipe, machine, known.config)
    # the New run page tells a model's problems in full; a card has one line for them
    missing = ["the model is not on this machine and the hub is out of reach"] if known.problems else []
    reasons = [verdict.sentence, *known.notes, *missing]
    need = ". ".join(reason[:1].upper() + reason[1:].rstrip(".") for reason in reasons) + "."
    fits = verdict.ok and not known.problems
    method = {"qlora": "QLoRA", "lora": "LoRA", "full": "Full"}[recipe.method]
    tasks = tuple(task.name for task in recipe.tasks)
    return PresetCard(
        path.stem, recipe.display_name, recipe.description, recipe.model_name_or_path, method, tasks, need, fits
    )
