"""`python -m engine elastic RUN`: train a run under DLRover, MFTCoder's second launcher; once in every pod of the job.

    pod 0   claims the attempt -> supervisor -> dlrover-run -> ranks          pod k   dlrover-run -> ranks

For ElasticJobs of Kubernetes: DLRover's master replaces lost pods and starts the ranks anew, which go on from the last
checkpoint.  The number of ranks stays that of the recipe: with another one the steps would be others.  Without a master
(`DLROVER_MASTER_ADDR`) it starts one of its own and trains on this machine.  On plain machines `launch.max_restarts`
does the same without DLRover.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.rundir import Attempt, RunDir, claim_attempt
from engine.launch.command import resolve_device
from engine.launch.processes import PROJECT, child_environment
from engine.launch.supervisor import supervise_job

RANK_OF_POD = ("NODE_RANK", "WORKER_RANK")
"""Environment variables in which DLRover says which pod this is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", type=Path, help="run directory, on a volume that the pods share")


def run(arguments: argparse.Namespace) -> int:
    """Train as one pod of an elastic job; 0 if the run finished or was stopped.

    Raises:
        UserError: If DLRover is not installed, or the run goes on already.
    """
    trained = RunDir(arguments.run.resolve())
    recipe = trained.recipe()
    if importlib.util.find_spec("dlrover") is None:
        raise UserError("DLRover is not installed here.", fix="pip install -r requirements-dlrover.txt")
    resolve_device(recipe)
    command = elastic_command(trained)
    if next((os.environ[name] for name in RANK_OF_POD if name in os.environ), "0") != "0":
        return subprocess.run(command, cwd=PROJECT, env=child_environment(), check=False).returncode
    previous = trained.last_attempt()
    resume_from = "latest" if trained.checkpoint_dirs() else ""
    number = previous.number + 1 if previous else 1
    attempt = Attempt(number=number, started_at=time.time(), resume_from=resume_from, command=tuple(command))
    claim_attempt(trained, attempt)
    print(f"Run {trained.id}, attempt {number}: its log is {trained.log_file}", flush=True)
    return supervise_job(trained, attempt)


def elastic_command(trained: RunDir) -> list[str]:
    """Return the argv of dlrover-run for one pod of a run."""
    launch = trained.recipe().launch
    argv = [sys.executable, "-m", "engine.launch.dlrover_run"]
    argv += [] if os.environ.get("DLROVER_MASTER_ADDR") else ["--standalone"]
    argv += [f"--nnodes={launch.machine_count}", f"--nproc-per-node={launch.processes_here}"]
    argv += [f"--max-restarts={launch.max_restarts}", "--monitor-interval=1"]
    argv += ["-m", "engine.train.main", "--run", str(trained.path)]
    return [*argv, "--resume-from", "latest"] if trained.checkpoint_dirs() else argv
