"""Checkpoints that are either complete or not there.

    write into .tmp-step-N -> drop pickled leftovers -> fsync files -> manifest with sizes and hashes -> rename -> prune

A directory named `step-NNNNNN` is complete; whoever resumes verifies it and falls back to an older one, saying so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.contract.rundir import RunDir

MANIFEST = "manifest.json"
LEFTOVERS = ("training_args.bin", "*.py")
"""Files that do not belong in a checkpoint: a pickle of what the recipe says better, programs of DeepSpeed."""


def finish_checkpoint(folder: Path, run: RunDir, *, step: int) -> Path:
    """Turn a written folder into a complete checkpoint and return its final path.

    Args:
        folder: Everything is written here already, on the same filesystem as the run.
        run: The run it belongs to.
        step: Optimizer steps finished.

    Raises:
        UserError: If the folder holds no weights.
    """
    for leftover in (path for pattern in LEFTOVERS for path in folder.glob(pattern)):
        leftover.unlink()
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"Saving step {step} wrote no weights.", fix="check the free disk space and the log.")
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": _digest(path, sync=True)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"step": step, "time": time.time(), "files": files}, indent=1))
    _sync(manifest)
    _sync(folder)
    final = run.checkpoints / f"step-{step:06d}"
    if final.exists():  # the same step again, after a resume from an older one
        shutil.rmtree(final)
    os.rename(folder, final)
    _sync(run.checkpoints)
    return final


def verify_checkpoint(folder: Path) -> str:
    """Return what is wrong with a checkpoint, or an empty string if every file is as its manifest says."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not manifest.get("files"):
        return "it has no manifest"
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
        if _digest(path) != entry["sha256"]:
            return f"{name} has changed since it was saved"
    return ""


def choose_checkpoint(run: RunDir, wanted: str, tell: Callable[[str], None]) -> Path:
    """Return the checkpoint to resume from: the wanted one, or the newest older one that is intact.

    Args:
        run: The run.
        wanted: Name of a checkpoint, or "latest".
        tell: Called with a sentence for each one that was passed over.

    Raises:
        UserError: If none is intact: a run never silently starts over.
    """
    candidates = run.checkpoint_dirs()
    if wanted != "latest":
        candidates = [path for path in candidates if path.name <= wanted]
    for path in reversed(candidates):
        trouble = verify_checkpoint(path)
        if not trouble:
            return path
        tell(f"Checkpoint {path.name} is not used: {trouble}.")
    fix = "start a new run from the same recipe."
    raise UserError(f"Run {run.id} has no intact checkpoint to resume from ({wanted}).", fix=fix)


def prune(run: RunDir, *, keep: int, best: int = 0) -> list[str]:
    """Delete the oldest checkpoints but `keep`, at least one, and that of step `best`; return the names deleted."""
    gone = [path for path in run.checkpoint_dirs()[: -max(1, keep)] if int(path.name[5:]) != best]
    for path in gone:
        # out of the way under another name first: a half-deleted folder must not look like a checkpoint
        doomed = path.with_name(f".deleted-{path.name}")
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return [path.name for path in gone]


def sweep(run: RunDir) -> None:
    """Remove what a kill in the middle of saving or deleting left behind."""
    for path in [*run.checkpoints.glob(".tmp-*"), *run.checkpoints.glob(".deleted-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _digest(path: Path, *, sync: bool = False) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        if sync:
            os.fsync(file.fileno())
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
