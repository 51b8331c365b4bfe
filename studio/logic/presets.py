"""Presets: recipes that come with the project, and those that people saved, as cards by model.

presets/*.yaml, <data root>/presets/*.yaml -> Group("CodeLlama", variants "7B, QLoRA", "34B, as MFTCoder published")
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.contract.cost import past_costs
from engine.contract.errors import Problem, UserError
from engine.contract.files import child, replace_text, slug
from engine.contract.fit import Fit, fit
from engine.contract.model_facts import num_parameters
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe, load_recipe
from engine.contract.strategy import gpus_of
from engine.launch.devices import Machine, inventory
from studio.logic.model_choice import look_up

STARTER = "starter"
OWN = "mine:"
"""What stands before the name of a preset that people saved."""
OWN_GROUP = "Yours"
METHODS = {"qlora": "QLoRA", "lora": "LoRA", "full": "Full"}
SIZED = re.compile(r"(?P<group>.+?) (?P<variant>\d[\d.x]*B\b.*)")
"""`CodeLlama 34B, QLoRA`: the model, and the size with what follows."""


@dataclass(frozen=True, slots=True)
class PresetCard:
    """One preset."""

    preset: str
    """`/new?preset=<preset>`: the file's stem, with `mine:` in front of a saved one."""
    name: str
    variant: str
    """Its name within its group."""
    description: str
    model: str
    method: str
    tasks: tuple[str, ...]
    need: str
    """What it needs and whether that is here, one sentence."""
    fits: bool
    """Whether it can run here."""
    parameters: int = 0
    """Of the model; 0 if not known."""
    own: bool = False
    memory: str = ""
    """What it needs of a GPU or of the machine, `13-16 GiB`."""
    verdict: str = ""
    """Whether it can run here, in a few words: `fits on GPU 0`, `needs a GPU`."""
    tone: str = ""
    """ok, warn or empty, for the colour of the verdict."""
    why_not: str = ""
    """Why it does not fit, where the verdict does not say it all."""
    is_missing: bool = False
    """Whether its model is not on this machine and cannot be fetched."""


def preset_cards(root: DataRoot, project: Path) -> list[PresetCard]:
    """Return a card for every preset, the starter first; a broken one says so instead of hiding."""
    machine = inventory()
    shipped = sorted((project / "presets").glob("*.yaml"), key=lambda path: (path.stem != STARTER, path.stem))
    saved = sorted(_own_folder(root).glob("*.yaml"))
    cards = [_card(path, root, machine) for path in shipped]
    return cards + [_own(_card(path, root, machine)) for path in saved]


def groups(cards: list[PresetCard]) -> list[dict[str, Any]]:
    """Return cards of the same model together, JSON-ready: people's own first, small models before large ones."""
    found: dict[str, list[PresetCard]] = {}
    for card in cards:
        sized = SIZED.fullmatch(card.name)
        name = OWN_GROUP if card.own else sized["group"] if sized else card.name
        found.setdefault(name, []).append(card)
    order = sorted(found, key=lambda name: (name != OWN_GROUP, name.lower()))
    return [
        {"name": name, "presets": [asdict(card) for card in sorted(found[name], key=lambda card: card.parameters)]}
        for name in order
    ]


def load_preset(name: str, root: DataRoot, project: Path) -> Recipe:
    """Return the recipe of a preset by its name in the address.

    Raises:
        UserError: If there is none, or it is broken.
    """
    folder = _own_folder(root) if name.startswith(OWN) else project / "presets"
    return load_recipe(child(folder, f"{name.removeprefix(OWN)}.yaml"))


