"""Messages -> input_ids and labels, with the loss exactly on the assistant's words.

    rendered conversation  =  prompt | answer | prompt | answer ...      cut where the chat template puts the answer
    input_ids              =  each piece encoded by itself               exactly what generation will see and make
    labels                 =  -100 on prompts, the ids on answers, up to and including the end-of-turn token

Text in the data that spells a special token stays text: such words are lifted out before rendering and encoded apart.
A plain text (`kind == "text"`) is all supervised and ends with the end-of-text token, as in pre-training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from engine.contract.errors import UserError
from engine.contract.records import Example, Message
from engine.data.codec import Codec, TemplateRefusal, plain_messages
from engine.data.shapes import can_fill, fill, parts_of, placeholders

IGNORE = -100
"""Label of positions without loss, as in PyTorch's cross entropy."""
AssistantTurns = Literal["all", "last"]
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Private-use characters that stand for a lifted special word while the template runs."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered conversation that is encoded by itself."""

    text: str
    supervised: bool
    literal: bool = False
    """Whether words that spell a special token stay words."""
    ids: tuple[int, ...] = ()
    """Tokens that stand there without a text: those around a plain text."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as tokens. Both sequences have the same length L."""

    input_ids: Sequence[int]
    labels: Sequence[int]
    """The id where the position is supervised, else `IGNORE`."""

    @property
    def num_supervised(self) -> int:
        """Tokens that carry loss: the first token of a row has nothing before it and is never one of them."""
        return sum(int(label) != IGNORE for label in self.labels[1:])


def pieces(
    codec: Codec, example: Example, *, assistant_turns: AssistantTurns = "all", by_shape: bool = True
) -> tuple[list[Piece], bool]:
    """Cut an example into prompts and answers.

    Args:
        codec: Tokenizer and chat template.
        example: Validated messages.
        assistant_turns: Which answers are supervised: all of them, or the last one.
        by_shape: Allow the shortcut of `engine.data.shapes`, which gives the same pieces sooner.

    Returns:
        The pieces in order, and whether the template rewrites earlier turns: then only the last answer is supervised.

    Raises:
        TemplateRefusal: If the template refuses the conversation or hides the answer.
    """
    if example.kind == "text":
        text = example.messages[0].content
        literal = codec.special_pattern.search(text) is not None
        ends = Piece("", False, ids=codec.prefix_ids), Piece("", True, ids=(codec.eos_token_id,))
        return [ends[0], Piece(text, True, literal=literal), ends[1]], False
    words_looked_for = codec.words_looked_for if by_shape and not example.tools else None
    if words_looked_for is not None and can_fill(example.messages, words_looked_for):
        cut, rewrites = _shape(codec, example.messages)
        last = len(cut) - 1
        return [
            Piece(fill(parts, example.messages), bool(place % 2) and (assistant_turns == "all" or place == last))
            for place, parts in enumerate(cut)
            if parts
        ], rewrites
    messages, words = _lift(example.messages, codec)
    tools, tool_words = _lift_text(example.tools, codec, words)
    cut, rewrites = _prompts_and_answers(codec, messages, _parse_tools(tools))
    found: list[Piece] = []
    for number, (prompt, answer) in enumerate(cut):
        supervised = assistant_turns == "all" or number == len(cut) - 1
        found += _split(prompt, supervised=False, words=tool_words)
        found += _split(answer, supervised=supervised, words=tool_words)
    return found, rewrites


def encode_example(
    codec: Codec, example: Example, *, assistant_turns: AssistantTurns = "all", by_shape: bool = True
) -> Encoded:
    """Encode one example; many at once are encoded in `engine.data.store`.

    Raises:
        TemplateRefusal: If the chat template refuses the conversation.
    """
    input_ids: list[int] = []
    labels: list[int] = []
    for piece in pieces(codec, example, assistant_turns=assistant_turns, by_shape=by_shape)[0]:
        ids = codec.encode([piece.text], literal=piece.literal)[0] if piece.text else list(piece.ids)
        input_ids += ids
        labels += ids if piece.supervised else [IGNORE] * len(ids)
    return Encoded(input_ids, labels)


def encode_prompt(codec: Codec, messages: Sequence[Message]) -> list[int]:
    """Encode a conversation that ends with a user turn, ready for generation, exactly as training sees it.

    Raises:
        UserError: If the chat template refuses the conversation.
    """
    try:
        found = _prompt_pieces(codec, messages)
    except TemplateRefusal as refusal:
        raise UserError(f"This conversation cannot be sent: {refusal}.", fix="change the roles or the text.") from None
    return [token for piece in found for token in codec.encode([piece.text], literal=piece.literal)[0]]


