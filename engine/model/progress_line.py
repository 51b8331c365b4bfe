"""How far a download or a conversion is, as one line of a terminal that is written over; silent without a terminal.

    with progress_line() as progress:  progress("downloading ...", 0.4)   ->   40% downloading ...

The libraries draw bars of their own, some even into a file: `without_foreign_bars` comes first.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from engine.contract.files import visible
from engine.model.download import Progress


def without_foreign_bars() -> None:
    """Keep tqdm, the hub, transformers and DeepSpeed from writing between our lines; before any of them is imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # saving a model imports DeepSpeed, which then warns where it found no GPU
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


@contextmanager
def progress_line(stream: TextIO | None = None) -> Iterator[Progress]:
    """Give what tells of progress; the line is gone when the block ends.

    Args:
        stream: Where to; None = standard error, so that standard output holds the result alone.
    """
    out = stream or sys.stderr
    if not out.isatty():
        yield lambda *_: None
        return
    width = 0

    def tell(phase: str, fraction: float | None) -> None:
        nonlocal width
        share = "    " if fraction is None else f"{fraction:4.0%}"
        text = f"  {share} {visible(phase)}"[: shutil.get_terminal_size().columns - 1]
        out.write("\r" + text.ljust(width))
        out.flush()
        width = len(text)

    try:
        yield tell
    finally:
        out.write("\r" + " " * width + "\r")
        out.flush()
