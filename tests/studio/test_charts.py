"""Thinning keeps what matters: first, last, lowest, highest, and one x axis for all tasks."""

from __future__ import annotations

import csv
import io

from studio.api import metrics_csv
from studio.charts import MAX_POINTS, eval_series, thin, train_series
from tests.fake_runs import fake_run


def rows_of(values):
    return [{"step": i + 1, "train/loss": value, "task/a/loss": value} for i, value in enumerate(values)]


def test_short_series_are_untouched():
    rows = rows_of([3.0, 2.0, 1.0])
    assert thin(rows, "train/loss") == rows


def test_first_last_and_extremes_survive():
    values = [1.0] * 10_000
    values[4321], values[777] = 99.0, -5.0
    kept = thin(rows_of(values), "train/loss")
    assert len(kept) <= MAX_POINTS
    steps = [row["step"] for row in kept]
    assert steps == sorted(set(steps)) and {1, 10_000, 4322, 778} <= set(steps)


def test_gaps_stay_gaps():
    rows = [{"step": 1, "train/loss": 2.0, "task/a/loss": 2.0}, {"step": 2, "train/loss": None}]
    series = train_series(rows, ["a", "b"])
    assert (series["step"], series["tasks"]) == ([1, 2], [[2.0, None], [None, None]])
    assert series["run"]["total"] == [2.0, None] and series["run"]["memory"] == [None, None]
    assert thin(rows * 900, "train/loss")  # rows without a value do not break the search for extremes


def test_evaluations():
    rows = [{"step": 0, "eval/loss": 3.0, "task/a/eval_loss": 3.0}]
    assert eval_series(rows, ["a"]) == {"step": [0], "tasks": [[3.0]]}


def test_the_csv_holds_every_row_and_leaves_cells_empty(tmp_path):
    run = fake_run(tmp_path, "finished", steps=3)
    rows = list(csv.DictReader(io.StringIO(metrics_csv(run))))
    assert len(rows) == len(run.metrics()[0])
    train = [row for row in rows if row["train/loss"]]
    assert [row["step"] for row in train] == ["1", "2", "3"]
    assert train[0]["task/bug-fix/loss"] == "" and float(train[1]["task/bug-fix/loss"]) == 5.8
