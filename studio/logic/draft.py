"""The form of the New run page as values: task rows, widget values, and the recipe they make.

    initial(...)     preset, run or nothing -> Draft (widget values, task rows, notices)
    load_yaml(...)   pasted YAML -> Draft
    validate(draft)  Draft -> Recipe, or problems by field

Names of fields, defaults and limits come from the schema through `studio.logic.form_fields`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from engine.contract.continuation import continuation
from engine.contract.errors import Problem, UserError
from engine.contract.hub_path import is_hub_path
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe, TaskSection
from engine.contract.recipe_io import absolute_paths, parse_recipe, recipe_from_values
from engine.contract.rundir import open_run
from studio.logic import datasets, form_fields
from studio.logic.presets import OWN, load_preset
from studio.logic.run_failure import remedied
from studio.logic.settings import first_gpus
from studio.logic.task_choice import TaskChoice, task_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the page holds: widget values by recipe path, and the task rows."""

    values: Mapping[str, Any]
    tasks: tuple[TaskChoice, ...]
    notices: tuple[Problem, ...] = ()
    source: str = ""
    """Where it came from, for the headline: a preset or a run."""
    marked: tuple[str, ...] = ()
    """Recipe paths that a remedy has changed, to be marked in the form."""


def initial(
    root: DataRoot,
    project: Path,
    *,
    preset: str = "",
    run_id: str = "",
    fix: str = "",
    continued: str = "",
    checkpoint: str = "",
) -> Draft:
    """Return the draft a page opens with. A preset or run that cannot be read becomes a notice, never an exception.

    Args:
        root: The data root.
        project: The checkout.
        preset: Name of a preset.
        run_id: Run whose recipe to take.
        fix: Number of the remedy of its failure to apply, 1 for the first.
        continued: Run that goes on as a new one.
        checkpoint: Where that goes on from; empty = the newest.
    """
    try:
        if run_id and fix:
            recipe, way = remedied(open_run(root.runs, run_id), int(fix) if fix.isdecimal() else 0)
            source = f"Settings of run {run_id}, changed: {way.text}"
            return replace(draft_of(recipe, root, project, source=source), marked=tuple(way.changes))
        if run_id:
            recipe = open_run(root.runs, run_id).recipe()
            return draft_of(recipe, root, project, source=f"Settings of run {run_id}")
        if continued:
            recipe = continuation(open_run(root.runs, continued), checkpoint=checkpoint)
            step = Path(recipe.continue_from or "").name
            return draft_of(recipe, root, project, source=f"Goes on from run {continued}, {step}")
        if preset:
            recipe = load_preset(preset, root, project)
            draft = draft_of(recipe, root, project, source=f"Preset {preset.removeprefix(OWN)}")
            return replace(draft, values={**draft.values, **first_gpus(root, recipe.launch.num_processes)})
    except UserError as error:
        return Draft(values=form_fields.defaults(), tasks=_catalog(root, project), notices=error.problems)
    return Draft(values=empty_values(root), tasks=_catalog(root, project))


def empty_values(root: DataRoot) -> dict[str, Any]:
    """Return what the form holds before anybody touched it: the schema's defaults, and the GPUs of the settings."""
    return {**form_fields.defaults(), **first_gpus(root, 1)}


def draft_of(recipe: Recipe, root: DataRoot, project: Path, *, source: str = "") -> Draft:
    """Return the draft of a recipe: its tasks ticked, tasks of the catalog that it does not use below."""
    tasks = with_catalog([_chosen(task) for task in recipe.tasks], root, project)
    return Draft(values=form_fields.from_recipe(recipe), tasks=tasks, source=source)


def with_catalog(chosen: Sequence[TaskChoice], root: DataRoot, project: Path) -> tuple[TaskChoice, ...]:
    """Return these tasks with what is known of their files, and the tasks of the catalog that are not among them."""
    catalog = {_real(task.path): task for task in _catalog(root, project)}
    found = []
    for task in chosen:
        known = catalog.pop(_real(task.path), None)
        if known is None:
            known = _choice(datasets.describe_file(task.path, task.eval_path or None, task.name))
        counts = {name: getattr(known, name) for name in ("kind", "num_used", "num_records", "num_bytes", "problem")}
        found.append(replace(task, **counts))
    names = {task.name for task in found}
    return (*found, *(task for task in catalog.values() if task.name not in names))


def load_yaml(text: str, root: DataRoot, project: Path) -> Draft:
    """Return the draft of pasted YAML. Relative task paths are looked up from the studio's folder of presets.

    Raises:
        UserError: With every problem of the text.
    """
    recipe = absolute_paths(parse_recipe(text, source="the pasted recipe"), project / "presets")
    return draft_of(recipe, root, project, source="Pasted recipe")


def validate(draft: Draft) -> tuple[Recipe | None, tuple[Problem, ...]]:
    """Build the recipe; missing tasks or model are problems of their own and do not hide the others."""
    values, problems = form_fields.to_values(draft.values), []
    chosen = [task for task in draft.tasks if task.checked]
    if not chosen:
        problems.append(Problem(problem="Choose at least one task.", field="tasks"))
    if not str(values.get("model_name_or_path", "")).strip():
        problems.append(Problem(problem="Choose a model.", field="model_name_or_path"))
        values["model_name_or_path"] = "-"
    for index, task in enumerate(chosen):
        if task.problem:
            problems.append(Problem(problem=f"Task `{task.name}`: {task.problem}", field=f"tasks.{index}.path"))
        elif not is_hub_path(task.path) and not Path(task.path).exists():
            text = f"Task `{task.name}`: the file {task.path} is not there."
            problems.append(
                Problem(problem=text, fix="choose another task or check the path.", field=f"tasks.{index}.path")
            )
    start = str(values.get("continue_from") or "")
    if start and not Path(start).is_dir():
        text = f"The checkpoint {start} to continue from is not there."
        problems.append(Problem(problem=text, fix="clear that field or correct it.", field="continue_from"))
    values["tasks"] = [task_values(task) for task in chosen] or [{"name": "task", "path": "-"}]
    try:
        recipe = recipe_from_values(values, source="The form")
    except UserError as error:
        told = (replace(problem, problem=problem.problem.removeprefix("The form: ")) for problem in error.problems)
        return None, (*problems, *told)
    return recipe, tuple(problems)


def unfinished_yaml(draft: Draft) -> str:
    """Write what the form holds so far, not validated."""
    tasks = [task_values(task) for task in draft.tasks if task.checked]
    values = {"schema_version": 1, **form_fields.to_values(draft.values), **({"tasks": tasks} if tasks else {})}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _chosen(task: TaskSection) -> TaskChoice:
    return TaskChoice(
        name=task.name,
        path=task.path,
        eval_path=task.eval_path or "",
        checked=True,
        weight=task.weight,
        max_samples=task.max_samples,
        mixing_weight=task.mixing_weight,
        max_epochs=task.max_epochs,
        columns=task.columns.named() if task.columns else None,
    )


def _catalog(root: DataRoot, project: Path) -> tuple[TaskChoice, ...]:
    return tuple(_choice(row) for row in datasets.look(root, project).rows)


def _choice(row: datasets.TaskRow) -> TaskChoice:
    report = row.report
    return TaskChoice(
        name=row.name,
        path=row.path,
        eval_path=row.eval_path,
        columns=row.columns,
        kind=row.kind,
        num_used=report.num_used if report else 0,
        num_records=report.num_records if report else 0,
        num_bytes=report.num_bytes if report else 0,
        problem=(row.problem or "no usable record") if row.state == "unusable" else "",
    )


def _real(path: str) -> str:
    return os.path.realpath(path)
