"""Runs and Compare: what a list shows, tags and notes, colours for life, differences of recipes."""

from __future__ import annotations

import json

import pytest

from engine.contract.errors import UserError
from engine.contract.files import append_json
from engine.contract.places import DataRoot
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from studio.api import shown_colors
from studio.context import StudioContext
from studio.logic import compare, runs
from studio.logic.colors import task_colors
from studio.logic.run import RunWatcher
from studio.logic.run_glance import POINTS, glance
from tests.fake_runs import RECIPE, fake_run


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path).make()


def test_a_line_holds_curve_best_time_and_tags(root):
    run = fake_run(root.runs, "finished")
    assert "Saved" in runs.request_note(root, run.id, {"tags": " sql, baseline ,,sql", "note": " <b>good</b> "})
    line = runs.look(root)[0]
    assert line.spark[0] == 4.9 and line.spark[-1] == 4.0 and len(line.spark) == 10
    assert (line.best, line.eval_loss) == (4.0, 4.0)
    assert 55 < line.seconds < 65
    assert (line.tags, line.note) == (("sql", "baseline"), "<b>good</b>")


@pytest.mark.parametrize("value", [{"tags": ",".join("abcdefghijklm")}, {"tags": "x" * 33}, {"note": "x" * 2001}])
def test_tags_and_notes_have_limits(root, value):
    with pytest.raises(UserError, match="At most|at most"):
        runs.request_note(root, fake_run(root.runs, "finished").id, value)


def test_a_broken_notes_file_is_an_empty_one(root):
    run = fake_run(root.runs, "finished")
    for text in ("{", "[1]", '{"tags": 3, "note": null}'):
        run.notes_file.write_text(text)
        assert (runs.look(root)[0].tags, runs.look(root)[0].note) == ((), "")


def test_a_glance_keeps_the_newest_point_follows_the_file_and_survives_torn_rows(root):
    run = fake_run(root.runs, "running", steps=1000)
    first = glance(run, "mean")
    assert len(first.spark) == POINTS and first.spark[-1] == -95.0  # 5 - 1000 / 10
    append_json(run.metrics_file, {"step": 1001, "train/loss": 1.0})
    append_json(run.metrics_file, {"step": 1001, "eval/loss": 3.5})
    with open(run.metrics_file, "ab") as file:
        file.write(b'"train/loss" nonsense\n{"step": 1002, "train/loss": 0.5')
    second = glance(run, "mean")
    assert (second.best, second.best_step, second.eval_loss) == (3.5, 1001, 3.5)


def test_a_task_keeps_its_colour_and_tasks_of_a_run_differ(root):
    first = task_colors(root, ["a", "b", "c"])
    assert len(set(first.values())) == 3
    assert task_colors(root, ["c", "d", "a"])["a"] == first["a"]
    eight = task_colors(root, [f"t{i}" for i in range(8)])
    assert len(set(eight.values())) == 8
    twelve = task_colors(root, [f"t{i}" for i in range(12)])
    assert len(set(twelve.values())) == 12 and eight.items() <= twelve.items()  # the colours come again in other shapes
    assert len({look % 8 for look in list(twelve.values())[8:]}) == 4
    assert len(set(task_colors(root, [f"u{i}" for i in range(24)]).values())) == 24
    (root.path / "colors.json").write_text('{"a": 99, "b": "x"}')
    assert set(task_colors(root, ["a", "b"]).values()) <= set(range(8))


def test_every_page_is_told_the_same_colour(root, tmp_path):
    run = fake_run(root.runs, "running")
    context = StudioContext(root=root, project=tmp_path)
    on_run_page = {task["name"]: task["color"] for task in RunWatcher(root).look(run.id)["tasks"]}
    line = runs.look(root)[0]
    compared = compare.look(root, run.id)
    assert on_run_page == dict(zip(line.tasks, line.colors)) == dict(zip(compared["tasks"], compared["colors"]))
    assert {name: shown_colors(context)[name] for name in on_run_page} == on_run_page


def test_compare_lays_runs_over_each_other_and_tells_differences_only(root):
    first = fake_run(root.runs, "finished")
    other = create_run_at(root.runs / "other", override(RECIPE, ["optim.learning_rate=0.001", "tasks.0.weight=3"]))
    found = compare.look(root, f"{first.id},{other.id},nothing,{first.id}")
    json.dumps(found, allow_nan=False)
    assert [run["id"] for run in found["runs"]] == [first.id, other.id]
    assert len(found["notes"]) == 1 and "nothing" in found["notes"][0]
    assert found["runs"][0]["table"][""] == {"base": 5.0, "best": 4.0, "last": 4.0}
    assert found["runs"][0]["table"]["bug-fix"] == {"base": 6.0, "best": 6.0, "last": 6.6}
    assert found["runs"][0]["time"][:2] == [0.0, 1.0]
    different = {row["path"]: row["values"] for row in found["settings"] if row["differs"]}
    assert different == {"optim.learning_rate": ["0.0002", "0.001"], "tasks.sql.weight": ["1.0", "3.0"]}


def test_compare_takes_six_and_says_so(root):
    ids = [create_run_at(root.runs / f"r{i}", RECIPE).id for i in range(7)]
    found = compare.look(root, ",".join(ids))
    assert len(found["runs"]) == 6 and "first 6 of 7" in found["notes"][0]
    assert compare.look(root, "")["runs"] == []
