"""Checkpoints: complete or not there; a damaged one is noticed and the older one used, with a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import RunDir, create_run_at
from engine.train.checkpoint import choose_checkpoint, finish_checkpoint, prune, sweep, verify_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create_run_at(tmp_path / "r", parse_recipe("model_name_or_path: a\ntasks: [{name: t, path: t.jsonl}]"))


def save(run: RunDir, step: int) -> Path:
    folder = run.checkpoints / f".tmp-step-{step}"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(200)) * step)
    (folder / "trainer_state.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"pickle")
    return finish_checkpoint(folder, run, step=step)


def test_a_finished_checkpoint_verifies_and_holds_no_pickled_arguments(run):
    final = save(run, 7)
    assert final.name == "step-000007" and verify_checkpoint(final) == ""
    assert not (final / "training_args.bin").exists()
    assert run.checkpoint_dirs() == [final]


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "empty", "manifest"])
def test_every_kind_of_damage_is_noticed_and_the_older_checkpoint_used(run, damage):
    older, newer = save(run, 1), save(run, 2)
    weights = newer / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    if damage == "flip":
        data[100] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(data[:-1])
    elif damage == "delete":
        weights.unlink()
    elif damage == "empty":
        weights.write_bytes(b"")
    else:
        (newer / "manifest.json").write_text("{")
    told: list[str] = []
    assert choose_checkpoint(run, "latest", told.append) == older
    assert len(told) == 1 and "step-000002" in told[0]


def test_without_an_intact_checkpoint_nothing_starts_over_silently(run):
    with pytest.raises(UserError, match="no intact checkpoint"):
        choose_checkpoint(run, "latest", lambda _: None)


def test_a_folder_without_weights_is_no_checkpoint(run):
    (run.checkpoints / ".tmp-step-1").mkdir()
    with pytest.raises(UserError, match="no weights"):
        finish_checkpoint(run.checkpoints / ".tmp-step-1", run, step=1)


def test_the_oldest_go_first_and_leftovers_of_a_kill_are_swept(run):
    for step in (1, 2, 3):
        save(run, step)
    assert prune(run, keep=2) == ["step-000001"]
    (run.checkpoints / ".tmp-step-9").mkdir()
    (run.checkpoints / ".deleted-step-8").mkdir()
    sweep(run)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["step-000002", "step-000003"]
