"""Task files: a corpus of malformed and hostile files with the right verdict each, and the rules by hand."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest

from engine.__main__ import main
from engine.contract.errors import UserError
from engine.contract.taskfile import (
    MAX_RECORD_BYTES,
    Example,
    Message,
    iter_examples,
    load_examples,
    scan_task_file,
    write_messages,
)

HOSTILE = Path(__file__).resolve().parents[1] / "data" / "hostile"
INDEX = json.loads((HOSTILE / "index.json").read_text())


def test_the_corpus_is_there():
    assert len(INDEX) > 50 and {entry["verdict"] for entry in INDEX} == {"accept", "skip", "reject"}


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["file"])
def test_every_file_gets_its_verdict(entry):
    path = HOSTILE / entry["file"]
    if entry["verdict"] == "reject":
        with pytest.raises(UserError) as caught:
            scan_task_file(path)
        assert all(word.lower() in str(caught.value).lower() for word in entry["message_has"])
        return
    scan = scan_task_file(path)
    assert (scan.num_records, scan.num_used) == (entry["records"], entry["used"])
    assert scan.num_used + scan.num_skipped == scan.num_records
    reasons = {str(row.line): row.reason.lower() for row in scan.skipped}
    assert all(word.lower() in reasons[line] for line, word in entry["bad"].items())
    warnings = " ".join(scan.warnings).lower()
    assert all(word.lower() in warnings for word in entry["warning_has"])


def write(path: Path, *records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("record", "form"),
    [
        ({"messages": [USER, BOT]}, "messages"),
        ({"chat_rounds": [{"role": "human", "content": "q"}, {"role": "bot", "content": "a"}]}, "chat_rounds"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "conversations"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt/completion"),
        ({"prompt": "q", "response": "a"}, "prompt/response"),
        ({"question": "q", "answer": "a"}, "question/answer"),
        ({"query": "q", "answer": "a"}, "query/answer"),
        ({"input": "q", "output": "a"}, "input/output"),
    ],
)
def test_every_form_becomes_the_same_conversation(tmp_path, record, form):
    (example,), scan = load_examples(write(tmp_path / "t.jsonl", record))
    assert example.messages == (Message("user", "q"), Message("assistant", "a"))
    assert scan.format == form


def test_text_is_stored_as_it_stands(tmp_path):
    odd = " \u2028\u0085 spaces, \r\n, é, 数据, 🙂 \t"
    (example,), _ = load_examples(write(tmp_path / "t.jsonl", {"messages": [USER, {**BOT, "content": odd}]}))
    assert example.messages[1].content == odd
    write_messages(tmp_path / "again.jsonl", [example])
    assert load_examples(tmp_path / "again.jsonl")[0] == [Example(example.messages, 1)]


def test_a_record_that_is_too_long_is_skipped_and_the_next_one_used(tmp_path):
    path = tmp_path / "t.jsonl"
    good = json.dumps({"messages": [USER, BOT]}).encode()
    path.write_bytes(b'{"x": "' + b"y" * (MAX_RECORD_BYTES + 5) + b'"}\n' + good + b"\n")
    scan = scan_task_file(path)
    assert (scan.num_used, scan.skipped[0].line) == (1, 1) and "longer" in scan.skipped[0].reason


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "link", "other", "utf16", "zip", "nul"])
def test_things_that_are_no_task_files_get_a_sentence(tmp_path, kind):
    path = tmp_path / "t.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "other":
        path = tmp_path / "t.docx"
        path.write_text("prompt")
    elif kind == "utf16":
        path.write_bytes('{"prompt": "q"}'.encode("utf-16"))
    elif kind == "zip":
        path.write_bytes(b"PK\x03\x04rest")
    elif kind == "nul":
        path = Path("/tmp/a\0b.jsonl")
    with pytest.raises(UserError) as caught:
        scan_task_file(path)
    assert caught.value.fix and "root:" not in str(caught.value)


def test_a_reason_is_told_once_with_the_first_line_it_is_met_at(tmp_path):
    path = write(tmp_path / "t.jsonl", {"a": 1}, {"a": 2}, [], {"a": 3})
    with pytest.raises(UserError) as caught:
        scan_task_file(path)
    told = str(caught.value)
    assert "0 of 4 records" in told and told.count("no known columns") == 1
    assert told.index("line 1: no known columns") < told.index("line 3: a JSON object is needed")


def test_streaming_names_what_it_skips(tmp_path):
    skipped = []
    path = write(tmp_path / "t.jsonl", {"messages": [USER, BOT]}, {"messages": [BOT]}, {"messages": [USER, BOT]})
    assert [example.line for example in iter_examples(path, on_skip=skipped.append)] == [1, 3]
    assert [row.line for row in skipped] == [2]


def test_csv_cells_are_text_and_rows_are_where_they_begin(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('prompt,completion\n"two\nlines",NA\nq,\xff\n007,1e5\n'.encode("latin-1"))
    examples, scan = load_examples(path)
    assert [(e.line, e.messages[0].content, e.messages[1].content) for e in examples] == [
        (2, "two\nlines", "NA"),
        (5, "007", "1e5"),
    ]
    assert [(row.line, row.reason) for row in scan.skipped] == [(4, "not valid UTF-8")]


def test_a_table_with_an_open_quote_is_refused_with_its_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('prompt,completion\nq,"a\n')
    with pytest.raises(UserError, match="line"):
        scan_task_file(path)


def test_a_parquet_bomb_costs_no_memory(tmp_path):
    """A dictionary value repeated: some kilobytes on disk, 36 GB when decoded naively."""
    import pyarrow as arrow
    from pyarrow import parquet

    big = arrow.DictionaryArray.from_arrays(arrow.array([0] * 4000, arrow.int32()), arrow.array(["x" * 9_000_000]))
    table = arrow.table({"prompt": big, "completion": arrow.array(["a"] * 4000)})
    path = tmp_path / "bomb.parquet"
    parquet.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="decodes to far more"):
        scan_task_file(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000  # KiB; the bomb alone is 36 GB


def test_inspect_tells_everything_as_json(tmp_path, capsys):
    good = write(tmp_path / "good.jsonl", {"messages": [USER, BOT]}, {"messages": [BOT]})
    bad = write(tmp_path / "bad.jsonl", {"x": 1})
    assert main(["inspect", "--json", str(good), str(bad), str(tmp_path / "none.jsonl")]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [(item["records"], item["used"], item["error"] is None) for item in told] == [
        (2, 1, True),
        (1, 0, False),
        (None, 0, False),
    ]
    assert told[0]["skipped"][0]["line"] == 2 and told[1]["skipped"][0]["reason"]
    assert main(["inspect", str(good)]) == 0
    assert "1 used" in capsys.readouterr().out
