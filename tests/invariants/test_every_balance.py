"""Invariants 1, 2 and 5 through the real entry point, with every reduction, weighting and focal loss.

A run cut into other micro-batches sees the same losses and gradient norms; a run that is resumed ends with the same
bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run_at
from engine.train.main import train
from tests.tiny_run import SHORT_SAMPLES, new_attempt, train_losses

PROJECT = Path(__file__).parents[2]
WEIGHTING = ["weighting.warmup_steps=3", "weighting.history_length=4", "weighting.validation_examples=2"]
BALANCES = {
    "token_mean": ["loss.reduction=token_mean"],
    "sample_mean": ["loss.reduction=sample_mean"],
    "task_mean-global": ["loss.reduction=task_mean", "loss.estimator=global_batch"],
    "task_sample_mean": ["loss.reduction=task_sample_mean"],
    "coba": ["weighting.method=coba", *WEIGHTING],
    "coba-mftcoder": ["weighting.method=coba", "weighting.variant=mftcoder", *WEIGHTING],
    "famo": ["weighting.method=famo", "weighting.famo_learning_rate=0.5", *WEIGHTING],
    "self_paced": ["weighting.method=self_paced", "loss.reduction=task_sample_mean", *WEIGHTING],
    "focal-sample": ["loss.reduction=sample_mean", "loss.focal=sample"],
    "focal-literal": ["loss.focal=sample", "loss.focal_detach=false", "loss.estimator=global_batch"],
    "focal-task": ["loss.reduction=task_sample_mean", "loss.focal=task"],
    "focal-and-famo": ["loss.focal=task", "loss.focal_detach=false", "weighting.method=famo", *WEIGHTING],
}
QUIET = ["record.eval_steps=100", "record.save_steps=4", "lora.lora_dropout=0", SHORT_SAMPLES]
"""Dropout draws other numbers for other micro-batches; nothing else does."""


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """Return the runs of 8 x 1 rows per step, made once for each balance."""
    made: dict[str, RunDir] = {}

    def run_of(name: str) -> RunDir:
        if name not in made:
            made[name] = begin(recipe, tmp_path_factory.mktemp(name) / "whole", name, batch=8, accumulate=1)
            train(made[name], new_attempt(made[name]))
        return made[name]

    return run_of


def begin(recipe, path, name, *, batch: int, accumulate: int) -> RunDir:
    cut = [f"optim.per_device_train_batch_size={batch}", f"optim.gradient_accumulation_steps={accumulate}"]
    return create_run_at(path, override(recipe, [*BALANCES[name], *QUIET, *cut]))


def factors(run: RunDir) -> list[list[float]]:
    rows = [row for row in run.metrics()[0] if "train/loss" in row]
    return [[row.get(f"task/{task}/factor", 1.0) for task in ("short", "long")] for row in rows]


@pytest.mark.parametrize("name", BALANCES)
def test_the_run_does_not_depend_on_how_its_steps_are_cut(recipe, whole, tmp_path, name):
    cut = begin(recipe, tmp_path / "cut", name, batch=2, accumulate=4)
    train(cut, new_attempt(cut))
    ours, theirs = train_losses(cut), train_losses(whole(name))
    assert len(ours) == 6
    for step, row in theirs.items():
        assert ours[step] == pytest.approx(row, rel=2e-5, nan_ok=False), step
    if "weighting" in " ".join(BALANCES[name]):
        assert factors(whole(name))[-1] != [1.0, 1.0]  # the weighting did weigh


@pytest.mark.parametrize("name", ["coba", "coba-mftcoder", "famo", "self_paced", "focal-task", "focal-and-famo"])
def test_a_run_resumed_from_a_checkpoint_ends_with_the_same_bytes(whole, tmp_path, name):
    """Steps 5 and 6 are done again from the checkpoint of step 4, where every rule has a history."""
    before = train_losses(whole(name))
    run = RunDir(tmp_path / "again")
    shutil.copytree(whole(name).path, run.path)
    shutil.rmtree(run.checkpoints / "step-000006")
    train(run, new_attempt(run), resume_from="latest")
    assert [row["step"] for row in run.metrics()[0] if "train/loss" in row] == [1, 2, 3, 4, 5, 6, 5, 6]
    assert train_losses(run) == before and factors(run)[-2:] == factors(whole(name))[-2:]
    ends = [r.checkpoints / "step-000006" / "adapter_model.safetensors" for r in (run, whole(name))]
    assert ends[0].read_bytes() == ends[1].read_bytes()


@pytest.mark.slow
def test_two_ranks_see_the_same_numbers_as_one(recipe, whole, tmp_path):
    """Invariant 2, for all balances at once: 1 process x 8 rows = 2 processes x 2 micro-batches x 2 rows."""
    two = {}
    for name in BALANCES:
        two[name] = begin(override(recipe, ["launch.num_processes=2"]), tmp_path / name, name, batch=2, accumulate=2)
        new_attempt(two[name])
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*start, "-m", "tests.invariants.several_runs", *(str(run.path) for run in two.values())]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, run in two.items():
        theirs = train_losses(whole(name))
        assert train_losses(run).keys() == theirs.keys() and len(theirs) == 6
        for step, row in train_losses(run).items():
            assert row == pytest.approx(theirs[step], rel=2e-5), (name, step)
        assert factors(run) == [pytest.approx(row, rel=1e-3) for row in factors(whole(name))]
