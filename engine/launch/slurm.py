"""Slurm as the scheduler: submit a run, follow its job, cancel it.

    start_run -> attempt NNN (job, waiting) + sbatch        studio or CLI, on a login node
    job        -> engine.launch.slurm_job                   takes the attempt over, trains, queues again if preempted
    look(run)  -> squeue, at most every few seconds         why it waits; the end of a job that died without a word

The run directory lies on the cluster's shared disk, so everything else works as on one machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

from engine.contract.errors import Problem, UserError
from engine.contract.files import read_json, replace_json, slug
from engine.contract.places import data_root
from engine.contract.recipe import Recipe
from engine.contract.rundir import Attempt, RunDir, claim_attempt
from engine.launch.aftermath import classify
from engine.launch.command import display_command
from engine.launch.processes import PROJECT, child_environment

ASK_EVERY_S = 3.0
TIMEOUT_S = 20.0
NEWBORN_S = 15.0
"""How long a job may be unknown to the queue after it was submitted."""
NOTICE_S = 120
"""How long before its time is over a job is told, to save and to queue again."""
WAITS = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNS = ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")

_lock = threading.Lock()
_asked: dict[str, tuple[float, tuple[str, str] | None]] = {}


def submit_command(run: RunDir, recipe: Recipe) -> list[str]:
    """Return the argv that submits a run; what the job runs is `job_script`."""
    launch = recipe.launch
    argv = ["sbatch", "--parsable", f"--job-name=mft-{slug(recipe.display_name, fallback='run')[:40]}"]
    argv += [f"--nodes={launch.machine_count}", "--ntasks-per-node=1", "--requeue", "--open-mode=append"]
    argv += [f"--signal=B:USR1@{NOTICE_S}", "--output=" + str(run.path / "logs" / "slurm.log").replace("%", "%%")]
    argv += [f"--gpus-per-node={launch.processes_here}"] if launch.device != "cpu" else []
    argv += [f"--partition={launch.partition}"] if launch.partition else []
    argv += [f"--account={launch.account}"] if launch.account else []
    argv += [f"--time={launch.time_limit_minutes}"] if launch.time_limit_minutes else []
    return [*argv, str(script_file(run))]


def script_file(run: RunDir) -> Path:
    """Return where the job's script lies."""
    return run.path / "slurm.sh"


def job_script(run: RunDir) -> str:
    """Return the script of the job: one quoted command, in whose place the shell goes, so that signals reach it."""
    home = f"MFT_STUDIO_HOME={data_root().path}"
    command = ["env", "-C", str(PROJECT), home, sys.executable, "-m", "engine.launch.slurm_job", str(run.path)]
    return f"#!/bin/sh\nexec {display_command(command)}\n"


def submit(run: RunDir, *, number: int, resume_from: str = "") -> None:
    """Submit a run and claim its attempt.

    Raises:
        UserError: If there is no Slurm here, or it refuses the job.
    """
    script_file(run).write_text(job_script(run))
    (run.path / "logs").mkdir(exist_ok=True)
    attempt = Attempt(
        number=number, started_at=time.time(), resume_from=resume_from, waiting="Slurm is asked.", job="?"
    )
    path = claim_attempt(run, attempt)
    try:
        job = _ask(submit_command(run, run.recipe())).strip().split(";")[0]
        if not job.isdigit():
            raise UserError(f"sbatch answered {job[:100]!r} instead of a job number.", field="launch.scheduler")
    except UserError as error:
        why = {"problem": error.problem, "fix": error.fix}
        replace_json(path, asdict(replace(attempt, job="", waiting="", ended_at=time.time(), end="failed", **why)))
        raise
    replace_json(path, asdict(replace(attempt, job=job, waiting=f"Slurm job {job} waits.")))


def look(run: RunDir) -> None:
    """Bring the newest attempt up to date with its job, if it has one and Slurm answers."""
    attempt = run.last_attempt()
    if attempt is None or not attempt.job.isdigit() or attempt.ended_at:
        return
    try:
        found = state_of(attempt.job)
    except UserError:
        return
    path = run.attempts / f"{attempt.number:03d}.json"
    if found is None or found[0] not in (*WAITS, *RUNS):
        if time.time() - attempt.started_at > NEWBORN_S:
            _bury(run, attempt, path, found)
    elif attempt.waiting and found[0] in WAITS:
        control = read_json(run.control_file) or {}
        if control.get("attempt") == attempt.number and control.get("request") in ("stop", "cancel"):
            _ask(["scancel", attempt.job])
            replace_json(path, asdict(replace(attempt, waiting="", ended_at=time.time(), end="stopped")))
        elif (words := f"Slurm job {attempt.job} waits: {found[1]}.") != attempt.waiting:
            replace_json(path, asdict(replace(attempt, waiting=words)))


def _bury(run: RunDir, attempt: Attempt, path: Path, found: tuple[str, str] | None) -> None:
    """Write the end of an attempt whose job is over and has not written it."""
    newest = run.last_attempt()
    if newest is None or newest.number != attempt.number or newest.ended_at:
        return
    if attempt.waiting:
        how = f" ({found[0].lower()})" if found else ""
        end, problem = "failed", Problem(problem=f"Slurm ended job {attempt.job} before it ran{how}.", fix="resume it.")
    else:
        end, problem = classify(run, attempt.number, None)
    told = {"problem": problem.problem, "fix": problem.fix}
    replace_json(path, asdict(replace(attempt, waiting="", ended_at=time.time(), end=end, **told)))


def state_of(job: str) -> tuple[str, str] | None:
    """Return a job's state and Slurm's reason for it, None if the queue does not know it (any more).

    Raises:
        UserError: If Slurm does not answer.
    """
    with _lock:
        asked_at, answer = _asked.get(job, (0.0, None))
        if time.monotonic() - asked_at > ASK_EVERY_S or not asked_at:
            try:
                text = _ask(["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r"])
            except UserError as error:
                if "nvalid job id" not in error.problem:
                    raise
                text = ""
            state, _, reason = text.strip().partition("|")
            answer = (state, reason) if state else None
            _asked[job] = (time.monotonic(), answer)
    return answer


def hosts() -> tuple[str, ...]:
    """Return the addresses of the nodes of the job that this process belongs to, in their order."""
    names = _ask(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]).split()
    found = []
    for name in names:
        words = _ask(["scontrol", "show", "node", name]).split()
        found.append(next((word[9:] for word in words if word.startswith("NodeAddr=")), name))
    return tuple(found)


def requeue(job: str) -> None:
    """Put the running job back into the queue.

    Raises:
        UserError: If Slurm refuses.
    """
    _ask(["scontrol", "requeue", job])


def _ask(argv: list[str]) -> str:
    """Run a command of Slurm and return what it printed.

    Raises:
        UserError: With its own words.
    """
    if shutil.which(argv[0]) is None:
        problem = f"Slurm is not on this machine: there is no {argv[0]}."
        raise UserError(
            problem,
            fix="start it on the cluster's login node, or set launch.scheduler to local.",
            field="launch.scheduler",
        )
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=TIMEOUT_S, env=child_environment(), stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"{argv[0]} does not answer: {error}", fix="try again later.", field="launch.scheduler"
        ) from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no reason was given"]
        problem = f"{argv[0]} refused: {said[0][:300]}"
        raise UserError(
            problem, fix="correct the launch settings, or ask who runs the cluster.", field="launch.scheduler"
        )
    return done.stdout
