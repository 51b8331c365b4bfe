"""What a Slurm job runs, on its first node; and, through srun, once on every node.

    batch   takes over the attempt that waits, or begins the next after a requeue; srun; save and requeue when told
    task 0  the supervisor of the attempt            task k  another machine's part, as in `engine.launch.node_command`

Slurm says by SIGUSR1 that the time is nearly over and by SIGTERM that the job is preempted: the run saves and stops,
the job goes back into the queue and continues from that checkpoint when it runs again.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.files import replace_json
from engine.contract.rundir import Attempt, RunDir, claim_attempt, request
from engine.launch import node_command, slurm
from engine.launch.command import MACHINES
from engine.launch.processes import child_environment
from engine.launch.supervisor import supervise_job

POLL_S = 0.5


def main() -> int:
    """Entry point of the batch process and of the tasks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", action="store_true", help="one node's part")
    arguments = parser.parse_args()
    run = RunDir(arguments.run)
    if not arguments.task:
        return batch(run, os.environ["SLURM_JOB_ID"])
    node = int(os.environ["SLURM_PROCID"])
    if node:
        return node_command.follow(run, node)
    attempt = run.last_attempt()
    assert attempt is not None
    return supervise_job(run, attempt)


def batch(run: RunDir, job: str) -> int:
    """Run the job's attempt to its end; queue again if Slurm wants the nodes back."""
    told: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda which, _: told.append(which))
    attempt = take_over(run, job)
    if attempt is None:
        print(f"Job {job} has nothing to do for run {run.id} any more.", flush=True)
        return 0
    hosts = slurm.hosts()
    where = f"Slurm job {job}: {os.environ['SLURM_JOB_NODELIST']}"
    replace_json(run.attempts / f"{attempt.number:03d}.json", asdict(replace(attempt, waiting="", devices=(where,))))
    command = ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=0", sys.executable, "-m", "engine.launch.slurm_job"]
    step = subprocess.Popen(
        [*command, str(run.path), "--task"],
        env={**child_environment(), MACHINES: ",".join(hosts)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # signals to the job are for this process: the ranks are asked, not killed
    )
    asked = False
    while step.poll() is None:
        if told and not asked:
            print("Slurm wants the nodes back: the run saves and stops.", flush=True)
            request(run, "stop")
            asked = True
        time.sleep(POLL_S)
    ended = run.last_attempt()
    if asked and ended is not None and ended.end == "stopped":
        return go_on_later(run, ended, job)
    return step.returncode


def take_over(run: RunDir, job: str) -> Attempt | None:
    """Return the attempt that this job is to do; None if the run has gone on without it."""
    attempt = run.last_attempt()
    if attempt is None or attempt.job not in (job, "?"):
        return None
    if attempt.waiting and not attempt.ended_at:
        return replace(attempt, job=job)
    if attempt.end == "finished" or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    if not attempt.ended_at:  # preempted without time to write its end
        ended = replace(attempt, ended_at=time.time(), end="failed", problem="Slurm took the nodes back.")
        replace_json(run.attempts / f"{attempt.number:03d}.json", asdict(ended))
    return claim_next(run, attempt, job)


def claim_next(run: RunDir, attempt: Attempt, job: str) -> Attempt | None:
    """Claim the attempt after one; None if somebody was quicker."""
    resume = "latest" if run.checkpoint_dirs() else ""
    words = f"Slurm job {job} waits to go on."
    following = Attempt(number=attempt.number + 1, started_at=time.time(), resume_from=resume, waiting=words, job=job)
    try:
        claim_attempt(run, following)
    except UserError:
        return None
    return following


def go_on_later(run: RunDir, ended: Attempt, job: str) -> int:
    """Put the job back into the queue, with an attempt that waits for it."""
    if claim_next(run, ended, job) is None:
        return 0
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    slurm.requeue(job)
    time.sleep(60)  # Slurm ends this process when it puts the job back
    return 0


if __name__ == "__main__":
    sys.exit(main())
