"""The log of a run, read as it grows.

    read_log(run, -1) -> its last 64 KiB and the offset behind them      read_log(run, offset) -> what came since

Only whole lines are handed out.  A log that has become shorter was rotated: then `reset` is true and it begins anew.
"""

from __future__ import annotations

from typing import Any

from engine.contract.files import visible
from engine.contract.rundir import RunDir

CHUNK_BYTES = 64 * 1024


def read_log(run: RunDir, offset: int) -> dict[str, Any]:
    """Return the lines after an offset, JSON-ready: {lines, offset, reset}.

    Args:
        run: The run.
        offset: Bytes the viewer has; negative = nothing yet.
    """
    try:
        with open(run.log_file, "rb") as file:
            size = file.seek(0, 2)
            reset = not 0 <= offset <= size
            start = max(0, size - CHUNK_BYTES) if reset or size - offset > 4 * CHUNK_BYTES else offset
            reset = reset or start != offset
            file.seek(start)
            data = file.read(4 * CHUNK_BYTES)
    except OSError:
        return {"lines": [], "offset": 0, "reset": True}
    if start and reset:  # begin with a whole line
        first = data.find(b"\n") + 1
        start, data = start + first, data[first:]
    whole = data[: data.rfind(b"\n") + 1]
    text = whole.decode("utf-8", "replace").replace("\r\n", "\n")
    # a progress bar overwrites its line: only the last state is of interest
    lines = [visible(line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n")[:-1]]
    return {"lines": lines, "offset": start + len(whole), "reset": reset}