def _prompt_pieces(codec: Codec, messages: Sequence[Message]) -> list[Piece]:
    lifted, words = _lift(messages, codec)
    answers = [index for index, message in enumerate(lifted) if message.role == "assistant"]
    text = codec.render(plain_messages(lifted), add_generation_prompt=True)
    cut, done = _cut(codec, lifted, answers, None), ""
    found: list[Piece] = []
    for prompt, answer in cut or ():
        found += [*_split(prompt, supervised=False, words=words)]
        found += [*_split(answer, supervised=False, words=words)]
        done += prompt + answer
    if not text.startswith(done):  # a template that rewrites earlier turns: encode what it makes of the whole
        found, done = [], ""
    return [*found, *_split(text[len(done) :], supervised=False, words=words)]


def _shape(codec: Codec, messages: Sequence[Message]) -> tuple[list[tuple[str | int, ...]], bool]:
    """Return prompts and answers of these roles with holes for the texts, and whether earlier turns are rewritten."""
    roles = tuple(message.role for message in messages)
    if roles not in codec.shapes:
        try:
            cut, rewrites = _prompts_and_answers(codec, placeholders(messages), None)
            codec.shapes[roles] = ([parts_of(text) for pair in cut for text in pair], rewrites)
        except TemplateRefusal as refusal:
            codec.shapes[roles] = refusal
    shape = codec.shapes[roles]
    if isinstance(shape, TemplateRefusal):
        raise shape
    return shape  # type: ignore[no-any-return]


def _prompts_and_answers(
    codec: Codec, messages: Sequence[Message], tools: list[object] | None
) -> tuple[list[tuple[str, str]], bool]:
    """Cut at all answers, or at the last one if the template rewrites earlier turns (the second value says so)."""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if (cut := _cut(codec, messages, answers, tools)) is not None:
        return cut, False
    if (cut := _cut(codec, messages, answers[-1:], tools)) is None:
        raise TemplateRefusal("the chat template hides where the answer begins")
    return cut, True


def _cut(
    codec: Codec, messages: Sequence[Message], answers: Sequence[int], tools: list[object] | None
) -> list[tuple[str, str]] | None:
    """Return (prompt, answer) for each answer, in order; None if the template rewrites what came before."""
    plain = plain_messages(messages)
    cut, done = [], ""
    for index in answers:
        prompt = codec.render(plain[:index], add_generation_prompt=True, tools=tools)
        whole = codec.render(plain[: index + 1], tools=tools)
        if not whole.startswith(prompt):
            # the generation prompt says more than the finished turn (an opened <think>): cut right before the words
            without = codec.render(plain[:index], tools=tools)
            content = messages[index].content.strip()
            at = whole.find(content, len(without)) if content and whole.startswith(without) else -1
            if at < 0:
                return None
            prompt = whole[:at]
        if not prompt.startswith(done):
            return None
        answer = _through_end_of_turn(whole[len(prompt) :], messages[index].content, codec.eos_token)
        cut.append((prompt[len(done) :], answer))
        done = prompt + answer
    return cut


def _through_end_of_turn(text: str, content: str, eos_token: str) -> str:
    """Cut what a template prints after the answer's end-of-turn token (a newline, as a rule)."""
    start = text.find(content.strip())
    after = start + len(content.strip()) if start >= 0 else len(text)
    end = text.find(eos_token, after)
    if end >= 0:
        return text[: end + len(eos_token)]
    return text.rstrip() or text


def _lift(messages: Sequence[Message], codec: Codec) -> tuple[Sequence[Message], list[str]]:
    """Replace words that spell a special token by placeholders; return the messages and the words."""
    words: list[str] = []
    pattern = codec.special_pattern
    if not any(pattern.search(m.content) or pattern.search(m.tool_calls) for m in messages):
        return messages, words
    lifted = []
    for message in messages:
        content, words = _lift_text(message.content, codec, words)
        changed = {"content": content}
        if calls := message.tool_calls:
            changed["tool_calls"], words = _lift_text(calls, codec, words)
        lifted.append(replace(message, **changed))
    return lifted, words


def _lift_text(text: str, codec: Codec, words: list[str]) -> tuple[str, list[str]]:
    found = list(words)

    def put(match: re.Match[str]) -> str:
        found.append(match.group())
        return f"{_OPEN}{len(found) - 1}{_CLOSE}"

    return (codec.special_pattern.sub(put, text), found) if text else (text, found)


def _split(text: str, *, supervised: bool, words: Sequence[str]) -> Iterator[Piece]:
    """Yield the pieces of a rendered stretch: template and data as they are, lifted words literally."""
    if not words:
        if text:
            yield Piece(text, supervised)
        return
    for number, part in enumerate(re.split(f"{_OPEN}([0-9]+){_CLOSE}", text)):
        if number % 2 and int(part) >= len(words):  # not ours: the data hold these characters themselves
            yield Piece(f"{_OPEN}{part}{_CLOSE}", supervised)
        elif number % 2:
            yield Piece(words[int(part)], supervised, literal=True)
        elif part:
            yield Piece(part, supervised)


def _parse_tools(text: str) -> list[object] | None:
    return list(json.loads(text)) if text else None
