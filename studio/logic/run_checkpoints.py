"""The Checkpoints tab of a run: what is saved, which is the best, and the way to the trash."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.contract.best import best_checkpoint
from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.rundir import TERMINAL, RunDir, effective_state, open_run


def rows(
    run: RunDir, evaluations: Sequence[Mapping[str, Any]], *, best: int | None, over: bool
) -> list[dict[str, Any]]:
    """Return the checkpoints, newest first, JSON-ready.

    Args:
        run: The run.
        evaluations: Its rows that hold `eval/loss`.
        best: Step of the best evaluation.
        over: Whether the run has ended: then all may be deleted.
    """
    losses = {row["step"]: row.get("eval/loss") for row in evaluations}
    folders = run.checkpoint_dirs()
    found = []
    for path in reversed(folders):
        step, is_last = int(path.name[5:]), path == folders[-1]
        try:
            size, saved_at = _size(path), (path / "manifest.json").stat().st_mtime
        except OSError:  # rotated away just now
            continue
        found.append(
            {
                "name": path.name,
                "step": step,
                "eval_loss": losses.get(step),
                "is_best": step == best,
                "is_last": is_last,
                "bytes": size,
                "when": time.strftime("%Y-%m-%d %H:%M", time.localtime(saved_at)),
                "may_delete": over or not (is_last or step == best),
            }
        )
    return found


def request_delete(root: DataRoot, run_id: str, name: str) -> str:
    """Move one checkpoint to the trash and return a sentence.

    Raises:
        UserError: If there is none of that name, or a living run needs it.
    """
    run = open_run(root.runs, run_id)
    folders = {path.name: path for path in run.checkpoint_dirs()}
    if name not in folders:
        raise UserError("That checkpoint is not there any more.", fix="reload the page.")
    newest = list(folders)[-1]
    best = best_checkpoint(run)
    if effective_state(run) not in TERMINAL and (name == newest or (best is not None and name == best.name)):
        raise UserError("The run still needs this checkpoint.", fix="delete it when the run has ended.")
    trash = root.path / "trash"
    trash.mkdir(mode=0o700, exist_ok=True)
    os.rename(folders[name], trash / f"{run.id}-{name}-{int(time.time())}")
    return f"{name} is in the trash folder of the data root."


@lru_cache(maxsize=4096)
def _size(path: Path) -> int:
    """Return the bytes of a complete checkpoint, which never change."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
