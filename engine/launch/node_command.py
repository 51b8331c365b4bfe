"""`python -m engine node RUN --machine 1`: the part of a run on several machines that another machine does.

    first machine   supervisor -> attempts/NNN.json ----------- disk that all share ---------> end of the attempt
    machine k       this command: waits for the attempt, starts accelerate with its rank, ends with the attempt

Started by hand, by ssh (`launch.start_machines`), or by a scheduler.  It writes nothing into the run but its own log.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.rundir import TERMINAL, Attempt, ProcessId, RunDir, effective_state
from engine.launch.command import machines_of, train_command, write_accelerate_config
from engine.launch.processes import adopt_orphans, descendants, end_processes, start_detached

POLL_S = 0.5
NEXT_ATTEMPT_S = 10.0
"""How long after a failure the first machine may take to try again."""
END_GRACE_S = 20.0
"""How long the ranks here may go on after the attempt has ended, before they are ended."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", type=Path, help="run directory, on the disk that the machines share")
    parser.add_argument("--machine", type=int, required=True, help="which machine of launch.machines this is, from 1")


def run(arguments: argparse.Namespace) -> int:
    """Follow the run until it ends; 0 if it finished or was stopped."""
    return follow(RunDir(arguments.run.resolve()), arguments.machine)


def follow(followed: RunDir, machine: int) -> int:
    """Take part in the attempts of a run as one of its machines until it ends.

    Raises:
        UserError: If the run has no such machine.
    """
    machines = machines_of(followed.recipe())
    if not 1 <= machine < len(machines):
        known = f"it has {len(machines)}, counted from 0" if machines else "it runs on one machine"
        problem = f"Run {followed.id} has no machine {machine}: {known}."
        raise UserError(problem, fix="name another one with --machine; 0 is the one that starts the run.")
    asked_to_end: list[bool] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_end.append(True))
    adopt_orphans()
    done = 0
    print(f"Machine {machine} of {len(machines)} waits for run {followed.id}.", flush=True)
    while not asked_to_end:
        attempt = followed.last_attempt()
        if attempt and attempt.number > done and attempt.devices and not attempt.ended_at:
            print(f"Attempt {attempt.number}: training.", flush=True)
            _take_part(followed, attempt, machine, asked_to_end)
            done = attempt.number
        elif done and _is_over(followed, done):
            break
        time.sleep(POLL_S)
    state = effective_state(followed)
    print(f"Run {followed.id}: {state}.", flush=True)
    return 0 if state in ("finished", "stopped") else 1


def _is_over(run: RunDir, done: int) -> bool:
    """Whether no further attempt is to be expected."""
    attempt, state = run.last_attempt(), effective_state(run)
    if attempt is None or attempt.number != done or state not in TERMINAL:
        return False
    return state in ("finished", "stopped") or time.time() - max(attempt.ended_at, attempt.started_at) > NEXT_ATTEMPT_S


def _take_part(run: RunDir, attempt: Attempt, machine: int, asked_to_end: list[bool]) -> None:
    """Train as one of the machines of an attempt until it ends; leave no process behind."""
    recipe = run.recipe()
    write_accelerate_config(run, recipe, machine=machine)
    command = train_command(recipe, run, resume_from=attempt.resume_from, machine=machine)
    launcher = start_detached(command, run.path / "logs" / f"machine-{machine}.log")
    seen: dict[int, ProcessId] = {launcher.pid: ProcessId.of(launcher.pid)}
    ended_at = 0.0
    while launcher.poll() is None:
        seen |= {process.pid: process for process in descendants(launcher.pid)}
        if asked_to_end or ended_at and time.monotonic() - ended_at > END_GRACE_S:
            break
        if not ended_at and _has_ended(run, attempt.number):
            ended_at = time.monotonic()
        time.sleep(POLL_S)
    end_processes(list(seen.values()), grace_s=5.0)
    try:
        launcher.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.kill(launcher.pid, signal.SIGKILL)
    while not asked_to_end and not _has_ended(run, attempt.number):  # the first machine has the last word
        time.sleep(POLL_S)


def _has_ended(run: RunDir, number: int) -> bool:
    attempt = run.last_attempt()
    return attempt is None or attempt.number > number or bool(attempt.ended_at) or effective_state(run) in TERMINAL
