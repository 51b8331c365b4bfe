"""Records: tool calls, plain text, preference pairs, named columns and the guess of what unknown columns mean."""

from __future__ import annotations

import json

import pytest

from engine.contract.columns import guess_columns
from engine.contract.records import BadRecord, Columns, Message, parse_record

USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
ASKED, TOLD = Message("user", "q"), Message("assistant", "a")
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "4"}


def reason_of(record, columns=None) -> str:
    with pytest.raises(BadRecord) as caught:
        parse_record(record, 1, columns)
    return str(caught.value)


def test_tool_calls_results_and_tools_are_kept():
    tools = [{"type": "function", "function": {"name": "add"}}]
    example, form = parse_record({"messages": [USER, CALLS, RESULT, BOT], "tools": tools}, 3)
    asked, called, result, told = example.messages
    assert (form, example.kind, asked, told) == ("messages", "chat", ASKED, TOLD)
    assert (called.content, json.loads(called.tool_calls)) == ("", [CALL])
    assert result == Message("tool", "4", name="add")
    assert json.loads(example.tools) == tools


def test_tools_as_json_text_are_kept_as_they_stand():
    text = '[ {"name":"é"} ]'
    assert parse_record({"messages": [USER, BOT], "tools": text}, 1)[0].tools == text
    assert parse_record({"messages": [USER, BOT], "tools": None}, 1)[0].tools == ""


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([USER, RESULT, BOT], "messages[1] is a tool turn without a tool call"),
        ([USER, BOT, RESULT, BOT], "messages[2] is a tool turn without a tool call"),
        ([USER, CALLS, RESULT], "ends with a tool turn"),
        ([USER, CALLS, RESULT, USER, BOT], "messages[3] is a user turn right after a tool turn"),
        ([USER, CALLS, USER, BOT], "messages[2] is a user turn, but the tool calls before it have no result"),
        ([USER, CALLS, {**RESULT, "tool_call_id": "x"}, BOT], "messages[2].tool_call_id is 'x'"),
        ([USER, {**CALLS, "tool_calls": []}], "non-empty list"),
        ([USER, {**CALLS, "tool_calls": "f()"}], "non-empty list"),
        ([USER, {**CALLS, "tool_calls": ["f"]}], "messages[1].tool_calls[0] must be an object"),
        ([USER, {**CALLS, "tool_calls": [{"function": {"arguments": {}}}]}], "function.name must be text"),
        ([USER, {**CALLS, "tool_calls": [{"function": {"name": "f"}}]}], "function.arguments must be an object"),
        ([USER, {**CALLS, "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}], "this is a list"),
        ([USER, {**CALLS, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "not valid JSON"),
        ([USER, {**CALLS, "tool_calls": [{"function": {"name": "f\0", "arguments": {}}}]}], "NUL"),
        ([{**USER, "tool_calls": [CALL]}, BOT], "only assistant turns call tools"),
        ([USER, {**BOT, "content": None}], "content"),
    ],
)
def test_tool_turns_out_of_place_are_named(turns, reason):
    assert reason in reason_of({"messages": turns})


@pytest.mark.parametrize("tools", ["{", "{}", 5, ["add"], '["add"]'])
def test_tools_that_are_no_list_of_objects_are_named(tools):
    assert "tools" in reason_of({"messages": [USER, BOT], "tools": tools})


def test_sharegpt_may_have_a_system_text_calls_and_observations():
    turns = [("human", "q"), ("function_call", '{"name": "add", "arguments": {"a": 1}}'), ("observation", "4")]
    turns = [{"from": role, "value": text} for role, text in [*turns, ("gpt", "a")]]
    example, _ = parse_record({"conversations": turns, "system": "s"}, 1)
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert json.loads(example.messages[2].tool_calls) == [call]
    turns[1]["value"] = "add(1)"
    assert "conversations[1].value of a function_call turn is not valid JSON" in reason_of({"conversations": turns})


def test_a_developer_turn_is_a_system_turn():
    assert parse_record({"messages": [{"role": "developer", "content": "s"}, USER, BOT]}, 1)[0].messages[0] == Message(
        "system", "s"
    )


def test_plain_text_is_tried_last():
    example, form = parse_record({"text": " t\n", "id": 1}, 1)
    assert (form, example.kind, example.messages) == ("text", "text", (Message("assistant", " t\n"),))
    assert parse_record({"text": "t", "prompt": "q", "completion": "a"}, 1)[1] == "prompt/completion"
    assert "empty" in reason_of({"text": " "})


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": [USER, BOT], "rejected": [USER, {**BOT, "content": "b"}]},
        {"prompt": [USER], "chosen": [BOT], "rejected": [{**BOT, "content": "b"}]},
        {"prompt": "q", "chosen": [USER, BOT], "rejected": [USER, {**BOT, "content": "b"}], "messages": [USER, BOT]},
    ],
)
def test_every_form_of_a_preference_pair_is_the_same_pair(record):
    example, _ = parse_record(record, 1)
    assert (example.kind, example.messages) == ("preference", (ASKED, TOLD))
    assert example.rejected == (ASKED, Message("assistant", "b"))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chosen": "a", "rejected": "b"}, "`chosen` is text, so a `prompt` is needed"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "`rejected` is empty"),
        ({"chosen": [USER, BOT, USER], "rejected": [USER, BOT]}, "`chosen` must end with an assistant turn"),
        ({"prompt": "q", "chosen": "a", "rejected": 5}, "`rejected` must be a non-empty list"),
    ],
)
def test_a_preference_pair_that_lacks_a_side_is_named(record, reason):
    assert reason in reason_of(record)


