"""The sample tasks: usable to the last row, unequal on purpose, nothing shared between training and held-out."""

from __future__ import annotations

import json
import platform

import pytest

from engine.contract.taskfile import load_examples
from scripts import make_samples

TASKS = list(make_samples.COUNTS)


@pytest.mark.parametrize("task", TASKS)
def test_every_row_is_used_and_short(task):
    for name, count in ((f"{task}.jsonl", make_samples.COUNTS[task]), (f"{task}.heldout.jsonl", make_samples.HELD_OUT)):
        examples, scan = load_examples(make_samples.SAMPLES / name)
        assert (scan.num_used, scan.num_skipped) == (count, 0)
        assert scan.format == ("chat_rounds" if task == "comment-generation" else "messages")
        assert max(sum(len(message.content) for message in example.messages) for example in examples) < 2000


def test_no_answer_stands_in_two_files():
    seen: dict[str, str] = {}
    for file in sorted(make_samples.SAMPLES.glob("*.jsonl")):
        for example in load_examples(file)[0]:
            text = "\n".join(message.content for message in example.messages[-2:])
            assert seen.setdefault(text, file.name) == file.name
    assert len(seen) > 1000


def test_the_tasks_are_unequal_and_small():
    assert max(make_samples.COUNTS.values()) > 2 * min(make_samples.COUNTS.values())
    assert sum(file.stat().st_size for file in make_samples.SAMPLES.iterdir()) < 2_000_000


def test_the_committed_files_are_what_the_script_makes():
    readme = (make_samples.SAMPLES / "README.md").read_text()
    if f"Python {platform.python_version()}:" not in readme:
        pytest.skip("made with another version of the standard library")
    for name, rows in make_samples.make_tasks().items():
        assert (make_samples.SAMPLES / name).read_text() == "".join(json.dumps(row) + "\n" for row in rows)
