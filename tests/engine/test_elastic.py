"""A run under DLRover: one of its processes is killed, both are started anew and go on from the last checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at, effective_state
from engine.launch.elastic_command import elastic_command
from engine.launch.processes import PROJECT
from engine.train.main import train
from tests.engine.test_launch import wait_for
from tests.tiny_run import new_attempt, train_losses

STEPS = 30
DLROVER = Path(sys.prefix) / "dlrover"
"""Where `make slow-tests` puts DLRover: beside the environment, which it would change."""


@pytest.fixture
def two(recipe, tmp_path):
    changes = ["lora.lora_dropout=0", f"optim.max_steps={STEPS}", "record.save_steps=5", "launch.num_processes=2"]
    changes += ["optim.gradient_accumulation_steps=1", "launch.max_restarts=2"]
    return create_run_at(tmp_path / "two", override(recipe, changes))


def test_with_a_master_none_is_started(two, monkeypatch):
    assert "--standalone" in elastic_command(two)
    monkeypatch.setenv("DLROVER_MASTER_ADDR", "10.0.0.1:50001")
    argv = elastic_command(two)
    assert "--standalone" not in argv and argv[-4:] == ["-m", "engine.train.main", "--run", str(two.path)]
    assert {"--nnodes=1", "--nproc-per-node=2", "--max-restarts=2"} <= set(argv)


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="DLRover needs telnetlib")
@pytest.mark.skipif(not DLROVER.is_dir(), reason="make slow-tests installs DLRover")
def test_a_killed_process_is_started_anew_and_the_run_is_that_of_one_process(recipe, two, tmp_path):
    plain = override(recipe, ["lora.lora_dropout=0", f"optim.max_steps={STEPS}", "record.save_steps=5"])
    one = create_run_at(tmp_path / "one", plain)
    train(one, new_attempt(one))

    command = [sys.executable, "-m", "engine", "elastic", str(two.path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(DLROVER)}
    pod = subprocess.Popen(command, cwd=PROJECT, env=environment)
    wait_for(lambda: two.status().step > 6 or pod.poll() is not None, timeout=90, what="the first steps")
    ranks = [p for p in psutil.Process(pod.pid).children(recursive=True) if "engine.train.main" in p.cmdline()]
    trains = [p for p in ranks if "dlrover_run" not in " ".join(p.cmdline())]
    assert len(trains) == 2, two.log_file.read_text()[-3000:]
    os.kill(trains[1].pid, signal.SIGKILL)
    assert pod.wait(timeout=240) == 0, two.log_file.read_text()[-3000:]
    assert effective_state(two) == "finished"
    assert any(event["kind"] == "resume" for event in two.events()[0])
    mine, theirs = train_losses(two), train_losses(one)
    assert mine.keys() == theirs.keys()
    for step, row in mine.items():  # sums in another order: at this learning rate it grows
        assert row == pytest.approx(theirs[step], rel=2e-5 if step <= 6 else 1e-2), step
    assert not any(process.is_running() for process in trains)
