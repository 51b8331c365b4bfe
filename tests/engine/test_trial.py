"""Programs that cheat and programs that are right, before the judge of HumanEval and of records' own tests."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from engine.contract.eval_results import EvalExample
from engine.evaluate import verdicts
from engine.evaluate.sandbox import Limits, Sandbox, level_fault, working_level
from engine.evaluate.trial import trial_of
from engine.evaluate.unit_tests import pass_tests
from engine.evaluate.verdicts import verdicts_of

boxed = pytest.mark.skipif(not working_level(), reason="programs cannot be locked in here")
LIMITS = Limits(cpu_s=10, wall_s=60.0)
PROMPT = "import math\n\ndef half(x):\n    return x / 2\n\ndef double(x: int) -> int:\n"
CHECK = "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(-1) == -2\n"
ASSERTS = "assert double(3) == 6\nassert double(-1) == -2"
FORGED = """
    import gc, os, sys
    seen = open(__file__).read() if "__file__" in globals() else ""
    seen += "".join(str(one) for one in gc.get_objects() if isinstance(one, (str, dict, list)))
    frame = sys._getframe()
    while frame:
        seen, frame = seen + str(frame.f_locals), frame.f_back
    assert "candidate" + "(3) == " + "6" not in seen, "it saw its tests"
"""
EQUAL = "type('Equal', (), {'__eq__': lambda self, other: True})()"
WRITE = """
    for number in range(64):
        try: os.write(number, b'passed\\n')
        except OSError: pass
"""
TRICKS = {
    "prints and leaves": "    print('passed'); import os, sys; sys.stdout.flush(); os._exit(0)",
    "sys.exit": "    import sys; print('passed'); sys.exit(0)",
    "raises SystemExit": "    raise SystemExit",
    "ends at once": "    pass\nprint('passed'); import os; os._exit(0)",
    "changes assert": "    import builtins; builtins.AssertionError = SystemExit; return 1",
    "equals everything": f"    return {EQUAL}",
    "equals everything, in a list": f"    return [{EQUAL}]",
    "looks for a word": FORGED + "    return 1",
    "writes everywhere": "    import os" + WRITE + "    os._exit(0)",
    "writes to the judge's files": """
    import glob, os
    for path in ["/dev/stdout", *glob.glob("/proc/[0-9]*/fd/*")]:
        try: open(path, "w").write("passed\\n")
        except OSError: pass
    os._exit(0)""",
    "looks into the judge": """
    import glob
    for path in glob.glob("/proc/[0-9]*/mem"):
        if path.split("/")[2] != "self":
            try: open(path, "r+b")
            except OSError: continue
            if int(path.split("/")[2]) == __import__("os").getppid(): return 6
    raise OSError""",
    "kills the judge": "    import os, signal; os.kill(os.getppid(), signal.SIGKILL); return 6",
    "answers for itself": """
    import os
    for number in range(64):
        try: os.write(number, b'{"number": "0", "value": 6, "arguments": null}\\n' * 3)
        except OSError: pass
    os._exit(0)""",
    "gives the judge modules": """    pass
for name in ("math", "json", "random", "decimal", "traceback"):
    open(name + ".py", "w").write("print('passed'); import os; os._exit(0)")
def double(x): return 0""",
    "says StopIteration": "    raise StopIteration",
    "is near everything": """
    class Near:
        __eq__ = __lt__ = __le__ = __contains__ = lambda self, other: True
        __sub__ = __rsub__ = __abs__ = lambda self, *_: 0
        __float__ = lambda self: 6.0
    return Near()""",
    "is a class": f"    pass\nclass double:\n    def __new__(self, x): return {EQUAL}",
    "brings the tests' tools": """    pass
