"""A click that starts something once, however often it comes: whoever creates the claim's file starts it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.contract.errors import UserError

DOUBLE_CLICK_S = 60.0


def claim_once(path: Path) -> bool:
    """Return True for the first caller within a minute."""
    try:
        if time.time() - path.stat().st_mtime > DOUBLE_CLICK_S:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def await_other(claim: Path) -> str:
    """Return the run that the first click is starting."""
    for _ in range(100):
        try:
            if run_id := claim.read_text():
                return run_id
        except FileNotFoundError:
            break
        time.sleep(0.1)
    raise UserError("The run could not be started.", fix="press Start again.")
