"""The run directory: the one thing that studio, command line and training have in common.

    runs/<id>/recipe.yaml      the frozen recipe                              studio or CLI, once
              attempts/NNN.json  who runs it: supervisor pid, command, end    supervisor (O_EXCL = the claim)
              notes.json         tags and a note                                studio
              control.json       what people ask for: stop, save              studio or CLI
              status.json        where the run is                             rank 0
              metrics.jsonl events.jsonl samples.jsonl errors/ logs/ data/report.json checkpoints/step-NNNNNN/
              merged/<name>/ exports/<name>/ adapters/<name>/                 their commands, by rename
              eval/*.json        what was measured of its models              `engine evaluate`

Every file has one writer.  Small files are replaced, streams are appended, nobody locks.  This module owns the paths
and the meaning of "alive"; it never interprets metrics.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from engine.contract.cost import Cost
from engine.contract.errors import FailureKind, UserError
from engine.contract.files import child, read_json, read_rows, replace_json, slug
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe, parse_recipe
from engine.contract.stored import restore

State = Literal["queued", "preparing", "running", "stopping", "finished", "stopped", "failed", "lost"]
STAGES = ("libraries", "model", "data", "load", "base")
"""What a run does before its first step: load the libraries, fetch the model, encode the data, load, evaluate."""
TERMINAL: frozenset[State] = frozenset({"finished", "stopped", "failed", "lost"})
CHECKPOINT_NAME = re.compile(r"step-(\d{6,})")
CLOCK_SLACK_S = 2.0
"""Two readings of a process's start time may differ by a clock tick; a recycled pid differs by far more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process that cannot be confused with a later one of the same pid."""

    pid: int
    started_at: float
    """Start time as the kernel tells it, s since 1970."""
    boot_id: str
    """Identity of this boot of the machine."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Describe a living process.

        Raises:
            psutil.NoSuchProcess: If there is none.
        """
        return cls(pid=pid, started_at=psutil.Process(pid).create_time(), boot_id=boot_id())

    @classmethod
    def read(cls, value: Any) -> ProcessId | None:
        """Rebuild one from JSON; None if the value is not one."""
        try:
            pid, start, boot = int(value["pid"]), float(value["started_at"]), str(value["boot_id"])
        except (TypeError, KeyError, ValueError):
            return None
        return cls(pid=pid, started_at=start, boot_id=boot)

    def alive(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        if self.boot_id != boot_id():
            return False
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < CLOCK_SLACK_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def boot_id() -> str:
    """Return an id that changes with every boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"boot-{int(psutil.boot_time())}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What rank 0 says about the run; `status.json`."""

    attempt: int = 0
    state: State = "queued"
    phase: str = ""
    """What it is doing, in words a person reads: "loading the model", "training", "evaluating"."""
    stage: str = ""
    """Which of `STAGES` it is in while it prepares; empty if unknown."""
    share: float | None = None
    """How much of that stage is done, 0 to 1; None if it cannot tell."""
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    started_at: float = 0.0
    """When the first training step of this attempt began, s since 1970; 0 = not yet."""
    started_step: int = 0
    """Step at which this attempt began: above 0 after a resume."""
    updated_at: float = 0.0
    ranks: tuple[dict[str, Any], ...] = ()
    """`ProcessId` of every rank as JSON."""
    handled_control: int = 0
    """Id of the last request of `control.json` that was carried out."""
    error: dict[str, str] | None = None
    """`Problem` as JSON if the run failed."""
    cost: Cost | None = None
    """What it was estimated at and what it takes; None until it trains."""

    @classmethod
    def read(cls, value: Any) -> Status | None:
        """Rebuild from JSON; None if it is no status."""
        return restore(cls, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at running a run; `attempts/NNN.json`."""

    number: int
    supervisor: dict[str, Any] = field(default_factory=dict)
    """`ProcessId` of the supervisor as JSON."""
    command: tuple[str, ...] = ()
    host: str = ""
    started_at: float = 0.0
    resume_from: str = ""
    """Name of the checkpoint it continues; empty = from the start."""
    waiting: str = ""
    """Why it waits for devices, in words; empty once it has them."""
    devices: tuple[str, ...] = ()
    """What it computes on, as people call it: `GPU 0`."""
    ended_at: float = 0.0
    """0 while it runs."""
    end: str = ""
    """How it ended: finished, stopped, failed; empty while it runs."""
    problem: str = ""
    """Why it failed, one sentence."""
    fix: str = ""
    kind: FailureKind = ""
    """What sort of failure it was."""
    job: str = ""
    """Job of a scheduler that runs it; empty = a supervisor of this machine."""
    released: str = ""
    """Whether the memory of its GPUs came back, in words; empty on the CPU."""

    @classmethod
    def read(cls, value: Any) -> Attempt | None:
        """Rebuild from JSON; None if it is no attempt."""
        return restore(cls, value)


@dataclass(frozen=True)
class RunDir:
    """Paths of one run. Cheap to make; nothing is read until asked."""

    path: Path
    _cache: dict[str, Recipe] = field(default_factory=dict, repr=False, compare=False)

    @property
    def id(self) -> str:
        """Name of the directory: the run's id."""
        return self.path.name

    @property
    def recipe_file(self) -> Path:
        """The frozen recipe."""
        return self.path / "recipe.yaml"

    @property
    def status_file(self) -> Path:
        """Where the run is; written by rank 0."""
        return self.path / "status.json"

    @property
    def control_file(self) -> Path:
        """What people ask for."""
        return self.path / "control.json"

    @property
    def metrics_file(self) -> Path:
        """One row per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def events_file(self) -> Path:
        """Decisions and milestones."""
        return self.path / "events.jsonl"

    @property
    def notes_file(self) -> Path:
        """Tags and a note of people; written by the studio only."""
        return self.path / "notes.json"

    @property
    def report_file(self) -> Path:
        """What became of every task's rows."""
        return self.path / "data" / "report.json"

    @property
    def strategy_file(self) -> Path:
        """How its processes share the model; written once, by the first supervisor."""
        return self.path / "strategy.json"

    @property
    def log_file(self) -> Path:
        """Raw output of all ranks."""
        return self.path / "logs" / "train.log"

    @property
    def attempts(self) -> Path:
        """Folder of the attempts."""
        return self.path / "attempts"

    @property
    def errors(self) -> Path:
        """Folder of the ranks' last words."""
        return self.path / "errors"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def merged(self) -> Path:
        """Folder of the merged models."""
        return self.path / "merged"

    @property
    def evaluations(self) -> Path:
        """Folder of what was measured of its models."""
        return self.path / "eval"

    @property
    def exports(self) -> Path:
        """Folder of what was made of merged models for other programs."""
        return self.path / "exports"

    @property
    def adapters(self) -> Path:
        """Folder of the adapters that were exported or combined."""
        return self.path / "adapters"

    def recipe(self) -> Recipe:
        """Return the frozen recipe.

        Raises:
            UserError: If it is missing or unreadable.
        """
        if "recipe" not in self._cache:
            try:
                text = self.recipe_file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise UserError(f"Run {self.id} has no readable recipe.yaml.", fix="delete the run.") from None
            self._cache["recipe"] = parse_recipe(text, source=f"recipe.yaml of run {self.id}")
        return self._cache["recipe"]

    def status(self) -> Status:
        """Return what rank 0 said last; a fresh `Status` if it said nothing yet."""
        return Status.read(read_json(self.status_file)) or Status()

    def last_attempt(self) -> Attempt | None:
        """Return the newest attempt, or None if the run was never started."""
        files = sorted(self.attempts.glob("[0-9]*.json"), key=lambda path: int(path.stem))
        return Attempt.read(read_json(files[-1])) if files else None

    def checkpoint_dirs(self) -> list[Path]:
        """Return the complete checkpoints, oldest first. A directory under its final name is complete."""
        found = [path for path in self.checkpoints.glob("step-*") if CHECKPOINT_NAME.fullmatch(path.name)]
        return sorted((p for p in found if (p / "manifest.json").is_file()), key=lambda p: int(p.name[5:]))

    def metrics(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return the metric rows appended since `offset` and the next offset."""
        return read_rows(self.metrics_file, offset)

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return the event rows appended since `offset` and the next offset."""
        return read_rows(self.events_file, offset)


def create_run(runs_root: Path, recipe: Recipe) -> RunDir:
    """Make a new run directory with its frozen recipe under `runs_root` and return it."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{slug(recipe.display_name, fallback='run')[:40].strip('-._')}-{secrets.token_hex(2)}"
    return create_run_at(runs_root / name, recipe)


def create_run_at(path: Path, recipe: Recipe) -> RunDir:
    """Make a run directory at an exact path.

    Raises:
        UserError: If a run is already there, or the disk refuses.
    """
    run = RunDir(path)
    try:
        for folder in (run.attempts, run.errors, run.checkpoints, run.path / "logs", run.path / "data", run.merged):
            folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run.recipe_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        fix = "choose another folder, or continue that run with --resume."
        raise UserError(f"There is a run in {path} already.", fix=fix) from None
    except OSError as error:
        fix = "free some space or choose another folder."
        raise UserError(f"The run folder {path} cannot be made: {error.strerror}.", fix=fix) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(dump_recipe(recipe))
    return run


def open_run(runs_root: Path, run_id: str) -> RunDir:
    """Return an existing run by id.

    Raises:
        UserError: If the id is no plain name or there is no such run.
    """
    run = RunDir(child(runs_root, run_id))
    if not run.recipe_file.is_file():
        raise UserError(f"There is no run `{run_id}`.", fix="choose one from the list of runs.")
    return run


def list_runs(runs_root: Path) -> list[RunDir]:
    """Return all runs, newest first."""
    found = [path.parent for path in runs_root.glob("*/recipe.yaml") if not path.parent.name.startswith(".")]
    return [RunDir(path) for path in sorted(found, key=lambda path: path.name, reverse=True)]


def claim_attempt(run: RunDir, attempt: Attempt) -> Path:
    """Create the attempt's file; whoever creates it owns the attempt.

    Raises:
        UserError: If somebody else claimed this number first.
    """
    path = run.attempts / f"{attempt.number:03d}.json"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        raise UserError(f"Run {run.id} has just been started by somebody else.", fix="open its page.") from None
    replace_json(path, asdict(attempt))
    return path


def request(run: RunDir, what: Literal["stop", "save", "cancel", "first"]) -> None:
    """Ask the running attempt for something; asking twice is asking once more, with a new id."""
    attempt = run.last_attempt()
    previous = read_json(run.control_file) or {}
    number = attempt.number if attempt else 0
    replace_json(run.control_file, {"attempt": number, "request": what, "id": int(previous.get("id", 0)) + 1})


def effective_state(run: RunDir) -> State:
    """Return the state of a run as it is, not as somebody last wrote it.

    `lost` is never written by anybody: it is what a run is whose processes are gone without a last word.
    """
    attempt = run.last_attempt()
    if attempt is None:
        return "queued"
    if attempt.waiting and not attempt.ended_at:
        if attempt.job:
            return "queued"
        supervisor = ProcessId.read(attempt.supervisor)
        return "queued" if supervisor and supervisor.alive() else "lost"
    status = run.status()
    said: State = status.state if status.attempt == attempt.number else "preparing"
    if attempt.ended_at:
        return said if said in TERMINAL and said == attempt.end else _end_state(attempt.end)
    if said in TERMINAL:
        return said
    people = [attempt.supervisor, *(status.ranks if status.attempt == attempt.number else ())]
    # whether a job lives is known to its scheduler, which ends the attempt if it does not
    if attempt.job or any(process.alive() for process in map(ProcessId.read, people) if process):
        control = read_json(run.control_file) or {}
        asked = control.get("attempt") == attempt.number and control.get("request") in ("stop", "cancel")
        return "stopping" if asked else said
    return "lost"


def is_waiting(run: RunDir) -> bool:
    """Whether the run was started and waits for its devices."""
    return run.last_attempt() is not None and effective_state(run) == "queued"


def _end_state(end: str) -> State:
    return next((state for state in TERMINAL if state == end), "failed")
