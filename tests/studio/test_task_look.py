"""A closer look at a task: columns that were guessed, tokens, training text, duplicates, a cleaned copy."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from engine.__main__ import main
from engine.contract.places import DataRoot
from engine.contract.taskfile import load_examples
from studio.logic import datasets, measure, task_look
from studio.logic.dataset_store import add_files, name_columns
from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def root(tmp_path, monkeypatch) -> DataRoot:
    monkeypatch.setenv("MFT_STUDIO_HOME", str(tmp_path / "root"))
    return DataRoot(tmp_path / "root").make()


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "project" / "assets" / "samples").mkdir(parents=True)
    return tmp_path / "project"


def upload(root, project, tmp_path, name: str, *rows: dict) -> list:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return add_files(root, project, [(name, path)])


def pairs(count: int) -> list[dict]:
    return [{"prompt": f"q{i % 7}", "completion": f"answer {i % 7}"} for i in range(count)]


def test_columns_that_say_nothing_are_guessed_and_said_to_be_a_guess(root, project, tmp_path):
    rows = [{"problem_text": f"what is {i}", "worked": f"it is {i}", "n": i} for i in range(9)]
    (note,) = upload(root, project, tmp_path, "odd.jsonl", *rows)
    assert note.ok and "guessed: `problem_text` as prompt, `worked` as completion" in note.text
    row = datasets.find_task(root, project, "odd")
    assert row.columns == {"prompt": "problem_text", "completion": "worked"} and row.is_guess
    shown = datasets.detail(root, project, "odd")
    assert shown["found_columns"] == ["problem_text", "worked", "n"] and shown["is_guess"]


def test_columns_can_be_named_otherwise_and_a_wrong_choice_changes_nothing(root, project, tmp_path):
    upload(root, project, tmp_path, "odd.jsonl", *[{"left": f"a {i}", "right": f"b {i}", "n": i} for i in range(9)])
    assert name_columns(root, "odd", {"prompt": "right", "completion": "left"}).ok
    row = datasets.find_task(root, project, "odd")
    assert row.columns == {"prompt": "right", "completion": "left"} and not row.is_guess
    assert row.report.examples[0] == (("user", "b 0"), ("assistant", "a 0"))
    wrong = name_columns(root, "odd", {"prompt": "n", "completion": "left"})
    assert not wrong.ok and "0 of 9 records" in wrong.text
    assert not name_columns(root, "odd", {"prompt": "left"}).ok  # a pair needs both
    assert datasets.find_task(root, project, "odd").columns == row.columns


def test_a_file_whose_columns_cannot_be_guessed_keeps_its_bytes_until_they_are_named(root, project, tmp_path):
    rows = [{"a": f"x {i}", "b": f"y {i}", "c": f"z {i}"} for i in range(5)]
    (note,) = upload(root, project, tmp_path, "three.jsonl", *rows)
    row = datasets.find_task(root, project, "three")
    assert not note.ok and row.state == "unusable" and row.found_columns == ("a", "b", "c")
    assert name_columns(root, "three", {"prompt": "a", "completion": "c"}).ok
    assert datasets.find_task(root, project, "three").state == "ready"


def test_tokens_are_measured_once_and_told_with_what_is_too_long(root, project, tmp_path, model, monkeypatch):
    upload(
        root,
        project,
        tmp_path,
        "t.jsonl",
        *pairs(20),
        *({"prompt": f"q{i}", "completion": "x" * 150} for i in range(3)),
    )
    row = datasets.find_task(root, project, "t")
    asked = []

    def start(status_file, argv, log_file):
        asked.append(argv)
        assert main(argv[3:]) == 0

    monkeypatch.setattr(measure, "start_job", start)
    task_look.tokens(row, model, 100.0, root)
    shown = task_look.tokens(row, model, 100, root)
    assert len(asked) == 1 and shown["max_length"] == 100
    assert sum(count for _, count in shown["bars"]) == shown["num_examples"] == 23
    assert shown["num_too_long"] >= 2  # one may be held out
    assert any("above 100 tokens: dropped" in note for note in shown["notes"])


@pytest.mark.parametrize(
    ("name", "length", "words"), [("", 100, "Choose a model"), ("tiny", "x", "max_length"), ("tiny", 3, "16")]
)
def test_a_wrong_setting_is_a_sentence(root, project, tmp_path, name, length, words):
    upload(root, project, tmp_path, "t.jsonl", *pairs(5))
    assert words in task_look.tokens(datasets.find_task(root, project, "t"), name, length, root)["problem"]


def test_the_training_text_is_exact_and_says_what_is_learned(root, project, tmp_path, model):
    upload(root, project, tmp_path, "t.jsonl", {"prompt": "hé <b>", "completion": "answer"})
    (example,) = task_look.text(datasets.find_task(root, project, "t"), model)["examples"]
    whole = "".join(word for _, words in example["stretches"] for word in words)
    learned = ["".join(words) for is_learned, words in example["stretches"] if is_learned]
    assert whole.startswith("<|im_start|>user\nh") and whole.endswith("<|im_start|>assistant\nanswer<|im_end|>")
    assert learned == ["answer<|im_end|>"] and example["num_supervised"] == 7
    gone = task_look.text(datasets.find_task(root, project, "t"), str(tmp_path / "no-model"))
    assert "no model folder" in gone["problem"]


def test_duplicates_are_looked_for_in_the_background_and_cleaned_into_a_new_task(root, project, tmp_path):
    upload(root, project, tmp_path, "t.jsonl", *pairs(20))
    upload(root, project, tmp_path, "other.jsonl", *pairs(3))
    row = datasets.find_task(root, project, "t")
    assert task_look.insight(row, root) == {}
    task_look.request_insight(row, datasets.look(root, project).rows, root)
    task_look.request_insight(row, datasets.look(root, project).rows, root)  # the second one waits for the first
    until = time.monotonic() + 240
    while "insight" not in (found := task_look.insight(row, root)) and time.monotonic() < until:
        time.sleep(0.05)
    assert found["insight"]["num_exact"] == 13 and found["insight"]["overlaps"][0][1] == 9
    before = Path(row.path).read_bytes()
    note = task_look.clean(row, ["exact_duplicates"], root, project)
    assert note.ok and note.task == "t-clean" and "7 of 20 examples kept" in note.text
    assert Path(row.path).read_bytes() == before
    assert len(load_examples(Path(datasets.find_task(root, project, "t-clean").path))[0]) == 7
    assert not task_look.clean(row, ["everything"], root, project).ok
    assert not list(root.datasets.glob(".new-*"))
