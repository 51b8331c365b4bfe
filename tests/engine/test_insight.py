"""What insight says of a task: copies, near copies, leaks, benchmark problems; cleaning writes a new file only."""

from __future__ import annotations

import json
import random

import pytest

from engine.__main__ import main
from engine.contract.errors import UserError
from engine.contract.records import Example, Message
from engine.contract.taskfile import load_examples
from engine.data.clean import clean
from engine.data.contamination import HumanEvalFinder
from engine.data.duplicates import exact_copies, near_copies, shared, signatures_of
from engine.data.humaneval import load_humaneval
from engine.data.insight import inspect_task
from scripts import make_samples

WORDS = [f"word{number}" for number in range(400)]


def text_of(seed: int, count: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def chat(prompt: str, answer: str, line: int) -> Example:
    return Example((Message("user", prompt), Message("assistant", answer)), line)


def write(path, *pairs: tuple[str, str]):
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    return path


def test_a_copy_is_exact_one_changed_word_is_near_and_another_text_is_neither():
    words = text_of(1, 120).split()
    changed = " ".join([*words[:60], "other", *words[61:]])
    examples = [
        chat("q", " ".join(words), 1),
        chat("q", " ".join(words), 2),
        chat("q", changed, 3),
        chat("q", text_of(2), 4),
    ]
    signatures = signatures_of(examples)
    assert [(pair.first, pair.second) for pair in exact_copies(signatures)] == [(0, 1)]
    (near,) = near_copies(signatures)
    assert (near.first, near.second) == (0, 2) and 0.8 <= near.similarity < 1


def test_examples_that_are_in_another_task_too_are_found():
    one = signatures_of([chat("q", text_of(seed), seed) for seed in range(30)])
    other = signatures_of([chat("q", text_of(seed), seed) for seed in range(25, 40)])
    assert [(pair.first, pair.second) for pair in shared(one, other)] == [(25 + i, i) for i in range(5)]
    assert shared(signatures_of([]), one) == []


def test_humaneval_is_whole():
    problems = load_humaneval()
    assert len(problems) == 164 and problems[0].entry_point == "has_close_elements"


@pytest.mark.parametrize("number", [0, 31, 163])
def test_a_benchmark_problem_in_an_answer_is_found_by_its_name(number):
    problem = load_humaneval()[number]
    finder = HumanEvalFinder()
    whole = chat("Write this.", problem.prompt + problem.canonical_solution, 7)
    (hit,) = [hit for hit in finder.look(whole) if hit.task_id == problem.task_id]
    assert hit.line == 7 and hit.share == 1.0
    described = chat(" ".join(problem.prompt.split()), "def g(): pass", 8)  # other white space is no disguise
    assert problem.task_id in {hit.task_id for hit in finder.look(described)}


def test_ordinary_code_is_no_benchmark_problem():
    finder = HumanEvalFinder()
    usual = "def main(argv=None):\n    for i in range(len(items)):\n        total += items[i]\n    return total\n"
    assert finder.look(chat("Sum the items of a list of integers.", usual * 4, 1)) == []
    for sample in sorted(make_samples.SAMPLES.glob("*.jsonl")):
        assert finder.look_all(load_examples(sample)[0]) == []


def test_insight_counts_turns_roles_languages_and_leaks(tmp_path):
    fenced = f"{text_of(3)}\n```python\nx = 1\n```\n{text_of(4)}\n```\ny\n```"
    path = write(tmp_path / "t.jsonl", ("a", fenced), ("b", text_of(5)), ("b", text_of(5)), ("c", text_of(6)))
    heldout = write(tmp_path / "h.jsonl", ("c", text_of(6)), ("d", text_of(7)))
    insight, signatures = inspect_task(path, heldout=heldout)
    assert insight.num_examples == len(signatures) == 4
    assert insight.turns == {1: 4} and insight.roles == {"user": 4, "assistant": 4}
    assert insight.languages == {"python": 1, "none": 1} and insight.num_fenced == 1
    assert (insight.num_exact, insight.exact) == (1, ((2, 3),))
    assert (insight.num_in_heldout, insight.in_heldout) == (1, ((1, 4, 1.0),))
    json.dumps(insight.as_json())


def test_cleaning_keeps_the_first_and_never_touches_the_source(tmp_path):
    problem = load_humaneval()[5]
    pairs = [
        ("a", text_of(1)),
        ("a", text_of(1)),
        ("b", text_of(2)),
        ("c", problem.prompt + problem.canonical_solution),
    ]
    source = write(tmp_path / "t.jsonl", *pairs)
    before = source.read_bytes()
    report = clean(source, tmp_path / "new.jsonl", ("exact_duplicates", "contaminated"))
    assert (report.num_examples, report.num_kept) == (4, 2)
    assert report.removed == {"exact_duplicates": 1, "contaminated": 1}
    assert source.read_bytes() == before
    kept = [example.messages[1].content for example in load_examples(tmp_path / "new.jsonl")[0]]
    assert kept == [text_of(1), text_of(2)]
    with pytest.raises(UserError, match="exists already"):
        clean(source, tmp_path / "new.jsonl", ("contaminated",))
    with pytest.raises(UserError, match="no held-out file"):
        clean(source, tmp_path / "other.jsonl", ("heldout_overlap",))


def test_the_command_compares_files_and_cleans(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", ("a", text_of(1)), ("a", text_of(1)), ("b", text_of(2)))
    b = write(tmp_path / "b.jsonl", ("b", text_of(2)), ("x", text_of(9)))
    assert main(["insight", str(a), str(b), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["num_exact"] == 1 and first["overlaps"] == [[str(b), 1]] and second["overlaps"] == [[str(a), 1]]
    assert main(["insight", str(a), "--clean", str(tmp_path / "c.jsonl"), "--remove", "exact_duplicates"]) == 0
    assert "2 of 3 examples kept" in capsys.readouterr().out
    assert main(["insight", str(a), "--clean", str(tmp_path / "d.jsonl"), "--remove", "everything"]) == 2
    assert main(["insight", str(tmp_path / "gone.jsonl")]) == 2
