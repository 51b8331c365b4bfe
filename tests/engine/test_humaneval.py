"""HumanEval: programs out of answers, verdicts of the real sandbox, the estimator, a tiny run from end to end."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import pytest

from engine.__main__ import main as command_line
from engine.contract.errors import UserError
from engine.contract.eval_results import EvalExample, read_results
from engine.contract.rundir import create_run_at
from engine.data.codec import MFTCODER_TEMPLATE, Codec
from engine.data.humaneval import FILE, Problem, load_humaneval, read_problems
from engine.evaluate import humaneval
from engine.evaluate.humaneval import HumanEval, humaneval_dataset, judge, pass_at_k, run_programs
from engine.evaluate.programs import program_of
from engine.evaluate.sandbox import Limits, working_level
from engine.model.tokenizer import load_tokenizer
from engine.train.main import train
from tests.tiny_run import new_attempt

boxed = pytest.mark.skipif(not working_level(), reason="programs cannot be locked in here")
PROBLEM = Problem(
    task_id="Double/0",
    prompt='import math\n\ndef half(x):\n    return x / 2\n\ndef double(x: int) -> int:\n    """Return 2 * x."""\n',
    canonical_solution="    return math.floor(half(x) * 4)\n",
    test="def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(-1) == -2\n",
    entry_point="double",
)
FUNCTION = "def double(x):\n    return math.floor(half(x) * 4)"


@boxed
@pytest.mark.parametrize(
    ("step", "chat"), [(4, False), (16, True), *(pytest.param(1, c, marks=pytest.mark.slow) for c in (False, True))]
)
def test_canonical_solutions_pass_and_empty_ones_do_not(step: int, chat: bool):
    problems = load_humaneval()[::step]
    for answers, expected in (([p.canonical_solution for p in problems], 1.0), (["    pass\n"] * len(problems), 0.0)):
        if chat:  # the whole function in a fence
            said = zip(problems, answers, strict=True)
            answers = [f"Sure!\n```python\n{problem.prompt}{text}```\nIt works." for problem, text in said]
        examples = [EvalExample(id=p.task_id, prediction=text) for p, text in zip(problems, answers, strict=True)]
        noted, scores = judge(problems, examples, samples=1, chat=chat)
        assert scores["pass@1"].mean == expected, [e for e in noted if e.notes["program"] != "passed"]


@boxed
def test_every_verdict_says_why(monkeypatch):
    monkeypatch.setattr(humaneval, "LIMITS", Limits(cpu_s=1))
    bodies = {
        "passed": "    return 2 * x",
        "wrong: AssertionError": "    return x",
        "error: NameError: name 'y' is not defined": "    return y",
        "error: it ended with status 0 before its tests were done": "    import sys; sys.exit(0)",
        "error: it ended with status 3": "    import os; os._exit(3)",
        "error: SyntaxError": "    return (",
        "error: it printed without end": "    while True: print('x' * 10000)",
        "error: killed by signal 11": "    import os; os.kill(os.getpid(), 11)",
        "timeout: stopped after": "    while True: pass",
    }
    verdicts = run_programs([PROBLEM] * len(bodies), [PROBLEM.prompt + body for body in bodies.values()])
    for expected, verdict in zip(bodies, verdicts, strict=True):
        assert verdict.startswith(expected)


@boxed
def test_what_a_program_returns_keeps_its_type_and_what_it_changes_is_changed():
    """Tuples are no lists, True is no text, keys are no texts, and a list that is sorted in place is sorted."""
    body = """
    values = {"tuple": (1, [2.5, None]), "set": {3, 4}, "dict": {1: "a", (2, 3): b"b"}, "bool": True, "inf": -x / 0.0
        if x == "never" else float("inf"), "big": 10 ** 5000, "text": "\\ud800\\n", "complex": 1 - 2j}
    if isinstance(x, list):
        x.sort(); return None
    if x == "raise":
        raise ValueError("no")
    return values[x]
"""
    test = """
def check(candidate):
    assert candidate("tuple") == (1, [2.5, None]) and isinstance(candidate("tuple")[1], list)
    assert candidate("set") == {3, 4} and candidate("dict") == {1: "a", (2, 3): b"b"}
    assert candidate("bool") is True and candidate("inf") == float("inf") and candidate("big") == 10 ** 5000
    assert candidate("text") == "\\ud800\\n" and candidate(x="complex") == 1 - 2j and half(3) == 1.5
    given = [3, 1, 2]
    assert double(given) is None and given == [1, 2, 3]
    try:
        candidate("raise")
    except ValueError as error:
        assert str(error) == "no"
    else:
        assert False
