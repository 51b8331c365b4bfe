"""The decoding loop: several rows, one token for each of them at a time, until each has ended.

    rows -> prompts padded at the left -> logits after the last token -> next token of each row -> ... -> ended rows

A row that has ended leaves the batch, and the cache with it.  Rows know nothing of their neighbours: padding is masked,
positions count from a row's own first token, and it draws from a generator of its own, so that neither order nor size
of batches changes an answer - but for the last digits of float sums, which can flip a token where two are equally
likely.  `transformers.generate` keeps ended rows until the last one ends and draws all rows from one generator.

B = rows of a batch, L = longest prompt in it, V = vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from engine.generate.row import Row

FILLER = 0
"""Padding is masked: any token will do."""


def grow(
    model: Any,
    rows: Sequence[Row],
    *,
    before: Callable[[Sequence[Row]], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    is_trained: bool = False,
    device: Any = None,
    agree: Callable[[list[int]], list[int]] = lambda tokens: tokens,
) -> Iterator[Row]:
    """Let answers grow until each has ended.

    Args:
        model: A causal language model, with or without adapter, on its device, in eval mode.
        rows: Prompts and what becomes of them; at least one.
        before: Told before each step which rows it computes.
        stopped: Asked after each token; true ends all rows.
        is_trained: Whether the model goes on learning afterwards: what its layers keep between forward passes
            (positions that grow with the text) must then stay usable in a backward pass.
        device: Where it computes, if its weights may lie elsewhere; None = the model's.
        agree: Told the next token of each row, before `stopped` is asked; returns those that count. Processes that
            share a model make one answer so.

    Yields:
        Rows as they end.
    """
    # as decorators of a generator they hold while it runs, not while its caller does
    mode = torch.no_grad() if is_trained else torch.inference_mode()
    yield from mode(_grow)(model, rows, before, stopped, device or model.device, agree)


def _grow(
    model: Any,
    rows: Sequence[Row],
    before: Callable[[Sequence[Row]], None],
    stopped: Callable[[], bool],
    device: Any,
    agree: Callable[[list[int]], list[int]],
) -> Iterator[Row]:
    step = _Step(model, device)
    rows = list(rows)
    ids, mask = pad_left([row.prompt for row in rows], device)
    while True:
        before(rows)
        tokens = agree(next_tokens(step.logits(ids, mask), rows))
        going = [row for row in rows if not row.end]
        for row, token in zip(rows, tokens, strict=True):
            row.add(token)
        if stopped():
            for row in going:
                row.finish("stopped")
        yield from (row for row in going if row.end)
        left = [number for number, row in enumerate(rows) if not row.end]
        if not left:
            return
        if len(left) < len(rows) and step.select(left):
            index = torch.tensor(left, device=mask.device)
            ids, mask, rows = ids[index], mask[index], [rows[number] for number in left]
            tokens = [tokens[number] for number in left]
        ids = torch.cat([ids, torch.tensor(tokens, device=ids.device)[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


class _Step:
    """One forward pass after another, over what is new since the last one."""

    def __init__(self, model: Any, device: Any) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(base.forward).parameters
        self.model = model
        self.has_positions, self.has_keep = "position_ids" in accepted, "logits_to_keep" in accepted
        config = model.config.get_text_config(decoder=True)
        self.cache = DynamicCache(config=config) if "past_key_values" in accepted else None  # else all again each time
        self.seen, self.device = 0, device

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits after the last token of each row, float32, shape (B, V)."""
        arguments: dict[str, Any] = {}
        if self.has_positions:
            arguments["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, self.seen :]
        if self.has_keep:
            arguments["logits_to_keep"] = 1
        if self.cache is not None:
            arguments |= {"past_key_values": self.cache, "use_cache": True}
        output = self.model(input_ids=ids[:, self.seen :], attention_mask=mask, **arguments)
        if self.cache is not None:
            self.seen = ids.shape[1]
        return output.logits[:, -1].float()  # type: ignore[no-any-return]

    def select(self, rows: Sequence[int]) -> bool:
        """Keep only some rows in the cache; return whether that can be done."""
        if self.cache is None:
            return True
        if any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in self.cache.layers):
            return False  # transformers selects rows of keys and values, not of such a layer's state
        self.cache.batch_select_indices(torch.tensor(rows, device=self.device))
        return True


def pad_left(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Return rows filled up at the left, and the mask that is 1 on their own tokens, both shape (B, L)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), FILLER, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.as_tensor(list(map(int, row)))
        mask[number, longest - len(row) :] = 1
    return ids.to(device), mask.to(device)


def next_tokens(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Return the next token of each row.

    Args:
        logits: Shape (B, V), float32.
        rows: Say how it is chosen.
    """
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for number, row in enumerate(rows):
        if row.random is not None and not row.end:
            tokens[number] = draw(logits[number], row.decoding.temperature, row.decoding.top_p, row.random)
    return tokens


def draw(logits: Tensor, temperature: float, top_p: float, random: torch.Generator) -> int:
    """Draw one token.

    Args:
        logits: Shape (V,).
        temperature: Above 0.
        top_p: The smallest set of likeliest tokens with at least this probability is drawn from.
        random: On the host.
    """
    probabilities, tokens = torch.softmax(logits.double() / temperature, dim=-1).sort(descending=True, stable=True)
    sums = probabilities.cumsum(dim=-1)
    kept = int((sums < top_p).sum()) + 1 if top_p < 1 else len(sums)
    point = torch.rand((), generator=random, dtype=torch.float64).item() * float(sums[min(kept, len(sums)) - 1])
    return int(tokens[min(int((sums <= point).sum()), len(sums) - 1)])
