"""Answers to many prompts at once, the same as one by one.

    prompts (token ids) -> longest first -> batches, padded at the left -> one token for all rows at a time -> texts

Finished rows leave the batch, and the cache with it.  A row knows nothing of its neighbours: padding is masked,
positions count from its own first token, and sampling draws from a generator of its own, so that neither the order nor
the size of batches changes an answer - but for the last digits of float sums, which can flip a token where two are
equally likely.  `transformers.generate` keeps finished rows until the last one ends and draws all rows from one
generator.

B = rows of a batch, L = longest prompt in it, V = vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from engine.data.scramble import scramble

logger = logging.getLogger(__name__)
End = Literal["end of turn", "stop text", "length limit"]
_SEED_STREAM = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How answers are made; two sets of answers are comparable if these are equal."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 = greedy: always the likeliest token."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that have this much probability together."""
    seed: int = 0
    """Of sampling; each prompt has a stream of its own by its place in the list."""
    stop: tuple[str, ...] = ()
    """An answer ends where one of these begins; they are no part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One answer."""

    text: str
    """Without special tokens."""
    num_tokens: int
    """Tokens that were generated, the last one included."""
    end: End


@dataclass(slots=True)
class _Row:
    """A prompt on its way."""

    place: int
    ids: list[int] = field(default_factory=list)
    random: torch.Generator | None = None


class Generator:
    """A model, ready to answer.

    Args:
        model: A causal language model, with or without adapter, on its device, in eval mode.
        tokenizer: Its tokenizer.
        batch_size: Rows that are answered together; halved by itself where the GPU's memory is too small.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, batch_size: int = 16) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, max(1, batch_size)
        own = getattr(model.generation_config, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        self.ends = frozenset(int(token) for token in ends if token is not None)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(base.forward).parameters
        self.has_positions, self.has_keep = "position_ids" in accepted, "logits_to_keep" in accepted

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        done: Mapping[int, Generated] | None = None,
        on_done: Callable[[int, Generated], None] = lambda *_: None,
    ) -> list[Generated]:
        """Answer prompts.

        Args:
            prompts: Token ids of each, at least one.
            decoding: How.
            done: Answers that are known from an interrupted call, by place: they are not made again.
            on_done: Called with place and answer as soon as there is one, longest prompts first.

        Returns:
            The answers in the order of the prompts.

        Raises:
            ValueError: If a prompt is empty.
        """
        if empty := [place for place, ids in enumerate(prompts) if not len(ids)]:
            raise ValueError(f"prompt {empty[0]} has no tokens")
        answers = dict(done or {})

        def keep(place: int, answer: Generated) -> None:
            answers[place] = answer
            on_done(place, answer)

        left = [place for place in range(len(prompts)) if place not in answers]
        left.sort(key=lambda place: (-len(prompts[place]), place))
        while left:
            batch = left[: self.batch_size]
            try:
                self._answer_batch(batch, prompts, decoding, keep)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size = max(1, len(batch) // 2)
                logger.warning("out of memory with %d answers at once: going on with %d", len(batch), self.batch_size)
                torch.cuda.empty_cache()
            left = [place for place in left if place not in answers]
        return [answers[place] for place in range(len(prompts))]

    @torch.inference_mode()
    def _answer_batch(
        self,
        places: Sequence[int],
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        keep: Callable[[int, Generated], None],
    ) -> None:
        rows = [_Row(place, random=_random(decoding, place)) for place in places]
        ids, mask = pad_left([prompts[place] for place in places], self._filler(), self.model.device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        while True:
            logits = self._forward(ids, mask, positions, cache)
            tokens = [choose_token(line, decoding, row.random) for line, row in zip(logits, rows, strict=True)]
            going = []
            for number, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                row.ids.append(token)
                if (answer := self._finished(row, decoding)) is None:
                    going.append(number)
                else:
                    keep(row.place, answer)
            if not going:
                return
            ids = torch.tensor([[tokens[number]] for number in going], device=mask.device)
            if len(going) < len(rows):
                index = torch.tensor(going, device=mask.device)
                cache.batch_select_indices(index)
                mask, positions, rows = mask[index], positions[index], [rows[number] for number in going]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Return the logits after the last token of each row, float32, shape (B, V)."""
        given: dict[str, Any] = {"position_ids": positions} if self.has_positions else {}
        if self.has_keep:
            given["logits_to_keep"] = 1
        output = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **given)
        return output.logits[:, -1].float()  # type: ignore[no-any-return]

    def _filler(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)  # masked: any token will do

    def _finished(self, row: _Row, decoding: Decoding) -> Generated | None:
        """Return the answer of a row that has just got a token, None if it goes on."""
        count = len(row.ids)
        if row.ids[-1] in self.ends:
            return Generated(text=self._text(row.ids[:-1]), num_tokens=count, end="end of turn")
        if decoding.stop and (text := self._stopped(row.ids, decoding.stop)) is not None:
            return Generated(text=text, num_tokens=count, end="stop text")
        if count >= decoding.max_new_tokens:
            return Generated(text=self._text(row.ids), num_tokens=count, end="length limit")
        return None

    def _stopped(self, ids: list[int], stop: Sequence[str]) -> str | None:
        """Return the answer before the first stop text, None if there is none."""
        # a stop text that the newest token completes lies in the last few tokens; a token can be part of a character
        recent = self._text(ids[-max(len(text.encode()) for text in stop) - 8 :])
        if not any(text in recent for text in stop):
            return None
        whole = self._text(ids)
        return cut_at_stop(whole, stop)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    return text[: min((at for one in stop if (at := text.find(one)) >= 0), default=len(text))]


def pad_left(rows: Sequence[Sequence[int]], filler: int, device: Any) -> tuple[Tensor, Tensor]:
    """Return rows filled up at the left, and the mask that is 1 on their own tokens, both shape (B, L)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), filler, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.as_tensor(list(map(int, row)))
        mask[number, longest - len(row) :] = 1
    return ids.to(device), mask.to(device)


def choose_token(logits: Tensor, decoding: Decoding, random: torch.Generator | None) -> int:
    """Return the next token of one row.

    Args:
        logits: Shape (V,), float32.
        decoding: How.
        random: What is drawn from; None = greedy.
    """
    if random is None:
        return int(logits.argmax())
    chances = torch.softmax(logits.cpu() / decoding.temperature, dim=-1)
    if decoding.top_p < 1:
        ordered, index = chances.sort(descending=True, stable=True)
        # the token that crosses the limit still belongs to them
        outside = ordered.cumsum(0) - ordered >= decoding.top_p
        chances[index[outside]] = 0.0
    return int(torch.multinomial(chances, 1, generator=random))


def _random(decoding: Decoding, place: int) -> torch.Generator | None:
    """Return the generator of one prompt, None for greedy answers."""
    if decoding.temperature <= 0:
        return None
    seed = int(scramble(np.array([place], dtype=np.uint64), decoding.seed, _SEED_STREAM)[0])
    return torch.Generator().manual_seed(seed & (2**63 - 1))