"""
    problem = replace(PROBLEM, test=test)
    assert run_programs([problem], [PROBLEM.prompt + body]) == ["passed"]


ANSWERS = {
    "a fenced function alone": f"```python\n{FUNCTION}\n```",
    "prose around a fence": f"Of course.\n\n```py\n{FUNCTION}\n```\n\nIt doubles `x`.",
    "a fence that was cut off": f"Here:\n```\n{FUNCTION}\n",
    "an example in another block first": f"```\n>>> double(2)\n4\n```\nso\n```python\n{FUNCTION}\n```",
    "prose without a fence": f"Here is the function:\n\n{FUNCTION}\n\nIt uses the helper from above.",
    "the signature repeated": PROBLEM.prompt + PROBLEM.canonical_solution,
    "only the body": PROBLEM.canonical_solution,
    "only the body, not indented": "y = half(x)\nreturn math.floor(y * 4)",
    "only the body, the first line not indented": "y = half(x)\n    return math.floor(y * 4)",
    "the body in a fence": "```python\nreturn math.floor(half(x) * 4)\n```",
    "examples of use that wait": f"```\n{FUNCTION}\nif __name__ == '__main__':\n    input()\n\ndouble('x')\n```",
    "imports of its own": "```\nfrom math import ceil\ndef double(x):\n    return ceil(2 * x)\n```",
}


@boxed
def test_code_is_found_in_chat_answers():
    programs = [program_of(PROBLEM, answer, chat=True) for answer in ANSWERS.values()]
    verdicts = run_programs([PROBLEM] * len(programs), programs)
    assert dict(zip(ANSWERS, verdicts, strict=True)) == dict.fromkeys(ANSWERS, "passed")


def test_a_completion_is_taken_as_it_is():
    assert program_of(PROBLEM, "    return ```", chat=False) == PROBLEM.prompt + "    return ```"


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (5, 3), (6, 6), (7, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_program(n: int, k: int):
    for c in range(n + 1):
        draws = list(combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@boxed
def test_samples_of_one_problem_are_one_estimate():
    other = Problem("Double/1", PROBLEM.prompt, "", PROBLEM.test, "double")
    right, wrong = "    return 2 * x", "    return x"
    answers = [right, wrong, wrong, wrong, right, right, right, right]
    examples = [EvalExample(id=str(number), prediction=text) for number, text in enumerate(answers)]
    noted, scores = judge([PROBLEM] * 4 + [other] * 4, examples, samples=4, chat=False)
    assert list(scores) == ["pass@1 of 4 samples"]
    found = scores["pass@1 of 4 samples"]
    assert (found.counts, found.mean) == ((1, 0, 0, 0) * 2, (1 / 4 + 1) / 2)
    assert [e.notes["program"].partition(":")[0] for e in noted[:2]] == ["passed", "wrong"]


@boxed
def test_prompts_have_three_forms(recipe):
    tokenizer = load_tokenizer(Path(recipe.model_name_or_path), lambda _: None)
    codec = Codec.of(tokenizer)
    problem = load_humaneval()[0]

    def first(form: str, codec: Codec = codec):
        dataset = humaneval_dataset(HumanEval(form=form, limit=1), codec)
        return tokenizer.decode(dataset.prompts[0].ids), dataset

    plain, dataset = first("plain")
    assert plain.endswith(problem.prompt) and "\ndef " in dataset.decoding.stop
    marked, dataset = first("mftcoder")
    assert marked == f"<s>human\n{problem.prompt}\n<s>bot\n" and dataset.decoding.stop == ()
    asked, _ = first("template")
    assert f"```python\n{problem.prompt.strip()}\n```" in asked
    assert first("auto", replace(codec, chat_template=MFTCODER_TEMPLATE))[0] == marked
    own = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }} {% endfor %}[a]"
    assert first("auto", replace(codec, chat_template=own))[0].startswith("[user] Please provide")


def test_files_of_problems_say_what_is_wrong(tmp_path):
    rows = [asdict(PROBLEM) | {"plus_input": [1]}, asdict(PROBLEM)]
    good, twice, broken = tmp_path / "good.jsonl.gz", tmp_path / "twice.jsonl", tmp_path / "broken.jsonl"
    good.write_bytes(gzip.compress((json.dumps(rows[0]) + "\n\n").encode()))
    assert read_problems(good) == (PROBLEM,)
    twice.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="line 2 has the task_id of another line"):
        read_problems(twice)
    for text in ("[1]", "{", json.dumps(rows[0] | {"entry_point": "f(); import os"}), json.dumps({"prompt": "x"})):
        broken.write_text(text)
        with pytest.raises(UserError, match="line 1 is no problem"):
            read_problems(broken)
    good.write_bytes(FILE.read_bytes()[:1000])
    for path in (good, tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_problems(path)


@boxed
def test_a_tiny_run_from_end_to_end(recipe, tmp_path, capsys):
    run = create_run_at(tmp_path / "run", recipe)
    train(run, new_attempt(run))
    own = tmp_path / "mine.jsonl"
    own.write_text(json.dumps(asdict(PROBLEM)))
    words = ["evaluate", str(run.path), "--tasks", "none", "--checkpoints", "latest", "--max-new-tokens", "8"]
    assert command_line([*words, "--humaneval", "--humaneval-limit", "3"]) == 0
    assert "| humaneval | pass@1 | 3 | 0.0" in capsys.readouterr().out
    results = read_results(run.evaluations)
    assert [(r.inputs.subject, r.inputs.kind) for r in results] == [("base", "pass-at-1"), ("step-000006", "pass-at-1")]
    assert [example.id for example in results[0].examples] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    assert all(example.notes["program"] for example in results[0].examples)
    assert command_line([*words, "--humaneval-file", str(own), "--humaneval-samples", "10"]) == 0
    out = capsys.readouterr().out
    assert "| mine | pass@1 of 10 samples | 1 |" in out and "| mine | pass@10 of 10 samples | 1 |" in out
    sampled = read_results(run.evaluations)[-1]
    assert len({example.prediction for example in sampled.examples}) > 1
