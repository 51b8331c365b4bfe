"""A form goes to the browser's storage and comes back: all of it, nothing secret, and nothing that makes no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.places import DataRoot
from studio.logic import form_fields
from studio.logic.draft import Draft, initial
from studio.logic.kept_draft import MOST_CHARACTERS, keep, restore

PROJECT = Path(__file__).resolve().parents[2]
NAME = "text-to-code"


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path).make()


@pytest.fixture
def empty(root: DataRoot) -> Draft:
    return initial(root, PROJECT)


def test_an_untouched_form_is_not_kept(root, empty):
    assert keep(empty, root) is None


def test_changed_values_and_chosen_tasks_come_back_also_wrong_and_unfinished_ones(root, empty):
    changes = {"optim.learning_rate": 5.0, "lora.r": None, "method": "full", "model.gradient_checkpointing": True}
    tasks = tuple(
        replace(task, checked=True, weight=2.5, max_samples=7, max_epochs=3.0) if task.name == NAME else task
        for task in empty.tasks
    )
    draft = Draft(values={**empty.values, **changes, "name": "half a na"}, tasks=tasks)
    kept = keep(draft, root)
    assert kept is not None and set(kept["values"]) == {*changes, "name"}

    back = restore(json.dumps(kept), root, PROJECT)

    assert back is not None and back.values == draft.values
    (chosen,) = (task for task in back.tasks if task.checked)
    assert chosen == next(task for task in tasks if task.checked)  # counts of the file included
    assert {task.name for task in back.tasks} == {task.name for task in empty.tasks}


@pytest.mark.parametrize("secret", ["hf_abcdefghijklmnop", "https://ada:s3cret@judge.lab/v1", "canary-of-this-machine"])
def test_what_looks_like_a_secret_is_not_kept(root, empty, monkeypatch, secret):
    from engine.contract import redact

    monkeypatch.setenv("SOME_API_KEY", "canary-of-this-machine")
    redact._own_secrets.cache_clear()
    tasks = (replace(empty.tasks[0], checked=True, path=f"/data/{secret}.jsonl"), *empty.tasks[1:])
    values = {**empty.values, "description": f"with {secret}", "evaluate.judge_url": secret, "seed": 7}
    kept = keep(Draft(values=values, tasks=tasks), root)
    monkeypatch.delenv("SOME_API_KEY")
    redact._own_secrets.cache_clear()
    assert kept == {"values": {"seed": 7}, "tasks": []}


@pytest.mark.parametrize(
    "text", ["", "{", "3", "[]", "{}", '{"values": 3, "tasks": "x"}', "[" * 100_000, " " * (MOST_CHARACTERS + 1)]
)
def test_what_cannot_be_read_is_no_draft(root, text):
    assert restore(text, root, PROJECT) is None


def test_values_that_no_widget_can_show_are_left_out(root):
    told = {
        "lora.r": "many",
        "method": "magic",
        "model.gradient_checkpointing": 1,
        "name": 3,
        "optim.speed": 1,
        "seed": 8,
    }
    told["optim.speed"] = 1
    back = restore(json.dumps({"values": told, "tasks": [{"name": 1}, 3]}), root, PROJECT)
    assert back is not None and {p: v for p, v in back.values.items() if v != form_fields.defaults()[p]} == {"seed": 8}


def test_a_task_whose_file_is_gone_says_so_and_hides_nothing(root):
    rows = [{"name": "gone", "path": "/gone.jsonl", "weight": 3}]
    back = restore(json.dumps({"values": {}, "tasks": rows}), root, PROJECT)
    assert back is not None
    (gone,) = (task for task in back.tasks if task.checked)
    assert gone.problem and gone.weight == 3.0
