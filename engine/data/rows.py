"""Which parts of which examples are trained: held-out split, `max_samples`, length policy.  Arithmetic, no text.

    store (lengths, spans, keys) -> choose -> split by content hash -> drop | truncate | split at max_length -> Rows

The choice depends on content and seed alone - not on order, machine or world size - and exact copies always fall on the
same side, so nothing leaks.  N = examples, R = rows (an example, or a part of one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.data.scramble import IntArray, scramble
from engine.data.store import TokenStore

Truncation = Literal["drop", "truncate", "split"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Parts of examples: row r is tokens [start, stop) of an example."""

    example: IntArray
    """Index in the store, shape (R,)."""
    start: IntArray
    stop: IntArray
    num_supervised: IntArray
    """Tokens of the row that carry loss; the first token of a row has nothing before it and carries none."""
    num_too_long: int = 0
    """Examples above `max_length`."""
    num_unsupervised: int = 0
    """Rows that were dropped because nothing in them carries loss."""

    def __len__(self) -> int:
        return len(self.example)

    @property
    def lengths(self) -> IntArray:
        """Tokens of each row, shape (R,)."""
        return self.stop - self.start


def choose(keys: NDArray[np.uint64], limit: int | None, seed: int) -> IntArray:
    """Return at most `limit` examples, chosen by content and seed, as indices in file order."""
    everything = np.arange(len(keys), dtype=np.int64)
    if limit is None or len(keys) <= limit:
        return everything
    order = np.argsort(scramble(keys, seed, 2), kind="stable")
    return np.sort(everything[order[:limit]])


def split_heldout(keys: NDArray[np.uint64], *, share: float, seed: int) -> NDArray[np.bool_]:
    """Mark the examples that are held out: the given share of them, at least one if the share is above 0.

    Copies of an example (equal keys) are on one side. Nothing is held out if that would leave nothing to train.

    Args:
        keys: Content hashes, shape (N,).
        share: Wanted share of the examples.
        seed: Seed of the recipe.

    Returns:
        True where held out, shape (N,).
    """
    wanted = max(1, round(share * len(keys))) if share > 0 and len(keys) else 0
    distinct, place, copies = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(scramble(distinct, seed, 1), kind="stable")
    before = np.cumsum(copies[order]) - copies[order]
    held = np.zeros(len(distinct), dtype=bool)
    held[order[before < wanted]] = True
    return np.zeros(len(keys), dtype=bool) if held.all() else held[place]


def cut_rows(store: TokenStore, examples: IntArray, *, max_length: int, truncation: Truncation) -> Rows:
    """Apply the length policy to some examples.

    Args:
        store: Encoded examples.
        examples: Indices in the store, shape (n,).
        max_length: Longest row, tokens.
        truncation: What becomes of a longer example: `drop` it, `truncate` its end, or `split` it into rows.
    """
    lengths = store.lengths[examples]
    fits = lengths <= max_length
    parts: list[tuple[int, int, int, int]] = []
    unsupervised = 0
    for index in examples[~fits] if truncation != "drop" else ():
        spans, length = store.spans(int(index)).astype(np.int64), int(store.lengths[index])
        stops = range(max_length, length + max_length, max_length) if truncation == "split" else (max_length,)
        for stop in stops:
            start, stop = stop - max_length, min(stop, length)
            supervised = int(np.clip(np.minimum(spans[:, 1], stop) - np.maximum(spans[:, 0], start + 1), 0, None).sum())
            if supervised:
                parts.append((int(index), start, stop, supervised))
            else:
                unsupervised += 1
    short = examples[fits]
    supervised = store.num_supervised[short]
    unsupervised += int((supervised == 0).sum())
    short, supervised = short[supervised > 0], supervised[supervised > 0]
    long = np.array(parts, dtype=np.int64).reshape(-1, 4)
    columns = (
        np.concatenate([short, long[:, 0]]),
        np.concatenate([np.zeros(len(short), dtype=np.int64), long[:, 1]]),
        np.concatenate([store.lengths[short], long[:, 2]]),
        np.concatenate([supervised, long[:, 3]]),
    )
    order = np.lexsort((columns[1], columns[0]))  # file order again
    example, start_, stop_, supervised = (column[order] for column in columns)
    return Rows(example, start_, stop_, supervised, int((~fits).sum()), unsupervised)
