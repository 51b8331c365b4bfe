"""One lock per device, held by whoever computes on it; the kernel frees it when its holders are gone.

GPUs are locked for the whole machine, in the temporary folder, so that two studios, two users and a terminal never
collide; the CPU is locked within one data root.  The file says who holds it; the lock itself is `flock`.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.launch.devices import Machine

CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Something that one run at a time computes on."""

    key: str
    """UUID of a GPU, or `cpu`: what it is locked by."""
    label: str
    """What people call it: `GPU 0`."""
    lock_file: Path


def devices_of(machine: Machine, root: DataRoot) -> tuple[Device, ...]:
    """Return the machine's visible GPUs in their order, and the CPU last."""
    shared = Path(tempfile.gettempdir()) / "mft-studio-devices"
    found = [
        Device(key=gpu.uuid, label=f"GPU {gpu.index}", lock_file=shared / f"{gpu.uuid}.lock") for gpu in machine.gpus
    ]
    return (*found, Device(key=CPU, label="the CPU", lock_file=root.path / "locks" / "cpu.lock"))


def acquire(device: Device, holder: str) -> int | None:
    """Lock a device and return the open file that holds the lock, None if somebody else has it.

    Args:
        device: The device.
        holder: Who holds it, for people to read.

    Raises:
        UserError: If the lock's file cannot be made.
    """
    descriptor = _open(device)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"holder": holder[:200], "pid": os.getpid()}).encode(), 0)
    return descriptor


def holder_of(device: Device) -> str | None:
    """Return who holds a device, None if nobody does."""
    descriptor = _open(device)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        try:
            told = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
            return str(told.get("holder") or "another program")[:200]
        except (ValueError, AttributeError):
            return "another program"
    finally:
        os.close(descriptor)


def _open(device: Device) -> int:
    folder = device.lock_file.parent
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            if device.key != CPU:
                folder.chmod(0o1777)  # everybody on the machine locks here, and removes only their own
        descriptor = os.open(device.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        fix = "remove that file, or ask its owner to."
        raise UserError(f"The lock {device.lock_file} cannot be opened: {error.strerror}.", fix=fix) from None
    if device.key != CPU and os.fstat(descriptor).st_uid == os.getuid():
        os.fchmod(descriptor, 0o666)  # the creation mask of one user must not shut out the others
    return descriptor
