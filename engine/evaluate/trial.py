"""A program on trial, inside the sandbox: it cannot see its tests, and cannot say that it passed.

    judge (runs the tests, owns stdout)   -- call, name, arguments -->   the program, in a process of its own
                                          <-- plain data, or an error --

This file is the start of what the sandbox runs, so it needs the standard library only.  The judge deletes its own text,
starts the program's process, and runs HumanEval's `check` itself, on values that came over a pipe: numbers, texts and
collections of them, never objects with an `==` of their own.  Nobody else can write to its stdout, and as it cannot be
traced, nobody can read its memory: there is no word to learn.

The tests of a record may use a program's classes and its changes of arguments, so they run within it (`inside`).  They
are sent when the program's own code has ended, with a number that the answer must repeat; a program that leaves early
or prints has not passed.  One that searches Python's frames for that number, while it is tested, could.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

PASSED = "passed"
PR_SET_DUMPABLE = 4
COLLECTIONS: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
SPELLED: dict[str, Callable[[Any], Any]] = {"Decimal": Decimal, "Fraction": Fraction, "complex": complex}


class ProgramEnded(BaseException):
    """The program's process is gone."""


def trial_of(program: str, test: str, *, prompt: str = "", entry_point: str = "", inside: bool = False) -> str:
    """Return the text to run in a sandbox; its output is `PASSED` if the program passes, its last error line says why
    not.

    Args:
        program: What a model wrote.
        test: Python with a function `check(candidate)`; with `inside`, Python that fails.
        prompt: What the program began with: the tests may use its functions, in their original form.
        entry_point: The function that is tested.
        inside: Whether the tests run in the program's process.
    """
    source = Path(__file__).read_text(encoding="utf-8")
    request = {"source": source, "program": program, "test": test, "prompt": prompt, "entry_point": entry_point}
    return f"{source}\n\njudge(json.loads({json.dumps({**request, 'inside': inside})!r}))\n"


# ---- the judge ----


def judge(request: dict[str, Any]) -> NoReturn:
    """Try a program, print the verdict and end."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.unlink(__file__)
    sys.path.pop(0)  # the folder, where the program could put modules of its own
    sys.set_int_max_str_digits(0)
    argv = [sys.executable, "-s", "-c", f"{request['source']}\n\nserve()\n"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        ask = _Line(process)
        ask("program", text=request["program"])
        if request["inside"]:
            ask("program", text=request["test"])
        else:
            _check(request, ask)
        process.kill()
        print(PASSED, flush=True)
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

    def __call__(self, kind: str, **values: Any) -> dict[str, Any]:
        """Return its answer, or raise what it raised.

        Raises:
            ProgramEnded: If there is none.
            ValueError, KeyError, TypeError: If the program wrote something else.
        """
        number = secrets.token_hex(8)
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"kind": kind, "number": number, **values}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ProgramEnded from None
        if not (line := self.process.stdout.readline()):
            raise ProgramEnded
        answer = json.loads(line)
        if answer["number"] != number:
            raise ValueError("the program wrote into the judge's line")
        if "raised" in answer:
            raise _exception(str(answer["raised"]), str(answer.get("text")))
        return answer


def _check(request: dict[str, Any], ask: Callable[..., dict[str, Any]]) -> None:
    """Run `check` on a stand-in for the tested function."""

    def stand_in(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            answer = ask("call", name=name, arguments=encode(list(arguments)), named=encode(named))
            for given, changed in zip(arguments, decode(answer["arguments"]) or (), strict=False):
                if isinstance(given, list):
                    given[:] = changed
                elif isinstance(given, (dict, set)):
                    given.clear()
                    given.update(changed)
            return decode(answer["value"])

        return call

    known: dict[str, Any] = {"__name__": "__main__"}
    try:
        prompt = compile(request["prompt"], "<prompt>", "exec")
    except SyntaxError:  # it ends in the middle of something
        prompt = compile("", "<prompt>", "exec")
    exec(prompt, known)  # noqa: S102 - this process is in the sandbox
    test = ast.parse(request["test"])
    exec(compile(test, "<test>", "exec"), known)  # noqa: S102
    known[request["entry_point"]] = stand_in(request["entry_point"])
    for node in ast.walk(test):
        if isinstance(node, ast.Name) and node.id not in known and not hasattr(builtins, node.id):
            known[node.id] = stand_in(node.id)
    known["check"](known[request["entry_point"]])


def _exception(name: str, text: str) -> Exception:
    """Return an exception of Python's own, by its name."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (StopIteration, StopAsyncIteration):
        try:
            return kind(text)
        except TypeError:
            pass
    return RuntimeError(f"{name}: {text}")


def _end_like(status: int) -> NoReturn:
    """End as the program's process did: by the same signal, or with a sentence."""
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    print(f"\nit ended with status {status} before its tests were done", file=sys.stderr, flush=True)
    os._exit(1)


# ---- the program's process ----


def serve() -> None:
    """Run what the judge sends; what the program prints goes to stderr."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.set_int_max_str_digits(0)
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    for line in asked:
        request = json.loads(line)
        answer: dict[str, Any] = {"number": request["number"]}
        try:
            if request["kind"] == "program":
                exec(compile(request["text"], "<program>", "exec"), module.__dict__)  # noqa: S102
            else:
                answer |= _called(module.__dict__, request)
        except Exception as error:  # noqa: BLE001 - the judge raises it again
            answer |= {"raised": type(error).__name__, "text": str(error)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _called(known: Mapping[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    if request["name"] not in known:
        raise NameError(f"name '{request['name']}' is not defined")
    arguments = decode(request["arguments"])
    value = encode(known[request["name"]](*arguments, **decode(request["named"])))
    try:
        return {"value": value, "arguments": encode(arguments)}
    except TypeError:  # changed into what is no plain data
        return {"value": value, "arguments": None}


# ---- plain data ----


def encode(value: Any) -> Any:
    """Return plain data as JSON that keeps their types.

    Raises:
        TypeError: If it is something else.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # numpy's numbers
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    for name, kind in COLLECTIONS.items():
        if isinstance(value, kind):  # type: ignore[arg-type]
            return [name, [encode(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(item)] for key, item in value.items()]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    for name, kind in SPELLED.items():
        if isinstance(value, kind):  # type: ignore[arg-type]
            return [name, str(value)]
    raise TypeError(f"a {type(value).__name__} is no plain data")


def decode(value: Any) -> Any:
    """Return the data that `encode` was given.

    Raises:
        ValueError, TypeError, KeyError: If there are none.
    """
    if not isinstance(value, list):
        return value
    name, inner = value
    if name in COLLECTIONS:
        return COLLECTIONS[name](map(decode, inner))
    if name == "dict":
        return {decode(key): decode(item) for key, item in inner}
    return bytes.fromhex(inner) if name == "bytes" else SPELLED[name](inner)
