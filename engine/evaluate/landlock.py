"""Landlock: a process takes the file system from itself, but for a few folders.  Linux 6.2 or newer, no privileges.

Standard library only: this runs between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
NEEDED = 3
"""The first version of the interface that knows truncation."""
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1, 2, 4, 8, 1 << 14
UP_TO_TRUNCATE, IOCTL_DEV = (1 << 15) - 1, 1 << 15
NO_FOREIGN_SOCKETS_OR_SIGNALS = 3

libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Return the version that the kernel speaks, 0 if it has none."""
    return max(0, int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def restrict(readable: Iterable[str], writable: str) -> None:
    """Leave this process and all it starts nothing but some paths to read and one folder to write.

    Raises:
        OSError: If the kernel cannot.
    """
    spoken = version()
    if spoken < NEEDED:
        raise OSError(f"landlock: version {NEEDED} is needed, this kernel has {spoken}")
    everything = UP_TO_TRUNCATE | (IOCTL_DEV if spoken >= 5 else 0)
    scoped = NO_FOREIGN_SOCKETS_OR_SIGNALS if spoken >= 6 else 0
    attributes = (ctypes.c_uint64 * 3)(everything, 0, scoped)
    size = ctypes.c_size_t(24 if spoken >= 6 else 8)
    ruleset = _check(libc.syscall(CREATE_RULESET, ctypes.byref(attributes), size, 0), "ruleset")
    for path in readable:
        device = path.startswith("/dev/")
        rights = READ_FILE | (WRITE_FILE if device else EXECUTE) | (READ_DIR if os.path.isdir(path) else 0)
        _allow(ruleset, path, rights)
    _allow(ruleset, writable, everything)
    _check(libc.syscall(RESTRICT_SELF, ruleset, 0), "restrict")
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    class Beneath(ctypes.Structure):
        _pack_ = 1
        _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))

    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _check(libc.syscall(ADD_RULE, ruleset, 1, ctypes.byref(Beneath(rights, folder)), 0), path)
    finally:
        os.close(folder)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock, {what}: {os.strerror(number)}")
    return result