import builtins, math, unittest
math.isclose = builtins.abs = builtins.len = lambda *_, **__: True
unittest.TestCase.assertEqual = unittest.TestCase.assertAlmostEqual = lambda *_: None
check = isclose = lambda *_: True
def double(x): return 1""",
    "says yes at its end": "    pass\nimport atexit; atexit.register(print, 'passed')\ndef double(x): return 1",
}
FORMS = {
    "check": (CHECK, "double"),
    "asserts": (ASSERTS, ""),
    "near": (
        "import math\nassert math.isclose(double(3), 6) and abs(double(3) - 6) < 1e-9 and double(3) in (6, 7)",
        "",
    ),
    "members": ("assert 6 in [double(3)] and 6 in {double(3)} and [1, double(3)] == [1, 6]", ""),
    "functions": ("def test_double():\n    assert double(3) == 6", ""),
    "unittest": (
        "import unittest\nclass Test(unittest.TestCase):\n    def test_it(self):\n"
        "        self.assertEqual(double(3), 6)\n        self.assertAlmostEqual(double(0.5), 1.0)",
        "",
    ),
}
"""Tests of `double`, and the function that `check` is given."""


def run(program: str, form: str) -> str:
    test, entry_point = FORMS[form]
    return trial_of(program, test, prompt=PROMPT if entry_point else "", entry_point=entry_point)


def verdicts_on_tricks(names: Iterable[str], form: str) -> dict[str, str]:
    """Return the verdicts; a right program passes."""
    names = list(names)
    right, *found = verdicts_of([run(PROMPT + b, form) for b in ("    return 2 * x", *map(TRICKS.get, names))], LIMITS)
    assert right == "passed" and [name for name, one in zip(names, found, strict=True) if one == "passed"] == []
    return dict(zip(names, found, strict=True))


@boxed
@pytest.mark.parametrize("form", ["check", "asserts"])
def test_no_trick_is_a_pass(form: str):
    found = verdicts_on_tricks(TRICKS, form)
    # it ran to its end: neither its own file, nor its memory, nor the frames above it hold the tests
    assert found["looks for a word"].startswith("wrong: AssertionError") and "saw" not in found["looks for a word"]
    assert found["looks into the judge"].startswith("error: OSError")


@boxed
@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("check", "asserts")])
def test_no_object_is_what_tests_of_another_form_expect(form: str):
    verdicts_on_tricks([name for name in TRICKS if " everything" in name or "class" in name or "tools" in name], form)


@boxed
def test_no_trick_is_a_pass_where_namespaces_are_forbidden(monkeypatch: pytest.MonkeyPatch):
    if level_fault("landlock"):
        pytest.skip(level_fault("landlock"))
    monkeypatch.setattr(verdicts, "Sandbox", lambda: Sandbox("landlock"))
    verdicts_on_tricks(TRICKS, "check")


PROGRAM = """
import enum, math
from collections import Counter
class Full(ValueError): pass
class Empty(Full): pass
class Color(enum.Enum):
    RED = 1
class Stack:
    limit = 2
    def __init__(self, items=()): self.items = list(items)
    def push(self, item):
        if len(self.items) == self.limit: raise Full("no room")
        self.items.append(item)
        return self
    def pop(self):
        if not self.items: raise Empty("nothing")
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, place): return self.items[place]
    def __setitem__(self, place, item): self.items[place] = item
    def __eq__(self, other): return self.items == other.items
    def __hash__(self): return hash(tuple(self.items))
    def __add__(self, other): return Stack(self.items + other.items)
    def __mul__(self, times): return Stack(self.items * times)
    def __rmul__(self, times): return self * times
    def __neg__(self): return Stack(self.items[::-1])
    def __lt__(self, other): return len(self) < len(other)
    def __str__(self): return f"Stack of {len(self)}"
    def __repr__(self): return "Stack"
    def __enter__(self): return self
    def __exit__(self, *_): self.items.clear()
def upto(n):
    for number in range(n): yield number
def order(values, key): values.sort(key=key); return values
def apply(function, *values, operation="+"): return function(*values), operation
def best(stacks, key): return max(stacks, key=key)
def safely(function):
    try: return function()
    except KeyError as error: return str(error)
