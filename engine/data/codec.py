"""A model's tokenizer and chat template as plain text, so that they can travel to worker processes and into the cache.

    transformers tokenizer -> Codec(tokenizer_json, chat_template, specials ...) -> render(messages), encode(texts)

Workers and previews need neither torch nor a tokenizer class: `tokenizers` (Rust) reads the JSON, the template runs in
transformers' own sandbox.  The ids are those of the tokenizer; `fingerprint` names everything they depend on.
`fastokens` encodes ten times faster where it knows the tokenizer; it is used after it has agreed on `PROBES`, and
`engine.data.store` goes on comparing samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from engine.contract.errors import UserError
from engine.contract.records import Message
from engine.data.shapes import words_looked_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MFTCODER_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<s>system\\n' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<s>human\\n' + message['content'] + '\\n' }}"
    "{% else %}{{ '<s>bot\\n' + message['content'] + '\\n' + eos_token + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>bot\\n' }}{% endif %}"
)
"""Role markers of MFTCoder (its default), for tokenizers without a chat template or when the recipe asks for them."""
MAX_TEMPLATE_BYTES = 100_000
PROBES = (
    "",
    " ",
    "  ",
    "\n\n\n",
    "\t x",
    "\r\n",
    " a",
    "a ",
    "don't I'LL",
    "caf\u00e9 e\u0301 \u00df",
    "\u65e5\u672c\u8a9e\u3000\u4f60\u597d",
    "\U0001f642\U0001f468\u200d\U0001f469",
    "a\u200bb\ufeffc",
    "\uff11\uff12\uff13 \u2167 \ufb01",
    "12345678901234 3.14 1e-9",
    "\x00\x07",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0645\u0631\u062d\u0628\u0627",
    "    def f(x):\n\treturn x  # 1\n\n",
    "A" * 3000,
    "<s>[INST] <<SYS>>",
    "\ue000\ue001",
)
"""Texts on which tokenizers like to differ: white space, digits, scripts, joined emoji, control characters."""
logger = logging.getLogger(__name__)


class TemplateRefusal(ValueError):
    """The chat template refuses this conversation; the message is its reason."""


@dataclass(frozen=True)
class Codec:
    """Everything that turns messages into ids."""

    tokenizer_json: str
    """What `tokenizers.Tokenizer.from_str` reads."""
    chat_template: str
    """Jinja."""
    variables: dict[str, str]
    """`bos_token`, `eos_token` ... as the template sees them."""
    specials: tuple[str, ...]
    """Strings that the tokenizer turns into special tokens."""
    prefix_ids: tuple[int, ...]
    """What the tokenizer itself puts before a plain text (a BOS token, or nothing)."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Codec:
        """Take a loaded tokenizer's text form.

        Raises:
            UserError: If it has no fast implementation or no end-of-text token.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            problem = "The model's tokenizer has no fast implementation, which encoding on all cores needs."
            raise UserError(problem, fix="choose a model with tokenizer.json.", field="model_name_or_path")
        if not tokenizer.eos_token:
            problem = "The model's tokenizer has no end-of-text token, so answers could never end."
            raise UserError(problem, fix="choose another model.", field="model_name_or_path")
        state = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        added = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        specials = sorted(added | {str(token) for token in tokenizer.all_special_tokens if token})
        bare = backend.encode("", add_special_tokens=True).ids
        return cls(
            tokenizer_json=json.dumps(state, ensure_ascii=False),
            chat_template=str(tokenizer.chat_template or MFTCODER_TEMPLATE),
            variables={name: str(token) for name, token in tokenizer.special_tokens_map.items() if token},
            specials=tuple(specials),
            prefix_ids=tuple(bare[:1]) if bare and bare[0] == tokenizer.bos_token_id else (),
        )

    @classmethod
    def read(cls, path: Path) -> Codec | None:
        """Read what `write` wrote; None if there is nothing or something else."""
        try:
            value = json.loads(path.read_bytes())
            value |= {"specials": tuple(value["specials"]), "prefix_ids": tuple(value["prefix_ids"])}
            return cls(**value)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def as_text(self) -> str:
        """Return the text that `read` understands."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def __getstate__(self) -> dict[str, Any]:
        return asdict(self)  # the compiled parts below stay at home

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the ids."""
        return hashlib.sha256(self.as_text().encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def eos_token(self) -> str:
        """The end-of-text token."""
        return self.variables["eos_token"]

    @cached_property
    def eos_token_id(self) -> int:
        """Its id."""
        return int(self._tokenizer.token_to_id(self.eos_token))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_str(self.tokenizer_json)

    @cached_property
    def _literal_tokenizer(self) -> Tokenizer:
        """The same, but text that spells a special token stays text."""
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches every string that would become a special token."""
        longest_first = sorted(self.specials, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def words_looked_for(self) -> tuple[str, ...] | None:
        """Words that keep a message from being filled into a shape (`engine.data.shapes`); None if all of them do."""
        words = words_looked_for(self.chat_template)
        return None if words is None else tuple(sorted({*words, *self.specials}))

    @cached_property
    def shapes(self) -> dict[tuple[str, ...], Any]:
        """What the template prints around each sequence of roles, filled as they are met."""
        return {}

    @cached_property
    def _fast_tokenizer(self) -> Any | None:
        """The same tokenizer in `fastokens`, if it knows this kind and agrees on every probe."""
        try:
            import fastokens

            fast = fastokens.Tokenizer.from_json_str(self.tokenizer_json)
            probes = [*PROBES, *(f"a{special} b" for special in self.specials)]
            agrees = [item.ids for item in fast.encode_batch(probes, False)] == self.encode(probes)
        except (ImportError, ValueError, RuntimeError, TypeError, KeyError) as error:
            logger.info("fastokens is not used: %s", error)
            return None
        logger.info("fastokens is %s", "used" if agrees else "not used: it encodes a probe differently")
        return fast if agrees else None

    @property
    def is_fast(self) -> bool:
        """Whether `encode_fast` is faster than `encode`."""
        return self._fast_tokenizer is not None

    def encode_fast(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts like `encode`, faster if this tokenizer allows it."""
        if self._fast_tokenizer is None:
            return self.encode(texts)
        return [item.ids for item in self._fast_tokenizer.encode_batch(list(texts), False)]

    def encode(self, texts: Sequence[str], *, literal: bool = False) -> list[list[int]]:
        """Encode texts, each by itself, without adding tokens.

        Args:
            texts: Any number of texts; all cores are used unless TOKENIZERS_PARALLELISM is false.
            literal: Text that spells a special token stays text.
        """
        tokenizer = self._literal_tokenizer if literal else self._tokenizer
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of ids, special tokens written out or left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def pieces_of(self, ids: Sequence[int]) -> list[str]:
        """Return the text that each id adds, so that the pieces joined are the text: for people to look at.

        An id that ends within a character adds nothing; the id that completes it adds the character.
        """
        pieces, done = [], ""
        for end in range(1, len(ids) + 1):
            text = self.decode(ids[:end])  # from the start: some decoders treat the first token otherwise
            whole = not text.endswith("\ufffd") or end == len(ids)
            pieces.append(text[len(done) :] if whole else "")
            done = text if whole else done
        return pieces

    def render(
        self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False, tools: Any = None
    ) -> str:
        """Apply the chat template in transformers' sandbox.

        Raises:
            TemplateRefusal: With the template's own words.
        """
        try:
            rendered = render_jinja_template(
                [list(messages)],
                tools=tools,
                chat_template=self.chat_template,
                add_generation_prompt=add_generation_prompt,
                **self.variables,
            )
        except (TemplateError, TypeError, ValueError, KeyError, RecursionError) as error:
            raise TemplateRefusal(f"the chat template refuses the conversation: {error}") from None
        return str(rendered[0][0] if isinstance(rendered, tuple) else rendered[0])


def plain_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as a chat template wants them; JSON arguments of tool calls become objects."""
    plain = []
    for message in messages:
        value: dict[str, Any] = {"role": message.role, "content": message.content}
        if calls := message.tool_calls:
            value["tool_calls"] = [_with_object_arguments(call) for call in json.loads(calls)]
        if name := message.name:
            value["name"] = name
        plain.append(value)
    return plain


def _with_object_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """OpenAI sends a call's arguments as JSON text; templates print them with `tojson` and would quote them twice."""
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments)
        except ValueError:
            pass
    return {**call, "function": function}


def choose_template(choice: str, own: str | None) -> str:
    """Return the chat template that a recipe asks for.

    Args:
        choice: `auto`, `model`, `mftcoder`, or the path of a Jinja file.
        own: The tokenizer's own template, if it has one.

    Raises:
        UserError: If there is none, or the file cannot be used.
    """
    field = "data.chat_template"
    if choice == "auto":
        return own or MFTCODER_TEMPLATE
    if choice == "mftcoder":
        return MFTCODER_TEMPLATE
    if choice == "model":
        if not own:
            fix = "set data.chat_template to mftcoder or to a file."
            raise UserError("The model's tokenizer brings no chat template.", fix=fix, field=field)
        return own
    try:
        raw = Path(choice).read_bytes()
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"The chat template {choice} cannot be read: {getattr(error, 'strerror', None) or error}."
        raise UserError(problem, fix="give the path of a Jinja file in UTF-8.", field=field) from None
    if len(raw) > MAX_TEMPLATE_BYTES or "messages" not in text:
        problem = f"{Path(choice).name} is no chat template: it is too large or never mentions `messages`."
        raise UserError(problem, fix="see the README for an example.", field=field)
    return text
