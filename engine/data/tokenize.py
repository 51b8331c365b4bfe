"""Messages -> input_ids and labels, with the loss exactly on the assistant's words.

    rendered conversation  =  prompt | answer | prompt | answer ...      cut where the chat template puts the answer
    input_ids              =  each piece encoded by itself               exactly what generation will see and make
    labels                 =  -100 on prompts, the ids on answers, up to and including the end-of-turn token

The template is the tokenizer's own; a base model without one gets MFTCoder's role markers.  Words in the data that
spell a special token stay words: a piece that contains one is encoded with `split_special_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from engine.contract.errors import UserError
from engine.contract.taskfile import Example, Message

IGNORE = -100
"""Label of positions without loss, as in PyTorch's cross entropy."""

MFTCODER_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<s>system\\n' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<s>human\\n' + message['content'] + '\\n' }}"
    "{% else %}{{ '<s>bot\\n' + message['content'] + '\\n' + eos_token + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>bot\\n' }}{% endif %}"
)
"""Role markers of MFTCoder (its default), for tokenizers that bring no chat template."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as tokens. Both lists have the same length L."""

    input_ids: list[int]
    labels: list[int]
    """The id where the position is supervised, else `IGNORE`."""

    @property
    def num_supervised(self) -> int:
        """Tokens that carry loss."""
        return sum(label != IGNORE for label in self.labels)


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give the tokenizer MFTCoder's template if it has none; return whether that was needed."""
    if tokenizer.chat_template:
        return False
    if tokenizer.eos_token is None:
        problem = "The model's tokenizer has neither a chat template nor an end-of-text token."
        raise UserError(problem, fix="choose another model.")
    tokenizer.chat_template = MFTCODER_TEMPLATE
    return True


def encode_example(tokenizer: PreTrainedTokenizerBase, example: Example) -> Encoded:
    """Encode one conversation.

    Args:
        tokenizer: With a chat template (`ensure_chat_template`).
        example: Validated messages, alternating user and assistant after an optional system message.

    Raises:
        UserError: If the template cannot be cut at the answers (it rewrites earlier turns).
    """
    input_ids: list[int] = []
    labels: list[int] = []
    done = ""
    for index, message in enumerate(example.messages):
        if message.role != "assistant":
            continue
        prompt = render(tokenizer, example.messages[:index], add_generation_prompt=True)
        whole = render(tokenizer, example.messages[: index + 1])
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise UserError(
                "The model's chat template rewrites earlier turns, so its answers cannot be told apart for the loss.",
                fix="use single-turn examples for this model, or a model with a plain template.",
            )
        answer = _through_end_of_turn(whole[len(prompt) :], message.content, tokenizer.eos_token)
        prompt_ids = _encode_piece(tokenizer, prompt[len(done) :], example.messages[: index + 1])
        answer_ids = _encode_piece(tokenizer, answer, (message,))
        input_ids += prompt_ids + answer_ids
        labels += [IGNORE] * len(prompt_ids) + answer_ids
        done = prompt + answer
    return Encoded(input_ids, labels)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Encode a conversation that ends with a user turn, ready for generation, exactly as training sees it."""
    ids: list[int] = []
    done = ""
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = render(tokenizer, messages[:index], add_generation_prompt=True)
        whole = render(tokenizer, messages[: index + 1])
        if not prompt.startswith(done) or not whole.startswith(prompt):
            break
        answer = _through_end_of_turn(whole[len(prompt) :], message.content, tokenizer.eos_token)
        ids += _encode_piece(tokenizer, prompt[len(done) :], messages[: index + 1])
        ids += _encode_piece(tokenizer, answer, (message,))
        done = prompt + answer
    text = render(tokenizer, messages, add_generation_prompt=True)
    if not text.startswith(done):  # a template that rewrites earlier turns: encode what it makes of the whole
        ids, done = [], ""
    return ids + _encode_piece(tokenizer, text[len(done) :], messages)


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> str:
    """Apply the chat template, in transformers' sandbox, and return the text."""
    plain = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=add_generation_prompt)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        problem = f"The model's chat template refuses a conversation: {error}."
        raise UserError(problem, fix="see the model's card for the roles it knows.") from None


def _through_end_of_turn(text: str, content: str, eos_token: str | None) -> str:
    """Cut what a template prints after the answer's end-of-turn token (a newline, as a rule)."""
    start = text.find(content.strip())
    after = start + len(content.strip()) if start >= 0 else len(text)
    end = text.find(eos_token, after) if eos_token else -1
    if end >= 0:
        return text[: end + len(eos_token or "")]
    return text.rstrip() or text


def _encode_piece(tokenizer: PreTrainedTokenizerBase, text: str, messages: Sequence[Message]) -> list[int]:
    """Encode a piece of a rendered conversation; special tokens only where the template wrote them."""
    specials = [token for token in tokenizer.all_special_tokens if token]
    dangerous = [m.content.strip() for m in messages if any(token in m.content for token in specials)]
    if not dangerous:
        return _ids(tokenizer, text)
    ids: list[int] = []
    cut = re.compile("|".join(re.escape(content) for content in sorted(dangerous, key=len, reverse=True)))
    position = 0
    for match in cut.finditer(text):
        ids += _ids(tokenizer, text[position : match.start()])
        ids += _ids(tokenizer, match.group(), split_special_tokens=True)
        position = match.end()
    return ids + _ids(tokenizer, text[position:])


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, split_special_tokens: bool = False) -> list[int]:
    if not text:
        return []
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)["input_ids"])
