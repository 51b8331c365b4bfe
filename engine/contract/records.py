"""One record -> one example, whatever its author called things.

    chosen/rejected | messages | chat_rounds | conversations | alpaca | pairs of columns | text     first that matches
    a mapping of columns                                                                            reads only these
                                                                        ->  Example(messages, line), or a reason

Turns are checked in `engine.contract.turns`.  Text is never changed, not even stripped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.contract.recipe import ColumnsSection as Columns
from engine.contract.turns import (
    MAX_TURNS,
    ROLES,
    BadRecord,
    Message,
    check_order,
    kind_of,
    read_tools,
    read_turns,
    read_unordered,
    text_of,
)

__all__ = ["CHAT_COLUMNS", "MAX_TURNS", "PAIRS", "ROLES", "BadRecord", "Columns", "Example", "Message", "parse_record"]

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
TURN_KEYS: tuple[tuple[str, str], ...] = (("role", "content"), ("from", "value"))
"""Keys of a turn where only its column is known."""
PROMPTS = ("prompt", "question", "instruction", "input")
"""Columns with the user's side of a preference pair that is plain text."""


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation, text or preference pair and where it came from."""

    messages: tuple[Message, ...]
    """What is trained: of a text one assistant message, of a preference pair the chosen conversation."""
    line: int
    """1-based line of the source file, or number of the record in a JSON list."""
    file: str = ""
    """Path relative to the folder the task is read from; empty if the task is a single file."""
    kind: Literal["chat", "text", "preference"] = "chat"
    tools: str = ""
    """JSON text of the list of tools the assistant may call; empty if there is none."""
    rejected: tuple[Message, ...] = ()
    """The other conversation of a preference pair."""


def parse_record(record: Any, line: int, columns: Columns | None = None, *, file: str = "") -> tuple[Example, str]:
    """Turn one parsed record into an example.

    Args:
        record: A JSON value or the row of a table.
        line: Where it stands.
        columns: Which column means what; only these are read then. None = known names are recognized.
        file: The file of a folder it stands in.

    Returns:
        The example and the name of its format.

    Raises:
        BadRecord: With the reason, naming the offending place.
    """
    if type(record) is not dict and not isinstance(record, Mapping):
        raise BadRecord(f"a JSON object is needed, this is {kind_of(record)}")
    if columns is not None:
        return _mapped(record, line, columns, file)
    if "chosen" in record and record["chosen"] is not None and record.get("rejected") is not None:
        chosen, rejected = _side(record, "chosen"), _side(record, "rejected")
        return Example(chosen, line, file, "preference", rejected=rejected), "chosen/rejected"
    for column, role_key, content_key in CHAT_COLUMNS:
        if column in record:
            messages = read_turns(record[column], column, role_key, content_key)
            if column == "conversations":
                messages = _system_before(record, messages)
            if "tools" in record:
                return Example(messages, line, file, tools=read_tools(record)), column
            return Example(messages, line, file), column
    if "instruction" in record and "input" in record and "output" in record:
        return Example(_alpaca(record), line, file), "alpaca"
    for user, assistant in PAIRS:
        if user in record and assistant in record:
            return Example(_pair(record, user, assistant), line, file), f"{user}/{assistant}"
    if isinstance(record.get("text"), str):
        return Example((Message("assistant", text_of(record, "text")),), line, file, "text"), "text"
    raise BadRecord(f"no known columns (found: {found(record)}); messages or prompt and completion are needed")


def found(record: Mapping[Any, Any]) -> str:
    """Return the columns of a record for a message, the first eight."""
    return ", ".join(str(key)[:40] for key in list(record)[:8]) or "none"


def _mapped(record: Mapping[str, Any], line: int, columns: Columns, file: str) -> tuple[Example, str]:
    """Read the columns that the recipe names and no others."""
    named = columns.named()
    if missing := [f"`{name}` (for {role})" for role, name in named.items() if name not in record]:
        raise BadRecord(f"no column {' and no column '.join(missing)} (found: {found(record)})")
    if (name := columns.messages) is not None:
        return Example(read_turns(record[name], name, *_turn_keys(record[name])), line, file), name
    if (name := columns.text) is not None:
        return Example((Message("assistant", text_of(record, name)),), line, file, "text"), name
    prompt, completion = named["prompt"], named["completion"]
    messages = [Message("user", text_of(record, prompt)), Message("assistant", text_of(record, completion))]
    if (name := columns.system) is not None:
        messages = _with_system(record, messages, name)
    return Example(tuple(messages), line, file), f"{prompt}/{completion}"


def _alpaca(record: Mapping[str, Any]) -> tuple[Message, ...]:
    instruction, extra = text_of(record, "instruction"), record["input"]
    if extra not in (None, ""):
        instruction = f"{instruction}\n\n{text_of(record, 'input', may_be_blank=True)}"
    return tuple(_with_system(record, [Message("user", instruction), Message("assistant", text_of(record, "output"))]))


def _pair(record: Mapping[str, Any], user: str, assistant: str) -> tuple[Message, ...]:
    messages = (Message("user", text_of(record, user)), Message("assistant", text_of(record, assistant)))
    return tuple(_with_system(record, list(messages))) if "system" in record else messages


def _with_system(record: Mapping[str, Any], messages: list[Message], column: str = "system") -> list[Message]:
    if record.get(column) not in (None, ""):
        messages.insert(0, Message("system", text_of(record, column, may_be_blank=True)))
    return messages


def _system_before(record: Mapping[str, Any], messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put ShareGPT's record-level system text before the turns."""
    if record.get("system") in (None, ""):
        return messages
    if messages[0].role == "system":
        raise BadRecord("`system` and conversations[0] both hold a system text")
    return tuple(_with_system(record, list(messages)))


def _side(record: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    """Read one side of a preference pair: turns, or the answer to the record's prompt."""
    value = record[column]
    prompt = next((name for name in PROMPTS if record.get(name) not in (None, "")), "")
    if isinstance(value, str):
        if not prompt:
            raise BadRecord(f"`{column}` is text, so a `prompt` is needed beside it (found: {found(record)})")
        messages, turns = [Message("assistant", text_of(record, column))], list[Any]([{}])
    else:
        messages, turns = read_unordered(value, column, *_turn_keys(value)), list(value)
    if messages[0].role in ("assistant", "tool") and prompt:
        before, before_turns = _prompt(record, prompt)
        messages, turns = before + messages, before_turns + turns
    checked = check_order(messages, turns, column)
    if checked[-1].role != "assistant":
        raise BadRecord(f"`{column}` must end with an assistant turn, this ends with a {checked[-1].role} turn")
    return checked


def _prompt(record: Mapping[str, Any], column: str) -> tuple[list[Message], list[Any]]:
    """Return the prompt of a preference pair as messages, and as the turns they were made from."""
    value = record[column]
    if isinstance(value, list):
        return read_unordered(value, column, *_turn_keys(value)), value
    messages = _with_system(record, [Message("user", text_of(record, column))])
    return messages, [{} for _ in messages]


def _turn_keys(value: Any) -> tuple[str, str]:
    first = value[0] if isinstance(value, list) and value and isinstance(value[0], Mapping) else {}
    return next((keys for keys in TURN_KEYS if keys[0] in first), TURN_KEYS[0])
