"""Scorers by hand arithmetic, on hostile texts, and a judge that is a stub."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from engine.contract.errors import UserError
from engine.contract.eval_metrics import SCORERS as NAMES
from engine.contract.eval_results import EvalExample
from engine.contract.recipe_evaluate import EvaluateSection
from engine.evaluate.heldout import record_tests
from engine.evaluate.judge import KEY, Judge, read_grade
from engine.evaluate.scorers import SCORERS, code_of, parses


def test_every_declared_scorer_is_there():
    assert {*SCORERS, "judge", "unit_tests"} == set(NAMES)


@pytest.mark.parametrize(
    ("name", "prediction", "reference", "expected"),
    [
        ("exact_match", " x = 1 \n", "x = 1", 1.0),
        ("exact_match", "Sure:\n```python\nx = 1\n```\nDone.", "x = 1", 1.0),
        ("exact_match", "x = 2", "x = 1", 0.0),
        ("edit_similarity", "kitten", "sitting", 1 - 3 / 7),  # the textbook's three edits
        ("edit_similarity", "", "", 1.0),
        ("bleu", "the cat sat on the mat", "the cat sat on the mat", 1.0),
        ("bleu", "a", "", None),
        ("chrf", "abc", "abc", 1.0),
        ("chrf", "xyz", "abc", 0.0),
        ("rouge_l", "the cat sat", "the cat lay", 2 / 3),  # two of three words in order, both ways
        ("rouge_l", "x", "\u65e5\u672c", None),
        ("python_syntax", "```\ndef f(:\n```", "x = 1", 0.0),
        ("python_syntax", "x = (1,\n2)", "y = 3", 1.0),
        ("python_syntax", "x = 1", "a sentence, not a program", None),
    ],
)
def test_scores(name: str, prediction: str, reference: str, expected: float | None):
    found = SCORERS[name](prediction, reference)
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    "text", ["\x00", "(" * 5000, "[" * 90_000, "-" * 90_000 + "1", "x=" + "1+" * 40_000 + "1", "\ud800", "a" * 200_000]
)
def test_hostile_texts_are_no_programs_and_hurt_nobody(text: str):
    assert parses(text) in (True, False)
    for scorer in SCORERS.values():
        scorer(text.encode("utf-8", "replace").decode()[:3000], "x = 1")


def test_tests_stand_in_the_record_as_a_text_or_a_list():
    assert record_tests({"tests": ["assert 1", "assert 2"]}) == "assert 1\nassert 2"
    assert record_tests({"prompt": "p", "test": "assert f()"}) == "assert f()"
    assert record_tests({"tests": [1], "test": 3}) == ""
    # as MBPP and HumanEval have them
    assert record_tests({"test_imports": ["import math"], "test_list": ["assert f()"]}) == "import math\nassert f()"
    check = "def check(candidate):\n    assert candidate()"
    assert record_tests({"test": check, "entry_point": "f"}) == f"{check}\ncheck(f)"
    assert record_tests({"test": f"{check}\ncheck(f)", "entry_point": "f"}) == f"{check}\ncheck(f)"
    assert record_tests({"test": check, "entry_point": "f(); import os"}) == check


def test_an_open_fence_holds_the_rest():
    assert code_of("So:\n```py\nx = 1\n") == "x = 1\n"


@pytest.fixture
def judge_server(monkeypatch: pytest.MonkeyPatch):
    asked: list[dict] = []

    class Stub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            good = "right" in body["messages"][1]["content"].split("<answer>")[1]
            answer = {"choices": [{"message": {"content": "10" if good else "3 of 10"}}]}
            self.send_response(404 if body["model"] == "absent" else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(KEY, "secret")
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()


def test_the_judge_grades_and_its_key_comes_from_the_environment(judge_server):
    url, asked = judge_server
    judge = Judge.of(EvaluateSection(judge_url=url, judge_model="m", scorers=("judge",)))
    assert judge is not None and "secret" not in repr(judge)
    assert judge.grade(EvalExample(id="1", prompt="q", reference="r", prediction="right")) == 1.0
    assert judge.grade(EvalExample(id="2", prompt="q", reference="r", prediction="wrong")) == 0.3
    assert asked[0]["path"] == "/v1/chat/completions" and asked[0]["key"] == "Bearer secret"


def test_a_judge_that_cannot_be_asked_says_why(judge_server):
    judge = Judge(url=judge_server[0] + "/chat/completions", model="absent", key="k")
    with pytest.raises(UserError, match="404"):
        judge.grade(EvalExample(id="1"))


def test_grades_outside_the_scale_are_none():
    assert [read_grade(text) for text in ("7", "Grade: 8.5", "11", "none")] == [0.7, 0.85, None, None]
