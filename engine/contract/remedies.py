"""What may be changed after a run has failed: the kind of failure and its recipe -> changes of single fields, as data.

    remedies("out_of_memory", recipe)[0] -> Remedy(text="Batch size 4 → 2, ...", changes={"optim....": 2, ...})

Pure arithmetic over the recipe, so a page, a test and the command line get the same list in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.contract.errors import FailureKind
from engine.contract.recipe import Recipe

SHORTEST_ROW = 256
"""`max_length` is not halved below this: most examples of chat data would be lost."""

MEANINGS: dict[FailureKind, str] = {
    "": "The program ended in a way that it does not know. The log below shows the last lines.",
    "out_of_memory": "The device had no room for a step of this size. The checkpoints are whole.",
    "killed": "The system ended a training process, most often because the machine ran out of memory.",
    "disk_full": "Nothing more could be written. What was saved before is whole.",
    "not_a_number": "The loss left the range of numbers, so every later step would have been lost. It was not saved.",
    "gated": "The authors of the model give it only to people who have accepted its licence.",
    "communication": "The training processes lost each other. One of them has ended, or the network between GPUs has.",
    "data": "The files of a task are not what the recipe says.",
    "lost": "The machine went down or the processes were ended from outside, so nobody could write down why.",
}
"""What each kind of failure means for the run, in a sentence or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """One way out of a failure."""

    text: str
    """What it changes, as a button says it."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Values by dotted recipe path; empty if it is a page that helps."""
    page: Literal["", "datasets", "settings"] = ""
    """Where to go instead of a changed recipe."""


def remedies(kind: FailureKind, recipe: Recipe) -> tuple[Remedy, ...]:
    """Return the ways out of a failure, the most likely first; none if no change of the recipe would help."""
    ways = {
        "out_of_memory": _less_memory,
        "killed": _less_memory,
        "not_a_number": _steadier,
        "disk_full": _fewer_checkpoints,
        "communication": _one_process,
    }
    found = ways[kind](recipe) if kind in ways else []
    if kind == "gated":
        found.append(Remedy(text="Log in at Hugging Face", page="settings"))
    if kind == "data":
        found.append(Remedy(text="Look at the data sets", page="datasets"))
    return tuple(found)


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some fields changed, checked anew.

    Raises:
        pydantic.ValidationError: If a change is not allowed.
    """
    values = recipe.model_dump()
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = values
        for part in parents:
            place = place[part]
        place[last] = value
    return Recipe.model_validate(values)


def _less_memory(recipe: Recipe) -> list[Remedy]:
    optim, found = recipe.optim, []
    batch, accumulation = optim.per_device_train_batch_size, optim.gradient_accumulation_steps
    if batch > 1:
        smaller = next(size for size in range(batch // 2, 0, -1) if batch % size == 0)
        more = accumulation * batch // smaller
        text = f"Batch size {batch} → {smaller}, accumulation {accumulation} → {more}: the same effective batch"
        changes = {"optim.per_device_train_batch_size": smaller, "optim.gradient_accumulation_steps": more}
        found.append(Remedy(text=text, changes=changes))
    if not recipe.model.gradient_checkpointing:
        text = "Gradient checkpointing on: less memory, slower steps"
        found.append(Remedy(text=text, changes={"model.gradient_checkpointing": True}))
    if recipe.method == "full":
        found.append(
            Remedy(text="Method full → LoRA: a small adapter in place of all weights", changes={"method": "lora"})
        )
    elif recipe.method == "lora" and recipe.launch.device != "cpu" and not recipe.lora.target_experts:
        found.append(Remedy(text="Method LoRA → QLoRA: the base model in 4 bit", changes={"method": "qlora"}))
    if (length := recipe.data.max_length) >= 2 * SHORTEST_ROW:
        text = f"Max length {length} → {length // 2}: examples that are longer are left out"
        if recipe.data.truncation != "drop":
            text = f"Max length {length} → {length // 2}: longer examples are cut"
        found.append(Remedy(text=text, changes={"data.max_length": length // 2}))
    return found


def _steadier(recipe: Recipe) -> list[Remedy]:
    rate = recipe.optim.learning_rate
    quarter = float(f"{rate / 4:.3g}")
    found = [Remedy(text=f"Learning rate {rate:g} → {quarter:g}", changes={"optim.learning_rate": quarter})]
    if recipe.model.dtype == "float16":
        text = "Number format float16 → bfloat16: a much wider range of numbers"
        found.insert(0, Remedy(text=text, changes={"model.dtype": "bfloat16"}))
    if (norm := recipe.optim.max_grad_norm) > 0.3:
        found.append(Remedy(text=f"Clip gradients at {norm:g} → 0.3", changes={"optim.max_grad_norm": 0.3}))
    return found


def _fewer_checkpoints(recipe: Recipe) -> list[Remedy]:
    kept = recipe.record.save_total_limit
    if kept == 1:
        return []
    text = f"Checkpoints kept {kept} → 1: the newest, and the best beside it"
    return [Remedy(text=text, changes={"record.save_total_limit": 1})]


def _one_process(recipe: Recipe) -> list[Remedy]:
    launch = recipe.launch
    if launch.num_processes == 1 or launch.machines or launch.scheduler == "slurm":
        return []
    more = recipe.optim.gradient_accumulation_steps * launch.num_processes
    text = f"Processes {launch.num_processes} → 1, accumulation → {more}: the same effective batch"
    changes = {"launch.num_processes": 1, "optim.gradient_accumulation_steps": more}
    return [Remedy(text=text, changes=changes)]
