"""A list of turns -> checked messages, tool calls included.

    [{role, content, tool_calls?, name?}, ...] | [{from, value}, ...]      ->  (Message, ...), or a reason

Canonical form: an optional system message, then user and assistant in turn; an assistant turn that calls tools may be
followed by tool turns, and tool turns by an assistant turn.  Text is never changed, not even stripped; tool calls are
kept as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.contract.strict_json import BadJson, parse_strict, text_problem

MAX_TURNS = 1000
"""Most turns of a conversation, calls of a turn and tools of a record."""
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "bot": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Names of the four roles, as OpenAI, MFTCoder and ShareGPT write them."""


class BadRecord(ValueError):
    """The record cannot be used; the message is the reason, for people."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: str
    """system, user, assistant or tool."""
    content: str
    """May be empty where an assistant turn calls tools, and as the result of a tool."""
    tool_calls: str = ""
    """JSON text of the list of calls of an assistant turn; empty if it calls nothing."""
    name: str = ""
    """Name of the tool whose result this is; empty if the file does not say."""


def read_turns(value: Any, column: str, role_key: str, content_key: str) -> tuple[Message, ...]:
    """Read one conversation.

    Args:
        value: What stands in the column.
        column: Its name, for the reasons.
        role_key: Key of a turn that names the role.
        content_key: Key of a turn that holds the text.

    Raises:
        BadRecord: With the reason, naming the turn.
    """
    return check_order(read_unordered(value, column, role_key, content_key), value, column)


def read_unordered(value: Any, column: str, role_key: str, content_key: str) -> list[Message]:
    """Read turns as `read_turns` does, but leave their order to the caller.

    Raises:
        BadRecord: With the reason, naming the turn.
    """
    if not isinstance(value, list) or not value:
        raise BadRecord(f"`{column}` must be a non-empty list of turns, this is {kind_of(value)}")
    if len(value) > MAX_TURNS:
        raise BadRecord(f"`{column}` has {len(value)} turns, {MAX_TURNS} is the limit")
    messages = []
    for index, turn in enumerate(value):
        # the exact type first: it decides nearly always, and asking for a Mapping is slow
        if type(turn) is not dict and not isinstance(turn, Mapping):
            place = f"{column}[{index}]"
            raise BadRecord(f"{place} must be an object with {role_key} and {content_key}, this is {kind_of(turn)}")
        name = turn.get(role_key)
        role = ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            place = f"{column}[{index}].{role_key}"
            raise BadRecord(f"{place} is {str(name)[:40]!r}, not a known role (system, user, assistant, tool)")
        if role == "tool" or name == "function_call" or turn.get("tool_calls"):
            messages.append(_tool_turn(turn, str(name), content_key, f"{column}[{index}]"))
            continue
        content = turn.get(content_key)
        # what nearly every turn passes, without a call: a million records are read while somebody waits
        if type(content) is str and content.isascii() and "\x00" not in content and content and not content.isspace():
            messages.append(Message(role, content))
        elif turn.get("tool_calls") == [] and not content:
            raise BadRecord(f"{column}[{index}].tool_calls must be a non-empty list where there is no content")
        else:
            messages.append(Message(role, text_of(turn, content_key, f"{column}[{index}]")))
    return messages


def check_order(messages: Sequence[Message], turns: Sequence[Any], column: str) -> tuple[Message, ...]:
    """Check the order of roles and that tool results stand in the order of their calls.

    Args:
        messages: The turns as they were read.
        turns: The same turns as they stand in the file: ids of calls are looked up there.
        column: Name of the column, for the reasons.

    Raises:
        BadRecord: With the reason, naming the turn.
    """
    roles = [message.role for message in messages]
    if "assistant" not in roles:
        raise BadRecord(f"`{column}` has no assistant turn, so there is nothing to learn")
    previous = "system"
    for index, role in enumerate(roles):
        if role == "assistant":
            if previous != "user" and previous != "tool":
                raise BadRecord(f"{column}[{index}] is an assistant turn without a user turn before it")
        elif role == "user":
            if previous != "system":
                _check_user(messages[index - 1], column, index)
        elif role == "system":
            if index > 0:
                raise BadRecord(f"{column}[{index}] is a system turn; it may only stand first")
        elif not (previous == "tool" or (index and messages[index - 1].tool_calls)):
            raise BadRecord(f"{column}[{index}] is a tool turn without a tool call before it")
        previous = role
    if "tool" in roles:
        if previous == "tool":
            raise BadRecord(f"`{column}` ends with a tool turn; an assistant turn must follow")
        _check_ids(roles, turns, column)
    return tuple(messages)


def read_tools(record: Mapping[str, Any]) -> str:
    """Return the JSON text of a record's `tools`; empty if there are none.

    Raises:
        BadRecord: If they are neither a list of objects nor JSON text of one.
    """
    tools = record["tools"]
    if tools is None or tools == "":
        return ""
    value = tools
    if isinstance(tools, str):
        try:
            value = parse_strict(text_of(record, "tools"))
        except BadJson as error:
            raise BadRecord(f"`tools` is {error}") from None
    if not isinstance(value, list):
        raise BadRecord(f"`tools` must be a list of objects or JSON text of one, this is {kind_of(value)}")
    if len(value) > MAX_TURNS:
        raise BadRecord(f"`tools` has {len(value)} entries, {MAX_TURNS} is the limit")
    for index, tool in enumerate(value):
        if not isinstance(tool, Mapping):
            raise BadRecord(f"tools[{index}] must be an object, this is {kind_of(tool)}")
    if not value:
        return ""
    return tools if isinstance(tools, str) else _json_text(value, "`tools`")


def text_of(record: Mapping[str, Any], key: str, place: str = "", *, may_be_blank: bool = False) -> str:
    """Return the text under a key, unchanged.

    Raises:
        BadRecord: If it is missing, no text, blank, or holds what cannot be trained on.
    """
    value = record.get(key)
    if type(value) is str and value.isascii() and "\x00" not in value and value and not value.isspace():
        return value
    name = f"{place}.{key}" if place else f"`{key}`"
    if key not in record:
        raise BadRecord(f"{name} is missing: each turn needs content")
    if not isinstance(value, str):
        raise BadRecord(f"{name} must be text (content as a string), this is {kind_of(value)}")
    if problem := text_problem(value):
        raise BadRecord(f"{name} holds {problem}")
    if not may_be_blank and not value.strip():
        raise BadRecord(f"{name} is empty")
    return value


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _tool_turn(turn: Mapping[str, Any], name: str, content_key: str, place: str) -> Message:
    """Read a turn that calls tools or holds a tool's result."""
    role, calls = ROLES[name], turn.get("tool_calls")
    if calls and (role != "assistant" or name == "function_call"):
        raise BadRecord(f"{place}.tool_calls stands in a {name} turn; only assistant turns call tools")
    if name == "function_call":
        return Message("assistant", "", _sharegpt_calls(text_of(turn, content_key, place), f"{place}.{content_key}"))
    if role == "tool":
        called = text_of(turn, "name", place) if turn.get("name") not in (None, "") else ""
        return Message("tool", text_of(turn, content_key, place, may_be_blank=True), name=called)
    silent = turn.get(content_key) is None
    content = "" if silent else text_of(turn, content_key, place, may_be_blank=True)
    return Message("assistant", content, _calls(calls, f"{place}.tool_calls"))


