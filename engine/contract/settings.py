"""What people set once for an installation: one small file in the data root, replaced whole, readable by its owner.

settings.json   {"webhook_url": "https://...", "notify_finished": true, ...}     written by the studio, read by runs

What is missing, broken or unknown in it takes its default.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.contract.files import read_json, replace_text
from engine.contract.places import DataRoot
from engine.contract.stored import restore


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Choices of the people who use this data root."""

    webhook_url: str = ""
    """Where a message goes when a run ends; empty = nowhere. Whoever knows it can write there: a secret."""
    notify_finished: bool = True
    """Whether a run that finished is told."""
    notify_failed: bool = True
    """Whether a run that failed, or met a loss that is not a number, is told."""
    default_gpus: str = ""
    """GPUs a new recipe begins with, as `0,2`; empty = the first free ones."""


def settings_file(root: DataRoot) -> Path:
    """Return where the settings lie."""
    return root.path / "settings.json"


def read_settings(root: DataRoot) -> Settings:
    """Return the settings."""
    return restore(Settings, read_json(settings_file(root))) or Settings()


def write_settings(root: DataRoot, settings: Settings) -> None:
    """Replace the settings."""
    replace_text(settings_file(root), json.dumps(asdict(settings), indent=1) + "\n", mode=0o600)
