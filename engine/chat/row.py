"""One answer while it grows: text in pieces that cannot change any more, cut at what ends it.

token -> Row -> emit(piece)      ends at an end-of-turn token, a stop text, its length, or when it is told to
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.chat.prompts import Prompt
from engine.contract.errors import UserError
from engine.contract.speakers import Speaker
from engine.data.codec import Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = 0.0
    """0 = always the likeliest token."""
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt for a speaker."""

    speaker: Speaker
    prompt: Prompt
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One finished answer."""

    text: str
    num_tokens: int
    prompt_tokens: int
    seconds: float
    speaker: str
    """Who spoke, read from the model: "base model, adapter off" or "adapter step-000060"."""
    stop_reason: str
    """end of turn, stop text, length limit, stopped."""
    notes: tuple[str, ...] = ()
    """What was changed about the question, in sentences."""
    together: bool = False
    """Whether it was computed in one batch with another."""


class Row:
    """One answer while it grows.

    Args:
        codec: Decodes it.
        question: Says how long it may be and what ends it.
        stop_ids: Tokens that end it.
        emit: Takes its text, and an empty text when nothing follows.
    """

    def __init__(self, codec: Codec, question: Question, stop_ids: Sequence[int], emit: Callable[[str], None]) -> None:
        self.codec, self.question, self.stop_ids, self.emit = codec, question, frozenset(stop_ids), emit
        self.generator = torch.Generator().manual_seed(question.sampling.seed)
        self.ids: list[int] = []
        self.reason = ""
        self.started, self.seconds = time.monotonic(), 0.0
        self._text, self._sent = "", 0
        self._from, self._read = 0, 0

    @property
    def text(self) -> str:
        """What has been said."""
        return self._text[: self._sent]

    def add(self, token: int) -> None:
        """Take the next token; nothing is added to a finished answer."""
        if self.reason:
            return
        self.ids.append(token)
        if token in self.stop_ids:
            self.finish("end of turn")
            return
        # decoded from the last boundary on: what a token means can depend on the one before it, not on more
        said = self._decode(self.ids[self._from : self._read])
        now = self._decode(self.ids[self._from :])
        if not now.endswith("\ufffd"):  # else it ends within a character
            self._text += now[len(said) :]
            self._from, self._read = self._read, len(self.ids)
        if (cut := self._first_stop()) is not None:
            self._text = self._text[:cut]
            self.finish("stop text")
        elif len(self.ids) >= self.question.prompt.max_new_tokens:
            self._text += self._unread()
            self.finish("length limit")
        else:
            self._send(len(self._text) - self._held_back())

    def finish(self, reason: str) -> None:
        """End the answer and send what was held back."""
        if not self.reason:
            self.reason, self.seconds = reason, time.monotonic() - self.started
            self._send(len(self._text))
            self.emit("")

    def answer(self, speaker: str, *, together: bool) -> Answer:
        """Return the finished answer."""
        return Answer(
            text=self.text,
            num_tokens=len(self.ids),
            prompt_tokens=len(self.question.prompt.ids),
            seconds=self.seconds,
            speaker=speaker,
            stop_reason=self.reason,
            notes=self.question.prompt.notes,
            together=together,
        )

    def _decode(self, ids: list[int]) -> str:
        return self.codec.decode(ids, skip_special_tokens=True)

    def _unread(self) -> str:
        """Text of tokens that end within a character."""
        said = self._decode(self.ids[self._from : self._read])
        return self._decode(self.ids[self._from :])[len(said) :] if self._read < len(self.ids) else ""

    def _first_stop(self) -> int | None:
        found = [place for stop in self.question.sampling.stop if (place := self._text.find(stop, self._sent)) >= 0]
        return min(found, default=None)

    def _held_back(self) -> int:
        """Return how many characters at the end may be the beginning of a stop text."""
        longest = 0
        for stop in self.question.sampling.stop:
            sizes = range(min(len(stop) - 1, len(self._text) - self._sent), 0, -1)
            longest = max(longest, next((size for size in sizes if self._text.endswith(stop[:size])), 0))
        return longest

    def _send(self, end: int) -> None:
        if end > self._sent:
            piece, self._sent = self._text[self._sent : end], end
            self.emit(piece)


def read_sampling(values: dict[str, Any]) -> Sampling:
    """Check sampling settings that came from outside.

    Raises:
        UserError: With all that is wrong.
    """
    temperature, top_p, seed = values.get("temperature", 0.0), values.get("top_p", 1.0), values.get("seed", 0)
    wrong = []
    if not isinstance(temperature, (int, float)) or not 0 <= temperature <= 2:
        wrong.append("the temperature is between 0 and 2")
    if not isinstance(top_p, (int, float)) or not 0 < top_p <= 1:
        wrong.append("top-p is above 0 and at most 1")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        wrong.append("the seed is a whole number from 0 on")
    if wrong:
        raise UserError(f"These settings cannot be used: {'; '.join(wrong)}.", fix="change them.")
    return Sampling(temperature=float(temperature), top_p=float(top_p), seed=seed, stop=tuple(values.get("stop") or ()))
