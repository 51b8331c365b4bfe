"""The form of New run as a browser keeps it: what differs from an empty form, and the chosen tasks.

    Draft --keep--> JSON values for the browser's storage --restore--> Draft

Texts in which something looks like a secret are not kept.  What comes back is a stranger's: wrong values are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.contract.places import DataRoot
from engine.contract.redact import redact
from studio.logic import form_fields
from studio.logic.draft import Draft, empty_values, with_catalog
from studio.logic.task_choice import TaskChoice

MOST_CHARACTERS = 500_000
KEPT = ("name", "path", "eval_path", "weight", "mixing_weight", "max_samples", "max_epochs", "columns")
"""What is kept of a task; the rest is read from its file again."""


def keep(draft: Draft, root: DataRoot) -> dict[str, Any] | None:
    """Return what to keep of a draft, JSON-ready; None if there is nothing that an empty form would not say."""
    empty = empty_values(root)
    values = {path: value for path, value in draft.values.items() if value != empty.get(path) and _is_public(value)}
    rows = [{key: getattr(task, key) for key in KEPT} for task in draft.tasks if task.checked]
    tasks = [row for row in rows if _is_public(row)]
    return {"values": values, "tasks": tasks} if values or tasks else None


def restore(text: str, root: DataRoot, project: Path) -> Draft | None:
    """Return the draft that a browser kept; None if there is none or nothing of it can be used."""
    try:
        kept = json.loads(text) if 0 < len(text) <= MOST_CHARACTERS else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(kept, Mapping):
        return None
    told, rows = kept.get("values"), kept.get("tasks")
    values = {
        path: value
        for path, value in (told.items() if isinstance(told, Mapping) else ())
        if path in form_fields.FIELDS and form_fields.suits(form_fields.FIELDS[path], value)
    }
    chosen = [task for row in (rows if isinstance(rows, list) else ()) if (task := TaskChoice.read(row))]
    if not values and not chosen:
        return None
    checked = [replace(task, checked=True) for task in chosen]
    return Draft(values={**empty_values(root), **values}, tasks=with_catalog(checked, root, project))


def _is_public(value: Any) -> bool:
    """Whether nothing in it looks like a token, a key or a password."""
    text = json.dumps(value, ensure_ascii=False)
    return redact(text) == text
