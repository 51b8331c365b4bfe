"""Why a run ended badly, what that means, and what to do: the failure card, and the text for an issue report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine.contract.errors import FailureKind, UserError
from engine.contract.files import tail_text
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe
from engine.contract.redact import redact
from engine.contract.remedies import MEANINGS, Remedy, changed, remedies
from engine.contract.rundir import Attempt, RunDir, State, effective_state

REPORT_LINES = 40
PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "gradio")


def failure(run: RunDir, recipe: Recipe, attempt: Attempt | None, state: State) -> dict[str, Any] | None:
    """Return the failure card of a run, JSON-ready; None if it has not failed."""
    if state not in ("failed", "lost"):
        return None
    kind: FailureKind = "lost" if state == "lost" else attempt.kind if attempt else ""
    problem, fix = (attempt.problem, attempt.fix) if attempt and state == "failed" else ("", "")
    if state == "lost":
        problem, fix = "The processes of this run are gone without a last word.", "resume from the newest checkpoint."
    ways = [
        {"text": way.text, "href": f"/{way.page}" if way.page else f"/new?from={quote(run.id)}&fix={number}"}
        for number, way in enumerate(remedies(kind, recipe), start=1)
    ]
    return {"problem": problem, "fix": fix, "meaning": MEANINGS[kind], "ways": ways}


def remedied(run: RunDir, number: int) -> tuple[Recipe, Remedy]:
    """Return the recipe of a failed run with its Nth way out applied, and that way.

    Raises:
        UserError: If there is no such way.
    """
    attempt = run.last_attempt()
    kind: FailureKind = "lost" if effective_state(run) == "lost" else attempt.kind if attempt else ""
    ways = remedies(kind, run.recipe())
    if not 1 <= number <= len(ways) or not ways[number - 1].changes:
        raise UserError(f"Run {run.id} has no remedy {number}.", fix="choose one on its page.")
    way = ways[number - 1]
    return changed(run.recipe(), way.changes), way


def report_text(run: RunDir) -> str:
    """Return what an issue report needs, without what looks like a secret and without the home directory."""
    attempt, recipe = run.last_attempt(), run.recipe()
    versions = [f"{name} {found}" for name in PACKAGES if (found := _version(name))]
    parts = [
        f"MFT Studio on {platform.system()} {platform.release()}, Python {platform.python_version()}",
        ", ".join(versions),
        f"State: {effective_state(run)}. Problem: {attempt.problem if attempt else ''}",
        f"On: {', '.join(attempt.devices) if attempt else ''}",
        f"Recipe:\n{dump_recipe(recipe, all_fields=False)}",
        f"Last {REPORT_LINES} lines of the log:\n{tail_text(run.log_file, max_lines=REPORT_LINES)}",
    ]
    return without_secrets("\n\n".join(parts))


def without_secrets(text: str) -> str:
    """Return text without what looks like a token, a password or a name of this user's home directory."""
    text = redact(text)
    return text.replace(str(Path.home()), "~") if len(str(Path.home())) > 1 else text


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
