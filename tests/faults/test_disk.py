"""A full disk, in every place that writes: what can go on goes on, what cannot says so, nothing half remains."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine.contract import files
from engine.contract.errors import UserError
from engine.contract.files import append_json, read_rows
from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run_at
from engine.train import main, record, run_trainer
from engine.train.checkpoint import verify_checkpoint
from tests.tiny_run import new_attempt, train_losses


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_rows_that_a_full_disk_refused_are_written_when_there_is_room_again(recipe, tmp_path, monkeypatch):
    """Fails during steps 2 to 4; every row and event is there at the end, in order, once."""
    run, refused = create_run_at(tmp_path / "run", recipe), []

    def sometimes(path: Path, row: dict) -> None:
        if 2 <= row.get("step", 0) <= 4 and len(refused) < 6:
            refused.append(row)
            full()
        append_json(path, row)

    monkeypatch.setattr(record, "append_json", sometimes)
    main.train(run, new_attempt(run))
    assert len(refused) == 6 and run.status().state == "finished"
    steps = [row["step"] for row in run.metrics()[0] if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [event["kind"] for event in run.events()[0]].count("save") == 2


def test_a_line_that_does_not_fit_is_not_half_written(tmp_path, monkeypatch):
    stream, plain = tmp_path / "metrics.jsonl", os.write
    append_json(stream, {"step": 1})
    written: list[int] = []

    def little(descriptor: int, data: bytes) -> int:
        if written:
            full()
        written.append(plain(descriptor, data[:5]))
        return written[-1]

    monkeypatch.setattr(files.os, "write", little)
    with pytest.raises(OSError, match="No space left"):
        append_json(stream, {"step": 2})
    monkeypatch.undo()
    append_json(stream, {"step": 3})
    assert read_rows(stream)[0] == [{"step": 1}, {"step": 3}]


def test_a_status_that_cannot_be_written_does_not_end_the_run(recipe, tmp_path, monkeypatch):
    run, count = create_run_at(tmp_path / "run", recipe), []
    plain = record.replace_json

    def sometimes(path: Path, value) -> None:
        count.append(path)
        if 4 < len(count) < 9:
            full()
        plain(path, value)

    monkeypatch.setattr(record, "replace_json", sometimes)
    main.train(run, new_attempt(run))
    assert len(count) > 9 and run.status().state == "finished" and len(train_losses(run)) == 6


@pytest.mark.parametrize("place", ["the weights", "the manifest"])
def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_and_no_rubbish(recipe, tmp_path, monkeypatch, place):
    run = create_run_at(tmp_path / "run", recipe)
    if place == "the weights":
        plain, saved = run_trainer.MultiTaskTrainer._save_checkpoint, []

        def save(self, model, trial):
            plain(self, model, trial)
            saved.append(1)
            if len(saved) == 2:
                full()

        monkeypatch.setattr(run_trainer.MultiTaskTrainer, "_save_checkpoint", save)
    else:
        finish = run_trainer.finish_checkpoint
        monkeypatch.setattr(
            run_trainer, "finish_checkpoint", lambda *a, step, **k: full() if step == 6 else finish(*a, step=step, **k)
        )
    with pytest.raises(OSError, match="No space left") as caught:
        main.train(run, new_attempt(run))
    told = main._explain(caught.value)
    assert told.problem == "The disk is full." and "resume" in told.fix
    (kept,) = run.checkpoint_dirs()
    assert kept.name == "step-000003" and verify_checkpoint(kept) == ""
    assert [path for path in run.checkpoints.rglob("*") if path.is_file() and kept not in path.parents] == []


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598",
        "PytorchStreamWriter failed writing file data/0: file write failed",
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
)
def test_a_full_disk_is_named_however_the_library_puts_it(text):
    assert main._explain(RuntimeError(text)).problem == "The disk is full."


def test_a_run_that_will_not_fit_is_refused_before_it_starts(recipe, tmp_path, monkeypatch):
    from engine.contract import places

    run = create_run_at(tmp_path / "run", override(recipe, ["record.save_total_limit=3"]))
    monkeypatch.setattr(places, "free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match="Saving checkpoints"):
        main.train(run, new_attempt(run))
    assert RunDir(run.path).checkpoint_dirs() == []
