"""Small files: atomic, tailed, named safely."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.files import (
    append_json,
    child,
    new_folder,
    read_rows,
    replace_json,
    slug,
    tail_text,
    truncate_torn_tail,
)


def test_rows_are_read_from_an_offset_and_a_torn_line_waits(tmp_path: Path):
    file = tmp_path / "m.jsonl"
    append_json(file, {"step": 1})
    rows, offset = read_rows(file)
    with open(file, "ab") as stream:
        stream.write(b'{"step": 2}\nnot json\n{"step": 3')
    more, offset = read_rows(file, offset)
    with open(file, "ab") as stream:
        stream.write(b"}\n")
    last, _ = read_rows(file, offset)
    assert (rows, more, last) == ([{"step": 1}], [{"step": 2}], [{"step": 3}])


@pytest.mark.parametrize("left_over", [False, True])
def test_a_new_folder_is_whole_or_not_there(tmp_path: Path, left_over: bool):
    target = tmp_path / "model"
    if left_over:  # by a process that was killed
        (tmp_path / ".tmp-model").mkdir()
        (tmp_path / ".tmp-model" / "half").write_text("")
    with pytest.raises(KeyboardInterrupt), new_folder(target) as folder:
        (folder / "a").write_text("a")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with new_folder(target) as folder:
        (folder / "b").write_text("b")
        assert not target.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "b"]


def test_what_is_there_makes_way_only_where_that_is_wanted_and_the_new_one_is_whole(tmp_path: Path):
    target = tmp_path / "model"
    with new_folder(target) as folder:
        (folder / "old").write_text("")
    with pytest.raises(OSError), new_folder(target) as folder:
        (folder / "new").write_text("")
    with pytest.raises(ValueError, match="broken"), new_folder(target, replace=True):
        raise ValueError("broken")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]
    with new_folder(target, replace=True) as folder:
        (folder / "new").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "new"]


def test_a_replaced_shorter_stream_is_read_from_the_start(tmp_path: Path):
    file = tmp_path / "m.jsonl"
    file.write_text('{"step": 9}\n')
    assert read_rows(file, offset=10_000)[0] == [{"step": 9}]


def test_a_torn_tail_is_cut_before_writing_on(tmp_path: Path):
    file = tmp_path / "m.jsonl"
    file.write_bytes(b'{"step": 1}\n{"st')
    truncate_torn_tail(file)
    append_json(file, {"step": 2})
    assert read_rows(file)[0] == [{"step": 1}, {"step": 2}]


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path):
    file = tmp_path / "s.json"
    replace_json(file, {"a": math.nan, "b": [math.inf, 1.5]})
    assert json.loads(file.read_text()) == {"a": None, "b": [None, 1.5]}
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]  # no temporary file is left


def test_a_log_cannot_repaint_the_screen(tmp_path: Path):
    file = tmp_path / "t.log"
    file.write_bytes(b"one\nstep 1\rstep 2\n\x1b[2Jgone\xff\n")
    assert tail_text(file) == "one\nstep 2\n\\x1b[2Jgone\ufffd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My Task!", "my-task"),
        ("../../x", "x"),
        ("", "item"),
        ("数据", "item"),
        ("café.jsonl", "cafe.jsonl"),
        ("-rf", "rf"),
    ],
)
def test_slugs(text, expected):
    assert slug(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My Task!", "my-task"),
        ("中文问答（新）", "中文问答-新"),
        ("代码 Ａ１　测试", "代码-a1-测试"),
        ("한국어 café", "한국어-cafe"),
        ("../../数据", "数据"),
        ("，。", "item"),
        ("数\u200b据\u202e", "数据"),
        ("_数", "数"),
        ("x" * 70 + "数", "x" * 64),
    ],
)
def test_slugs_that_people_read_keep_their_script(tmp_path: Path, text, expected):
    assert slug(text, any_script=True) == expected
    assert child(tmp_path, slug(text, any_script=True)).parent == tmp_path


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", ".hidden", "nul\0byte", "new\nline", "-rf", "x" * 200])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, name):
    with pytest.raises(UserError):
        child(tmp_path, name)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError):
        child(tmp_path / "root", "link")
