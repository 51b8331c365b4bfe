"""Which further places a run's metrics go to, and what is missing for them here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from engine.contract.errors import Problem, UserError

PACKAGES = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb"}
INSTALL = {
    "tensorboard": "pip install -r requirements.txt",
    "trackio": "pip install -r requirements-trackers.txt",
    "wandb": "pip install -r requirements-trackers.txt",
}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a run whose metrics cannot go where they should.

    Raises:
        UserError: With everything that is missing.
    """
    problems = []
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            problem = f"record.report_to names {name}, which is not installed."
            problems.append(
                Problem(problem=problem, fix=f"{INSTALL[name]}, or leave it out.", field="record.report_to")
            )
        elif name == "wandb" and not _wandb_may_start():
            fix = "run wandb login, set WANDB_API_KEY, or set WANDB_MODE to offline."
            problems.append(Problem(problem="Nobody is logged in at W&B here.", fix=fix, field="record.report_to"))
    if problems:
        raise UserError.of(problems)


def _wandb_may_start() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return True
    try:
        return "wandb" in Path(os.environ.get("NETRC", Path.home() / ".netrc")).read_text()
    except OSError:
        return False
