"""One-shot commands that outlive the page that asked for them: merge, fetch.

    start_job -> status file "starting" -> the command itself replaces it with progress -> done | failed

The command is the only writer once it runs; a page reads the file on a timer.  A job whose process is gone without a
last word is `lost`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from engine.contract.errors import UserError
from engine.contract.files import read_json, replace_json
from engine.contract.rundir import ProcessId
from engine.contract.stored import restore
from engine.launch.processes import start_detached

JobState = Literal["running", "done", "failed", "lost"]
START_GRACE_S = 60.0
"""A job that has not written its process id after this long never started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What a job says about itself."""

    state: JobState = "running"
    phase: str = "starting"
    """What it is doing, in words."""
    fraction: float | None = None
    """Progress from 0 to 1; None while it cannot be told."""
    problem: str = ""
    fix: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] | None = None
    """`ProcessId` as JSON; None until the job itself wrote."""
    updated_at: float = 0.0

    @classmethod
    def read(cls, path: Path) -> JobStatus | None:
        """Return the job's status as it is, or None if there is no job."""
        status = restore(cls, read_json(path))
        if status is None:
            return None
        if status.state != "running":
            return status
        process = ProcessId.read(status.process)
        gone = not process.alive() if process else time.time() - status.updated_at > START_GRACE_S
        if not gone:
            return status
        problem = "The process ended without a word; it was killed or ran out of memory."
        return replace(status, state="lost", problem=problem, fix="read the log, then start it again.")


def write_job(path: Path | None, **changes: Any) -> None:
    """Replace this process's own job status; does nothing when there is no status file (terminal use)."""
    if path is None:
        return
    status = JobStatus(process=asdict(ProcessId.of(os.getpid())), updated_at=time.time(), **changes)
    replace_json(path, asdict(status))


@dataclass(slots=True)
class Job:
    """A command that tells what it does: in lines of the terminal, or the page's log, and in its status file."""

    status_file: Path | None
    result: dict[str, Any] = field(default_factory=dict)
    """What it made; told when it is done."""

    def progress(self, phase: str, fraction: float | None) -> None:
        """Tell what is being done."""
        print(f"  {phase}", flush=True)
        write_job(self.status_file, phase=phase, fraction=fraction)


@contextmanager
def reporting(status_file: Path | None) -> Iterator[Job]:
    """Give a job, and tell how it ended: done, or what the user can mend."""
    job = Job(status_file)
    try:
        yield job
    except UserError as error:
        problem, fix = (error.problem, error.fix) if len(error.problems) == 1 else (str(error), "")
        write_job(status_file, state="failed", phase="failed", problem=problem, fix=fix)
        raise
    write_job(status_file, state="done", phase="done", fraction=1.0, result=job.result)


def start_job(status_file: Path, argv: Sequence[str], log_file: Path) -> None:
    """Start a detached command that reports into `status_file`.

    Raises:
        UserError: If that job is running already.
    """
    current = JobStatus.read(status_file)
    if current is not None and current.state == "running":
        raise UserError("This is running already.", fix="wait until it is done.")
    status_file.parent.mkdir(parents=True, exist_ok=True)
    replace_json(status_file, asdict(JobStatus(updated_at=time.time())))
    start_detached(argv, log_file)
