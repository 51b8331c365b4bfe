"""One record -> one conversation, whatever its author called things.

    messages | chat_rounds | conversations | alpaca | pairs of columns      ->  Example(messages, line), or a reason

Canonical form: an optional system message, then user and assistant in turn.  Text is never changed, not even stripped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.contract.strict_json import text_problem

MAX_TURNS = 1000
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "gpt": "assistant",
}
"""Names of the three roles, as OpenAI, MFTCoder and ShareGPT write them."""
PAIRS: tuple[tuple[str, str], ...] = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("input", "output"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "response"),
    ("question", "answer"),
    ("query", "answer"),
)
"""Column pairs (user, assistant), tried in this order."""
CHAT_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("messages", "role", "content"),
    ("chat_rounds", "role", "content"),
    ("conversations", "from", "value"),
)
"""Columns that hold a list of turns, with the keys of a turn."""


class BadRecord(ValueError):
    """The record cannot be used; the message is the reason, for people."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation and where it came from."""

    messages: tuple[Message, ...]
    line: int
    """1-based line of the source file, or number of the record in a JSON list."""


def parse_record(record: Any, line: int) -> tuple[Example, str]:
    """Turn one parsed record into an example.

    Returns:
        The example and the name of its format.

    Raises:
        BadRecord: With the reason, naming the offending place.
    """
    if not isinstance(record, Mapping):
        raise BadRecord(f"a JSON object is needed, this is {_kind(record)}")
    for column, role_key, content_key in CHAT_COLUMNS:
        if column in record:
            return Example(_turns(record[column], column, role_key, content_key), line), column
    if "instruction" in record and "input" in record and "output" in record:
        return Example(_alpaca(record), line), "alpaca"
    for user, assistant in PAIRS:
        if user in record and assistant in record:
            return Example(_pair(record, user, assistant), line), f"{user}/{assistant}"
    columns = ", ".join(str(key)[:40] for key in list(record)[:8]) or "none"
    raise BadRecord(f"no known columns (found: {columns}); messages or prompt and completion are needed")


def _turns(value: Any, column: str, role_key: str, content_key: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise BadRecord(f"`{column}` must be a non-empty list of turns, this is {_kind(value)}")
    if len(value) > MAX_TURNS:
        raise BadRecord(f"`{column}` has {len(value)} turns, {MAX_TURNS} is the limit")
    messages = []
    for index, turn in enumerate(value):
        place = f"{column}[{index}]"
        if not isinstance(turn, Mapping):
            raise BadRecord(f"{place} must be an object with {role_key} and {content_key}, this is {_kind(turn)}")
        role = turn.get(role_key)
        if not isinstance(role, str) or role not in ROLES:
            raise BadRecord(f"{place}.{role_key} is {str(role)[:40]!r}, not a known role (system, user, assistant)")
        messages.append(Message(ROLES[role], _text(turn, content_key, place)))
    return _checked(messages, column)


def _alpaca(record: Mapping[str, Any]) -> tuple[Message, ...]:
    instruction, extra = _text(record, "instruction"), record["input"]
    if extra not in (None, ""):
        instruction = f"{instruction}\n\n{_text(record, 'input', may_be_blank=True)}"
    return _with_system(record, [Message("user", instruction), Message("assistant", _text(record, "output"))])


def _pair(record: Mapping[str, Any], user: str, assistant: str) -> tuple[Message, ...]:
    return _with_system(record, [Message("user", _text(record, user)), Message("assistant", _text(record, assistant))])


def _with_system(record: Mapping[str, Any], messages: list[Message]) -> tuple[Message, ...]:
    if record.get("system") not in (None, ""):
        messages.insert(0, Message("system", _text(record, "system", may_be_blank=True)))
    return tuple(messages)


def _text(record: Mapping[str, Any], key: str, place: str = "", *, may_be_blank: bool = False) -> str:
    name = f"{place}.{key}" if place else f"`{key}`"
    if key not in record:
        raise BadRecord(f"{name} is missing: each turn needs content")
    value = record[key]
    if not isinstance(value, str):
        raise BadRecord(f"{name} must be text (content as a string), this is {_kind(value)}")
    if problem := text_problem(value):
        raise BadRecord(f"{name} holds {problem}")
    if not may_be_blank and not value.strip():
        raise BadRecord(f"{name} is empty")
    return value


def _checked(messages: list[Message], column: str) -> tuple[Message, ...]:
    """Check the order of roles: system first only, then user and assistant in turn."""
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise BadRecord(f"`{column}` has no assistant turn, so there is nothing to learn")
    for index, role in enumerate(roles):
        if role == "system" and index > 0:
            raise BadRecord(f"{column}[{index}] is a system turn; it may only stand first")
        previous = roles[index - 1] if index else "system"
        if role == "assistant" and previous != "user":
            raise BadRecord(f"{column}[{index}] is an assistant turn without a user turn before it")
        if role == "user" and previous == "user":
            raise BadRecord(f"{column}[{index}] is a second user turn in a row; an assistant turn is missing between")
    return tuple(messages)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
