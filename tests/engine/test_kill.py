"""kill -9 at random moments, resume, again and again: the weights end as if nothing had happened.

Children are forked from a server that has the libraries loaded, so that a life costs a second and not ten.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run_at, effective_state
from engine.train.checkpoint import verify_checkpoint
from engine.train.main import train
from tests.tiny_run import new_attempt, train_losses

SETTINGS = [
    "optim.max_steps=60",
    "record.save_steps=1",
    "record.eval_steps=7",
    "record.save_total_limit=2",
    "weighting.method=coba",
    "weighting.warmup_steps=3",
    "weighting.history_length=10",
    "loss.focal=task",
]


def live(path: str, resume_from: str) -> None:
    """Train until the end, or until killed."""
    run = RunDir(Path(path))
    train(run, new_attempt(run), resume_from=resume_from)


@pytest.fixture(scope="module")
def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engine.test_kill", "engine.train.run_trainer", "engine.model.build"])
    return context


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kills"), [("lora", 20), ("full", 8)])
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(recipe, tmp_path, server, method, kills):
    recipe = override(recipe, [*SETTINGS, f"method={method}"])
    whole = create_run_at(tmp_path / "whole", recipe)
    live(str(whole.path), "")
    run, chance = create_run_at(tmp_path / "killed", recipe), random.Random(7)
    for _ in range(kills):
        child = begin(server, run)
        wait_for_a_step(run, child)
        time.sleep(chance.uniform(0.0, 0.12))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert effective_state(run) == "lost", "it was to be killed while it trained"
        assert all(verify_checkpoint(path) == "" for path in run.checkpoint_dirs())
    last = begin(server, run)
    last.join(240)
    assert run.status().state == "finished" and run.last_attempt().number == kills + 1
    assert train_losses(run) == train_losses(whole)
    weights = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    ends = [r.checkpoint_dirs()[-1] / weights for r in (run, whole)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def begin(server, run: RunDir):
    """Start a child that trains from the newest checkpoint, as the next attempt."""
    child = server.Process(target=live, args=(str(run.path), "latest" if run.checkpoint_dirs() else ""))
    child.start()
    return child


def wait_for_a_step(run: RunDir, child) -> None:
    rows, until = len(run.metrics()[0]), time.monotonic() + 240
    while len(run.metrics()[0]) == rows and child.is_alive() and time.monotonic() < until:
        time.sleep(0.005)
