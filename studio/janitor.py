"""Uploads that nobody took over: deleted from the temporary folder at the start and every hour.

An upload is moved into our store at once; what stays was cut off, refused, or left by a studio that was killed.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

START_AGE_S = 600.0
"""At the start no page of this studio is uploading; another program may just have begun."""
AGE_S = 6 * 3600.0
PAUSE_S = 3600.0


def sweep(folder: Path, *, older_s: float) -> int:
    """Delete what has not been written for so long; return how many entries went."""
    gone, until = 0, time.time() - older_s
    for entry in folder.iterdir() if folder.is_dir() else ():
        try:
            inside = () if entry.is_symlink() else entry.rglob("*")
            newest = max(path.lstat().st_mtime for path in (entry, *inside))
            if newest > until:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            gone += 1
        except OSError:  # in use or gone in between: the next hour
            continue
    return gone


def start(folder: Path) -> None:
    """Sweep now, and go on in the background as long as this process lives."""

    def go_on() -> None:
        sweep(folder, older_s=START_AGE_S)
        while True:
            time.sleep(PAUSE_S)
            sweep(folder, older_s=AGE_S)

    threading.Thread(target=go_on, name="janitor", daemon=True).start()
