"""The process of a program on trial: it runs what the judge asks for, and knows nothing of any test.

    judge (engine.evaluate.trial)   -- operation, arguments -->                                 here, the program
                                    <-- plain data, the number of an object, or an error --
                                    <-- a call of one of the tests' functions --

One JSON object per line, each answered before the next one.  What is no plain data is held here and told by a number.
Shipped into the sandbox as text: the standard library only.
"""

from __future__ import annotations

import builtins
import importlib
import json
import operator
import os
import sys
import types
from collections import deque
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any

CALCULATIONS = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and_", "or_", "xor")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
UNARY = ("neg", "pos", "invert", "abs")
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in (*CALCULATIONS, *COMPARISONS, *UNARY)},
    **{name: getattr(operator, name) for name in ("getitem", "setitem", "delitem", "contains")},
    **{name: getattr(builtins, name) for name in ("getattr", "setattr", "isinstance", "len", "bool", "iter", "hash")},
    **{"str": str, "repr": repr, "enter": lambda manager: manager.__enter__()},
    "call": lambda function, /, *arguments, **named: function(*arguments, **named),
    "next": lambda iterator: list(islice(iterator, 1)),
}
"""What the judge may ask of an object."""
COLLECTIONS: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
SPELLED: dict[str, tuple[type, Callable[[str], Any]]] = {
    "Decimal": (Decimal, Decimal),
    "Fraction": (Fraction, Fraction),
    "complex": (complex, complex),
    "datetime": (datetime, datetime.fromisoformat),
    "date": (date, date.fromisoformat),
}


def serve() -> None:
    """Run what the judge sends; what the program prints goes to stderr."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.set_int_max_str_digits(0)
    _Program(asked, answers).go_on()
    os._exit(0)


class _Program:
    """The program's names and objects, and the line to the judge."""

    def __init__(self, asked: Any, answers: Any) -> None:
        self.asked, self.answers = asked, answers
        self.known: dict[str, Any] = {}
        self.held: list[Any] = []
        self.numbers: dict[int, int] = {}

    def go_on(self) -> dict[str, Any]:
        """Do what is asked until there is the reply to a call of the tests' function; return it."""
        for line in self.asked:
            request: dict[str, Any] = json.loads(line)
            if "kind" not in request:
                return request
            try:
                answer = self._done(request)
            except Exception as error:  # noqa: BLE001 - the judge raises it again
                answer = {"raised": _family(type(error)), "text": said(error)}
            self._write({"number": request["number"], **answer})
        return {"raised": "EOFError", "text": ""}

    def _done(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["kind"] == "program":
            module = sys.modules["__main__"] = types.ModuleType("__main__")
            self.known = module.__dict__
            exec(compile(request["text"], "<program>", "exec"), self.known)  # noqa: S102 - this is the sandbox
            return {}
        if request["kind"] == "look":
            if request["name"] not in self.known:
                raise NameError(f"name '{request['name']}' is not defined")
            return {"value": encode(self.known[request["name"]], self._told)}
        find = partial(self._found, request["number"])
        arguments, named = decode(request["arguments"], find), decode(request["named"], find)
        value = OPERATIONS[request["what"]](*arguments, **named)
        return {"value": encode(value, self._told), "arguments": encode(arguments, self._told)}

    def _told(self, value: Any) -> Any:
        """Return how what is no plain data is told."""
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type) and issubclass(value, Exception):
            return ["exception", _family(value)]
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.held)
            self.held.append(value)
        return ["object", self.numbers[id(value)]]

    def _found(self, number: str, kind: str, inner: int) -> Any:
        """Return an object that is held, or a function that the judge has."""
        return self.held[inner] if kind == "object" else partial(self._call, number, inner)

    def _call(self, number: str, function: int, /, *arguments: Any, **named: Any) -> Any:
        given = {"arguments": encode(list(arguments), self._told), "named": encode(named, self._told)}
        self._write({"number": number, "function": function, **given})
        reply = self.go_on()
        if "raised" in reply:
            raise getattr(builtins, reply["raised"], RuntimeError)(reply["text"])
        return decode(reply["value"], partial(self._found, number))

    def _write(self, value: dict[str, Any]) -> None:
        self.answers.write(json.dumps(value).encode() + b"\n")
        self.answers.flush()


def _family(kind: type) -> list[str]:
    """Return the names of a class and of those that it is made of, the most special first."""
    return [one.__name__ for one in kind.__mro__]


def said(error: BaseException) -> str:
    """Return what an error was made with: as text a missing key has quotes."""
    return str(error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error)


def encode(value: Any, other: Callable[[Any], Any]) -> Any:
    """Return plain data as JSON that keeps their types.

    Args:
        value: The data.
        other: Returns a kind and JSON for what is no plain data.
    """
    own = type(value)  # what an object says about its class is not asked
    if value is None or own in (bool, int, float, str):
        return value
    if own.__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind in "biufcSU":
        return encode(value.item(), other) if value.shape == () else ["array", [str(value.dtype), value.tolist()]]
    if issubclass(own, (int, float, str)) and not hasattr(own, "__members__"):  # no member of an enum
        return value
    for name, kind in COLLECTIONS.items():
        if issubclass(own, kind):
            return [name, [encode(item, other) for item in value]]
    if issubclass(own, dict):
        return ["dict", [[encode(key, other), encode(item, other)] for key, item in value.items()]]
    if issubclass(own, (bytes, bytearray)):
        return ["bytes", value.hex()]
    for name, (kind, _) in SPELLED.items():
        if issubclass(own, kind):
            return [name, str(value)]
    return other(value)


def decode(value: Any, other: Callable[[str, Any], Any]) -> Any:
    """Return the data that `encode` was given; `other` gives those that are not plain.

    Raises:
        ValueError, TypeError, KeyError: If there are none.
    """
    if not isinstance(value, list):
        return value
    name, inner = value
    if name in COLLECTIONS:
        return COLLECTIONS[name](decode(item, other) for item in inner)
    if name == "dict":
        return {decode(key, other): decode(item, other) for key, item in inner}
    if name == "bytes":
        return bytes.fromhex(inner)
    if name == "array":
        return importlib.import_module("numpy").array(inner[1], dtype=inner[0])
    return SPELLED[name][1](inner) if name in SPELLED else other(name, inner)
