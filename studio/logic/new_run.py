"""The New run page without gradio: a form and task rows in, everything the page says out.

    initial(...)        preset, run or nothing -> Draft (widget values, task rows, notices)
    look(draft, ...)    Draft -> NewRunView: problems, fit, plan, command, YAML, whether Start may be pressed
    request_start(...)  Draft -> run id; the same draft from the same page within a minute starts once
    load_yaml(...)      pasted YAML -> Draft

Names of fields, defaults and limits come from the schema through `studio.logic.form_fields`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from engine.contract import estimate
from engine.contract.continuation import continuation
from engine.contract.errors import Problem, UserError
from engine.contract.files import replace_text, slug
from engine.contract.fit import Fit, fit
from engine.contract.hub_path import is_hub_path
from engine.contract.places import DataRoot, free_bytes
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import absolute_paths, dump_recipe, parse_recipe, recipe_from_values
from engine.contract.rundir import create_run, open_run
from engine.contract.strategy import gpus_of
from engine.launch import supervisor
from engine.launch.command import cli_equivalent, display_command
from engine.launch.devices import Machine, inventory
from engine.launch.queue import outlook
from studio.logic import datasets, form_fields
from studio.logic import mix as mix_view
from studio.logic.model_choice import ModelInfo, look_up
from studio.logic.once import await_other, claim_once
from studio.logic.presets import OWN, load_preset
from studio.logic.run_failure import remedied
from studio.logic.task_choice import TaskChoice, task_values

SIMPLE_FIELDS = (
    "optim.learning_rate",
    "optim.num_train_epochs",
    "optim.max_steps",
    "optim.per_device_train_batch_size",
    "optim.gradient_accumulation_steps",
    "data.max_length",
    "lora.r",
)
"""Settings that are seen without opening Advanced; epochs and steps share one place."""
HEAD_FIELDS = ("model_name_or_path", "method", "name")
MIX_FIELDS = ("mixing.strategy",)
ADVANCED_FIELDS = tuple(path for path in form_fields.FIELDS if path not in (*SIMPLE_FIELDS, *HEAD_FIELDS, *MIX_FIELDS))
FitState = Literal["fits", "tight", "no", "unknown"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRunView:
    """Everything the page says about a draft."""

    problems: tuple[Problem, ...]
    """What keeps Start from being pressed, all at once."""
    notes: tuple[str, ...]
    fit_state: FitState
    fit_text: str
    fit_parts: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    command: str
    yaml: str
    num_changed: int
    mix: Mapping[str, Any] = field(default_factory=dict)
    """What the run does with its tasks, see `studio.logic.mix`."""
    is_measuring: bool = False
    waits: str = ""
    """Why the run would wait for its devices; empty if it can start at once."""
    recipe: Recipe | None = field(default=None, repr=False)

    @property
    def can_start(self) -> bool:
        """Whether Start may be pressed."""
        return not self.problems


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
            return draft_of(recipe, root, project, source=f"Preset {preset.removeprefix(OWN)}")
    except UserError as error:
        return Draft(values=form_fields.defaults(), tasks=_catalog(root, project), notices=error.problems)
    return Draft(values=form_fields.defaults(), tasks=_catalog(root, project))


def draft_of(recipe: Recipe, root: DataRoot, project: Path, *, source: str = "") -> Draft:
    """Return the draft of a recipe: its tasks ticked, tasks of the catalog that it does not use below."""
    catalog = {_real(task.path): task for task in _catalog(root, project)}
    chosen = []
    for task in recipe.tasks:
        known = catalog.pop(_real(task.path), None)
        if known is None:
            known = _choice(datasets.describe_file(task.path, task.eval_path, task.name))
        known = replace(known, name=task.name, path=task.path, eval_path=task.eval_path or "", checked=True)
        known = replace(known, columns=task.columns.named() if task.columns else None)
        known = replace(known, mixing_weight=task.mixing_weight, max_epochs=task.max_epochs)
        chosen.append(replace(known, weight=task.weight, max_samples=task.max_samples))
    names = {task.name for task in chosen}
    rest = [task for task in catalog.values() if task.name not in names]
    return Draft(values=form_fields.from_recipe(recipe), tasks=(*chosen, *rest), source=source)


def load_yaml(text: str, root: DataRoot, project: Path) -> Draft:
    """Return the draft of pasted YAML. Relative task paths are looked up from the studio's folder of presets.

    Raises:
        UserError: With every problem of the text.
    """
    recipe = absolute_paths(parse_recipe(text, source="the pasted recipe"), project / "presets")
    return draft_of(recipe, root, project, source="Pasted recipe")


def look(draft: Draft, root: DataRoot, project: Path, *, machine: Machine | None = None) -> NewRunView:
    """Say everything about a draft. Cheap: no model is opened, the hub is asked in the background at most."""
    machine = machine or inventory()
    recipe, problems = _validate(draft)
    shown = form_fields.changed(draft.values, ADVANCED_FIELDS)
    if recipe is None:
        return NewRunView(
            problems=problems, notes=(), fit_state="unknown", fit_text="", fit_parts=(), facts=(), command="",
            yaml=_unfinished_yaml(draft), num_changed=shown,
        )  # fmt: skip
    chosen = [task for task in draft.tasks if task.checked]
    has_model = bool(draft.values.get("model_name_or_path"))
    mix = (
        mix_view.look(recipe, [task.num_used for task in chosen], root, measure=has_model) if chosen else mix_view.EMPTY
    )
    model = look_up(recipe.model_name_or_path, recipe.model.revision, root) if has_model else ModelInfo(config=None)
    config = model.config
    fits = fit(recipe, machine, config)
    sizes = [_size(task) for task in chosen]
    plan = estimate.steps_and_time(recipe, sizes, config, machine=machine)
    blocking = list(model.problems)
    disk = estimate.disk_bytes(recipe, config) if config and fits.memory else 0
    smaller = "choose a smaller model or QLoRA." if machine.gpus else "choose a smaller model, or a machine with a GPU."
    if not fits.ok:
        blocking.append(Problem(problem=f"This {fits.sentence}.", fix=smaller, field="model_name_or_path"))
    if disk > (free := free_bytes(root.path)):
        text = f"The run needs {estimate.gigabytes(disk)} of disk, {estimate.gigabytes(free)} are free."
        blocking.append(Problem(problem=text, fix="free some space.", field="record.save_total_limit"))
    waits = _waits(recipe, root) if not blocking else ""
    draft_only = not chosen or not has_model
    state: FitState = "unknown" if fits.memory is None else "no" if not fits.ok else "tight" if fits.tight else "fits"
    return NewRunView(
        problems=(*problems, *blocking),
        notes=model.notes,
        fit_state=state,
        fit_text=fits.sentence if has_model else "",
        fit_parts=tuple((name, estimate.gigabytes(size)) for name, size in fits.memory.parts) if fits.memory else (),
        facts=_facts(recipe, plan if mix.steps is None else replace(plan, steps=mix.steps), fits, disk, machine, waits),
        waits=waits,
        mix=mix.value,
        is_measuring=mix.is_measuring,
        command=display_command(cli_equivalent("recipe.yaml", "runs/" + slug(recipe.display_name, fallback="run"))),
        yaml=_unfinished_yaml(draft) if draft_only else dump_recipe(recipe, all_fields=False),
        num_changed=shown,
        recipe=recipe if not problems else None,
    )


def request_start(draft: Draft, root: DataRoot, project: Path, *, token: str, machine: Machine | None = None) -> str:
    """Start the run of a draft and return its id.

    Args:
        draft: The page's values.
        root: Data root.
        project: The checkout.
        token: Secret of one opened page: a second click on the same page with the same values starts nothing new.
        machine: For tests; otherwise this machine.

    Raises:
        UserError: With every problem at once; nothing was started then.
    """
    view = look(draft, root, project, machine=machine)
    if view.problems or view.recipe is None:
        raise UserError.of(view.problems or [Problem(problem="The form is not complete.")])
    claim = root.temporary / f"start-{hashlib.sha256((token + dump_recipe(view.recipe)).encode()).hexdigest()[:32]}"
    if not claim_once(claim):
        return await_other(claim)
    run = None
    try:
        run = create_run(root.runs, view.recipe)
        supervisor.start_run(run)
        replace_text(claim, run.id)
    except BaseException:
        claim.unlink(missing_ok=True)
        if run is not None and run.last_attempt() is None:
            shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run.id


def _waits(recipe: Recipe, root: DataRoot) -> str:
    try:
        return outlook(recipe, root)
    except UserError:
        return ""  # devices that are not there: the fit has said so


def _validate(draft: Draft) -> tuple[Recipe | None, tuple[Problem, ...]]:
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


def _unfinished_yaml(draft: Draft) -> str:
    """Write what the form holds so far, not validated."""
    tasks = [task_values(task) for task in draft.tasks if task.checked]
    values = {"schema_version": 1, **form_fields.to_values(draft.values), **({"tasks": tasks} if tasks else {})}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _facts(
    recipe: Recipe, plan: estimate.Plan, fits: Fit, disk: int, machine: Machine, waits: str
) -> tuple[tuple[str, str], ...]:
    optim = recipe.optim
    batch = f"{plan.effective_batch} examples"
    if plan.effective_batch != optim.per_device_train_batch_size:
        parts = [str(optim.per_device_train_batch_size), str(optim.gradient_accumulation_steps)]
        parts += [str(recipe.launch.num_processes)] if recipe.launch.num_processes > 1 else []
        batch += f" ({' × '.join(parts)})"
    steps = f"{plan.steps:,} ({plan.epochs:.2f} epochs)" if plan.steps else "no examples chosen"
    gpus = gpus_of(recipe, machine)
    processor = f"CPU, {machine.cpu_count} cores" if recipe.launch.device != "cuda" else "a GPU, which is not here"
    where = ", ".join(f"GPU {gpu.index} ({gpu.name})" for gpu in gpus) or processor
    facts = [("Effective batch", batch), ("Optimizer steps", steps)]
    if fits.strategy:
        facts.append(("Strategy", f"{fits.strategy.text}: {fits.strategy.reason}"))
    if waits:
        facts.append(("Waits", waits))
    if plan.seconds and fits.ok:
        facts.append(("Time, roughly", estimate.duration_text(plan.seconds)))
    if disk:
        facts.append(("Disk", f"up to {estimate.gigabytes(disk)}"))
    return (*facts, ("Runs on", where))


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


def _size(task: TaskChoice) -> estimate.TaskSize:
    return estimate.TaskSize(
        num_used=task.num_used, num_bytes=task.num_bytes, num_records=task.num_records, has_heldout=bool(task.eval_path)
    )


def _real(path: str) -> str:
    return os.path.realpath(path)
