"""The New run page without gradio: what a draft means, and the start of its run.

look(draft, ...)    Draft -> NewRunView: problems, fit, plan, command, YAML, whether Start may be pressed
request_start(...)  Draft -> run id; the same draft from the same page within a minute starts once
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from engine.contract import estimate
from engine.contract.cost import measured_speed, past_costs
from engine.contract.errors import Problem, UserError
from engine.contract.files import replace_text, slug
from engine.contract.fit import Fit, cost_of, fit
from engine.contract.memory import gigabytes
from engine.contract.places import DataRoot, free_bytes
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe
from engine.contract.rundir import create_run
from engine.contract.strategy import gpus_of
from engine.launch import supervisor
from engine.launch.command import cli_equivalent, display_command
from engine.launch.devices import Machine, inventory
from engine.launch.queue import outlook
from studio.logic import form_fields
from studio.logic import mix as mix_view
from studio.logic.draft import Draft, unfinished_yaml, validate
from studio.logic.make_fit import Change, changes_that_fit
from studio.logic.model_choice import ModelInfo, look_up
from studio.logic.once import await_other, claim_once
from studio.logic.task_choice import TaskChoice

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
CHANGEABLE = frozenset(form_fields.FIELDS)
"""What a change that makes the recipe fit may set."""
FitState = Literal["fits", "tight", "no", "unknown"]


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
    changes: tuple[Change, ...] = ()
    """What would make it fit."""
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


def look(draft: Draft, root: DataRoot, project: Path, *, machine: Machine | None = None) -> NewRunView:
    """Say everything about a draft. Cheap: no model is opened, the hub is asked in the background at most."""
    machine = machine or inventory()
    recipe, problems = validate(draft)
    shown = form_fields.changed(draft.values, ADVANCED_FIELDS)
    if recipe is None:
        return NewRunView(
            problems=problems, notes=(), fit_state="unknown", fit_text="", fit_parts=(), facts=(), command="",
            yaml=unfinished_yaml(draft), num_changed=shown,
        )  # fmt: skip
    chosen = [task for task in draft.tasks if task.checked]
    has_model = bool(draft.values.get("model_name_or_path"))
    mix = (
        mix_view.look(recipe, [task.num_used for task in chosen], root, measure=has_model) if chosen else mix_view.EMPTY
    )
    model = look_up(recipe.model_name_or_path, recipe.model.revision, root) if has_model else ModelInfo(config=None)
    config = model.config
    past, sizes = past_costs(root.runs), [_size(task) for task in chosen]

    def try_fit(changed: Recipe) -> Fit:
        return fit(changed, machine, config, past=past, tokens=mix.micro_batch_tokens(changed))

    def planned(changed: Recipe) -> estimate.Plan:
        speed = measured_speed(cost_of(changed, gpus_of(changed, machine), config), past)
        return estimate.steps_and_time(changed, sizes, config, machine=machine, tokens=mix.tokens, speed=speed)

    fits, plan = try_fit(recipe), planned(recipe)
    blocking = list(model.problems)
    disk = estimate.disk_bytes(recipe, config) if config and fits.memory else 0
    smaller = "choose a smaller model or QLoRA." if machine.gpus else "choose a smaller model, or a machine with a GPU."
    if not fits.ok:
        blocking.append(Problem(problem=f"This {fits.sentence}.", fix=smaller, field="model_name_or_path"))
    if disk > (free := free_bytes(root.path)):
        text = f"The run needs {gigabytes(disk)} of disk, {gigabytes(free)} are free."
        blocking.append(Problem(problem=text, fix="free some space.", field="record.save_total_limit"))
    waits = _waits(recipe, root) if not blocking else ""
    draft_only = not chosen or not has_model
    state: FitState = "unknown" if fits.memory is None else "no" if not fits.ok else "tight" if fits.tight else "fits"
    return NewRunView(
        problems=(*problems, *blocking),
        notes=model.notes,
        fit_state=state,
        fit_text=fits.sentence if has_model else "",
        fit_parts=tuple((name, gigabytes(size)) for name, size in fits.memory.parts) if fits.memory else (),
        facts=_facts(recipe, plan if mix.steps is None else replace(plan, steps=mix.steps), fits, disk, machine, waits),
        changes=_changes(recipe, machine, fits, try_fit, planned) if has_model else (),
        waits=waits,
        mix=mix.value,
        is_measuring=mix.is_measuring,
        command=display_command(cli_equivalent("recipe.yaml", "runs/" + slug(recipe.display_name, fallback="run"))),
        yaml=unfinished_yaml(draft) if draft_only else dump_recipe(recipe, all_fields=False),
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


def _changes(
    recipe: Recipe,
    machine: Machine,
    fits: Fit,
    try_fit: Callable[[Recipe], Fit],
    planned: Callable[[Recipe], estimate.Plan],
) -> tuple[Change, ...]:
    if fits.memory is None or (fits.ok and not fits.tight):
        return ()

    def tell_time(changed: Recipe) -> str:
        seconds = planned(changed).seconds
        return estimate.duration_text(seconds) if seconds else ""

    return changes_that_fit(recipe, machine, try_fit, tell_time)


def _waits(recipe: Recipe, root: DataRoot) -> str:
    try:
        return outlook(recipe, root)
    except UserError:
        return ""  # devices that are not there: the fit has said so


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
    if fits.memory and fits.memory.num_past_runs:
        facts.append(("Memory corrected by", f"{fits.memory.num_past_runs} earlier runs on this machine"))
    if disk:
        facts.append(("Disk", f"up to {gigabytes(disk)}"))
    return (*facts, ("Runs on", where))


def _size(task: TaskChoice) -> estimate.TaskSize:
    return estimate.TaskSize(
        num_used=task.num_used, num_bytes=task.num_bytes, num_records=task.num_records, has_heldout=bool(task.eval_path)
    )
