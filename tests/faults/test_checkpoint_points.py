"""kill -9 at every point of the checkpoint protocol: what looks like a checkpoint is one, and there always is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import RunDir, create_run_at
from engine.train.checkpoint import choose_checkpoint, sweep, verify_checkpoint

PROJECT = Path(__file__).resolve().parents[2]
SAVING = """
import builtins, os, shutil, signal, sys
from pathlib import Path
from engine.contract.rundir import RunDir
from engine.train.checkpoint import finish_checkpoint, prune
run, fatal, count = RunDir(Path(sys.argv[1])), int(sys.argv[2]), 0

def hooked(plain):
    def call(*args, **named):
        global count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*args, **named)
    return call

for name in ("fsync", "rename", "open", "unlink", "rmdir", "mkdir", "replace"):
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
print(count)
"""


def save(run: RunDir, fatal: int) -> subprocess.CompletedProcess[str]:
    """Save steps 2 and 3, killed at the call of that number to the file system; 0 = not."""
    command = [sys.executable, "-c", SAVING, str(run.path), str(fatal)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)


def new_run(path: Path) -> RunDir:
    """Return a run with a checkpoint of step 1."""
    run = create_run_at(path, parse_recipe("model_name_or_path: a\ntasks: [{name: t, path: t.jsonl}]"))
    first = run.checkpoints / "step-000001"
    first.mkdir()
    (first / "adapter_model.safetensors").write_bytes(b"1")
    from engine.train.checkpoint import finish_checkpoint

    first.rename(run.checkpoints / ".tmp-step-1")
    finish_checkpoint(run.checkpoints / ".tmp-step-1", run, step=1)
    return run


def test_a_kill_at_any_point_of_saving_leaves_a_whole_checkpoint_and_nothing_that_only_looks_like_one(tmp_path):
    points = int(save(new_run(tmp_path / "whole"), 0).stdout)
    assert points > 30
    newest = []
    for fatal in range(1, points + 1):
        run = new_run(tmp_path / f"killed-{fatal}")
        assert save(run, fatal).returncode == -9
        found = run.checkpoint_dirs()
        assert found and all(verify_checkpoint(path) == "" for path in found), fatal
        told: list[str] = []
        newest.append(choose_checkpoint(run, "latest", told.append).name)
        assert not told
        sweep(run)
        assert {path.name for path in run.checkpoints.iterdir()} == {path.name for path in found}, fatal
    assert newest == sorted(newest) and set(newest) == {"step-000001", "step-000002", "step-000003"}


@pytest.mark.parametrize("swapped", [("a", "b"), ("adapter_model.safetensors", "optimizer.pt")])
def test_swapped_and_added_files_are_noticed_or_harmless(tmp_path, swapped):
    run = new_run(tmp_path / "run")
    assert save(run, 0).returncode == 0
    (last,) = run.checkpoint_dirs()
    one, two = (last / name for name in swapped)
    if one.exists():
        one.write_bytes(b"x" * one.stat().st_size)
        assert "has changed since it was saved" in verify_checkpoint(last)
    else:
        one.write_bytes(b"a stranger's file")
        assert verify_checkpoint(last) == ""
