"""Faults inside the training: memory runs out, data changes under a run, a step never ends."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch

from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.launch.aftermath import may_try_again
from engine.train import main
from engine.train.checkpoint import verify_checkpoint
from engine.train.trainer import MultiTaskTrainer
from studio.logic.run import RunWatcher
from tests.tiny_run import new_attempt, train_losses


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_memory_that_runs_out_is_named_and_not_tried_again(recipe, tmp_path, monkeypatch, kind):
    run = create_run_at(tmp_path / "run", override(recipe, ["launch.max_restarts=3"]))
    plain = MultiTaskTrainer.compute_loss

    def hungry(self, *arguments, **named):
        if self.state.global_step == 4:
            raise kind("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return plain(self, *arguments, **named)

    monkeypatch.setattr(MultiTaskTrainer, "compute_loss", hungry)
    pen = new_attempt(run)
    with pytest.raises(kind) as caught:
        main.train(run, pen)
    pen.error(main._explain(caught.value), caught.value)
    told = json.loads((run.errors / "rank-0.json").read_text())
    assert told["problem"] == "Out of memory." and "gradient_accumulation_steps" in told["fix"]
    assert verify_checkpoint(run.checkpoint_dirs()[-1]) == ""
    assert not may_try_again(run, 1)


def test_data_that_changed_under_a_run_is_refused_by_name(recipe, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(Path(recipe.tasks[0].path).parent, folder, ignore=shutil.ignore_patterns("tiny"))
    changes = [f"tasks.{i}.path={folder / Path(task.path).name}" for i, task in enumerate(recipe.tasks)]
    run = create_run_at(tmp_path / "run", override(recipe, changes))
    main.train(run, new_attempt(run))
    with open(folder / Path(recipe.tasks[1].path).name, "a") as file:
        file.write('{"messages": [{"role": "user", "content": "new"}, {"role": "assistant", "content": "row"}]}\n')
    shutil.rmtree(run.checkpoints / "step-000006")
    with pytest.raises(UserError, match="The data of long changed"):
        main.train(run, new_attempt(run), resume_from="latest")


def test_an_error_that_may_pass_is_tried_again_but_never_without_a_checkpoint(recipe, tmp_path):
    run = create_run_at(tmp_path / "run", override(recipe, ["launch.max_restarts=2"]))
    assert not may_try_again(run, 1)
    main.train(run, new_attempt(run))
    assert may_try_again(run, 1)
    (run.errors / "rank-0.json").write_text(json.dumps({"type": "UserError", "problem": "The loss is not a number."}))
    assert not may_try_again(run, 1)
    (run.errors / "rank-0.json").unlink()
    run.control_file.write_text(json.dumps({"attempt": 1, "request": "stop", "id": 1}))
    assert not may_try_again(run, 1) and may_try_again(run, 2)


def test_a_step_that_never_ends_is_shown(recipe, tmp_path, monkeypatch):
    from engine.contract.places import DataRoot

    root = DataRoot(tmp_path / "home").make()
    run = create_run_at(root.runs / "hung", recipe)
    pen = new_attempt(run)
    main.train(run, pen)
    pen.update(state="running", phase="training")
    assert RunWatcher(root).look("hung")["warning"] == ""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 900)
    assert "No step has ended for 15 minutes" in RunWatcher(root).look("hung")["warning"]


def test_a_resume_with_other_weights_on_disk_is_noticed_before_a_step_is_made(recipe, tmp_path):
    run = create_run_at(tmp_path / "run", recipe)
    main.train(run, new_attempt(run))
    before = train_losses(run)
    for path in run.checkpoint_dirs():
        weights = path / "adapter_model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    with pytest.raises(UserError, match="no intact checkpoint"):
        main.train(run, new_attempt(run), resume_from="latest")
    assert train_losses(run) == before
