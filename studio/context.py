"""What every page needs to know, passed explicitly: no module-level state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.contract.places import DataRoot


@dataclass(frozen=True, slots=True)
class StudioContext:
    """The place of one installation."""

    root: DataRoot
    """Runs, datasets and models of this user."""
    project: Path
    """The checkout, which holds presets/ and assets/."""