def test_only_mapped_columns_are_read():
    record = {"messages": 5, "q": "q", "a": "a", "s": "", "conv": [{"from": "human", "value": "q"}, BOT]}
    pair = Columns(prompt="q", completion="a", system="s")
    assert parse_record(record, 1, pair)[0].messages == (ASKED, TOLD)
    assert parse_record({**record, "s": "s"}, 1, pair)[0].messages[0] == Message("system", "s")
    assert parse_record(record, 1, Columns(text="a"))[0].kind == "text"
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert parse_record({"conv": turns}, 1, Columns(messages="conv"))[0].messages == (ASKED, TOLD)


def test_a_mapped_column_that_is_missing_is_told_with_the_columns_found():
    reason = reason_of({"q": "q", "b": "a"}, Columns(prompt="q", completion="a"))
    assert "no column `a` (for completion) (found: q, b)" in reason


@pytest.mark.parametrize(
    ("names", "mapping"),
    [
        (("problem", "solution"), {"prompt": "problem", "completion": "solution"}),
        (("code", "instruct"), {"prompt": "instruct", "completion": "code"}),
        (("tgt", "src"), {"prompt": "src", "completion": "tgt"}),
        (("id", "question_text", "best_answer"), {"prompt": "question_text", "completion": "best_answer"}),
        (("code", "docstring"), {"prompt": "docstring", "completion": "code"}),
        (
            ("func_code_string", "repo", "func_documentation_string"),
            {"prompt": "func_documentation_string", "completion": "func_code_string"},
        ),
        (("a", "b"), {"prompt": "a", "completion": "b"}),
        (("id", "a", "b"), {"prompt": "a", "completion": "b"}),
        (("Frage", "Answer"), {"prompt": "Frage", "completion": "Answer"}),
        (("content",), {"text": "content"}),
        (("编号", "问题", "答案"), {"prompt": "问题", "completion": "答案"}),
        (("来源", "指令", "输出"), {"prompt": "指令", "completion": "输出"}),
        (("system_prompt", "a", "b"), {"prompt": "a", "completion": "b", "system": "system_prompt"}),
        (("a", "b", "c"), None),
        (("a",), None),
    ],
)
def test_columns_are_guessed_by_name_then_by_content(names, mapping):
    guess = guess_columns([{name: f"some {name} {index}" for name in names} for index in range(3)])
    assert (guess and guess.named()) == mapping


def test_the_guess_leaves_out_numbers_hashes_and_what_is_no_text():
    rows = [{"n": "12", "u": "https://x.y/z", "k": 5, "a": "one", "b": "two"}, None, 5]
    assert guess_columns(rows) == Columns(prompt="a", completion="b")
    assert guess_columns([{"talk": [USER, BOT], "topic": "x"}]) == Columns(messages="talk")
    assert guess_columns([]) is None