def save_preset(recipe: Recipe | None, problems: Sequence[Problem], root: DataRoot) -> str:
    """Keep the recipe of a form as a preset of one's own, under its name, and return a sentence.

    Args:
        recipe: None if the form is not complete.
        problems: What is wrong with the form; a recipe that does not fit on this machine may be kept.
        root: Data root.

    Raises:
        UserError: If the form is wrong, or the recipe has no name, or one that is taken.
    """
    if recipe is None:
        raise UserError.of(problems or [Problem(problem="The form is not complete.")])
    name = recipe.name.strip()
    if not name:
        raise UserError("A preset needs a name.", fix="fill in the name of the run.", field="name")
    path = child(_own_folder(root), f"{slug(name, fallback='preset', any_script=True)}.yaml")
    if path.exists():
        raise UserError(f"There is a preset called {path.stem} already.", fix="choose another name.", field="name")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_text(path, dump_recipe(recipe))
    return f"Saved as preset {name}: it is on Home."


def delete_preset(name: str, root: DataRoot) -> str:
    """Delete a preset of one's own and return a sentence.

    Raises:
        UserError: If there is none.
    """
    path = child(_own_folder(root), f"{name.removeprefix(OWN)}.yaml")
    if not name.startswith(OWN) or not path.is_file():
        raise UserError("There is no such preset of yours.", fix="load the page again.")
    trash = root.path / "trash"
    trash.mkdir(mode=0o700, exist_ok=True)
    path.rename(trash / f"{path.stem}-{int(time.time())}.yaml")
    return f"Preset {path.stem} is in the trash folder of the data root."


def _own_folder(root: DataRoot) -> Path:
    return root.path / "presets"


def _own(card: PresetCard) -> PresetCard:
    return replace(card, preset=OWN + card.preset, variant=card.name, own=True)


def _verdict(recipe: Recipe, machine: Machine, fits: Fit, *, is_missing: bool) -> tuple[str, str, str]:
    """Return words, tone and, where the words do not say it all, the reason."""
    gpus = gpus_of(recipe, machine)
    where = f"GPU {gpus[0].index}" if len(gpus) == 1 else f"{len(gpus)} GPUs" if gpus else "this machine"
    if fits.ok and is_missing:
        return "its model is not here", "", ""
    if fits.ok:
        return ("may just fit", "warn", "") if fits.tight else (f"fits on {where}", "ok", "")
    if recipe.launch.num_processes > 1 and len(gpus) < recipe.launch.processes_here and fits.memory:
        return f"needs {recipe.launch.processes_here} GPUs", "", ""
    if not machine.gpus and fits.memory and fits.memory.low_bytes <= machine.ram_total:
        return "needs a GPU", "", ""
    return "does not fit" if machine.gpus else "needs a GPU", "", fits.sentence if machine.gpus else ""


def _card(path: Path, root: DataRoot, machine: Machine) -> PresetCard:
    try:
        recipe = load_recipe(path)
    except UserError as error:
        return PresetCard(path.stem, path.stem, path.stem, error.problem, "", "", (), error.fix, False)
    known = look_up(recipe.model_name_or_path, recipe.model.revision, root)
    verdict = fit(recipe, machine, known.config, past=past_costs(root.runs))
    reasons = [verdict.sentence, *known.notes]  # a model's problems: said once on Home, in full on New run
    need = ". ".join(reason[:1].upper() + reason[1:].rstrip(".") for reason in reasons) + "."
    sized = SIZED.fullmatch(recipe.display_name)
    words, tone, why_not = _verdict(recipe, machine, verdict, is_missing=bool(known.problems))
    return PresetCard(
        preset=path.stem,
        name=recipe.display_name,
        variant=sized["variant"] if sized else recipe.display_name,
        description=recipe.description,
        model=recipe.model_name_or_path,
        method=METHODS[recipe.method],
        tasks=tuple(task.name for task in recipe.tasks),
        need=need,
        fits=verdict.ok and not known.problems,
        parameters=num_parameters(known.config) if known.config else 0,
        memory=verdict.memory.text if verdict.memory else "",
        verdict=words,
        tone=tone,
        why_not=why_not,
        is_missing=bool(known.problems),
    )
