"""What a model answered to the same few held-out prompts while it learned; `samples.jsonl` of a run.

    {"step": 40, "task": "sql", "prompt": 0, "question": "...", "gold": "...", "output": "...", "num_tokens": 64, ...}

One line per (step, task, prompt), written by rank 0.  A resumed run does some steps again: as with metrics, the later
line counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.contract.files import read_rows
from engine.contract.rundir import RunDir
from engine.contract.stored import restore

MAX_CHARS = 4000
"""Of each text of a sample; what is longer is cut."""
PAGE_BYTES = 512 * 1024
"""Read at once; several times the longest line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer."""

    step: int
    task: str
    prompt: int
    """Place among the prompts of its task, from 0."""
    question: str
    """What was asked, as people read it."""
    gold: str
    """The wanted answer."""
    output: str
    """The model's greedy answer."""
    num_tokens: int = 0
    """Generated, the last one included."""
    end: str = ""
    """What ended it: end of turn, length limit, stopped."""


def samples_file(run: RunDir) -> Path:
    """Return where the samples of a run are."""
    return run.path / "samples.jsonl"


def read_samples(run: RunDir, offset: int = 0) -> tuple[list[Sample], int, bool]:
    """Read the samples that were appended since a byte offset, a page of them at most.

    Returns:
        The samples, the next offset, and whether there is more to read now. Lines that are no sample are skipped.
    """
    path = samples_file(run)
    rows, end = read_rows(path, offset, max_bytes=PAGE_BYTES)
    size = path.stat().st_size if path.exists() else 0
    found = [sample for sample in (restore(Sample, row) for row in rows) if sample is not None]
    # what is left without a newline is a line that is being written
    return found, end, end != offset and end < size


def clipped(text: str) -> str:
    """Return a text of at most `MAX_CHARS`, as UTF-8 can hold it."""
    cut = text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 1] + "…"
    return cut.encode("utf-8", "replace").decode("utf-8")
