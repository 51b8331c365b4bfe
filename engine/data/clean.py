"""Clean a task: write a new file without duplicates, leaks or benchmark problems; the source is never touched.

source + what to remove -> new file of canonical records, and how many were left out for which reason
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from engine.contract.errors import UserError
from engine.contract.places import require_free
from engine.contract.records import Columns, Example
from engine.contract.taskfile import load_examples, source_measure, write_messages
from engine.data.contamination import HumanEvalFinder
from engine.data.duplicates import exact_copies, near_copies, shared, signatures_of

Action = Literal["exact_duplicates", "near_duplicates", "contaminated", "heldout_overlap"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanReport:
    """What cleaning did; kept + the removed = examples."""

    num_examples: int
    num_kept: int
    removed: dict[str, int]
    """Reason -> examples; an example counts for the first reason that applies."""


def clean(
    source: Path,
    target: Path,
    actions: tuple[Action, ...],
    *,
    columns: Columns | None = None,
    heldout: Path | None = None,
) -> CleanReport:
    """Write the examples of a task that stay to a new file.

    Args:
        source: Task file or folder.
        target: JSON Lines file to write; must not exist.
        actions: What to remove. Of copies the first is kept.
        columns: What the source's columns mean.
        heldout: Held-out file, for `heldout_overlap`.

    Raises:
        UserError: If the target exists, nothing would be left, or a file cannot be used.
    """
    if target.exists():
        raise UserError(f"{target.name} exists already.", fix="choose another name; nothing is overwritten.")
    if "heldout_overlap" in actions and heldout is None:
        raise UserError("There is no held-out file to compare with.", fix="add one, or leave heldout_overlap out.")
    require_free(target.parent, source_measure(source)[0], what="The cleaned file")
    examples, _ = load_examples(source, columns)
    reasons = _reasons(examples, actions, load_examples(heldout, columns)[0] if heldout else [])
    kept = [example for index, example in enumerate(examples) if index not in reasons]
    if not kept:
        raise UserError("Nothing would be left of this task.", fix="remove less.")
    write_messages(target, kept)
    removed = {action: list(reasons.values()).count(action) for action in actions}
    return CleanReport(num_examples=len(examples), num_kept=len(kept), removed=removed)


def _reasons(examples: list[Example], actions: tuple[Action, ...], heldout: list[Example]) -> dict[int, Action]:
    """Return the index of each example to remove, with the reason."""
    signatures = signatures_of(examples)
    reasons: dict[int, Action] = {}
    for action in actions:
        if action == "exact_duplicates":
            found = [pair.second for pair in exact_copies(signatures)]
        elif action == "near_duplicates":
            found = [pair.second for pair in near_copies(signatures)]
        elif action == "heldout_overlap":
            found = [pair.second for pair in shared(signatures_of(heldout), signatures)]
        else:
            finder = HumanEvalFinder()
            found = [index for index, example in enumerate(examples) if finder.look(example)]
        for index in found:
            reasons.setdefault(index, action)
    return reasons
