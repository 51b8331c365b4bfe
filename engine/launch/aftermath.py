"""What a supervisor finds out about an attempt that has ended: how, why, whether to try again, whether memory is back.

The end is read from files (status.json, errors/), not from return codes, which do not tell the truth.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import get_args

from engine.contract.errors import FailureKind, Problem
from engine.contract.files import read_json, tail_text
from engine.contract.rundir import RunDir
from engine.launch.devices import Machine, inventory

MEMORY_BACK_S = 15.0
"""How long the driver may take to give a dead process's memory back."""
NOT_AGAIN = ("UserError", "OutOfMemoryError", "MemoryError")
"""Errors that come again if nothing is changed."""


def classify(run: RunDir, number: int, return_code: int | None) -> tuple[str, Problem]:
    """Return how the attempt ended (finished, stopped, failed) and, if it failed, why."""
    status = run.status()
    if status.attempt == number and status.state in ("finished", "stopped"):
        return status.state, Problem(problem="")
    if was_cancelled(run, number):
        return "stopped", Problem(problem="")
    if not run.recipe_file.is_file():
        return "failed", Problem(problem="The run's folder was deleted or moved.", fix="start a new run.")
    for told in last_words(run):
        if told.get("problem"):
            words = {name: str(told.get(name) or "") for name in ("problem", "fix", "field")}
            kind = told.get("kind") or ("data" if words["field"].startswith("tasks") else "")
            return "failed", Problem(**words, kind=kind if kind in get_args(FailureKind) else "")
    log = tail_text(run.log_file, max_lines=200)
    if "Signal 9" in log or "SIGKILL" in log or return_code in (-9, 137):
        fix = "lower the batch size or max_length, then resume from the last checkpoint."
        return "failed", Problem(
            problem="A training process was killed (SIGKILL), most likely out of memory.", fix=fix, kind="killed"
        )
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
    problem = f"The training process ended without a word. Last line of the log: {last[:300]}"
    return "failed", Problem(problem=problem, fix="read the log.")


def last_words(run: RunDir) -> list[dict[str, str]]:
    """Return what the ranks that failed said, by rank."""
    found = (read_json(path) for path in sorted(run.errors.glob("rank-*.json")))
    return [value for value in found if isinstance(value, dict)]


def was_cancelled(run: RunDir, number: int) -> bool:
    """Whether people asked the attempt to end without saving."""
    control = read_json(run.control_file) or {}
    return control.get("attempt") == number and control.get("request") == "cancel"


def may_try_again(run: RunDir, number: int) -> bool:
    """Whether a failed run is to be resumed by itself.

    Not if its error would come again, and not without a checkpoint: a run never silently starts over.

    Args:
        run: The run, just failed.
        number: The attempt that failed.
    """
    control = read_json(run.control_file) or {}
    if control.get("attempt") == number and control.get("request") in ("stop", "cancel"):
        return False
    if not run.recipe_file.is_file() or not run.checkpoint_dirs():
        return False
    return not any(told.get("type") in NOT_AGAIN or "emory" in told.get("problem", "") for told in last_words(run))


def memory_back(gpus: Collection[str], pids: Collection[int], *, patience_s: float = MEMORY_BACK_S) -> str:
    """Wait until dead processes hold no GPU memory any more and say what was seen; empty on the CPU.

    Args:
        gpus: UUIDs of the GPUs that were used.
        pids: The processes that used them.
        patience_s: How long to wait.
    """
    if not gpus:
        return ""
    deadline = time.monotonic() + patience_s
    while True:
        machine = inventory()
        held = _held(machine, gpus, pids)
        if not held:
            mine = [gpu for gpu in machine.gpus if gpu.uuid in gpus]
            return "; ".join(f"GPU {gpu.index} is free again, {gpu.used_bytes / 2**30:.1f} GiB used" for gpu in mine)
        if time.monotonic() > deadline:
            return f"{held} is still held {patience_s:.0f} s after the end."
        time.sleep(0.5)


def _held(machine: Machine, gpus: Collection[str], pids: Collection[int]) -> str:
    found = [
        f"{process.used_bytes / 2**30:.1f} GiB of GPU {gpu.index} (process {process.pid})"
        for gpu in machine.gpus
        if gpu.uuid in gpus
        for process in gpu.processes
        if process.pid in pids
    ]
    return ", ".join(found)
