"""Several adapters of one base into one adapter, by peft's `add_weighted_adapter`.

    adapters, weights -> sum | svd | linear | ties | dare -> one adapter, adapters/<name>/ of the first run

peft works on a model; here that is a skeleton whose weights take no memory, since only adapters are read.  The result
is read back from its files and compared with the weighted sum of the updates: `cat` must be it exactly, the others say
how far they are, which is what they are chosen for (or, for `linear`, the price of adding factors instead of products).

Sources: TIES (arXiv:2306.01708), DARE (arXiv:2311.03099).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from engine.contract.combinations import COMBINATIONS
from engine.contract.errors import Problem, UserError
from engine.contract.export_formats import FORMATS
from engine.contract.files import new_folder, read_json, replace_json
from engine.contract.models import pinned_recipe, pinned_revision
from engine.contract.places import DataRoot, require_free
from engine.contract.rundir import RunDir
from engine.export.card import public_base
from engine.export.export import finish, folder_bytes, free_place
from engine.export.merge import choose_source, source_name
from engine.export.stream import EXACT, LowRank, read_adapter
from engine.model.sources import resolve_model
from engine.model.tokenizer import load_tokenizer

Progress = Callable[[str, float | None], None]
UNSUITABLE = {
    "use_dora": "is a DoRA adapter, whose magnitudes cannot be added",
    "target_parameters": "adapts fused experts, which peft does not combine",
    "rank_pattern": "has other ranks in some layers",
    "alpha_pattern": "has other scales in some layers",
    "modules_to_save": "holds whole trained layers, which cannot be added",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter that goes in."""

    run: RunDir
    folder: Path
    weight: float

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.run.id}:{source_name(self.run, self.folder)}"


def combine_adapters(
    sources: Sequence[tuple[RunDir, str]], weights: Sequence[float], method: str, name: str, *,
    density: float, seed: int, root: DataRoot, progress: Progress,
) -> Path:  # fmt: skip
    """Combine adapters and return the folder, `adapters/<name>/` of the first run.

    Args:
        sources: Run and checkpoint of each.
        weights: One per adapter, any sign.
        method: One of `COMBINATIONS`.
        name: Of the result; becomes a slug.
        density: Share of values that TIES and DARE keep, above 0 to 1.
        seed: For DARE, which drops values at random.
        root: Where the base model lies.
        progress: Told what is being done.

    Raises:
        UserError: If they do not belong together; with everything that is in the way.
    """
    parts = [
        Part(run, choose_source(run, wanted, lambda text: progress(text, None)), weight)
        for (run, wanted), weight in zip(sources, weights)
    ]
    _check(parts, len(weights), method, density)
    first = parts[0]
    target = free_place(first.run.adapters, name, f"{method}-of-{len(parts)}")
    require_free(first.run.path, 2 * sum(folder_bytes(part.folder) for part in parts), what="The combined adapter")
    recipe = pinned_recipe(first.run)
    folder = resolve_model(recipe.model_name_or_path, revision=recipe.model.revision, root=root, progress=progress)
    with new_folder(target) as temporary:
        progress("combining", 0.3)
        torch.manual_seed(seed)
        _combine(folder, parts, method, density, temporary)
        config = read_json(temporary / "adapter_config.json") or {}
        named = public_base(recipe.model_name_or_path)
        replace_json(temporary / "adapter_config.json", config | {"base_model_name_or_path": named})
        load_tokenizer(first.folder, lambda _: None).save_pretrained(temporary)
        progress("comparing with the sum of the updates", 0.8)
        apart = difference_from_sum(temporary, parts)
        if not (math.isfinite(apart) and (method != "cat" or apart <= EXACT)):
            raise UserError(f"The combined adapter is not the sum of its parts: {apart:.2g} off.", fix="report this.")
        told: dict[str, Any] = {
            "run": first.run.id, "checkpoint": f"adapters/{target.name}", "format": "adapter", "combined": method,
            "parts": [{"adapter": part.name, "weight": part.weight} for part in parts],
            "difference_from_sum": apart, "bytes": folder_bytes(temporary),
        }  # fmt: skip
        if "ties" in method or "dare" in method:
            told |= {"density": density}
        if "dare" in method:
            told |= {"seed": seed}
        finish(temporary, first.run, FORMATS["adapter"], told, root)
    progress("done", 1.0)
    return target