def count(text): return Counter(text)
def color(): return Color.RED
LIMIT = 7
"""
RIGHT = {
    "an object": "s = Stack()\ns.push(1).push(2)\nassert len(s) == 2 and s.pop() == 2 and s.items == [1] and s",
    "falsehood": "assert not Stack() and Stack([0])",
    "items": "s = Stack([4, 5])\ns[0] = 6\nassert s[0] == 6 and list(s) == [6, 5] and 5 in s and 4 not in s",
    "attributes": "s = Stack([1])\ns.items = [3]\nassert list(s) == [3] and hasattr(s, 'pop') > hasattr(s, 'q')",
    "operators": "assert Stack([1]) + Stack([2]) == Stack([1, 2]) and 2 * Stack([1]) * 2 == Stack([1] * 4)",
    "order": "assert Stack() < Stack([1]) and Stack([1]) != Stack() and -Stack([1, 2]) == Stack([2, 1])",
    "sets": "assert len({Stack([1]), Stack([1]), Stack()}) == 2 and Stack([1]) in [Stack(), Stack([1])]",
    "texts": "assert str(Stack([1])) == 'Stack of 1' and f'{Stack()}' == 'Stack of 0' and repr(Stack()) == 'Stack'",
    "classes": "s = Stack()\nassert isinstance(s, Stack) and not isinstance(3, Stack) and Stack.limit == 2",
    "with": "with Stack([1]) as s:\n    assert len(s) == 1\nassert len(s) == 0",
    "errors": "try:\n    Stack([1, 2]).push(3)\nexcept Full as e:\n    assert str(e) == 'no room'\nelse:\n    assert 0",
    "base errors": "try:\n    Stack().pop()\nexcept Full:\n    pass\nelse:\n    assert 0",
    "Python's errors": "try:\n    Stack([1, 2]).push(3)\nexcept ValueError:\n    pass\nelse:\n    assert 0",
    "generators": "assert list(upto(3)) == [0, 1, 2] and next(upto(1)) == 0 and sum(upto(4)) == 6 and 2 in upto(5)",
    "functions of the tests": "assert order([1, 3, 2], key=lambda v: -v) == [3, 2, 1]",
    "what is changed": "v = [2, 1]\norder(v, abs)\nassert v == [1, 2]",
    "names of arguments": "assert apply(lambda a, b: a * b, 2, 3, operation='-') == (6, '-')",
    "functions on objects": "assert len(best([Stack(), Stack([1])], key=lambda s: len(s))) == 1",
    "errors of the tests": "def fail():\n    raise KeyError('k')\nassert safely(fail) == \"'k'\"",
    "standard classes": "assert count('aab') == {'a': 2, 'b': 1}",
    "enums": "assert color() == Color.RED and color().name == 'RED' and color().value == 1",
    "values": "assert LIMIT == 7",
    "modules": "assert math.floor(2.5) + len(Stack()) == 2",
    "prints": "print('passed'); assert len(Stack()) == 0",
    "main": "def test_it():\n    assert len(Stack()) == 0\nif __name__ == '__main__':\n    raise SystemExit",
}


@boxed
def test_tests_use_what_a_program_has_as_if_it_were_theirs():
    found = verdicts_of([trial_of(PROGRAM, test) for test in RIGHT.values()], LIMITS)
    assert dict(zip(RIGHT, found, strict=True)) == dict.fromkeys(RIGHT, "passed")


@boxed
@pytest.mark.slow
def test_each_of_these_tests_can_fail():
    """The same on a program whose every value is another one."""
    wrong = PROGRAM.replace("self.items = list(items)", "self.items = [9, *items, 9]").replace(
        "range(n)", "range(n - 1)"
    )
    wrong = wrong.replace("Counter(text)", "Counter(text + 'c')").replace("RED = 1", "RED = 2").replace("= 7", "= 8")
    wrong = wrong.replace("values.sort(key=key)", "values.append(0)").replace("(*values), op", "(1, *values[1:]), op")
    wrong = wrong.replace("str(error)", "'?'")
    found = verdicts_of([trial_of(wrong, test) for test in RIGHT.values()], LIMITS)
    passed = {name for name, verdict in zip(RIGHT, found, strict=True) if verdict == "passed"}
    # they only ask which errors, classes or names there are, or compare two stacks of the same program
    assert passed <= {
        "errors",
        "base errors",
        "Python's errors",
        "classes",
        "sets",
        "functions on objects",
        "attributes",
    }


def example(reference: str, prediction: str) -> EvalExample:
    return EvalExample(id="1", reference=reference, prediction=prediction)


@boxed
def test_records_are_left_out_where_the_wanted_answer_does_not_pass():
    right, wrong = "def double(x):\n    return 2 * x", "def double(x):\n    return x"
    tests = {
        "assert double(3) == 6": (1.0, 0.0),
        "def check(candidate):\n    assert candidate(3) == 6": (None, None),  # never called: it tests nothing
        "assert double(3) == 7": (None, None),
        "import io, sys; sys.stdout = io.StringIO(); double(3); assert sys.stdout.getvalue() == '6'": (None, None),
        " ": (None, None),
    }
    for prediction, place in ((right, 0), (f"Sure:\n```python\n{right}\n```", 0), (wrong, 1), ("", 1)):
        noted, values = pass_tests([example(right, prediction)] * len(tests), list(tests))
        assert values == [expected[place] for expected in tests.values()], prediction
        notes = [one.notes.get("unit_tests", "") for one in noted]
        assert notes[0].startswith(
            "passed" if values[0] else ("wrong: AssertionError", "error: NameError")[not prediction]
        )
        assert notes[1].startswith("left out: the wanted answer does not pass (error: LookupError: the tests never use")
        assert notes[2].startswith("left out: the wanted answer does not pass (wrong: AssertionError") and not notes[4]
