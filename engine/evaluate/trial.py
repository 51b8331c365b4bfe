"""A program on trial, inside the sandbox: it cannot see its tests, and cannot say that it passed.

    judge (runs the tests, owns stdout)   -- operation, arguments -->   the program, in a process of its own
                                          <-- plain data, the number of an object, or an error --

The judge deletes its own text, starts the program's process (engine.evaluate.on_trial), and runs the tests itself, on
values that came over a pipe: numbers, texts and collections of them.  Nobody else can write to its stdout, and as it
cannot be traced, nobody can read its memory: there is no word to learn.

What is no plain data stays where it is, and the tests hold a stand-in (`Theirs`), whose attributes, items and methods
are the object's own.  But no operation tells such an object what is expected of it: compared with plain data it is
unlike all of them, and calculated with plain data it never becomes plain data.  A test's own functions can be handed to
the program; they run in the judge.  Tests that never use the program are no pass.

Both files are shipped into the sandbox as text: the standard library only, and each other.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from engine.evaluate.on_trial import CALCULATIONS, COMPARISONS, UNARY, decode, encode, said

PASSED = "passed"
PR_SET_DUMPABLE = 4
SERVER = "engine.evaluate.on_trial"
START = """
import json, sys, types
request = json.loads({request!r})
for name, source in request["sources"].items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.judge(request)
"""


class ProgramEnded(BaseException):
    """The program's process is gone."""


def trial_of(program: str, test: str, *, prompt: str = "", entry_point: str = "") -> str:
    """Return the text to run in a sandbox; its output is `PASSED` if the program passes, its last error line says why
    not.

    Args:
        program: What a model wrote.
        test: Python that fails unless the program is right: statements, `check(candidate)`, functions called `test...`,
            `unittest` cases.  Names that it does not define are the program's.
        prompt: What the program began with: the tests may use its functions, in their original form.
        entry_point: The function that `check` is given.
    """
    files = {SERVER: Path(__file__).with_name("on_trial.py"), __name__: Path(__file__)}
    sources = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    request = {"sources": sources, "program": program, "test": test, "prompt": prompt, "entry_point": entry_point}
    return START.format(request=json.dumps(request))


# ---- the judge ----


