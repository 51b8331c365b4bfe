"""The model card of an export: README.md with front matter for the hub, written from the run.

    recipe, report.json, metrics.jsonl, parity -> what it was trained on, how well, how it was made, how to load it

Text of users - names, descriptions, paths - is escaped: in the front matter by the YAML writer, in Markdown by `plain`,
and the recipe stands in a fence longer than any inside it.  Paths of this machine are reduced to their last name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from engine.contract.errors import UserError
from engine.contract.export_formats import ExportFormat
from engine.contract.files import NEW_FOLDER, read_json, replace_text
from engine.contract.hub_path import is_hub_path
from engine.contract.metrics import task_key
from engine.contract.models import MODELSCOPE, find_local, is_local_path, pinned_recipe
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe
from engine.contract.rundir import RunDir
from engine.contract.serving import snippets

METHODS = {"qlora": "QLoRA", "lora": "LoRA", "full": "full fine-tuning"}
SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>$])")
MAX_TEXT = 300


def plain(text: object) -> str:
    """Return text as Markdown that shows exactly that text, on one line."""
    one_line = " ".join(str(text).split())[:MAX_TEXT]
    return SPECIAL.sub(r"\\\1", one_line).replace("&", "&amp;").replace("<", "&lt;")


def fenced(text: str, language: str = "") -> str:
    """Return a code block that nothing inside it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def public_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe without paths of this machine."""

    def last(path: str | None) -> str | None:
        return path if not path or is_hub_path(path) else Path(path).name

    tasks = tuple(
        task.model_copy(update={"path": last(task.path), "eval_path": last(task.eval_path)}) for task in recipe.tasks
    )
    return recipe.model_copy(update={"tasks": tasks, "model_name_or_path": public_base(recipe.model_name_or_path)})


def public_base(name: str) -> str:
    """Return a base model's hub id, or the last name of a local folder."""
    return Path(name).name if is_local_path(name) else name


def licence_of(recipe: Recipe, root: DataRoot) -> str:
    """Return the licence that the base model's own files name; empty if none is on this disk."""
    try:
        folder = find_local(recipe.model_name_or_path, root, revision=recipe.model.revision)
    except UserError:
        return ""
    if folder is None:
        return ""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")[:100_000]
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, IndexError):
        front = None
    told = front.get("license") if isinstance(front, dict) else (read_json(folder / "source.json") or {}).get("license")
    return str(told)[:60].lower() if isinstance(told, str) else ""


def write_card(folder: Path, run: RunDir, form: ExportFormat, told: Mapping[str, Any], *, root: DataRoot) -> None:
    """Write README.md into a folder.

    Args:
        folder: The export.
        run: Where it comes from.
        form: Its format.
        told: What merge.json or export.json says.
        root: Where the base model may lie.
    """
    recipe = pinned_recipe(run)
    licence = licence_of(recipe, root)
    base, name = public_base(recipe.model_name_or_path), folder.name.removeprefix(NEW_FOLDER)
    front: dict[str, Any] = {"pipeline_tag": "text-generation", "tags": ["mft-studio", recipe.method, form.key]}
    front["library_name"] = "peft" if form.key == "adapter" else "gguf" if form.is_gguf else "transformers"
    if not is_local_path(recipe.model_name_or_path) and not recipe.model_name_or_path.startswith(MODELSCOPE):
        front["base_model"] = base
    if licence:
        front["license"] = licence
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=False)}---",
        f"# {plain(recipe.display_name)}",
        plain(recipe.description),
        f"{form.title}, made of {plain(base)} by {METHODS[recipe.method]} on {len(recipe.tasks)} task(s) at once with "
        f"MFT Studio; checkpoint {plain(told.get('checkpoint', ''))}. Licence of the base model: "
        f"{plain(licence) if licence else 'see the base model'}.",
        "## Tasks\n\n" + _tasks(run, recipe, str(told.get("checkpoint", ""))),
        "## Parity\n\n" + _parity(told),
        "## Use\n\n" + "\n\n".join(
            f"### {item['title']}\n\n{fenced(item['text'])}" for item in snippets(name, form.key, base, files=folder)
        ),
        "## Recipe\n\n" + fenced(dump_recipe(public_recipe(recipe), all_fields=False), "yaml"),
    ]  # fmt: skip
    replace_text(folder / "README.md", "\n\n".join(part for part in parts if part) + "\n")


def _tasks(run: RunDir, recipe: Recipe, checkpoint: str) -> str:
    """Held-out loss of the base model is that of step 0; the tuned one's is the last up to the checkpoint."""
    report = read_json(run.report_file) or {}
    rows = {str(task.get("name")): task.get("num_rows") for task in report.get("tasks", ()) if isinstance(task, dict)}
    step = int(checkpoint[5:]) if checkpoint[5:].isdigit() else 0
    measured = [row for row in run.metrics()[0] if isinstance(row.get("eval/loss"), (int, float))]
    lines = ["| task | rows | weight | held-out loss: base | tuned |", "|---|--:|--:|--:|--:|"]
    for task in recipe.tasks:
        key = task_key(task.name, "eval_loss")
        base = next((row[key] for row in measured if row["step"] == 0 and key in row), None)
        tuned = next((row[key] for row in reversed(measured) if 0 < row["step"] <= step and key in row), None)
        numbers = " | ".join("-" if value is None else f"{value:.3f}" for value in (base, tuned))
        lines.append(f"| {plain(task.name)} | {rows.get(task.name, '-')} | {task.weight:g} | {numbers} |")
    return "\n".join([*lines, "", "Loss in nats per token."])


def _changed(merge: Mapping[str, Any]) -> list[str]:
    """Say in a line whether the greedy tokens that a merge changed were ties within rounding; nothing if none were."""
    lead, moved = merge.get("stored_changed_token_lead"), merge.get("stored_max_logit_difference")
    if not lead or moved is None:
        return []
    if lead <= 2 * moved:
        return [f"- the greedy tokens that changed first led by {lead:.2g} at most: ties within rounding"]
    return [f"- the greedy tokens that changed first led by {lead:.2g} at most"]


def _parity(told: Mapping[str, Any]) -> str:
    """What was compared with what, in numbers."""
    merge = told.get("made_of_parity") or told
    lines = []
    if isinstance(merge.get("stored_mean_logit_difference"), float):
        lines.append(
            f"- merged against base and adapter: mean logit difference {merge['stored_mean_logit_difference']:.3g}, "
            f"{merge['stored_same_greedy_tokens']} greedy tokens equal"
        )
        lines += _changed(merge)
    elif told.get("made_of_parity") and merge.get("parity"):
        lines.append(f"- merged: {plain(merge['parity'])}")
    if isinstance(told.get("mean_logit_difference"), float):
        lines.append(
            f"- this export against the merged model: mean logit difference {told['mean_logit_difference']:.3g} "
            f"({told['relative_logit_difference']:.1%} of their spread), "
            f"{told['same_greedy_tokens']} greedy tokens equal"
        )
    elif told.get("parity"):
        lines.append(f"- this export: {plain(told['parity'])}")
    return "\n".join(lines) or "Not measured."
