"""Who can answer in a chat: a base model, the checkpoints of every run on it, what was made of them.

    run -> BaseModel + speakers     base | step-000060 | adapters/NAME | merged/NAME | exports/NAME
                                    RUN:any of these

Adapters of one base share its weights, so that two of them cost little more than one.  A speaker brings the chat
template of its own run; the base model speaks in that of the run it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.contract.models import pinned_recipe
from engine.contract.rundir import RunDir, list_runs, open_run

BASE = "base"
Precision = Literal["as trained", "4 bit", "unquantized"]
"""How the base model is held: as its run trained it (4 bit for QLoRA), in nf4, or in its own number format."""
PRECISIONS: tuple[Precision, ...] = ("as trained", "4 bit", "unquantized")
_REASONS = {
    (True, True): "as the run was trained",
    (True, False): "as you chose; the run was trained on 4 bit",
    (False, True): "as you chose; the run was not trained on it",
    (False, False): "",
}
"""(trained in 4 bit, held in 4 bit) -> why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """The weights that adapters are put on."""

    model: str
    """Hub id or folder."""
    revision: str | None = None
    dtype: str = "auto"
    chat_template: str = "auto"
    """Of the run; used where no checkpoint has brought a tokenizer."""
    four_bit: bool = False
    reason: str = ""
    """Why in 4 bit or not, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """One model that can answer."""

    name: str
    """`base`, or the checkpoint or merged model within its run."""
    run: str = ""
    """Id of the run; empty for the base model."""
    kind: Literal["base", "adapter", "model"] = "base"
    folder: str = ""
    """Its weights; empty for the base model."""
    tokenizer: str = ""
    """Folder with tokenizer and chat template; empty = the base model's folder."""

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return self.folder or BASE


def base_of(run: RunDir, precision: Precision = "as trained") -> BaseModel:
    """Return the base model of a run, to be held in a precision.

    Raises:
        UserError: If there is no such precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"There is no precision {precision!r}.", fix=f"choose one of: {', '.join(PRECISIONS)}.")
    recipe = pinned_recipe(run)
    trained_so = recipe.method == "qlora"
    four_bit = trained_so if precision == "as trained" else precision == "4 bit"
    return BaseModel(
        model=recipe.model_name_or_path,
        revision=recipe.model.revision,
        dtype=recipe.model.dtype,
        chat_template=recipe.data.chat_template,
        four_bit=four_bit,
        reason=_REASONS[trained_so, four_bit],
    )


def speakers_of(run: RunDir) -> list[Speaker]:
    """Return the base model, the checkpoints, newest first, combined adapters, merged and exported models of a run."""
    checkpoints = list(reversed(run.checkpoint_dirs()))
    return [
        Speaker(name=BASE, tokenizer=str(checkpoints[0]) if checkpoints else ""),
        *(_speaker(run, path.name, path) for path in checkpoints),
        *(_speaker(run, f"adapters/{path.name}", path) for path in combined_adapters(run)),
        *(_speaker(run, f"{path.parent.name}/{path.name}", path) for path in whole_models(run)),
    ]


def whole_models(run: RunDir) -> list[Path]:
    """Return the merged models and those of the exports that transformers can read; GGUF is for other programs."""
    found = [path.parent for place in (run.merged, run.exports) for path in sorted(place.glob("*/config.json"))]
    return [folder for folder in found if folder.name[0] != "." and any(folder.glob("*.safetensors"))]


def combined_adapters(run: RunDir) -> list[Path]:
    """Return the adapters that were made of several."""
    found = sorted(path.parent for path in run.adapters.glob("*/adapter_config.json") if path.parent.name[0] != ".")
    return [folder for folder in found if (read_json(folder / "export.json") or {}).get("combined")]


def runs_on_the_same_base(runs_root: Path, run: RunDir) -> list[RunDir]:
    """Return the other runs whose base model is that of a run, newest first, if they have something to talk to."""
    recipe = run.recipe()
    wanted = (recipe.model_name_or_path, recipe.model.revision)
    found = []
    for other in list_runs(runs_root):
        if other.id == run.id or not other.checkpoint_dirs():
            continue
        try:
            its = other.recipe()
        except UserError:
            continue
        if (its.model_name_or_path, its.model.revision) == wanted:
            found.append(other)
    return found


def find_speaker(run: RunDir, name: str, *, runs_root: Path | None = None) -> Speaker:
    """Return a speaker by name.

    Args:
        run: The run that is talked to.
        name: As in the header of this module; names of other runs stand before a colon.
        runs_root: Where other runs lie; None = this run alone.

    Raises:
        UserError: If there is none, or it is of another base model.
    """
    other, colon, own_name = name.rpartition(":")
    if colon and runs_root is not None:
        if other not in {item.id for item in runs_on_the_same_base(runs_root, run)}:
            raise UserError(f"The run {other} has another base model.", fix="choose one from the list.")
        run, name = open_run(runs_root, other), own_name
    for speaker in speakers_of(run):
        if speaker.name == name:
            return speaker
    raise UserError(f"This run has no {name or 'checkpoint'}.", fix="choose one from the list.")


def newest(speakers: Iterable[Speaker]) -> Speaker | None:
    """Return the newest checkpoint among the speakers of a run, if there is one."""
    return next((speaker for speaker in speakers if speaker.name != BASE), None)


def _speaker(run: RunDir, name: str, folder: Path) -> Speaker:
    adapter = (folder / "adapter_config.json").is_file()
    kind: Literal["adapter", "model"] = "adapter" if adapter else "model"
    return Speaker(name=name, run=run.id, kind=kind, folder=str(folder), tokenizer=str(folder))
