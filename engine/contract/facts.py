"""Under which name the measured facts of a task are kept, so that the studio finds what a child process measured.

    recipe, task -> facts_key -> cache/facts/<key>.json

The key changes whenever anything changes that the facts depend on: file, columns, tokenizer, template, length policy,
split.  Files are told apart by size and time, not by content: the key is asked for at every click.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.recipe import Recipe, TaskSection
from engine.contract.sources import find_source

VERSION = 1


def facts_key(recipe: Recipe, task: TaskSection) -> str:
    """Return the key of a task's facts under a recipe; the task's name, weight and share play no part."""
    data = recipe.data.model_dump(mode="json", exclude={"packing", "max_eval_samples"})
    told = {
        "version": VERSION,
        "files": [_state(path) for path in (task.path, task.eval_path) if path],
        "columns": task.columns.named() if task.columns else None,
        "max_samples": task.max_samples,
        "max_eval_samples": recipe.data.max_eval_samples,
        "model": [recipe.model_name_or_path, recipe.model.revision],
        "data": data,
        "template": _state(recipe.data.chat_template) if "/" in recipe.data.chat_template else None,
        "seed": recipe.seed,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _state(path: str) -> list[object]:
    """Return what tells a version of a file or folder apart."""
    try:
        files = find_source(Path(path)).files
        stats = [(name, file.stat()) for name, file in files]
        return [path, [[name, info.st_size, info.st_mtime_ns] for name, info in stats]]
    except (UserError, OSError, ValueError):
        return [path, None]
