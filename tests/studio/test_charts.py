"""Thinning keeps what matters of every series, a zoom shows what thinning left out, a viewer gets only what is new."""

from __future__ import annotations

import csv
import io
import json
import math
import random

import numpy as np
import pytest

from engine.contract.errors import UserError
from engine.contract.files import append_json
from engine.contract.metrics import task_key
from engine.contract.places import DataRoot
from engine.contract.rundir import RunDir
from studio.api import metrics_csv
from studio.charts import MAX_POINTS, bin_width, curves, extremes, means, window
from studio.logic.history import History, Table
from studio.logic.run import RunWatcher
from tests.fake_runs import fake_run, metrics_row


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path).make()


def rows_of(values: list[float | None]) -> list[dict]:
    return [{"step": i + 1, "time": 500.0 + 2 * i, "tokens_seen": 10 * i, "a": v} for i, v in enumerate(values)]


def thinned(table: Table, *keys: str) -> dict:
    found = curves(table, keys, width=bin_width(len(table)))
    json.dumps(found, allow_nan=False)
    return found


def points(found: dict, key: int = 0) -> list[tuple[int, float]]:
    return [(step, y) for step, y in zip(found["step"], found["values"][key], strict=True) if y is not None]


@pytest.mark.parametrize("count", [0, 1, 2, MAX_POINTS - 1, MAX_POINTS])
def test_up_to_the_limit_every_row_is_a_point(count):
    found = thinned(Table.of(rows_of([i + 0.5 for i in range(count)])), "a")
    assert points(found) == [(i + 1, i + 0.5) for i in range(count)] and found["mean"] is None
    assert found["tokens"] == [10 * i for i in range(count)]


