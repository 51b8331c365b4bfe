"""kill -9 at every point of the checkpoint protocol: what looks like a checkpoint is one, and there always is one."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import RunDir, create_run_at
from engine.train.checkpoint import choose_checkpoint, finish_checkpoint, prune, sweep, verify_checkpoint

HOOKED = ("fsync", "rename", "open", "unlink", "rmdir", "mkdir", "replace")


def save_two(path: str, fatal: int, points: Path) -> None:
    """Save steps 2 and 3, killed at the call of that number to the file system; 0 = not. Writes how many there were."""
    run, count = RunDir(Path(path)), 0

    def hooked(plain):
        def call(*args, **named):
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **named)

        return call

    for name in HOOKED:
        setattr(os, name, hooked(getattr(os, name)))
    builtins.open = hooked(open)
    for step in (2, 3):
        folder = run.checkpoints / f".tmp-step-{step}"
        folder.mkdir()
        for name in ("adapter_model.safetensors", "optimizer.pt", "trainer_state.json", "training_args.bin"):
            with open(folder / name, "wb") as file:
                file.write(bytes(range(200)) * step)
        finish_checkpoint(folder, run, step=step)
        prune(run, keep=1)
    points.write_text(str(count))


@pytest.fixture(scope="module")
def server():
    """A process that has imported this file once and forks for each kill."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.test_checkpoint_points"])
    return context


def save(server, run: RunDir, fatal: int) -> int:
    """Save in a process of its own; return its exit code, -9 if it was killed."""
    child = server.Process(target=save_two, args=(str(run.path), fatal, run.path.with_suffix(".points")))
    child.start()
    child.join()
    return child.exitcode


def new_run(path: Path) -> RunDir:
    """Return a run with a checkpoint of step 1."""
    run = create_run_at(path, parse_recipe("model_name_or_path: a\ntasks: [{name: t, path: t.jsonl}]"))
    first = run.checkpoints / "step-000001"
    first.mkdir()
    (first / "adapter_model.safetensors").write_bytes(b"1")
    first.rename(run.checkpoints / ".tmp-step-1")
    finish_checkpoint(run.checkpoints / ".tmp-step-1", run, step=1)
    return run


def test_a_kill_at_any_point_of_saving_leaves_a_whole_checkpoint_and_nothing_that_only_looks_like_one(tmp_path, server):
    assert save(server, new_run(tmp_path / "whole"), 0) == 0
    points = int((tmp_path / "whole.points").read_text())
    assert points > 30
    newest = []
    for fatal in range(1, points + 1):
        run = new_run(tmp_path / f"killed-{fatal}")
        assert save(server, run, fatal) == -signal.SIGKILL
        found = run.checkpoint_dirs()
        assert found and all(verify_checkpoint(path) == "" for path in found), fatal
        told: list[str] = []
        newest.append(choose_checkpoint(run, "latest", told.append).name)
        assert not told
        sweep(run)
        assert {path.name for path in run.checkpoints.iterdir()} == {path.name for path in found}, fatal
    assert newest == sorted(newest) and set(newest) == {"step-000001", "step-000002", "step-000003"}


@pytest.mark.parametrize("swapped", [("a", "b"), ("adapter_model.safetensors", "optimizer.pt")])
def test_swapped_and_added_files_are_noticed_or_harmless(tmp_path, server, swapped):
    run = new_run(tmp_path / "run")
    assert save(server, run, 0) == 0
    (last,) = run.checkpoint_dirs()
    one, two = (last / name for name in swapped)
    if one.exists():
        one.write_bytes(b"x" * one.stat().st_size)
        assert "has changed since it was saved" in verify_checkpoint(last)
    else:
        one.write_bytes(b"a stranger's file")
        assert verify_checkpoint(last) == ""
