"""Strict JSON for data that strangers wrote: RFC 8259, no duplicate keys, no NaN, bounded depth, no lone surrogates.

Python's own parser lets all of these through or fails with exceptions that name nothing; each is a reason here.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 64
MAX_NUMBER_DIGITS = 400

_SURROGATE = re.compile("[\ud800-\udfff]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.S)


class BadJson(ValueError):
    """The text is not acceptable JSON; the message is the reason, for people."""


def parse_strict(text: str) -> Any:
    """Parse one JSON text.

    Raises:
        BadJson: With the reason.
    """
    if _too_deep(text):
        raise BadJson(f"JSON nested deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadJson(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BadJson(f"JSON nested deeper than {MAX_DEPTH} levels") from None
    return value


def text_problem(text: str) -> str:
    """Return why a string cannot be trained on, or an empty string."""
    if "\x00" in text:
        return "a NUL character"
    if not text.isascii() and _SURROGATE.search(text):
        return "a lone surrogate (half of an emoji or rare character)"
    return ""


def _too_deep(text: str) -> bool:
    """Count brackets outside strings; cheap, and before the recursive parser sees the text."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadJson(f"duplicate key `{twice[:60]}` in one JSON object")
    return value


def _no_constant(name: str) -> Any:
    raise BadJson(f"{name} is not valid JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise BadJson(f"a JSON number of {len(digits)} digits")
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise BadJson(f"the JSON number {digits[:20]} is too large")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_constant=_no_constant,
    parse_int=_bounded_int,
    parse_float=_finite_float,
)