@pytest.mark.parametrize("count", [MAX_POINTS + 1, 1601, 9_999, 100_000])
def test_of_every_series_first_last_lowest_and_highest_survive(count):
    random.seed(count)
    series = {key: [random.gauss(2, 0.1) for _ in range(count)] for key in "ab"}
    series["a"][count // 3], series["a"][count // 7], series["b"][count // 5] = 99.0, -5.0, 77.0
    table = Table.of([{"step": i, "a": a, "b": b} for i, (a, b) in enumerate(zip(series["a"], series["b"]))])
    found = thinned(table, "a", "b")
    assert found["step"] == sorted(set(found["step"]))
    for key, values in enumerate(series.values()):
        kept = dict(points(found, key))
        assert len(kept) <= MAX_POINTS
        wanted = {0, count - 1, values.index(min(values)), values.index(max(values))}
        assert wanted <= set(kept)
        assert all(kept[step] == pytest.approx(values[step], rel=1e-5) for step in kept)


def test_a_bin_of_eight_by_hand():
    values = np.array([3.0, 9.0, 1.0, 2.0, np.nan, 2.0, 2.0, np.nan, np.nan, np.nan, 5.0])
    assert extremes(values, 8).tolist() == [0, 1, 2, 6, 10]  # first 3, highest 9, lowest 1, last 2; then 5 alone
    assert means(values, 8).tolist() == [19 / 6, 5.0]
    assert math.isnan(means(np.full(8, np.nan), 8)[0]) and extremes(np.full(8, np.nan), 8).tolist() == []


@pytest.mark.parametrize(("rows", "width"), [(0, 4), (800, 4), (801, 8), (1600, 8), (1601, 16), (100_000, 512)])
def test_bins_have_a_power_of_two_of_rows(rows, width):
    assert bin_width(rows) == width


def test_an_absent_task_is_a_gap_and_smoothing_gets_means_of_all_rows():
    table = Table.of(rows_of([None if i % 3 else float(i % 6) for i in range(3200)]))  # 0, -, -, 3, -, -, 0 ...
    found = thinned(table, "a", "nothing")
    assert set(found["values"][1]) == {None}
    assert found["mean"]["row"] == list(range(200)) and len(points(found["mean"])) == 200
    assert points(found["mean"])[0] == (9, 1.5)  # rows 0, 3, 6, 9, 12, 15 of the first 16: 0 3 0 3 0 3


def test_full_bins_never_change_so_parts_put_together_are_the_whole(root):
    random.seed(1)
    rows = [{**row, "train/loss": row["a"]} for row in rows_of([random.gauss(0, 1) for _ in range(1500)])]
    width, first, rest = 8, Table.of(rows[:1003]), Table.of(rows)
    assert bin_width(1003) == bin_width(1500) == width
    before, after = curves(first, ["a"], width=width), curves(rest, ["a"], first=1003 // width, width=width)
    whole = curves(rest, ["a"], width=width)
    cut = sum(row < 1003 // width * width for row in before["row"])
    for key in ("row", "step", "time", "tokens"):
        assert before[key][:cut] + after[key] == whole[key]
    assert before["values"][0][:cut] + after["values"][0] == whole["values"][0]
    at = 1003 // width
    assert before["mean"]["values"][0][:at] + after["mean"]["values"][0] == whole["mean"]["values"][0]


def test_a_window_is_found_on_every_axis_and_has_a_margin():
    table = Table.of(rows_of([1.0] * 100))
    assert window(table, "step", 21, 40) == (17, 43)  # rows 20..39, and 1 + 2 on either side
    assert window(table, "tokens_seen", 200, 390) == (17, 43)
    assert window(table, "time", 40, 78) == (17, 43)  # seconds since the first row, two a row
    assert window(table, "step", -5, 1e9) == (0, 100)
    assert window(table, "step", 1000, 2000) == (99, 100) and window(Table(), "step", 0, 1) == (0, 0)


def many(root: DataRoot, count: int) -> RunDir:
    run = fake_run(root.runs, "running", steps=0)
    with open(run.metrics_file, "w") as file:
        for step in range(1, count + 1):
            file.write(json.dumps(metrics_row(step) | {"task/sql/loss": 2.0 + (step == 1234)}) + "\n")
    return run


def test_a_zoom_shows_what_thinning_left_out(root):
    run, watcher = many(root, 10_000), RunWatcher(root)
    whole = watcher.look(run.id)["train"]
    inside = [step for step in whole["step"] if 1200 <= step <= 1300]
    assert whole["width"] == 64 and len(inside) < 20 and 1234 in inside
    found = watcher.detail(run.id, axis="step", low=1200, high=1300)
    assert found["train"]["step"] == list(range(1189, 1312)) and found["train"]["mean"] is None
    assert (found["axis"], found["low"], found["high"]) == ("step", 1200, 1300)
    assert found["train"]["values"][0][1234 - 1189] == 3.0
    assert found["run"]["values"][0][0] == pytest.approx(5 - 118.9)
    assert watcher.detail(run.id, axis="time", low=1199, high=1299)["train"]["step"] == found["train"]["step"]
    for axis, low, high in (("x", 0, 1), ("step", 2, 1), ("step", math.nan, 1)):
        with pytest.raises(UserError):
            watcher.detail(run.id, axis=axis, low=low, high=high)


def test_bins_that_double_make_a_viewer_start_over(root):
    run, watcher = many(root, 799), RunWatcher(root)
    first = watcher.look(run.id)
    append_json(run.metrics_file, metrics_row(800))
    second = watcher.look(run.id, cursor=first["cursor"])
    assert not second["reset"] and second["train"]["row"] == [796, 797, 798, 799]
    append_json(run.metrics_file, metrics_row(801))
    third = watcher.look(run.id, cursor=second["cursor"])
    assert third["reset"] and third["train"]["first"] == 0 and third["train"]["width"] == 8


def test_marks_hold_every_kind_and_a_resume_forgets_what_comes_again(root):
    run = fake_run(root.runs, "running")
    events = [
        (2, "eval", {}), (4, "save", {}), (6, "eval", {}), (6, "spike", {}), (3, "model", {}),
        (7, "problem", {"not_a_number": ["task/sql/loss"]}), (8, "problem", {}),
    ]  # fmt: skip
    for step, kind, data in events:
        append_json(run.events_file, {"time": 1.0, "step": step, "kind": kind, "text": "x" * 900, "data": data})
    watcher = RunWatcher(root)
    first = watcher.look(run.id)
    told = [(mark["step"], mark["kind"]) for mark in first["marks"]]
    assert told == [(0, "eval"), (2, "eval"), (4, "save"), (6, "eval"), (6, "spike"), (7, "nan"), (8, "problem")]
    assert max(len(mark["text"]) for mark in first["marks"]) == 300
    append_json(run.events_file, {"time": 1.0, "step": 4, "kind": "resume", "text": "Resumed.", "data": {}})
    second = watcher.look(run.id, cursor=first["cursor"])
    assert second["reset"]
    assert [(mark["step"], mark["kind"]) for mark in second["marks"]] == [
        (0, "eval"), (2, "eval"), (4, "save"), (6, "spike"), (7, "nan"), (8, "problem"), (4, "resume"),
    ]  # fmt: skip
    append_json(run.events_file, {"time": 1.0, "step": 9, "kind": "save", "text": "Saved.", "data": {}})
    third = watcher.look(run.id, cursor=second["cursor"])
    assert not third["reset"] and [mark["step"] for mark in third["marks"]] == [9] and len(third["events"]) == 1


def test_usage_of_gpus_stands_between_the_memory_and_the_host(root):
    run = fake_run(root.runs, "running", steps=2)
    used = {"gpu/10/memory_bytes": 3, "gpu/2/memory_bytes": 2, "host/cpu_percent": 50.0, "perf/memory_bytes": 5}
    append_json(run.metrics_file, {**metrics_row(3), **used})
    found = RunWatcher(root).look(run.id)
    assert [(key["key"], key["gpu"]) for key in found["run_keys"]] == [
        ("train/loss", ""), ("perf/memory_bytes", ""), ("gpu/2/memory_bytes", "2"), ("gpu/10/memory_bytes", "10"),
        ("host/cpu_percent", ""),
    ]  # fmt: skip
    assert found["run"]["values"][2] == [None, None, 2.0]


def test_a_table_grows_and_forgets(tmp_path):
    table = Table.of(rows_of([1.0] * 3000))
    table.cut(11)
    assert len(table) == 10
    table.extend([{"step": 11, "b": 2.0}, {"step": 12, "a": "x", "b": None}])
    assert np.isnan(table.column("a")[10:]).all() and table.column("b")[10] == 2.0
    assert (table.column("step").dtype, table.column("a").dtype) == (np.float64, np.float32)


def test_a_file_is_read_in_chunks_as_in_one(root, monkeypatch):
    run = many(root, 300)
    whole, parts = History(run), History(run)
    whole.update()
    monkeypatch.setattr("studio.logic.history.CHUNK", 1000)
    parts.update()
    assert len(parts.train) == 300 and parts.offset == whole.offset
    np.testing.assert_array_equal(parts.train.column("task/sql/loss"), whole.train.column("task/sql/loss"))
    assert [row["step"] for row in parts.recent] == list(range(251, 301))


def test_the_csv_holds_every_row_and_leaves_cells_empty(tmp_path):
    run = fake_run(tmp_path, "finished", steps=3)
    rows = list(csv.DictReader(io.StringIO("".join(metrics_csv(run)))))
    assert len(rows) == len(run.metrics()[0])
    train = [row for row in rows if row["train/loss"]]
    assert [row["step"] for row in train] == ["1", "2", "3"]
    assert train[0]["task/bug-fix/loss"] == "" and float(train[1]["task/bug-fix/loss"]) == 5.8
    assert task_key("bug-fix", "loss") in train[0]