def _calls(calls: Any, place: str) -> str:
    """Check a list of tool calls as OpenAI writes them and return its JSON text."""
    if not isinstance(calls, list) or not calls:
        raise BadRecord(f"{place} must be a non-empty list of calls, this is {kind_of(calls)}")
    if len(calls) > MAX_TURNS:
        raise BadRecord(f"{place} has {len(calls)} calls, {MAX_TURNS} is the limit")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            raise BadRecord(f"{place}[{index}] must be an object with `function`")
        if not isinstance(function.get("name"), str) or not function["name"].strip():
            raise BadRecord(f"{place}[{index}].function.name must be text")
        _check_arguments(function.get("arguments"), f"{place}[{index}].function.arguments")
    return _json_text(calls, place)


def _check_arguments(arguments: Any, place: str) -> None:
    value = arguments
    if isinstance(arguments, str):
        try:
            value = parse_strict(arguments)
        except BadJson as error:
            raise BadRecord(f"{place} is {error}") from None
    if not isinstance(value, Mapping):
        raise BadRecord(f"{place} must be an object or JSON text of one, this is {kind_of(value)}")


def _sharegpt_calls(text: str, place: str) -> str:
    """Turn the value of a `function_call` turn into calls: a JSON object with name and arguments, or a list of them."""
    try:
        value = parse_strict(text)
    except BadJson as error:
        raise BadRecord(f"{place} of a function_call turn is {error}") from None
    calls = value if isinstance(value, list) else [value]
    for call in calls:
        if not isinstance(call, Mapping) or set(call) != {"name", "arguments"}:
            raise BadRecord(f"{place} of a function_call turn must be JSON with exactly name and arguments")
    return _calls([{"type": "function", "function": call} for call in calls], place)


def _check_user(before: Message, column: str, index: int) -> None:
    """Check what stands before a user turn."""
    if before.role == "assistant" and not before.tool_calls:
        return
    place = f"{column}[{index}]"
    if before.role == "user":
        raise BadRecord(f"{place} is a second user turn in a row; an assistant turn is missing between")
    if before.role == "tool":
        raise BadRecord(f"{place} is a user turn right after a tool turn; an assistant turn must follow a tool turn")
    if before.tool_calls:
        raise BadRecord(f"{place} is a user turn, but the tool calls before it have no result")


def _check_ids(roles: Sequence[str], turns: Sequence[Any], column: str) -> None:
    """Check that results stand in the order of their calls: ids are not kept, so the order has to say it."""
    expected: list[Any] = []
    for index, (role, turn) in enumerate(zip(roles, turns)):
        if role == "assistant":
            calls = turn.get("tool_calls")
            expected = [call.get("id") for call in calls] if isinstance(calls, list) else []
        elif role == "tool":
            told, due = turn.get("tool_call_id"), expected.pop(0) if expected else None
            if told is not None and due is not None and told != due:
                place = f"{column}[{index}].tool_call_id"
                raise BadRecord(f"{place} is {str(told)[:40]!r}, but the result of {str(due)[:40]!r} is due here")


def _json_text(value: Any, place: str) -> str:
    """Write a value as JSON text, its strings checked like any other text."""
    if problem := _nested_problem(value):
        raise BadRecord(f"{place} holds {problem}")
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise BadRecord(f"{place} holds a value that JSON cannot write") from None


def _nested_problem(value: Any) -> str:
    """Return what is wrong with any string in a JSON value; readers bound its depth."""
    if isinstance(value, str):
        return text_problem(value)
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
    else:
        parts = value if isinstance(value, list) else []
    return next((problem for part in parts if (problem := _nested_problem(part))), "")