def _check(parts: Sequence[Part], num_weights: int, method: str, density: float) -> None:
    """Refuse what does not belong together, all at once."""
    problems: list[Problem] = []

    def refuse(problem: str, fix: str) -> None:
        problems.append(Problem(problem=problem, fix=fix))

    if method not in COMBINATIONS:
        refuse(f"There is no way to combine called `{method[:40]}`.", f"choose one of {', '.join(COMBINATIONS)}.")
    if len(parts) < 2 or len({part.folder.resolve() for part in parts}) < len(parts):
        refuse("Two different adapters or more are needed.", "choose another one.")
    if num_weights != len(parts) or not all(math.isfinite(part.weight) for part in parts):
        refuse("Each adapter needs one weight, a number.", "give as many weights as adapters.")
    if not 0 < density <= 1:
        refuse(f"The density is a share above 0 and at most 1, not {density:g}.", "0.5 is usual.")
    if problems:
        raise UserError.of(problems)
    configs = [read_json(part.folder / "adapter_config.json") for part in parts]
    for part, config in zip(parts, configs):
        if not isinstance(config, dict):
            refuse(f"{part.name} holds no adapter.", "choose a checkpoint of a LoRA or QLoRA run.")
            continue
        for key, why in UNSUITABLE.items():
            if config.get(key):
                refuse(f"The adapter {part.name} {why}.", "leave it out.")
    for part in parts[1:]:
        problems += _foreign(parts[0], part)
    ranks = {config.get("r") for config in configs if isinstance(config, dict)}
    if len(ranks) > 1 and method != "cat" and not method.endswith("svd"):
        refuse(f"`{method}` adds factors, which needs adapters of the same rank.", "choose cat or a form with svd.")
    if problems:
        raise UserError.of(problems)


def _foreign(first: Part, part: Part) -> list[Problem]:
    """Return why an adapter does not go with the first one."""
    ours, theirs = first.run.recipe(), part.run.recipe()
    commits = {pinned_revision(first.run), pinned_revision(part.run)}
    # a commit that one of them did not note down cannot be compared
    same_commit = len(commits) == 1 or (ours.model.revision == theirs.model.revision and None in commits)
    found = []
    if ours.model_name_or_path != theirs.model_name_or_path or not same_commit:
        base, wanted = public_base(theirs.model_name_or_path), public_base(ours.model_name_or_path)
        problem = f"{part.name} is an adapter of {base}, {first.name} of {wanted}."
        found.append(Problem(problem=problem, fix="combine adapters of one base."))
    if ours.method != theirs.method:
        problem = f"{part.name} was trained by {theirs.method}, {first.name} by {ours.method}: not on the same weights."
        found.append(Problem(problem=problem, fix="combine adapters that were trained by one method."))
    if _template(first.folder) != _template(part.folder):
        problem = f"{part.name} was trained with another chat template."
        found.append(Problem(problem=problem, fix="combine adapters with the same one."))
    return found


def _template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def skeleton(folder: Path) -> Any:
    """Return the model of a folder with the shapes of its weights and no memory behind them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.zeros(()).expand(weight.shape), requires_grad=False))
    return model


def _combine(folder: Path, parts: Sequence[Part], method: str, density: float, target: Path) -> None:
    """Write the combined adapter into a folder."""
    names = [f"part{number}" for number in range(len(parts))]
    model: Any = PeftModel.from_pretrained(skeleton(folder), parts[0].folder, adapter_name=names[0])
    for name, part in zip(names[1:], parts[1:]):
        model.load_adapter(part.folder, adapter_name=name)
    # the result has alpha = r; with the first adapter's rank-stabilized scale that would be sqrt(r) instead of 1
    model.peft_config[names[0]].use_rslora = False
    more = {"density": density} if "ties" in method or "dare" in method else {}
    model.add_weighted_adapter(names, [part.weight for part in parts], "combined", combination_type=method, **more)
    model.save_pretrained(target, selected_adapters=["combined"])
    for path in (target / "combined").iterdir():
        path.rename(target / path.name)
    shutil.rmtree(target / "combined")


def difference_from_sum(combined: Path, parts: Sequence[Part]) -> float:
    """Return |D - S| / |S| over all layers: D the update that was written, S the weighted sum of the parts' updates."""
    whole = read_adapter(combined) or {}
    read = [(part.weight, read_adapter(part.folder) or {}) for part in parts]
    apart = size = 0.0
    for name in {name for _, layers in read for name in layers} | set(whole):
        wanted = sum(weight * _update(layers[name]) for weight, layers in read if name in layers)
        found = _update(whole[name]) if name in whole else 0.0
        apart += float(torch.as_tensor(found - wanted).norm()) ** 2
        size += float(torch.as_tensor(wanted).norm()) ** 2
    return math.sqrt(apart / size) if size else float("nan")


def _update(layer: LowRank) -> torch.Tensor:
    return layer.scale * layer.b @ layer.a
