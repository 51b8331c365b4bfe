"""Answers to many prompts, the same as one by one.

prompts (token ids) -> longest first -> batches -> engine.generate.loop -> texts
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from engine.data.scramble import scramble
from engine.generate.loop import grow
from engine.generate.row import Decoding, Generated, Row

logger = logging.getLogger(__name__)
_SEED_STREAM = 31


class Generator:
    """A model, ready to answer.

    Args:
        model: A causal language model, with or without adapter, on its device, in eval mode.
        tokenizer: Its tokenizer.
        batch_size: Rows that are answered together; halved by itself where the GPU's memory is too small.
        is_trained: Whether the model goes on learning afterwards.
        device: Where it computes, if its weights may lie elsewhere.
        agree: As in `grow`, for a model that several processes share. None of them then tries smaller batches alone.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        is_trained: bool = False,
        device: Any = None,
        agree: Callable[[list[int]], list[int]] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, max(1, batch_size)
        self.is_shared = agree is not None
        self._grow = partial(grow, is_trained=is_trained, device=device, agree=agree or (lambda tokens: tokens))
        own = getattr(model.generation_config, "eos_token_id", None)
        ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        self.ends = frozenset(int(token) for token in ends if token is not None)

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        done: Mapping[int, Generated] | None = None,
        on_done: Callable[[int, Generated], None] = lambda *_: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[Generated]:
        """Answer prompts.

        Args:
            prompts: Token ids of each, at least one.
            decoding: How; `Decoding()` is greedy. With a temperature each prompt draws from a stream of its own, by the
                seed and its place in the list.
            done: Answers that are known from an interrupted call, by place: they are not made again.
            on_done: Called with place and answer as soon as there is one, longest prompts first.
            stopped: Asked after each token; true ends the answers where they are.

        Returns:
            The answers in the order of the prompts.

        Raises:
            ValueError: If a prompt is empty.
        """
        if empty := [place for place, ids in enumerate(prompts) if not len(ids)]:
            raise ValueError(f"prompt {empty[0]} has no tokens")
        answers = dict(done or {})
        decode = partial(self.tokenizer.decode, skip_special_tokens=True)
        left = [place for place in range(len(prompts)) if place not in answers]
        left.sort(key=lambda place: (-len(prompts[place]), place))
        while left:
            batch = left[: self.batch_size]
            rows = [
                Row(prompts[p], _seeded(decoding, p), decode=decode, ends=self.ends, place=p)  # type: ignore[arg-type]
                for p in batch
            ]
            try:
                for row in self._grow(self.model, rows, stopped=stopped):
                    answers[row.place] = row.generated()
                    on_done(row.place, answers[row.place])
            except torch.OutOfMemoryError:
                if self.batch_size == 1 or self.is_shared:
                    raise
                self.batch_size = max(1, len(batch) // 2)
                logger.warning("out of memory with %d answers at once: going on with %d", len(batch), self.batch_size)
                torch.cuda.empty_cache()
            left = [place for place in left if place not in answers]
        return [answers[place] for place in range(len(prompts))]


def _seeded(decoding: Decoding, place: int) -> Decoding:
    """Return the settings of one prompt, whose stream is its own."""
    if decoding.temperature <= 0:
        return decoding
    seed = int(scramble(np.array([place], dtype=np.uint64), decoding.seed, _SEED_STREAM)[0])
    return replace(decoding, seed=seed & (2**63 - 1))
