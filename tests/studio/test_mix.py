"""The mixture on the New run page: measured numbers from the files a child wrote, rows alone before that."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from engine.__main__ import main
from engine.contract.facts import facts_key
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe, override
from engine.data.preview import TaskFacts, preview
from studio.logic import measure, mix
from tests.tiny_model import save_tiny_model
from tests.tiny_run import write_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mix")
    save_tiny_model(folder / "tiny")
    write_task(folder / "a.jsonl", 90, "abc")
    write_task(folder / "b.jsonl", 10, "a longer question with more words")
    return folder


@pytest.fixture
def recipe(folder) -> Recipe:
    tasks = [{"name": "short", "path": str(folder / "a.jsonl")}, {"name": "long", "path": str(folder / "b.jsonl")}]
    return Recipe.model_validate({"model_name_or_path": str(folder / "tiny"), "tasks": tasks})


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path / "root").make()


def measured(recipe: Recipe, root: DataRoot, tmp_path: Path) -> None:
    """Measure as the child process does."""
    path = tmp_path / "request.yaml"
    path.write_text(dump_recipe(recipe))
    assert main(["measure", str(path), "--output", str(root.facts)]) == 0


def test_before_measuring_only_rows_are_shown(recipe, root):
    view = mix.look(recipe, [90, 10], root, measure=False)
    assert [task["rows"] for task in view.value["tasks"]] == [
        87,
        9,
    ]  # 86 + 9 rows, 24 steps of 4
    assert all(task["tokens"] is None for task in view.value["tasks"])
    assert view.steps is None and not view.value["is_complete"] and "once the model is chosen" in view.value["text"]


def test_limits_and_a_held_out_file_count_before_measuring_too(recipe, root):
    limited = override(recipe, ["tasks.0.max_samples=20", "tasks.1.eval_path=/held.jsonl", "data.eval_split=0.1"])
    shown = mix.look(limited, [90, 10], root, measure=False).value["tasks"]
    assert [task["rows"] for task in shown] == [18, 10]  # 20 - 2 held out; nothing is taken from the second


def test_measured_numbers_are_those_of_the_engine(recipe, root, tmp_path, monkeypatch):
    monkeypatch.setattr(mix, "request_facts", measure.request_facts)
    measured(recipe, root, tmp_path)
    view = mix.look(recipe, [90, 10], root, measure=True)
    assert view.value["is_complete"] and not view.is_measuring
    facts = [item.facts for item in measure.facts_of(recipe, root)]
    expected = preview(recipe, facts)
    assert view.steps == expected.steps
    for shown, task in zip(view.value["tasks"], expected.tasks, strict=True):
        assert (shown["rows"], shown["tokens"], shown["loss_share"]) == (task.rows, task.tokens, task.loss_share)
    json.dumps(view.value)


def test_other_weights_shares_and_names_need_no_new_measurement_but_other_lengths_do(recipe, root, tmp_path):
    measured(recipe, root, tmp_path)
    renamed = recipe.tasks[0].model_copy(update={"name": "other", "weight": 3.0, "mixing_weight": 2.0})
    same = override(recipe, ["mixing.strategy=equal", "data.packing=bfd"]).model_copy(
        update={"tasks": (renamed, recipe.tasks[1])}
    )
    assert all(measure.facts_of(same, root))
    assert mix.look(same, [90, 10], root, measure=True).value["tasks"][0]["name"] == "other"
    assert measure.facts_of(override(recipe, ["data.max_length=64"]), root) == [None, None]


def test_a_task_that_repeats_often_is_pointed_out(recipe, root, tmp_path):
    measured(recipe, root, tmp_path)
    often = override(recipe, ["mixing.strategy=equal", "optim.num_train_epochs=2"])
    short, long = mix.look(often, [90, 10], root, measure=True).value["tasks"]
    assert long["repeats_often"] and long["epochs"] > 9 and not short["repeats_often"]


def test_a_task_that_cannot_be_measured_says_why_and_is_tried_again_later(recipe, root, tmp_path, monkeypatch):
    short = override(recipe, ["data.max_length=16"])
    measured(short, root, tmp_path)
    view = mix.look(short, [90, 10], root, measure=True)
    assert not view.value["is_complete"]
    assert any("all 9 examples are longer than 16 tokens" in note for note in view.value["notes"])
    assert not any(item.is_stale for item in measure.facts_of(short, root))
    later = time.time() + measure.RETRY_S + 1
    monkeypatch.setattr(measure.time, "time", lambda: later)
    assert any(item.is_stale for item in measure.facts_of(short, root))


def test_one_process_measures_what_is_missing(recipe, root, monkeypatch):
    started = []

    def start(status_file, argv, log_file):
        started.append(argv)
        status_file.write_text(json.dumps({"state": "running", "updated_at": time.time(), "phase": "measuring short"}))

    monkeypatch.setattr(measure, "start_job", start)
    assert measure.request_facts(recipe, root) and measure.request_facts(recipe, root)
    assert len(started) == 1 and started[0][2:4] == ["engine", "measure"]
    assert "measuring short" in mix.look(recipe, [90, 10], root, measure=True).value["text"]


def test_a_broken_answer_is_a_reason(recipe, root):
    root.facts.mkdir(parents=True)
    (root.facts / f"{facts_key(recipe, recipe.tasks[0])}.json").write_text('{"facts": {"name": 3}}')
    first, second = measure.facts_of(recipe, root)
    assert first.problem and first.facts is None and second is None


def test_facts_survive_json(recipe, root, tmp_path):
    measured(recipe, root, tmp_path)
    facts = measure.facts_of(recipe, root)[0].facts
    assert TaskFacts.read(json.loads(json.dumps(facts.as_json()))) == facts
