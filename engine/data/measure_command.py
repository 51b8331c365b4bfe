"""`python -m engine measure recipe.yaml --output FOLDER`: the facts of each task, one file each; the studio reads them.

Unlike `prepare` it never gives up: a task that cannot be measured gets its reason as the answer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.facts import facts_key
from engine.contract.files import replace_json
from engine.contract.hub_path import on_disk
from engine.contract.places import DataRoot, data_root
from engine.contract.recipe import TaskSection
from engine.contract.recipe_io import load_recipe
from engine.launch.jobs import write_job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", type=Path, help="recipe YAML")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the facts are written")
    parser.add_argument("--status-file", type=Path, help="report progress there")


def run(arguments: argparse.Namespace) -> int:
    """Measure every task of the recipe."""
    from engine.data.prepare import measure_task
    from engine.model.sources import resolve_tokenizer
    from engine.model.tokenizer import load_codec

    recipe, root, status = load_recipe(arguments.recipe), data_root().make(), arguments.status_file
    arguments.output.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_job(status, phase="loading the tokenizer")
    trouble, codec = None, None
    try:
        folder = resolve_tokenizer(recipe.model_name_or_path, root=root, revision=recipe.model.revision)
        codec = load_codec(folder, root.codecs, chat_template=recipe.data.chat_template)
    except UserError as error:
        trouble = error
    for number, task in enumerate(recipe.tasks):
        write_job(status, phase=f"measuring {task.name}", fraction=number / len(recipe.tasks))
        key, answer = facts_key(recipe, task), _problem(trouble) if trouble else {}
        if codec is not None:
            try:
                facts, notes = measure_task(_local(task, root), recipe, codec, root.prepared)
                answer = {"facts": facts.as_json(), "notes": list(notes)}
            except UserError as error:
                answer = _problem(error)
        replace_json(arguments.output / f"{key}.json", {**answer, "time": time.time()})
    write_job(status, state="done", phase="measured")
    return 0


def _local(task: TaskSection, root: DataRoot) -> TaskSection:
    """Return the task with its data set's local copy; measuring never downloads one."""
    changed = {}
    for key in ("path", "eval_path"):
        if path := getattr(task, key):
            if (found := on_disk(path, root)) is None:
                raise UserError(
                    f"{path} is downloaded when the run starts.", fix="fetch it on the Datasets page first."
                )
            changed[key] = str(found)
    return task.model_copy(update=changed)


def _problem(error: UserError) -> dict[str, Any]:
    return {"problem": error.problem, "fix": error.fix}
