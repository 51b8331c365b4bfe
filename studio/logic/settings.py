"""The Settings page: who may log in, where things lie, what is told to whom, and what this machine can do.

    look -> one value for the page      request -> carry out a button, return a sentence

Secrets never leave: of a webhook only its host is shown, of a token of Hugging Face only where it comes from.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.places import DataRoot, free_bytes
from engine.contract.rundir import effective_state, is_waiting, list_runs
from engine.contract.settings import read_settings, write_settings
from engine.launch.devices import Machine, inventory
from engine.launch.jobs import JobStatus, start_job
from engine.launch.webhook import Message, check_url, masked, send
from studio.access.accounts import Accounts

LIVE = ("preparing", "running", "stopping")
PACKAGES = ("torch", "transformers", "peft", "accelerate", "gradio")
MAX_FILES = 50_000
"""Files that are counted in one folder; a larger one is said to be at least that large."""


def look(root: DataRoot, *, machine: Machine | None = None) -> dict[str, Any]:
    """Return everything the page shows, JSON-ready."""
    settings = read_settings(root)
    machine = machine or inventory()
    return {
        "folders": _folders(root),
        "free": free_bytes(root.path),
        "root": str(root.path),
        "hub": hub_state(),
        "webhook": masked(settings.webhook_url),
        "notify_finished": settings.notify_finished,
        "notify_failed": settings.notify_failed,
        "gpus": [{"index": gpu.index, "name": gpu.name} for gpu in machine.gpus],
        "default_gpus": settings.default_gpus,
        "users": Accounts(root.accounts).names(),
        "versions": [("Python", sys.version.split()[0]), *((name, version(name)) for name in PACKAGES)],
        "doctor": doctor_state(root),
    }


def request(root: DataRoot, asked: Mapping[str, Any]) -> str:
    """Carry out a button of the page and return a sentence about it; empty if the page itself shows what happens.

    Raises:
        UserError: If it cannot be done.
    """
    action, settings = str(asked.get("action", "")), read_settings(root)
    if action == "webhook":
        url = str(asked.get("url", "")).strip()
        host = check_url(url).hostname
        write_settings(root, replace(settings, webhook_url=url))
        return f"Messages go to {host} from now on."
    if action == "forget_webhook":
        write_settings(root, replace(settings, webhook_url=""))
        return "No more messages are sent."
    if action == "test_webhook":
        return _test(settings.webhook_url)
    if action == "notify":
        finished, failed = (asked.get(key) is True for key in ("notify_finished", "notify_failed"))
        write_settings(root, replace(settings, notify_finished=finished, notify_failed=failed))
        return "Saved."
    if action == "gpus":
        write_settings(root, replace(settings, default_gpus=_gpus(asked.get("gpus"))))
        return "Saved. New recipes begin with these GPUs."
    if action == "clean":
        return clean(root, str(asked.get("what", "")))
    if action == "doctor":
        start_job(doctor_file(root), [sys.executable, "-m", "engine", "doctor", "--status", str(doctor_file(root))],
                  root.path / "logs" / "doctor.log")  # fmt: skip
        return ""
    raise UserError("There is no such action.", fix="reload the page.")


def first_gpus(root: DataRoot, num_processes: Any) -> dict[str, str]:
    """Return the form's value of the GPUs that a new recipe begins with; nothing if it needs more than were chosen."""
    chosen = [index for index in read_settings(root).default_gpus.split(",") if index]
    fits = isinstance(num_processes, int) and 0 < num_processes <= len(chosen)
    return {"launch.gpus": ",".join(chosen[:num_processes])} if fits else {}


def clean(root: DataRoot, what: str) -> str:
    """Empty the cache or the trash for good.

    Raises:
        UserError: If something runs that may need it.
    """
    folders = {"cache": [root.cache], "trash": _trash(root)}
    if what not in folders:
        raise UserError("There is no such folder.", fix="reload the page.")
    if what == "cache" and any(effective_state(run) in LIVE or is_waiting(run) for run in list_runs(root.runs)):
        raise UserError("A run is using the cache.", fix="wait until no run is going on or waiting.")
    freed = 0
    for folder in folders[what]:
        freed += _size(folder)[0]
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    root.make()
    return f"{freed / 2**20:.0f} MiB are free again."


def hub_state() -> dict[str, str]:
    """Return whether there is a token of Hugging Face and where from; who it belongs to is known to the hub only."""
    from huggingface_hub import constants, get_token

    if not get_token():
        return {"state": "none", "source": ""}
    name = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), "")
    return {"state": "token", "source": name or str(constants.HF_TOKEN_PATH)}


def doctor_file(root: DataRoot) -> Path:
    """Return where the doctor's job reports."""
    return root.path / "logs" / "doctor.json"


def doctor_state(root: DataRoot) -> dict[str, Any] | None:
    """Return what the doctor said last, None if it was never asked."""
    job = JobStatus.read(doctor_file(root))
    if job is None:
        return None
    findings = job.result.get("findings", [])
    return {
        "state": job.state,
        "phase": job.phase,
        "problem": job.problem,
        "findings": [one for one in findings if isinstance(one, dict)] if isinstance(findings, list) else [],
    }


def _test(url: str) -> str:
    if not url:
        raise UserError("There is no webhook yet.", fix="save one first.")
    text = "This is a test of MFT Studio. Messages about runs will look like this."
    why = send(url, Message(event="test", run="", name="Test", text=text), pauses=())
    if why:
        raise UserError(f"The message was not taken: {why}", fix="look at the address, then save it again.")
    return f"A test message was taken by {masked(url)[:-2]}."


def _gpus(value: Any) -> str:
    chosen = value if isinstance(value, list) else []
    known = {gpu.index for gpu in inventory().gpus}
    return ",".join(str(index) for index in sorted({i for i in chosen if isinstance(i, int) and i in known}))


def _folders(root: DataRoot) -> list[dict[str, Any]]:
    named = [
        ("Runs", [root.runs], ""),
        ("Datasets", [root.datasets], ""),
        ("Models", [root.models], ""),
        ("Cache", [root.cache], "cache"),
        ("Trash", _trash(root), "trash"),
    ]
    found = []
    for name, folders, clean_as in named:
        sizes = [_size(folder) for folder in folders]
        size, whole = sum(size for size, _ in sizes), all(whole for _, whole in sizes)
        found.append({"name": name, "path": str(folders[0]), "bytes": size, "whole": whole, "clean": clean_as})
    return found


def _trash(root: DataRoot) -> list[Path]:
    return [root.path / "trash", root.datasets / ".trash"]


def _size(folder: Path) -> tuple[int, bool]:
    """Return the bytes in a folder, and whether all of it was counted. Links are not followed."""
    size, seen, waiting = 0, 0, [folder]
    while waiting and seen < MAX_FILES:
        try:
            for entry in os.scandir(waiting.pop()):
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                else:
                    size += entry.stat(follow_symlinks=False).st_size
        except OSError:  # gone in between, or not ours
            continue
    return size, not waiting