def judge(request: dict[str, Any]) -> NoReturn:
    """Try a program, print the verdict and end."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.unlink(sys.argv[0])
    sys.path.pop(0)  # the folder, where the program could put modules of its own
    sys.set_int_max_str_digits(0)
    verdict = os.dup(1)
    os.dup2(2, 1)  # what the tests print
    argv = [sys.executable, "-s", "-c", f"{request['sources'][SERVER]}\n\nserve()\n"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        line = _Line(process)
        line.ask("program", text=request["program"])
        _run_tests(request, line)
        if not line.was_used:
            raise LookupError("the tests never use the program")
        process.kill()
        os.write(verdict, f"{PASSED}\n".encode())
        os._exit(0)
    except ProgramEnded:
        _end_like(process.wait())
    except BaseException as error:  # noqa: BLE001 - whatever the tests raise is a verdict
        process.kill()
        print("\n" + traceback.format_exception_only(error)[-1], file=sys.stderr, end="", flush=True)
    os._exit(1)


class _Line:
    """Asks the program's process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.was_used = False
        """Whether a value of the program has come over it."""
        self._functions: list[Callable[..., Any]] = []
        self._exceptions: dict[str, type[Exception]] = {}

    def ask(self, kind: str, **values: Any) -> dict[str, Any]:
        """Return the program's answer, or raise what it raised.

        Raises:
            ProgramEnded: If there is none.
            ValueError, KeyError, TypeError: If the program wrote something else.
        """
        number = os.urandom(8).hex()
        self._send({"kind": kind, "number": number, **values})
        while True:
            assert self.process.stdout
            if not (line := self.process.stdout.readline()):
                raise ProgramEnded
            answer: dict[str, Any] = json.loads(line)
            if answer["number"] != number:
                raise ValueError("the program wrote into the judge's line")
            if "function" not in answer:
                break
            self._send(self._called(answer))
        if "raised" in answer:
            raise self._exception(list(answer["raised"]), str(answer.get("text")))
        return answer

    def do(self, operation: str, /, *arguments: Any, **named: Any) -> Any:
        """Return what an operation of `OPERATIONS` gives in the program; arguments that it changes are changed."""
        answer = self.ask("do", what=operation, arguments=self.encode(list(arguments)), named=self.encode(named))
        self.was_used = True
        for given, changed in zip(arguments, self.decode(answer["arguments"]) or (), strict=False):
            if issubclass(type(given), list):
                given[:] = changed
            elif issubclass(type(given), (dict, set)):
                given.clear()
                given.update(changed)
        return self.decode(answer["value"])

    def look(self, name: str) -> Any:
        """Return what the program calls so; for a module, the module itself.

        Raises:
            NameError: If it calls nothing so.
        """
        try:
            value = self.decode(self.ask("look", name=name)["value"])
        except NameError:
            if name in sys.stdlib_module_names:
                return importlib.import_module(name)
            raise
        self.was_used |= type(value) not in (Theirs, type, types.ModuleType)
        return value

    def encode(self, value: Any) -> Any:
        return encode(value, self._number)

    def decode(self, value: Any) -> Any:
        return decode(value, self._stand_in)

    def _number(self, value: Any) -> Any:
        if type(value) is Theirs:
            return ["object", object.__getattribute__(value, "number")]
        if callable(value):
            self._functions.append(value)
            return ["function", len(self._functions) - 1]
        raise TypeError(f"a {type(value).__name__} of the tests cannot be handed to the program")

    def _stand_in(self, kind: str, inner: Any) -> Any:
        if kind == "object":
            return Theirs(self, int(inner))
        if kind == "module":
            return importlib.import_module(inner)
        if (known := self._exception_of(inner[:1])) is None:
            known = type(inner[0], (self._exception_of(inner) or Exception,), {})
            self._exceptions[inner[0]] = known
        return known

    def _called(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Call a function of the tests."""
        try:
            function = self._functions[answer["function"]]
            return {"value": self.encode(function(*self.decode(answer["arguments"]), **self.decode(answer["named"])))}
        except Exception as error:  # noqa: BLE001 - the program may expect it
            return {"raised": type(error).__name__, "text": said(error)}

    def _send(self, value: dict[str, Any]) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(value).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ProgramEnded from None

    def _exception_of(self, names: list[str]) -> type[Exception] | None:
        """Return the first of some exceptions, the most special first, that the tests can know."""
        for name in names:
            kind = self._exceptions.get(name) or getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                return kind
        return None

    def _exception(self, names: list[str], text: str) -> Exception:
        kind = self._exception_of(names)
        if kind not in (None, Exception, StopIteration, StopAsyncIteration):
            try:
                return kind(text)  # type: ignore[misc]
            except TypeError:
                pass
        return RuntimeError(f"{names[0]}: {text}")


class Theirs:
    """An object of the program, as the tests see it."""

    __slots__ = ("line", "number")

    def __init__(self, line: _Line, number: int) -> None:
        object.__setattr__(self, "line", line)
        object.__setattr__(self, "number", number)

    def __getattribute__(self, name: str) -> Any:
        return _do("getattr", self, name)

    def __contains__(self, item: Any) -> bool:
        # plain data are not told to it: it might say yes to all
        return bool(_do("contains", self, item)) if type(item) is Theirs else any(one == item for one in _each(self))

    def __next__(self) -> Any:
        for item in _do("next", self):
            return item
        raise StopIteration

    def __instancecheck__(self, instance: Any) -> bool:
        return type(instance) is Theirs and bool(_do("isinstance", instance, self))

    def __exit__(self, *_: object) -> None:
        _do("call", _do("getattr", self, "__exit__"), None, None, None)


def _do(operation: str, /, *arguments: Any, **named: Any) -> Any:
    """Do something in the program, one of the first two arguments being an object of it."""
    theirs = next(one for one in arguments if type(one) is Theirs)
    return object.__getattribute__(theirs, "line").do(operation, *arguments, **named)


def _each(theirs: Theirs) -> Iterator[Any]:
    iterator = _do("iter", theirs)
    while items := _do("next", iterator):
        yield items[0]


def _method(name: str, *, reflected: bool = False, closed: bool = False, alike: bool = False) -> Callable[..., Any]:
    """Return a method of `Theirs`.

    Args:
        name: The operation.
        reflected: Whether the object stands at the right.
        closed: Whether plain data are no answer, unless all arguments are objects.
        alike: Whether the other one must be an object, too.
    """

    def method(self: Theirs, /, *others: Any, **named: Any) -> Any:
        objects = all(type(other) is Theirs for other in others)
        if alike and not objects:
            return NotImplemented
        value = _do(name, *((*others, self) if reflected else (self, *others)), **named)
        if closed and not (objects and others) and type(value) is not Theirs:
            raise TypeError(f"an object of the program is no number (`{name}`)")
        return value

    return method


for _name in (
    "getitem",
    "setitem",
    "delitem",
    "setattr",
    "len",
    "bool",
    "iter",
    "hash",
    "str",
    "repr",
    "enter",
    "call",
):
    setattr(Theirs, f"__{_name}__", _method(_name))
for _name in COMPARISONS:
    setattr(Theirs, f"__{_name}__", _method(_name, alike=True))
for _name in UNARY:
    setattr(Theirs, f"__{_name}__", _method(_name, closed=True))
for _name in CALCULATIONS:
    setattr(Theirs, f"__{_name.strip('_')}__", _method(_name, closed=True))
    setattr(Theirs, f"__r{_name.strip('_')}__", _method(_name, closed=True, reflected=True))


def _run_tests(request: dict[str, Any], line: _Line) -> None:
    """Run the tests in a module of their own, where the names that they use and nobody defines are the program's."""
    module = sys.modules["tests"] = types.ModuleType("tests")
    known = module.__dict__
    try:
        prompt = compile(request["prompt"], "<prompt>", "exec")
    except SyntaxError:  # it ends in the middle of something
        prompt = compile("", "<prompt>", "exec")
    exec(prompt, known)  # noqa: S102 - this process is in the sandbox
    test, entry_point = ast.parse(request["test"]), request["entry_point"]
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)} - {*known, *dir(builtins)}
    for name in sorted({*names, entry_point} - {""}):
        try:
            known[name] = line.look(name)
        except NameError:  # the tests' own, or nobody's
            known.pop(name, None)
    before = set(known)
    exec(compile(test, "<test>", "exec"), known)  # noqa: S102
    if entry_point:
        known["check"](known[entry_point] if entry_point in known else line.look(entry_point))
    for name, value in list(known.items()):
        is_test = name.startswith("test") and name not in before and type(value) is types.FunctionType
        if is_test and not value.__code__.co_argcount:
            value()
    if "unittest" in sys.modules:
        _run_cases(list(known.values()))


def _run_cases(values: list[Any]) -> None:
    import unittest

    for case in values:
        if isinstance(case, type) and issubclass(case, unittest.TestCase):
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
            for _, text in [*result.errors, *result.failures]:
                raise AssertionError(text.strip().splitlines()[-1])


def _end_like(status: int) -> NoReturn:
    """End as the program's process did: by the same signal, or with a sentence."""
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    print(f"\nit ended with status {status} before its tests were done", file=sys.stderr, flush=True)
    os._exit(1)
