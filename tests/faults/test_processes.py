"""Real launches whose processes are killed: nothing is left, the end is told, the run goes on as if nothing was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from engine.contract.recipe_io import override
from engine.contract.rundir import ProcessId, RunDir, create_run_at, effective_state, request
from engine.launch.processes import descendants
from engine.launch.supervisor import start_run
from engine.train.checkpoint import verify_checkpoint
from engine.train.main import train
from tests.engine.test_launch import living_processes, wait_for
from tests.tiny_run import new_attempt, train_losses

pytestmark = pytest.mark.slow
STEPS = 400


@pytest.fixture(scope="module")
def long(recipe):
    return override(recipe, [f"optim.max_steps={STEPS}", "record.save_steps=20", "record.eval_steps=1000"])


@pytest.fixture(scope="module")
def whole(long, tmp_path_factory):
    """The run that nothing happens to."""
    run = create_run_at(tmp_path_factory.mktemp("whole") / "run", long)
    train(run, new_attempt(run))
    return run


def start(run: RunDir, *, resume: bool = False) -> None:
    """Start a run, or resume it, and wait for some steps of this attempt."""
    before = run.status().step if resume else 0
    start_run(run, resume_from="latest" if resume else "")
    number = run.last_attempt().number

    def trains() -> bool:
        status = run.status()
        return status.attempt == number and status.state == "running" and status.step > max(25, before * resume)

    wait_for(lambda: trains() or bool(run.last_attempt().ended_at), timeout=60, what="the first steps")
    assert trains(), run.log_file.read_text()[-2000:]


def ended(run: RunDir, state: str, *, timeout: float = 30) -> None:
    wait_for(lambda: effective_state(run) == state, timeout=timeout, what=state)
    wait_for(lambda: not living_processes(run), timeout=10, what="the processes to go")
    assert all(verify_checkpoint(path) == "" for path in run.checkpoint_dirs())


def kill(process: dict, number: int = signal.SIGKILL) -> None:
    os.kill(process["pid"], number)


def assert_as_if_nothing_was(run: RunDir, whole: RunDir) -> None:
    """Every step is there, with the same numbers, and the weights are the same bytes."""
    mine, theirs = train_losses(run), train_losses(whole)
    assert mine.keys() == theirs.keys()
    assert all(mine[step] == row for step, row in theirs.items())
    ends = [one.checkpoints / f"step-{STEPS:06d}" / "adapter_model.safetensors" for one in (run, whole)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_launcher_supervisor_and_all_of_them_killed_one_after_the_other(long, whole, tmp_path):
    """Attempt 1 loses its launcher, 2 its supervisor and then its rank, 3 everything at once; 4 ends the run."""
    run = create_run_at(tmp_path / "run", long)
    start(run)
    (launcher,) = [one for one in descendants(run.last_attempt().supervisor["pid"]) if is_launcher(one)]
    os.kill(launcher.pid, signal.SIGKILL)
    ended(run, "stopped")

    start(run, resume=True)
    step = run.status().step
    kill(run.last_attempt().supervisor)
    wait_for(lambda: run.status().step > step + 10, timeout=20, what="the training, which goes on")
    assert effective_state(run) == "running"
    kill(run.status().ranks[0])
    ended(run, "lost")

    start(run, resume=True)
    everything = [ProcessId.read(run.last_attempt().supervisor), *descendants(run.last_attempt().supervisor["pid"])]
    for process in everything:
        os.kill(process.pid, signal.SIGKILL)
    ended(run, "lost")

    start_run(run, resume_from="latest")
    ended(run, "finished", timeout=60)
    assert run.last_attempt().number == 4
    assert_as_if_nothing_was(run, whole)


def is_launcher(process: ProcessId) -> bool:
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:
        return b"accelerate.commands.launch" in file.read()


def test_a_run_whose_process_is_killed_goes_on_by_itself(long, whole, tmp_path):
    run = create_run_at(tmp_path / "run", override(long, ["launch.max_restarts=1"]))
    start(run)
    kill(run.status().ranks[0])
    wait_for(lambda: run.last_attempt().number == 2, timeout=15, what="the second attempt")
    first = (run.attempts / "001.json").read_text()
    assert '"failed"' in first and "killed" in first
    ended(run, "finished", timeout=60)
    assert_as_if_nothing_was(run, whole)


def test_two_signals_at_once_stop_and_save_as_one(long, tmp_path):
    run = create_run_at(tmp_path / "run", override(long, ["optim.max_steps=100000"]))
    start(run)
    kill(run.last_attempt().supervisor, signal.SIGTERM)
    time.sleep(0.3)
    kill(run.last_attempt().supervisor, signal.SIGTERM)
    ended(run, "stopped")
    assert run.checkpoint_dirs()[-1].name == f"step-{run.status().step:06d}"


@pytest.mark.parametrize("phase", ["loading", "evaluating"])
def test_a_signal_before_the_first_step_stops_the_run_too(long, tmp_path, phase):
    run = create_run_at(tmp_path / "run", override(long, ["optim.max_steps=100000"]))
    start_run(run)
    wait_for(lambda: phase in run.status().phase or "measuring" in run.status().phase, timeout=60, what=phase)
    kill(run.last_attempt().supervisor, signal.SIGTERM)
    ended(run, "stopped")


def test_a_deleted_run_folder_ends_its_processes(long, tmp_path):
    run = create_run_at(tmp_path / "run", override(long, ["optim.max_steps=100000"]))
    start(run)
    people = [ProcessId.read(run.last_attempt().supervisor), *map(ProcessId.read, run.status().ranks)]
    os.rename(run.path, tmp_path / ".gone")
    shutil.rmtree(tmp_path / ".gone")
    wait_for(lambda: not any(one.alive() for one in people), timeout=20, what="the processes to go")
    assert not living_processes(run)


def test_a_stranger_with_the_same_command_line_survives(long, tmp_path):
    run = create_run_at(tmp_path / "run", override(long, ["optim.max_steps=100000"]))
    start(run)
    code = "import time; time.sleep(120)"
    words = ["-m", "engine.train.main", "--run", str(run.path)]
    with subprocess.Popen([sys.executable, "-c", code, *words], start_new_session=True) as decoy:
        request(run, "cancel")
        wait_for(lambda: effective_state(run) == "stopped", timeout=30, what="the end")
        wait_for(lambda: living_processes(run) == [decoy.pid], timeout=10, what="the processes to go")
        assert decoy.poll() is None
        decoy.kill()
