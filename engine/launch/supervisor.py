"""One small detached process per attempt: start accelerate, watch it, say how it ended.

    start_run (studio or CLI) -> this module, own session -> waits for its devices -> accelerate launch -> ranks
                                   |  claims attempts/NNN.json (O_EXCL), ends it: finished | stopped | failed + cause

The end is read from files (status.json, errors/), not from return codes, which do not tell the truth.  Nothing here
depends on a browser, a page or the studio: kill them all and the run goes on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from engine.contract.errors import Problem, UserError
from engine.contract.files import read_json, replace_json
from engine.contract.places import DataRoot, data_root
from engine.contract.rundir import Attempt, ProcessId, RunDir, claim_attempt, effective_state, is_waiting
from engine.contract.trackers import check_trackers
from engine.launch import slurm
from engine.launch.aftermath import classify, may_try_again, memory_back, was_cancelled
from engine.launch.command import (
    display_command,
    node_command,
    resolve_device,
    settle_strategy,
    train_command,
    write_accelerate_config,
)
from engine.launch.locks import CPU, Device
from engine.launch.notices import NanWatch, tell_end
from engine.launch.processes import adopt_orphans, descendants, end_processes, start_detached
from engine.launch.queue import Ticket, first_order, ticket_for, try_turn, write_ticket

POLL_S = 0.5
TURN_POLL_S = 1.0
CLAIM_TIMEOUT_S = 30.0
MAX_LOG_BYTES = 50 * 2**20
STOP_GRACE_S = 120.0
"""How long ranks may take to save after SIGTERM before they are killed."""


def start_run(run: RunDir, *, resume_from: str = "", order: float | None = None) -> None:
    """Start or resume a run in the background and return once it is claimed; it may have to wait for devices then.

    Args:
        run: An existing run directory.
        resume_from: Name of one of its checkpoints (`step-000200`); empty = from the start.
        order: Its place in the queue; None = the last.

    Raises:
        UserError: If it is running already, or cannot be started here.
    """
    previous = run.last_attempt()
    if effective_state(run) in ("preparing", "running", "stopping") or (previous and is_waiting(run)):
        raise UserError(f"Run {run.id} is running already, or waits for its turn.", fix="open its page.")
    recipe = run.recipe()
    number = previous.number + 1 if previous else 1
    if recipe.launch.scheduler == "slurm":
        slurm.submit(run, number=number, resume_from=resume_from)
        return
    resolve_device(recipe)  # say what is missing before anything starts
    check_trackers(recipe.record.report_to)
    argv = [sys.executable, "-m", "engine.launch.supervisor", str(run.path), "--number", str(number)]
    argv += ["--order", repr(time.time() if order is None else order)]
    process = start_detached([*argv, "--resume-from", resume_from] if resume_from else argv, run.log_file)
    deadline = time.monotonic() + CLAIM_TIMEOUT_S
    while time.monotonic() < deadline:
        attempt = run.last_attempt()
        if attempt is not None and attempt.number == number:
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise UserError(f"Run {run.id} could not be started.", fix=f"read {run.log_file}.")


def supervise(run: RunDir, *, number: int, resume_from: str = "", order: float = 0.0) -> int:
    """Run one attempt to its end; return 0 if it finished or was stopped, 1 if it failed."""
    recipe = run.recipe()
    me = asdict(ProcessId.of(os.getpid()))
    command = train_command(recipe, run, resume_from=resume_from)
    attempt = Attempt(
        number=number,
        supervisor=me,
        command=tuple(command),
        host=socket.gethostname(),
        started_at=time.time(),
        resume_from=resume_from,
        waiting="Looking for free devices.",
    )
    path = claim_attempt(run, attempt)
    for old in run.errors.glob("rank-*.json"):
        old.unlink()
    try:
        root = data_root()
        ticket = ticket_for(recipe, run=run.id, path=run.path, order=order, resume_from=resume_from)
        held = _await_turn(run, ticket, attempt, path, root)
    except UserError as error:
        ended = replace(attempt, waiting="", ended_at=time.time(), end="failed", problem=error.problem, fix=error.fix)
        replace_json(path, asdict(replace(ended, kind=error.problems[0].kind)))
        tell_end(run, "failed", error.problem)
        return 1
    if held is None:
        replace_json(path, asdict(replace(attempt, waiting="", ended_at=time.time(), end="stopped")))
        return 0
    attempt = replace(attempt, devices=tuple(device.label for device in held))
    return _until_it_ends(run, attempt, path, held, retries=recipe.launch.max_restarts)


def supervise_job(run: RunDir, attempt: Attempt) -> int:
    """Run an attempt whose devices a scheduler has given, to its end; return 0 if it finished or was stopped.

    An attempt that brings its command has a launcher that tries again by itself.
    """
    command = attempt.command or train_command(run.recipe(), run, resume_from=attempt.resume_from)
    me = asdict(ProcessId.of(os.getpid()))
    mine = replace(attempt, supervisor=me, command=tuple(command), host=socket.gethostname())
    retries = 0 if attempt.command else run.recipe().launch.max_restarts
    return _until_it_ends(run, mine, run.attempts / f"{attempt.number:03d}.json", {}, retries=retries)


def _until_it_ends(run: RunDir, attempt: Attempt, path: Path, held: dict[Device, int], *, retries: int) -> int:
    """Train on devices that are ours, again if it may; return 0 if it finished or was stopped."""
    recipe = run.recipe()
    settle_strategy(run, recipe)
    write_accelerate_config(run, recipe)
    adopt_orphans()
    attempt = replace(attempt, waiting="", started_at=time.time())
    replace_json(path, asdict(attempt))
    asked_to_end: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        end, problem = _train(run, attempt, path, held, asked_to_end)
        if end != "failed" or asked_to_end or retries == 0 or not may_try_again(run, attempt.number):
            for lock in held.values():  # the next run need not wait for the message
                os.close(lock)
            tell_end(run, end, problem)
            return 1 if end == "failed" else 0
        retries -= 1
        for old in run.errors.glob("rank-*.json"):
            old.unlink()
        command = train_command(recipe, run, resume_from="latest")
        attempt = replace(
            attempt, number=attempt.number + 1, command=tuple(command), started_at=time.time(), resume_from="latest"
        )
        try:
            path = claim_attempt(run, attempt)
        except UserError:  # somebody was quicker and has resumed it by hand
            return 1


def _train(
    run: RunDir, attempt: Attempt, path: Path, held: dict[Device, int], asked_to_end: list[bool]
) -> tuple[str, str]:
    """Do the training of one attempt and write down how it ended; return that and, if it failed, why."""
    gpus = [device.key for device in held if device.key != CPU]
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    # torch's own patience after SIGTERM is 30 s, less than a large checkpoint takes
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": f"{STOP_GRACE_S:.0f}"}
    # the launcher inherits the locks: they are free when both it and this process are gone
    launcher = start_detached(
        list(attempt.command), run.log_file, environment={**visible, **patience}, keep=list(held.values())
    )
    others = _start_machines(run)
    seen = _wait(run, launcher, attempt.number, asked_to_end)
    end_processes(others, grace_s=0.0)
    end, problem = classify(run, attempt.number, launcher.returncode)
    if end == "failed" and asked_to_end:  # it had not come to where it could save
        end, problem = "stopped", Problem(problem="")
    ended = replace(attempt, ended_at=time.time(), end=end, problem=problem.problem, fix=problem.fix)
    ended = replace(ended, kind=problem.kind)
    try:
        replace_json(path, asdict(ended))
        if released := memory_back(gpus, seen):
            replace_json(path, asdict(replace(ended, released=released)))
    except OSError as error:  # the run's folder is gone, or the disk is full: nobody is left to tell
        print(f"The end of {run.id} cannot be written: {error}", file=sys.stderr)
    return end, problem.problem


def _await_turn(run: RunDir, ticket: Ticket, attempt: Attempt, path: Path, root: DataRoot) -> dict[Device, int] | None:
    """Wait until the devices are this run's; return them with their locks, None if it is not to start any more."""
    asked_to_end: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.append(True))
    ticket_file, handled, reason = root.waiting / f"{run.id}.json", 0, ""
    try:
        while True:
            held, why = try_turn(ticket, root)
            if held:
                return held
            control = read_json(run.control_file) or {}
            mine = control.get("attempt") == attempt.number and control.get("id", 0) > handled
            if asked_to_end or (mine and control.get("request") in ("cancel", "stop")):
                return None
            if mine and control.get("request") == "first":
                handled, ticket = control["id"], replace(ticket, order=first_order(root))
                reason = ""
            if why != reason:
                reason, ticket = why, replace(ticket, reason=why)
                write_ticket(ticket, root)
                replace_json(path, asdict(replace(attempt, waiting=why)))
            time.sleep(TURN_POLL_S)
    finally:
        ticket_file.unlink(missing_ok=True)


