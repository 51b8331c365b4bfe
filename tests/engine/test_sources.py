"""Folders, Arrow files and datasets saved by Hugging Face: every record accounted for, nothing believed."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from pathlib import Path

import pyarrow as arrow
import pytest

from engine.__main__ import main
from engine.contract import sources
from engine.contract.errors import UserError
from engine.contract.taskfile import Columns, SkippedRow, iter_examples, load_examples, scan_task_file, write_messages

PAIR = {"prompt": "q", "completion": "a"}


def write(path: Path, *records) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_arrow(path: Path, columns: dict, *, form="stream", compression=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = arrow.record_batch(columns)
    open_file = arrow.ipc.new_stream if form == "stream" else arrow.ipc.new_file
    options = arrow.ipc.IpcWriteOptions(compression=compression)
    with arrow.OSFile(str(path), "wb") as sink, open_file(sink, batch.schema, options=options) as writer:
        writer.write(batch)
    return path


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    write(tmp_path / "b.jsonl", PAIR, {"x": 1})
    write(tmp_path / "a" / "z.jsonl", PAIR)
    (tmp_path / "c.csv").write_text("prompt,completion\nq,a\n")
    write(tmp_path / ".hidden.jsonl", PAIR)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "b.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    examples, scan = load_examples(tmp_path)
    assert [(e.file, e.line) for e in examples] == [("a/z.jsonl", 1), ("b.jsonl", 1), ("c.csv", 2)]
    assert scan.skipped[0].file == "b.jsonl" and (scan.num_records, scan.num_used, scan.num_skipped) == (4, 3, 1)
    assert "1 hidden, 1 links, 1 of another kind" in scan.warnings[0]
    names = ["a/z.jsonl", "b.jsonl", "c.csv"]
    pairs = [(name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()) for name in names]
    assert scan.sha256 == hashlib.sha256("".join(f"{n}\0{d}\n" for n, d in pairs).encode()).hexdigest()
    assert scan.num_bytes == sum((tmp_path / name).stat().st_size for name in names)
    assert [e.file for e in iter_examples(tmp_path)] == names


def test_an_unusable_file_of_a_folder_is_named_and_the_others_are_used(tmp_path):
    write(tmp_path / "good.jsonl", PAIR)
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    scan = scan_task_file(tmp_path)
    assert scan.num_used == 1 and any("bad.parquet" in warning for warning in scan.warnings)
    (tmp_path / "good.jsonl").unlink()
    with pytest.raises(UserError, match="bad.parquet"):
        scan_task_file(tmp_path)


def test_folders_that_cannot_be_used_get_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="without task files"):
        scan_task_file(tmp_path)
    write(tmp_path / "in" / "a.jsonl", PAIR)
    write(tmp_path / "in" / "b.jsonl", PAIR)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(UserError, match="symbolic link|folder"):
        scan_task_file(tmp_path / "link")
    monkeypatch.setattr(sources, "MAX_FILES", 1)
    write(tmp_path / "in" / "c.jsonl", PAIR)
    with pytest.raises(UserError, match="more than 1 task files"):
        scan_task_file(tmp_path / "in")


def test_unknown_columns_are_told_with_a_guess_that_works(tmp_path):
    path = write(tmp_path / "t.jsonl", {"a": "one", "b": "two"})
    with pytest.raises(UserError) as caught:
        scan_task_file(path)
    assert "no known columns (found: a, b)" in caught.value.fix
    assert "perhaps columns: {prompt: a, completion: b}" in caught.value.fix
    assert scan_task_file(path, Columns(prompt="a", completion="b")).num_used == 1


def test_pairs_and_texts_are_told_and_survive_a_round_trip(tmp_path):
    tool = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    chat = {"messages": [{"role": "user", "content": "q"}, tool], "tools": [{"name": "f"}]}
    path = write(tmp_path / "t.jsonl", {"prompt": "q", "chosen": "a", "rejected": "b"}, {"text": "t"}, chat)
    examples, scan = load_examples(path)
    warnings = " ".join(scan.warnings)
    assert "1 of 3 records are preference pairs: `chosen` is trained, `rejected` is kept for later" in warnings
    assert "1 of 3 records are plain text" in warnings
    write_messages(tmp_path / "again.jsonl", examples)
    assert load_examples(tmp_path / "again.jsonl")[0] == examples


def test_streaming_a_folder_names_the_file_of_what_it_skips(tmp_path):
    write(tmp_path / "a.jsonl", {"prompt": "", "completion": "a"})
    skipped = []
    assert list(iter_examples(tmp_path, on_skip=skipped.append)) == []
    assert skipped == [SkippedRow(1, "`prompt` is empty", "a.jsonl")]


def test_a_dataset_saved_by_hugging_face_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = [{"prompt": f"q{index}", "completion": " a\n"} for index in range(7)]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk(tmp_path / "one", num_shards=2)
    examples, scan = load_examples(tmp_path / "one")
    assert [example.messages[0].content for example in examples] == [row["prompt"] for row in rows]
    assert {example.messages[1].content for example in examples} == {" a\n"} and scan.num_skipped == 0
    assert examples[0].file == "data-00000-of-00002.arrow"
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "both")
    scan = scan_task_file(tmp_path / "both")
    assert scan.num_used == 7 and "`train` is read, of: `train`, `test`" in scan.warnings[0]
    datasets.DatasetDict({"x": data, "y": data}).save_to_disk(tmp_path / "none")
    with pytest.raises(UserError, match="none is called train: `x`, `y`"):
        scan_task_file(tmp_path / "none")


@pytest.mark.parametrize("form", ["stream", "file"])
def test_an_arrow_file_of_either_form_is_read(tmp_path, form):
    turns = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], None]
    path = write_arrow(tmp_path / "t.arrow", {"messages": turns}, form=form)
    scan = scan_task_file(path)
    assert (scan.num_records, scan.num_used, scan.skipped[0].line) == (2, 1, 2)


def test_arrow_files_that_are_damaged_or_compressed_are_refused(tmp_path):
    good = write_arrow(tmp_path / "t.arrow", {"prompt": ["q"] * 99, "completion": ["a"] * 99}).read_bytes()
    for end in (20, 100, len(good) // 2):
        (tmp_path / "cut.arrow").write_bytes(good[:end])
        with pytest.raises(UserError):
            scan_task_file(tmp_path / "cut.arrow")
    (tmp_path / "t.jsonl").write_bytes(good)
    with pytest.raises(UserError, match="content is Arrow"):
        scan_task_file(tmp_path / "t.jsonl")
    for codec in ("zstd", "lz4"):
        for form in ("stream", "file"):
            bomb = write_arrow(tmp_path / "z.arrow", {"text": ["x" * 9999]}, form=form, compression=codec)
            with pytest.raises(UserError, match="compressed"):
                scan_task_file(bomb)


def test_a_flipped_byte_never_costs_more_than_a_sentence(tmp_path):
    path = write_arrow(tmp_path / "t.arrow", {"prompt": ["q"] * 9, "completion": ["ab"] * 9})
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        try:
            scan = scan_task_file(path)
        except UserError:
            continue
        assert scan.num_used + scan.num_skipped == scan.num_records


def test_arrow_values_that_cost_no_bytes_cost_no_memory(tmp_path):
    """One dictionary value 4000 times is 36 GB, two billion nulls are a list of 16 GB."""
    big = arrow.DictionaryArray.from_arrays(arrow.array([0] * 4000, arrow.int32()), arrow.array(["x" * 9_000_000]))
    few = {"prompt": ["q"] * 4000, "completion": big}
    with pytest.raises(UserError, match="decodes to far more"):
        scan_task_file(write_arrow(tmp_path / "words.arrow", few))
    nulls = arrow.ListArray.from_arrays(arrow.array([0, 2**31 - 2], arrow.int32()), arrow.nulls(2**31 - 2))
    with pytest.raises(UserError):
        scan_task_file(write_arrow(tmp_path / "nulls.arrow", {"prompt": ["q"], "messages": nulls}))
    hidden = arrow.ListArray.from_arrays(arrow.array([0, 4000], arrow.int32()), big)
    path = write_arrow(tmp_path / "nested.arrow", {"prompt": ["q"], "completion": ["a"], "messages": hidden})
    assert "not read: messages" in scan_task_file(path).warnings[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000  # KiB


def test_inspect_reads_folders_and_named_columns(tmp_path, capsys):
    write(tmp_path / "d" / "a.jsonl", {"question": "q", "solution": "a"}, {"question": "q"})
    write(tmp_path / "other.jsonl", {"question": "q", "solution": "a"})
    argv = ["inspect", "--json", str(tmp_path / "d"), "--columns", "prompt=question,completion=solution"]
    assert main(argv) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert set(told) == {"format", "records", "used", "skipped", "warnings", "file", "error"}
    assert (told["format"], told["used"]) == ("question/solution", 1)
    assert told["skipped"][0]["file"] == "a.jsonl" and told["skipped"][0]["line"] == 2
    assert main(["inspect", str(tmp_path / "other.jsonl")]) == 2
    assert "perhaps columns: {prompt: question, completion: solution}" in capsys.readouterr().out
    assert main(["inspect", "hf://org/name"]) == 2
    assert "python -m engine fetch-data" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["", "prompt", "prompt=a", "prompt=a,prompt=b", "answer=a", "text=a,messages=b"])
def test_columns_that_say_nothing_are_refused_by_inspect(tmp_path, capsys, columns):
    path = write(tmp_path / "t.jsonl", PAIR)
    assert main(["inspect", str(path), "--columns", columns]) != 0
    assert "columns" in capsys.readouterr().err
