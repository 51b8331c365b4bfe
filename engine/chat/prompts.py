"""A conversation -> the ids that a model continues, within its context, exactly as training would have written them.

    messages -> [oldest turns dropped, if that is allowed] -> ids, and how many tokens the answer can have

Text that spells a special token stays text (`engine.data.tokenize`).  Nothing is cut silently: a conversation that is
too long is refused or shortened by whole turns, and the prompt says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.contract.errors import UserError
from engine.contract.records import Example, Message
from engine.contract.strict_json import text_problem
from engine.data.codec import Codec, TemplateRefusal
from engine.data.tokenize import encode_example, encode_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What goes into a model."""

    ids: list[int]
    max_new_tokens: int
    """What was asked for, or what the context leaves."""
    notes: tuple[str, ...] = ()
    """What was changed, in sentences."""


def context_length(model: Any) -> int | None:
    """Return how many tokens a model can see, None if it does not say."""
    value = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(value) if isinstance(value, int) and value > 0 else None


def chat_prompt(
    codec: Codec,
    messages: Sequence[Message],
    *,
    context: int | None,
    max_new_tokens: int,
    drop_oldest: bool = False,
) -> Prompt:
    """Encode a conversation that ends with a question.

    Args:
        codec: Tokenizer and chat template of the speaker.
        messages: The conversation.
        context: Tokens that prompt and answer may have together; None = any number.
        max_new_tokens: Tokens that the answer may have.
        drop_oldest: Leave out the oldest questions and answers where they do not fit; system messages stay.

    Raises:
        UserError: If it is too long, the template refuses it, or it holds text that cannot be encoded.
    """
    if not messages or messages[-1].role == "assistant":
        raise UserError("The conversation does not end with a question.", fix="add a user message.")
    for number, message in enumerate(messages, 1):
        if problem := text_problem(message.content):
            raise UserError(f"Message {number} holds {problem}.", fix="take it out.")
    kept = list(messages)
    ids = encode_prompt(codec, kept)
    while drop_oldest and context and len(ids) + max_new_tokens > context and (shorter := _without_oldest(kept)):
        kept, ids = shorter, encode_prompt(codec, shorter)
    dropped = len(messages) - len(kept)
    notes = (f"Oldest messages left out, so that the rest fits into the context: {dropped}.",)
    return fit(ids, context=context, max_new_tokens=max_new_tokens, notes=notes if dropped else ())


def text_prompt(codec: Codec, text: str, *, context: int | None, max_new_tokens: int) -> Prompt:
    """Encode a text to be continued, as training encodes plain text.

    Raises:
        UserError: If it is too long, or cannot be encoded.
    """
    if problem := text_problem(text):
        raise UserError(f"The prompt holds {problem}.", fix="take it out.")
    ids = [*codec.prefix_ids, *codec.encode([text], literal=True)[0]]
    if not ids:
        raise UserError("The prompt is empty.", fix="write something.")
    return fit(ids, context=context, max_new_tokens=max_new_tokens)


def fit(ids: list[int], *, context: int | None, max_new_tokens: int, notes: tuple[str, ...] = ()) -> Prompt:
    """Check a prompt against the context and give the answer what is left of it.

    Raises:
        UserError: If nothing is left.
    """
    if context is None or len(ids) + max_new_tokens <= context:
        return Prompt(ids=ids, max_new_tokens=max_new_tokens, notes=notes)
    room = context - len(ids)
    if room < 1:
        problem = f"The conversation has {len(ids):,} tokens, and this model can see {context:,}."
        raise UserError(problem, fix="shorten it, start over, or let the oldest turns be left out.")
    told = f"The answer can have {room:,} tokens at most: the context of {context:,} is full then."
    return Prompt(ids=ids, max_new_tokens=room, notes=(*notes, told))


def stop_ids(codec: Codec, model: Any) -> list[int]:
    """Return the ids that end an answer: the tokenizer's end of text, the model's own, what training puts there."""
    own = model.generation_config.eos_token_id
    found = {codec.eos_token_id, *(own if isinstance(own, list) else [] if own is None else [own])}
    turn = (Message("user", "a"), Message("assistant", "b"))
    try:
        last = int(encode_example(codec, Example(turn, 0)).input_ids[-1])
    except TemplateRefusal:
        return sorted(found)
    return sorted(found | ({last} if codec.decode([last]) in codec.specials else set()))


def _without_oldest(messages: list[Message]) -> list[Message] | None:
    """Leave out what is said before the second question, but for the system's; None if only one question is left."""
    questions = [index for index, message in enumerate(messages) if message.role == "user"]
    if len(questions) < 2:
        return None
    return [message for message in messages[: questions[1]] if message.role == "system"] + messages[questions[1] :]
