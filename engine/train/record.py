"""What rank 0 writes down while a run lives: status.json, {metrics,events,samples}.jsonl, errors/rank-N.json.

Every file has this process as its one writer.  On other ranks the same calls do nothing, so that the code that trains
need not ask who it is.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from engine.contract.errors import Problem
from engine.contract.files import append_json, finite, replace_json, truncate_torn_tail
from engine.contract.redact import redact
from engine.contract.rundir import ProcessId, RunDir, Status
from engine.contract.samples import Sample, samples_file
from engine.train.sinks import Sinks

logger = logging.getLogger(__name__)
MAX_UNWRITTEN = 100_000
"""Rows and events that are kept while the disk is full."""
STATUS_INTERVAL_S = 0.5
"""status.json is synced to disk at most this often while only the step changes."""


class RunRecord:
    """The pen of one attempt.

    Args:
        run: The run directory.
        attempt: Number of the attempt.
        rank: Global rank of this process; only rank 0 writes.
    """

    def __init__(self, run: RunDir, *, attempt: int, rank: int) -> None:
        self.run, self.rank = run, rank
        self.status = Status(attempt=attempt, state="preparing", phase="starting")
        self.sinks = Sinks()
        """Where rows go besides; set once the recipe is known."""
        self._written_at = 0.0
        self._unwritten: deque[tuple[Path, dict[str, Any]]] = deque(maxlen=MAX_UNWRITTEN)
        if rank == 0:
            for stream in (run.metrics_file, run.events_file, samples_file(run)):
                truncate_torn_tail(stream)

    def update(self, *, force: bool = True, **changes: Any) -> None:
        """Change fields of status.json.

        Args:
            force: False may leave the write to a later call, if one happened less than `STATUS_INTERVAL_S` ago.
            changes: Fields of `Status`.
        """
        self.status = replace(self.status, updated_at=time.time(), **changes)
        if self.rank != 0 or (not force and time.monotonic() - self._written_at < STATUS_INTERVAL_S):
            return
        self._written_at = time.monotonic()
        try:
            replace_json(self.run.status_file, asdict(self.status))
        except OSError:  # a full disk: the next change is another try
            logger.warning("status.json cannot be written", exc_info=True)

    def phase(self, text: str, *, stage: str, share: float | None = None) -> None:
        """Say what the run is doing before its first step.

        Args:
            text: In words.
            stage: One of `STAGES`.
            share: How much of the stage is done, 0 to 1, where it is known.
        """
        same = (stage, text) == (self.status.stage, self.status.phase)
        self.update(force=not same, state="preparing", phase=text, stage=stage, share=share)

    def metrics(self, row: dict[str, Any]) -> None:
        """Append one row of metrics; a non-finite number becomes null *and* an event."""
        if self.rank != 0:
            return
        lost = [key for key, value in row.items() if isinstance(value, float) and finite(value) is None]
        self._append(self.run.metrics_file, {"step": row["step"], "time": time.time(), **row})
        self.sinks.row(row)
        if lost:
            text = f"Not a number at step {row['step']}: {', '.join(lost)}."
            self.event("problem", text, step=row["step"], not_a_number=lost)

    def sample(self, sample: Sample) -> None:
        """Append one answer of the model to a held-out prompt."""
        if self.rank == 0:
            self._append(samples_file(self.run), {"time": time.time(), **asdict(sample)})

    def event(self, kind: str, text: str, *, step: int | None = None, **data: Any) -> None:
        """Append one event: a decision, a milestone or a warning, with its reason in words."""
        if self.rank == 0:
            at = self.status.step if step is None else step
            value = {"time": time.time(), "step": at, "kind": kind, "text": redact(text), "data": data}
            self._append(self.run.events_file, value)

    def _append(self, stream: Path, value: dict[str, Any]) -> None:
        """Append to a stream; what a full disk refuses is kept and written when there is room again."""
        self._unwritten.append((stream, value))
        try:
            while self._unwritten:
                append_json(*self._unwritten[0])
                self._unwritten.popleft()
        except OSError:
            if not self.run.path.is_dir():
                raise
            logger.warning("%d rows wait for room on the disk", len(self._unwritten), exc_info=True)

    def error(self, problem: Problem, exception: BaseException) -> None:
        """Write this rank's last words; every rank has a file of its own."""
        told = redact("".join(traceback.format_exception(exception)))
        problem = replace(problem, problem=redact(problem.problem), fix=redact(problem.fix))
        value = {"type": type(exception).__name__, **problem.as_json(), "traceback": told, "time": time.time()}
        replace_json(self.run.errors / f"rank-{self.rank}.json", value)
        self.event("problem", problem.problem)
        self.update(state="failed", phase="failed", error=problem.as_json())


def own_process() -> dict[str, Any]:
    """Return this process's `ProcessId` as JSON."""
    return asdict(ProcessId.of(os.getpid()))
