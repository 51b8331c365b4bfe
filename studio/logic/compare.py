"""The Compare page: curves of up to six runs over each other, what their recipes do differently, tasks in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.contract.errors import UserError
from engine.contract.metrics import task_key
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir, effective_state, open_run
from studio.charts import bin_width, curves
from studio.logic.colors import task_colors
from studio.logic.history import History
from studio.logic.run import STATE_WORDS
from studio.logic.run_glance import recipe_of

MAX_RUNS = 6
MAX_POINTS = 400
"""Points of one curve: six runs are drawn at once."""
NOT_SETTINGS = ("name", "description", "schema_version")


def look(root: DataRoot, asked: str) -> dict[str, Any]:
    """Return the runs of `a,b,c` side by side, JSON-ready; runs that cannot be read become notes."""
    ids = list(dict.fromkeys(part.strip() for part in asked.split(",") if part.strip()))
    runs, notes = [], []
    if len(ids) > MAX_RUNS:
        notes.append(f"Only the first {MAX_RUNS} of {len(ids)} runs are shown.")
    for run_id in ids[:MAX_RUNS]:
        try:
            run = open_run(root.runs, run_id)
            runs.append((run, recipe_of(run)))
        except UserError as error:
            notes.append(error.problem)
    names = list(dict.fromkeys(task.name for _, recipe in runs for task in recipe.tasks))
    return {
        "runs": [_curves(run, recipe) for run, recipe in runs],
        "tasks": names,
        "colors": list(task_colors(root, names).values()),
        "settings": differences([recipe for _, recipe in runs]),
        "notes": notes,
    }


def differences(recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
    """Return every setting with its value in each recipe, as text, and whether the values differ."""
    flat = [_flat(recipe) for recipe in recipes]
    paths = dict.fromkeys(path for values in flat for path in values)
    rows = []
    for path in paths:
        values = [values.get(path, "–") for values in flat]
        rows.append({"path": path, "values": values, "differs": len(set(values)) > 1})
    return rows


def _curves(run: RunDir, recipe: Recipe) -> dict[str, Any]:
    history = History(run)
    history.update()
    found, names = history.evaluations(), [task.name for task in recipe.tasks]
    keys = ["train/loss", *(task_key(name, "loss") for name in names)]
    train = curves(history.train, keys, width=bin_width(len(history.train), limit=MAX_POINTS))
    state = effective_state(run)
    start = next((value for value in train["time"] if value is not None), 0.0)
    tone, word = STATE_WORDS[state]
    return {
        "id": run.id,
        "name": recipe.display_name,
        "tone": tone,
        "word": word,
        "step": train["step"],
        "tokens": train["tokens"],
        "time": [(start if value is None else value) - start for value in train["time"]],
        "train": dict(zip(["", *names], train["values"], strict=True)),
        "eval_step": [row["step"] for row in found],
        "eval": {
            "": [row.get("eval/loss") for row in found],
            **{name: [row.get(task_key(name, "eval_loss")) for row in found] for name in names},
        },
        "table": {
            "": _numbers([row.get("eval/loss") for row in found]),
            **{name: _numbers([row.get(task_key(name, "eval_loss")) for row in found]) for name in names},
        },
    }


def _numbers(values: Sequence[Any]) -> dict[str, float | None]:
    known = [value for value in values if isinstance(value, (int, float))]
    return {
        "base": known[0] if known else None,
        "best": min(known) if known else None,
        "last": known[-1] if known else None,
    }


def _flat(recipe: Recipe) -> dict[str, str]:
    """Return the settings of a recipe by path, as text; tasks by their names."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(inner, f"{path}.{name}" if path else str(name))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for inner in value:
                walk({k: v for k, v in inner.items() if k != "name"}, f"{path}.{inner.get('name')}")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            found[path] = "–" if shown is None or shown == "" else str(shown)

    walk({k: v for k, v in recipe.model_dump(mode="json").items() if k not in NOT_SETTINGS}, "")
    return found
