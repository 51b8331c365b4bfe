"""Known data sets: entries that can be read, a download that becomes a task, an offline sentence."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.files import replace_json
from engine.contract.hub_path import parse_hub_path
from engine.contract.places import DataRoot
from engine.contract.recipe import ColumnsSection
from engine.contract.records import parse_record
from studio.logic import catalogue, dataset_store, datasets
from studio.logic.dataset_store import delete_task

PROJECT = Path(__file__).resolve().parents[2]
COLUMNS = {  # one record of each entry, by its format
    "instruction/output": {"instruction": "x", "output": "y"},
    "chat_rounds": {"id": 1, "chat_rounds": [{"role": "human", "content": "x"}, {"role": "bot", "content": "y"}]},
    "problem/solution": {"lang": "python", "problem": "x", "solution": "y", "seed": "s"},
    "query/answer": {"query": "x", "answer": "y", "resource": "r", "lang": "python"},
    "alpaca": {"instruction": "x", "input": "", "output": "y", "prompt": "### x y"},
    "code/docstring": {"func_code_string": "x", "func_documentation_string": "y"},
}


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path / "root").make()


def arrive(root: DataRoot, path: str, *rows: dict) -> None:
    """Put a data set where a download would leave it."""
    folder = parse_hub_path(path).folder(root)
    folder.mkdir(parents=True)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    replace_json(folder / "source.json", {"rows": len(rows)})


def state_of(root: DataRoot, path: str) -> dict:
    return next(entry for entry in catalogue.look(root, PROJECT)["entries"] if entry["path"] == path)


def test_every_entry_can_be_read_with_its_columns():
    entries = catalogue._read(PROJECT / catalogue.FILE)
    assert len(entries) == 7 and len({entry["name"] for entry in entries}) == 7
    for entry in entries:
        parse_hub_path(entry["path"])
        columns = ColumnsSection.model_validate(entry["columns"]) if entry.get("columns") else None
        example, _ = parse_record(COLUMNS[entry["format"]], 1, columns)
        assert [message.content for message in example.messages] == ["x", "y"]


def test_a_download_is_started_once_and_becomes_a_task(root, monkeypatch):
    started = []

    def start(status_file, argv, log_file):
        started.append(argv)
        replace_json(status_file, {"state": "running", "phase": "downloading", "updated_at": time.time()})

    monkeypatch.setattr(catalogue, "start_job", start)
    path = "hf://ise-uiuc/Magicoder-OSS-Instruct-75K"
    assert state_of(root, path)["state"] == "away"
    assert catalogue.request(root, path).ok
    assert state_of(root, path)["state"] == "running" and catalogue.look(root, PROJECT)["is_busy"]
    assert catalogue.request(root, path).ok and len(started) == 1
    assert started[0][2:5] == ["engine", "fetch-data", path]
    assert catalogue.adopt(root, PROJECT) == []
    arrive(root, path, *[{"problem": f"p{i}", "solution": f"s{i}", "lang": "python"} for i in range(4)])
    (note,) = catalogue.adopt(root, PROJECT)
    assert note.ok and note.task == "oss-instruct" and catalogue.adopt(root, PROJECT) == []
    assert datasets.find_task(root, PROJECT, "oss-instruct").columns == {"prompt": "problem", "completion": "solution"}
    entry = state_of(root, path)
    assert entry["state"] == "here" and entry["task"] == "oss-instruct"


def test_any_other_data_set_is_remembered_and_shown(root, monkeypatch):
    monkeypatch.setattr(catalogue, "start_job", lambda *_: None)
    assert catalogue.request(root, " someone/My-Set ").ok
    assert state_of(root, "hf://someone/My-Set")["state"] == "away"
    assert not catalogue.request(root, "no such name").ok and not catalogue.request(root, "").ok


def test_a_failed_download_keeps_its_entry_and_its_reason(root):
    path = "hf://codefuse-ai/Evol-instruction-66k"
    status = catalogue._status_file(parse_hub_path(path), root)
    replace_json(
        status, {"state": "failed", "problem": "HF_HUB_OFFLINE is set.", "fix": "unset it.", "updated_at": 1.0}
    )
    entry = state_of(root, path)
    assert entry["state"] == "failed" and entry["text"] == "HF_HUB_OFFLINE is set. unset it."


def test_what_arrived_while_no_page_was_open_is_still_made_a_task(root, monkeypatch):
    path = "hf://codefuse-ai/Evol-instruction-66k"
    monkeypatch.setattr(catalogue, "start_job", lambda *_: None)
    assert catalogue.request(root, path).ok
    arrive(root, path, {"instruction": "x", "output": "y"})
    assert state_of(root, path)["state"] == "arrived" and catalogue.look(root, PROJECT)["is_busy"]
    replace_json(parse_hub_path(path).folder(root) / "task.json", {"task": ""})  # a page that died in mid-work
    assert [note.task for note in catalogue.adopt(root, PROJECT)] == ["evol-instruction"]
    assert not catalogue.look(root, PROJECT)["is_busy"]


def test_a_deleted_task_can_be_had_again_without_a_download(root, monkeypatch):
    path = "hf://codefuse-ai/Evol-instruction-66k"
    monkeypatch.setattr(catalogue, "start_job", lambda *_: None)
    catalogue.request(root, path)
    arrive(root, path, {"instruction": "x", "output": "y"})
    catalogue.adopt(root, PROJECT)
    delete_task(root, "evol-instruction")
    assert state_of(root, path)["state"] == "away" and catalogue.adopt(root, PROJECT) == []
    monkeypatch.setattr(catalogue, "start_job", lambda *_: pytest.fail("it is here already"))
    assert catalogue.request(root, path).ok
    assert [note.task for note in catalogue.adopt(root, PROJECT)] == ["evol-instruction"]


def test_a_copy_that_cannot_become_a_task_says_why_and_can_be_tried_again(root, monkeypatch):
    path = "hf://codefuse-ai/Evol-instruction-66k"
    monkeypatch.setattr(catalogue, "start_job", lambda *_: None)
    catalogue.request(root, path)
    arrive(root, path, {"instruction": "x", "output": "y"})
    monkeypatch.setattr(dataset_store, "MAX_FILE_BYTES", 3)
    assert [note.ok for note in catalogue.adopt(root, PROJECT)] == [False]
    entry = state_of(root, path)
    assert entry["state"] == "failed" and "larger" in entry["text"] and catalogue.adopt(root, PROJECT) == []
    monkeypatch.undo()
    assert catalogue.request(root, path).ok and catalogue.adopt(root, PROJECT)[0].ok


def test_two_pages_make_one_task(root, monkeypatch):
    path = "hf://codefuse-ai/Evol-instruction-66k"
    monkeypatch.setattr(catalogue, "start_job", lambda *_: None)
    catalogue.request(root, path)
    arrive(root, path, {"instruction": "x", "output": "y"})
    real = catalogue.add_files
    second = []

    def slow(*arguments):
        second.append(catalogue.adopt(root, PROJECT))  # the other page, in the middle of the first one's work
        return real(*arguments)

    monkeypatch.setattr(catalogue, "add_files", slow)
    assert len(catalogue.adopt(root, PROJECT)) == 1 and second == [[]]


def test_what_a_run_or_a_terminal_fetched_becomes_a_task_when_asked_for(root, monkeypatch):
    path = "hf://codefuse-ai/Evol-instruction-66k"
    monkeypatch.setattr(catalogue, "start_job", lambda *_: pytest.fail("it is here already"))
    arrive(root, path, {"instruction": "x", "output": "y"})
    entry = state_of(root, path)
    assert (entry["state"], entry["text"]) == ("away", "on this machine already")
    assert not catalogue.look(root, PROJECT)["is_busy"] and catalogue.adopt(root, PROJECT) == []
    assert catalogue.request(root, path).ok and catalogue.adopt(root, PROJECT)[0].task == "evol-instruction"


@pytest.mark.parametrize("wrong", [{"path": "hf://no such name"}, {"rows": 0}, {"name": "Not A Name"}, {"extra": 1}])
def test_a_wrong_entry_is_refused(wrong):
    good = dict(catalogue._read(PROJECT / catalogue.FILE)[0])
    values = {"licence": None, "rows": None, **good}
    assert catalogue.Entry.model_validate(values).name == good["name"]
    with pytest.raises((ValueError, UserError)):
        catalogue.Entry.model_validate({**values, **wrong})
