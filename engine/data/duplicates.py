"""Exact and near duplicates within a task and between two: hashes for copies, MinHash for what is almost one.

    example -> key (exact) + digest of its word 5-grams (near) -> groups, overlaps

Digests are kept, texts are not: `PERMUTATIONS` numbers of four bytes an example.  Two examples are near duplicates when
the estimated Jaccard similarity of their 5-grams is at least `NEAR`.  Source: Broder 1997; banding as in Leskovec,
Rajaraman, Ullman, Mining of Massive Datasets, ch. 3.  N = examples, P = permutations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from engine.contract.records import Example
from engine.data.keys import content_key
from engine.data.scramble import scramble

PERMUTATIONS = 64
BAND = 4
"""Rows of a band: at similarity 0.8 one of 16 bands of 4 agrees with probability 0.9998, at 0.4 with 0.34."""
NEAR = 0.8
SHINGLE = 5
SEED = 42
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Signatures:
    """What is kept of each example to compare it."""

    keys: NDArray[np.uint64]
    """Exact content, shape (N,)."""
    digests: NDArray[np.uint32]
    """MinHash, shape (N, P)."""
    lines: NDArray[np.int64]
    """Source lines, shape (N,)."""

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two examples that are alike; the first one would be kept."""

    first: int
    """Index of the example that comes first."""
    second: int
    similarity: float
    """1 for an exact copy, else the estimated Jaccard similarity."""


class SignatureMaker:
    """Collects signatures while a file is read once."""

    def __init__(self) -> None:
        self._keys: list[int] = []
        self._digests: list[Sequence[int]] = []
        self._lines: list[int] = []

    def add(self, example: Example) -> None:
        """Add one example."""
        words = _WORD.findall(" ".join(message.content for message in example.messages).lower())
        grams = [" ".join(words[place : place + SHINGLE]) for place in range(max(1, len(words) - SHINGLE + 1))]
        sketch = RMinHash(PERMUTATIONS, SEED)
        sketch.update(grams)
        self._keys.append(content_key(example))
        self._digests.append(np.array(sketch.digest(), dtype=np.uint32))
        self._lines.append(example.line)

    def finish(self) -> Signatures:
        """Return what was collected."""
        digests = np.array(self._digests, dtype=np.uint32).reshape(-1, PERMUTATIONS)
        return Signatures(np.array(self._keys, dtype=np.uint64), digests, np.array(self._lines, dtype=np.int64))


def signatures_of(examples: Iterable[Example]) -> Signatures:
    """Return the signatures of some examples."""
    maker = SignatureMaker()
    for example in examples:
        maker.add(example)
    return maker.finish()


def exact_copies(signatures: Signatures) -> list[Pair]:
    """Return every example that is a copy of an earlier one, with the first of its kind."""
    _, first, place = np.unique(signatures.keys, return_index=True, return_inverse=True)
    origin = first[place]
    return [Pair(int(origin[i]), int(i), 1.0) for i in np.flatnonzero(origin != np.arange(len(signatures)))]


def near_copies(signatures: Signatures) -> list[Pair]:
    """Return every example that is nearly an earlier one, but no exact copy, with the earliest one it is like."""
    found: dict[int, Pair] = {}
    for first, second in _candidates(signatures.digests):
        if signatures.keys[first] == signatures.keys[second]:
            continue
        similarity = float((signatures.digests[first] == signatures.digests[second]).mean())
        known = found.get(second)
        if similarity >= NEAR and (known is None or first < known.first):
            found[second] = Pair(first, second, similarity)
    return [found[second] for second in sorted(found)]


def shared(one: Signatures, other: Signatures) -> list[Pair]:
    """Return the examples of `other` that are, exactly or nearly, in `one`: (index in one, index in other)."""
    order = np.argsort(one.keys, kind="stable")
    places = np.minimum(np.searchsorted(one.keys[order], other.keys), max(len(one) - 1, 0))
    found: dict[int, Pair] = {}
    for index in range(len(other) if len(one) else 0):
        origin = int(order[places[index]])
        if one.keys[origin] == other.keys[index]:
            found[index] = Pair(origin, index, 1.0)
    both = np.concatenate([one.digests, other.digests])
    for first, second in _candidates(both):
        index = second - len(one)
        if first < len(one) <= second and index not in found:
            similarity = float((both[first] == both[second]).mean())
            if similarity >= NEAR:
                found[index] = Pair(first, index, similarity)
    return [found[index] for index in sorted(found)]


def _candidates(digests: NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    """Yield pairs that agree in a band: the earliest of each group with every other, so large groups stay cheap."""
    for start in range(0, PERMUTATIONS, BAND):
        if not len(digests):
            return
        band = np.zeros(len(digests), dtype=np.uint64)
        for column in range(start, start + BAND):  # a hash is enough: candidates are compared in full
            band = scramble(band ^ digests[:, column].astype(np.uint64), column)
        order = np.argsort(band, kind="stable")
        same = band[order[1:]] == band[order[:-1]]
        first = -1
        for place in np.flatnonzero(same):
            if place == 0 or not same[place - 1] or first < 0:
                first = int(order[place])
            yield first, int(order[place + 1])
