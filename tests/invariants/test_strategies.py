"""Every strategy of two processes is the same run as one: losses, resume, weights. Real FSDP2 and DeepSpeed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run_at
from engine.contract.samples import read_samples
from engine.launch.command import settle_strategy
from engine.train.main import train
from tests.tiny_run import new_attempt, train_losses

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
TWO = ["launch.num_processes=2", "optim.gradient_accumulation_steps=1"]
CASES = {  # one process cannot change from FSDP to DeepSpeed, so each launch has its own
    "torch": [
        *("ddp lora", "fsdp2 lora", "fsdp2 lora unasked", "fsdp2 lora failing"),
        *("fsdp2 full", "fsdp2 qlora", "fsdp2+ full"),
    ],
    "deepspeed": [
        *("zero2 lora", "zero2 full", "zero2+ lora"),
        *("zero3 lora", "zero3 lora unasked", "zero3 lora failing", "zero3 full", "zero3 qlora", "zero3+ lora"),
    ],
}
"""Strategy and method; + = with CPU offload; unasked = without samples; failing = its samples fail on every rank."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    from tests.tiny_run import tiny_recipe

    return override(tiny_recipe(tmp_path_factory.mktemp("data")), ["lora.lora_dropout=0"])


@pytest.fixture(scope="module")
def alone(plain, tmp_path_factory):
    """Runs of one process, by method."""
    known: dict[str, RunDir] = {}

    def run_of(method: str) -> RunDir:
        if method not in known:
            run = create_run_at(tmp_path_factory.mktemp("alone") / method, override(plain, [f"method={method}"]))
            train(run, new_attempt(run))
            known[method] = run
        return known[method]

    return run_of


def launch(runs: list[str]) -> None:
    """Train runs on two ranks."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*start, "-m", "tests.invariants.several_runs", *runs]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("engine", CASES)
def test_two_processes_are_one_with_every_strategy(engine, plain, alone, tmp_path):
    """Losses, gradient norms and weights of one process; and again for the steps after a resume."""
    runs = {}
    for case in CASES[engine]:
        strategy, method, *special = case.split()
        offload = ["launch.cpu_offload=true"] if strategy.endswith("+") else []
        quiet = ["record.sample_prompts=0"] if special == ["unasked"] else []
        changes = [*TWO, *offload, *quiet, f"method={method}", f"launch.strategy={strategy.rstrip('+')}"]
        runs[case] = create_run_at(tmp_path / case.replace(" ", "-"), override(plain, changes))
        settle_strategy(runs[case], runs[case].recipe())
        new_attempt(runs[case])
    launch([str(run.path) + "!" * case.endswith("failing") for case, run in runs.items()])
    before = {}
    for case, run in runs.items():
        theirs, before[case] = train_losses(alone(case.split()[1])), train_losses(run)
        assert sorted(before[case]) == [1, 2, 3, 4, 5, 6]
        for step, row in before[case].items():
            assert row == pytest.approx(theirs[step], rel=2e-5), (case, step)
        assert_same_weights(run, alone(case.split()[1]), case)
        strategy, method, *special = case.split()
        if special:
            told = [event["text"] for event in run.events()[0] if event["kind"] == "samples"]
            assert len(told) == (special == ["failing"]) and all("let us say" in text for text in told), told
            assert_same_bytes(run, runs[f"{strategy} {method}"])
        else:
            assert_samples(run, alone(case.split()[1]), case)

    for run in runs.values():
        shutil.rmtree(run.checkpoints / "step-000006")
        new_attempt(run)
    launch([f"{run.path}@step-000003" for run in runs.values()])
    for case, run in runs.items():
        steps = [row["step"] for row in run.metrics()[0] if "train/loss" in row]
        assert steps == [1, 2, 3, 4, 5, 6, 4, 5, 6], case
        for step, row in train_losses(run).items():
            assert row == pytest.approx(before[case][step], rel=1e-6), (case, step)
        assert_same_weights(run, alone(case.split()[1]), case)


def assert_same_weights(run: RunDir, other: RunDir, case: str) -> None:
    """The last checkpoint's weights are whole, in one safetensors file, and those of the other run."""
    name = "model.safetensors" if case.endswith("full") else "adapter_model.safetensors"
    ours, theirs = (load_file(one.checkpoints / "step-000006" / name) for one in (run, other))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].shape == value.shape, key
        assert float((ours[key] - value).abs().max()) <= 2e-4 + 1e-3 * float(value.abs().max()), (case, key)


def assert_samples(run: RunDir, other: RunDir, case: str) -> None:
    """The run has the samples of one process, written once; before the first step the very same answers."""
    ours, theirs = (read_samples(one)[0] for one in (run, other))
    assert [(one.step, one.task, one.prompt) for one in ours] == [(one.step, one.task, one.prompt) for one in theirs]
    assert len(ours) == 12 and [one for one in ours if one.step == 0] == [one for one in theirs if one.step == 0], case


def assert_same_bytes(run: RunDir, asked: RunDir) -> None:
    """A run that answers held-out prompts is, bit by bit, the run that does not: weights, optimizer, random numbers."""
    assert read_samples(run)[0] == [] and train_losses(run) == train_losses(asked)
    ours, theirs = (one.checkpoints / "step-000006" for one in (run, asked))
    names = {str(path.relative_to(ours)) for path in ours.rglob("*") if path.is_file()}
    kept = [n for n in names if Path(n).suffix in (".safetensors", ".pt", ".pth", ".bin")]
    assert {Path(name).suffix for name in kept} >= {".safetensors", ".pth"} and len(kept) >= 4, sorted(names)
    assert [name for name in kept if content(ours / name) != content(theirs / name)] == []


def content(path: Path) -> object:
    """The bytes of a file; of DeepSpeed's state those of its tensors, for it pickles equal objects in two ways."""
    if not path.name.endswith("optim_states.pt"):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        tensors = {n: archive.read(n) for n in archive.namelist() if "/data/" in n}
    assert sum(map(len, tensors.values())) > 10_000, path
    return tensors
