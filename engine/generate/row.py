"""One answer while it grows: text in pieces that cannot change any more, cut at what ends it.

token -> Row -> emit(piece)      ends at an end-of-turn token, a stop text, its length, or when it is told to
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

End = Literal["end of turn", "stop text", "length limit", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn, and what ends it."""

    temperature: float = 0.0
    """0 = greedy: always the likeliest token."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that have this much probability together."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    """An answer ends where one of these begins; they are no part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding(Sampling):
    """How answers are made; two sets of answers are comparable if these are equal."""

    max_new_tokens: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One answer."""

    text: str
    """Without special tokens."""
    num_tokens: int
    """Tokens that were generated, the last one included."""
    end: End


class Row:
    """A prompt and its answer while it grows.

    Args:
        prompt: Token ids, at least one.
        decoding: How the answer is made.
        decode: Token ids to text, without special tokens.
        ends: Tokens that end it; no part of its text.
        place: Which of several it is, for the caller.
        emit: Takes its text, and an empty text when nothing follows.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        decoding: Decoding,
        *,
        decode: Callable[[list[int]], str],
        ends: Sequence[int] | frozenset[int],
        place: int = 0,
        emit: Callable[[str], None] | None = None,
    ) -> None:
        self.prompt, self.decoding, self.place = prompt, decoding, place
        self.random = torch.Generator().manual_seed(decoding.seed) if decoding.temperature > 0 else None
        """On the host, so that a seed means the same on every device; None = greedy."""
        self.ids: list[int] = []
        self.end: End | None = None
        self.started, self.seconds = time.monotonic(), 0.0
        self._decode, self._ends, self._emit = decode, frozenset(ends), emit
        self._text, self._sent = "", 0
        self._from, self._read = 0, 0

    @property
    def text(self) -> str:
        """What has been said."""
        return self._text[: self._sent]

    def add(self, token: int) -> None:
        """Take the next token; nothing is added to a finished answer."""
        if self.end:
            return
        self.ids.append(token)
        if token in self._ends:
            self.finish("end of turn")
            return
        full = len(self.ids) >= self.decoding.max_new_tokens
        if self._emit or self.decoding.stop:  # else nobody asks for its text before its end
            self._take(len(self.ids), whole=not full)
            if (cut := self._first_stop()) is not None:
                self._text, self._read = self._text[:cut], len(self.ids)
                self.finish("stop text")
                return
            self._send(len(self._text) - self._held_back())
        if full:
            self.finish("length limit")

    def finish(self, reason: End) -> None:
        """End the answer and send what was held back."""
        if self.end:
            return
        self.end, self.seconds = reason, time.monotonic() - self.started
        self._take(len(self.ids) - (reason == "end of turn"), whole=reason == "stopped")
        self._send(len(self._text))
        if self._emit:
            self._emit("")

    def generated(self) -> Generated:
        """Return the finished answer."""
        assert self.end
        return Generated(text=self.text, num_tokens=len(self.ids), end=self.end)

    def _take(self, end: int, *, whole: bool) -> None:
        """Read tokens up to a place as text; with `whole`, not if they end within a character."""
        if end <= self._read:
            return
        # decoded from the last boundary on: what a token means can depend on the one before it, not on more
        said = self._decode(self.ids[self._from : self._read])
        now = self._decode(self.ids[self._from : end])
        if not (whole and now.endswith("\ufffd")):
            self._text += now[len(said) :]
            self._from, self._read = self._read, end

    def _first_stop(self) -> int | None:
        found = [place for stop in self.decoding.stop if (place := self._text.find(stop, self._sent)) >= 0]
        return min(found, default=None)

    def _held_back(self) -> int:
        """Return how many characters at the end may be the beginning of a stop text."""
        longest = 0
        for stop in self.decoding.stop:
            sizes = range(min(len(stop) - 1, len(self._text) - self._sent), 0, -1)
            longest = max(longest, next((size for size in sizes if self._text.endswith(stop[:size])), 0))
        return longest

    def _send(self, end: int) -> None:
        if end > self._sent:
            piece, self._sent = self._text[self._sent : end], end
            if self._emit:
                self._emit(piece)
