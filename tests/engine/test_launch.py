"""Real launches on a tiny model: two ranks equal one, a run outlives its starter, a killed rank is a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.contract.recipe_io import override
from engine.contract.rundir import ProcessId, RunDir, create_run_at, effective_state
from engine.launch.command import accelerate_config, display_command, resolve_device, train_command
from engine.launch.devices import Machine
from engine.launch.jobs import JobStatus, start_job
from tests.tiny_run import new_attempt, train_losses

PROJECT = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], bool], *, timeout: float, what: str) -> None:
    """Wait until a condition holds; four times `timeout`, s, which only ends what hangs, for a busy machine."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 4 * timeout, f"timed out waiting for {what}"
        time.sleep(0.05)


def living_processes(run: RunDir) -> list[int]:
    """Return the pids of all processes that have this run's path in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(run.path).encode() in words:
            found.append(int(entry.parent.name))
    return found


def test_two_ranks_equal_one_and_outlive_the_process_that_started_them(recipe, tmp_path):
    plain = override(recipe, ["lora.lora_dropout=0"])
    one = create_run_at(tmp_path / "one", plain)
    from engine.train.main import train

    train(one, new_attempt(one))

    changes = ["launch.num_processes=2", "optim.gradient_accumulation_steps=1"]
    two = create_run_at(tmp_path / "two", override(plain, changes))
    code = (
        "import sys, time; from pathlib import Path; from engine.contract.rundir import RunDir;"
        "from engine.launch.supervisor import start_run; start_run(RunDir(Path(sys.argv[1]))); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(two.path)], cwd=PROJECT, start_new_session=True)
    wait_for(lambda: two.last_attempt() is not None, timeout=30, what="the claim")
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()

    wait_for(lambda: bool(two.last_attempt().ended_at), timeout=120, what="the end")
    assert effective_state(two) == "finished", two.log_file.read_text()[-2000:]
    assert sorted(train_losses(two)) == [1, 2, 3, 4, 5, 6]
    for step, row in train_losses(two).items():
        assert row == pytest.approx(train_losses(one)[step], rel=2e-5)
    wait_for(lambda: not living_processes(two), timeout=10, what="the processes to go")


def test_a_killed_rank_is_reported_and_nothing_is_left_behind(recipe, tmp_path):
    from engine.launch.supervisor import start_run

    run = create_run_at(tmp_path / "killed", override(recipe, ["optim.max_steps=100000"]))
    start_run(run)
    wait_for(lambda: run.status().state == "running" and run.status().step > 3, timeout=60, what="the first steps")
    (rank,) = (ProcessId.read(value) for value in run.status().ranks)
    os.kill(rank.pid, signal.SIGKILL)
    wait_for(lambda: effective_state(run) == "failed", timeout=15, what="the failure")
    assert "killed" in run.last_attempt().problem and run.last_attempt().fix
    wait_for(lambda: not living_processes(run), timeout=10, what="the processes to go")


def test_sigterm_to_the_supervisor_saves_and_stops(recipe, tmp_path):
    from engine.launch.supervisor import start_run

    run = create_run_at(tmp_path / "term", override(recipe, ["optim.max_steps=100000", "record.save_steps=100000"]))
    start_run(run)
    wait_for(lambda: run.status().state == "running" and run.status().step > 3, timeout=60, what="the first steps")
    os.kill(run.last_attempt().supervisor["pid"], signal.SIGTERM)
    wait_for(lambda: bool(run.last_attempt().ended_at), timeout=30, what="the end")
    assert effective_state(run) == "stopped"
    assert run.checkpoint_dirs()[-1].name == f"step-{run.status().step:06d}"


def machine(gpus: int) -> Machine:
    return Machine(
        gpus=tuple(range(gpus)),
        cpu_count=2,
        cpu_percent=0,
        ram_total=1,
        ram_used=0,
        cpu_bf16=False,
        gpu_note="No driver.",
    )


def test_several_cpu_ranks_are_never_written_as_multi_cpu(recipe):
    config = accelerate_config(override(recipe, ["launch.num_processes=2"]), "cpu")
    assert (config["distributed_type"], config["use_cpu"], config["num_processes"]) == ("MULTI_GPU", True, 2)


def test_gpus_that_are_not_there_are_refused_with_the_reason(recipe):
    from engine.contract.errors import UserError

    wanted = override(recipe, ["launch.device=cuda"])
    with pytest.raises(UserError, match="No driver"):
        resolve_device(wanted, machine(0))
    assert resolve_device(wanted, machine(1)) == "cuda"
    assert resolve_device(override(recipe, ["launch.device=auto"]), machine(0)) == "cpu"


def test_names_with_shell_text_stay_one_word(recipe, tmp_path):
    run = RunDir(tmp_path / "a b; touch pwned")
    command = train_command(recipe, run)
    assert str(run.path) in command
    assert f"'{run.path}'" in display_command(command)


def test_a_job_that_dies_without_a_word_is_lost(tmp_path):
    status = tmp_path / "job.json"
    code = (
        "import os, sys; from pathlib import Path; from engine.launch.jobs import write_job;"
        "write_job(Path(sys.argv[1]), phase='working', fraction=0.5); os.kill(os.getpid(), 9)"
    )
    start_job(status, [sys.executable, "-c", code, str(status)], tmp_path / "log")
    wait_for(lambda: JobStatus.read(status).state == "lost", timeout=20, what="the loss to be seen")
    assert JobStatus.read(status).phase == "working"