def _start_machines(run: RunDir) -> list[ProcessId]:
    """Start the other machines of a run over ssh, if it says so; return the ssh processes.

    ssh hands its words to a shell over there: each is quoted, and host names cannot be options.
    """
    launch = run.recipe().launch
    if launch.start_machines != "ssh":
        return []
    started = []
    for machine, host in enumerate(launch.machines[1:], start=1):
        argv = ["ssh", "-o", "BatchMode=yes", host, display_command(node_command(run, machine))]
        started.append(ProcessId.of(start_detached(argv, run.path / "logs" / f"ssh-{machine}.log").pid))
    return started


def _wait(run: RunDir, launcher: subprocess.Popen[bytes], number: int, asked_to_end: list[bool]) -> set[int]:
    """Wait for the launcher; end everything when asked to, or when the run's folder is gone; leave nothing behind.

    Returns:
        The pids of all processes that were part of it.
    """
    seen: dict[int, ProcessId] = {}
    watch = NanWatch(run)
    while launcher.poll() is None:
        for process in descendants(launcher.pid):
            seen[process.pid] = process
        rotate_log(run.log_file)
        watch.look()
        cancelled = was_cancelled(run, number)
        if cancelled or asked_to_end or not run.path.is_dir():
            end_processes([*_ranks(run, number), *seen.values()], grace_s=STOP_GRACE_S if asked_to_end else 5.0)
            end_processes([ProcessId.of(launcher.pid)] if launcher.poll() is None else [], grace_s=5.0)
        time.sleep(POLL_S)
    end_processes([*_ranks(run, number), *seen.values()], grace_s=5.0)
    return set(seen)


def rotate_log(path: Path, limit: int = MAX_LOG_BYTES) -> None:
    """Keep a log that grows without end to its newest part; the one before is kept beside it.

    The launcher goes on writing to the same open file, so that file is emptied, not renamed.
    """
    try:
        if path.stat().st_size > limit:
            shutil.copyfile(path, path.with_suffix(".1.log"))
            os.truncate(path, 0)
    except OSError:  # a full disk must not end the run; the next look tries again
        return


def _ranks(run: RunDir, number: int) -> list[ProcessId]:
    status = run.status()
    known = map(ProcessId.read, status.ranks) if status.attempt == number else ()
    return [process for process in known if process]


def main() -> int:
    """Entry point of the supervisor process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--resume-from", default="")
    parser.add_argument("--order", type=float, default=0.0)
    arguments = parser.parse_args()
    run, resume_from = RunDir(arguments.run), arguments.resume_from
    try:
        return supervise(run, number=arguments.number, resume_from=resume_from, order=arguments.order)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
