"""Encoded examples on disk: Arrow, memory-mapped, written once per (data, columns, tokenizer, template, turns).

    cache/prepared/<key>/tokens.arrow   per example: input_ids, spans (supervised [start, stop) pairs), line, file, key
                         meta.json      what the scan found; written last, so a folder that has it is complete

The length policy, the split and the packs are arithmetic over this file (`engine.data.rows`, `engine.data.pack`), so
changing `max_length` encodes nothing again.  N = examples.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.contract.files import read_json
from engine.contract.records import Example
from engine.data.codec import Codec, TemplateRefusal
from engine.data.keys import content_key
from engine.data.scramble import IntArray
from engine.data.tokenize import IGNORE, AssistantTurns, Encoded, Piece, encode_example, pieces

VERSION = 1
"""Raise it when encoding changes: old caches are then never read."""
CHUNK = 2048
"""Examples per Arrow record batch; every batch but the last has this many."""
COMPARED = 256
"""One example in this many is encoded the slow way too."""
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.int32())),
        ("line", pa.int64()),
        ("file", pa.string()),
        ("key", pa.uint64()),
    ]
)


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """Some examples, encoded."""

    batch: pa.RecordBatch
    refused: tuple[tuple[int, str], ...]
    """Line and reason of examples that the chat template refused."""
    num_rewritten: int
    """Examples of which only the last answer is supervised, because the template rewrites earlier turns."""


class NotTheSame(Exception):
    """A shortcut gave other tokens than the tokenizer and the template themselves."""


def encode_chunk(
    codec: Codec, examples: Sequence[Example], *, assistant_turns: AssistantTurns, shortcuts: bool = True
) -> EncodedChunk:
    """Encode examples together, each piece by itself, all texts in one call of the tokenizer.

    Args:
        codec: Tokenizer and chat template.
        examples: At most `CHUNK`.
        assistant_turns: Which answers are supervised.
        shortcuts: Use `fastokens` and shapes, and compare every `COMPARED`th example with the slow way.

    Raises:
        NotTheSame: If that comparison fails.
    """
    cuts: list[list[Piece]] = []
    refused, rewritten = [], 0
    for example in examples:
        try:
            cut, rewrites = pieces(codec, example, assistant_turns=assistant_turns, by_shape=shortcuts)
        except TemplateRefusal as refusal:
            cut, rewrites = [], False
            refused.append((example.line, str(refusal)))
        cuts.append(cut)
        rewritten += rewrites
    batch = _record_batch(examples, cuts, _encode_pieces(codec, [p for cut in cuts for p in cut], fast=shortcuts))
    for number in range(0, len(examples) if shortcuts else 0, COMPARED):
        if cuts[number]:
            _compare(codec, examples[number], batch, number, assistant_turns)
    return EncodedChunk(batch, tuple(refused), rewritten)


def _record_batch(
    examples: Sequence[Example], cuts: Sequence[Sequence[Piece]], ids: Sequence[Sequence[int]]
) -> pa.RecordBatch:
    """Lay encoded pieces out as Arrow columns; `ids` are those of all pieces, one after another."""
    num_pieces = np.array([len(cut) for cut in cuts], dtype=np.int64)
    example = np.repeat(np.arange(len(cuts)), num_pieces)
    supervised = np.array([piece.supervised for cut in cuts for piece in cut], dtype=bool)
    ends = np.cumsum(np.fromiter(map(len, ids), dtype=np.int64, count=len(ids)))
    offsets = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(num_pieces)])]
    values = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int32, count=int(offsets[-1]))
    # supervised pieces that follow each other within an example are one stretch
    before = np.concatenate([[False], supervised[:-1] & (example[1:] == example[:-1])])[: len(example)]
    first = supervised & ~before
    ends_here = np.concatenate([~supervised[1:] | (example[1:] != example[:-1]), [True]])[: len(example)]
    last = supervised & ends_here
    begins = np.concatenate([[0], ends[:-1]])[: len(ends)]
    owner = example[first]
    start = np.maximum(begins[first] - offsets[owner], 1)  # nothing stands before the first token
    stop = ends[last] - offsets[owner]
    real = stop > start
    spans = np.stack([start[real], stop[real]], axis=1).reshape(-1)
    span_offsets = np.concatenate([[0], np.cumsum(2 * np.bincount(owner[real], minlength=len(cuts)))])
    arrays = [
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values)),
        pa.ListArray.from_arrays(pa.array(span_offsets, pa.int32()), pa.array(spans, pa.int32())),
        pa.array([item.line for item in examples], pa.int64()),
        pa.array([item.file for item in examples], pa.string()),
        pa.array([content_key(item) for item in examples], pa.uint64()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


class TokenStore:
    """The encoded examples of one task, memory-mapped.

    Raises:
        OSError, pa.ArrowInvalid: If the folder is not whole; the caller builds it anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = read_json(folder / "meta.json")
        if not isinstance(meta, dict) or meta.get("version") != VERSION:
            raise OSError(f"{folder} holds no encoded examples of this version")
        self.meta: dict[str, Any] = meta
        self._file = pa.ipc.open_file(pa.memory_map(str(folder / "tokens.arrow")))
        self._batches = [self._file.get_batch(index) for index in range(self._file.num_record_batches)]
        if sum(batch.num_rows for batch in self._batches) != meta.get("num_used"):
            raise OSError(f"{folder} is not complete")
        os.utime(folder / "meta.json")  # last use, for pruning

    def __len__(self) -> int:
        return int(self.meta["num_used"])

    @cached_property
    def lengths(self) -> IntArray:
        """Tokens of each example, shape (N,)."""
        return self._joined([np.diff(self._offsets(batch, "input_ids")) for batch in self._batches])

    @cached_property
    def num_supervised(self) -> IntArray:
        """Supervised tokens of each example, shape (N,)."""
        found = []
        for batch in self._batches:
            spans, offsets = self._values(batch, "spans"), self._offsets(batch, "spans")
            signed = np.zeros(len(spans) + 1, dtype=np.int64)
            np.cumsum(np.where(np.arange(len(spans)) % 2, spans, -spans.astype(np.int64)), out=signed[1:])
            found.append(signed[offsets[1:]] - signed[offsets[:-1]])  # spans come in pairs: sum of stop - start
        return self._joined(found)

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """Content hash of each example, shape (N,)."""
        parts = [batch.column("key").to_numpy() for batch in self._batches]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)

    def source(self, index: int) -> tuple[str, int]:
        """Return where an example comes from: file within the task's folder (empty for a single file), and line."""
        batch, row = self._at(index)
        return str(batch.column("file")[row].as_py()), int(batch.column("line")[row].as_py())

    def input_ids(self, index: int) -> NDArray[np.int32]:
        """Return the tokens of an example without copying, shape (L,)."""
        return self._item(index, "input_ids")

    def spans(self, index: int) -> NDArray[np.int32]:
        """Return the supervised stretches of an example as [start, stop) pairs, shape (S, 2)."""
        return self._item(index, "spans").reshape(-1, 2)

    def encoded(self, index: int, start: int = 0, stop: int | None = None) -> Encoded:
        """Return an example, or the part [start, stop) of it."""
        ids = self.input_ids(index)
        labels = np.full(len(ids), IGNORE, dtype=np.int32)
        for begin, end in self.spans(index):
            labels[begin:end] = ids[begin:end]
        return Encoded(ids[start:stop], labels[start:stop])  # type: ignore[arg-type]

    def _at(self, index: int) -> tuple[pa.RecordBatch, int]:
        return self._batches[index // CHUNK], index % CHUNK

    def _item(self, index: int, name: str) -> NDArray[np.int32]:
        batch, row = self._at(int(index))
        column = batch.column(name)
        return self._values(batch, name)[column.offsets[row].as_py() : column.offsets[row + 1].as_py()]

    @staticmethod
    def _offsets(batch: pa.RecordBatch, name: str) -> IntArray:
        return batch.column(name).offsets.to_numpy().astype(np.int64)

    @staticmethod
    def _values(batch: pa.RecordBatch, name: str) -> NDArray[np.int32]:
        return batch.column(name).values.to_numpy()

    @staticmethod
    def _joined(parts: list[Any]) -> IntArray:
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def _encode_pieces(codec: Codec, flat: Sequence[Piece], *, fast: bool) -> list[Sequence[int]]:
    """Encode pieces in two calls: those with words to be kept literally, and all others."""
    ids: list[Sequence[int]] = [piece.ids for piece in flat]
    for literal in (False, True):
        places = [index for index, piece in enumerate(flat) if piece.literal is literal and piece.text]
        texts = [flat[index].text for index in places]
        found = codec.encode_fast(texts) if fast and not literal else codec.encode(texts, literal=literal)
        for place, part in zip(places, found, strict=True):
            ids[place] = part
    return ids


def _compare(
    codec: Codec, example: Example, batch: pa.RecordBatch, number: int, assistant_turns: AssistantTurns
) -> None:
    """Encode an example the slow way and insist on the same tokens and labels."""
    slow = encode_example(codec, example, assistant_turns=assistant_turns, by_shape=False)
    spans = batch.column("spans")[number].as_py()
    supervised = {place for start, stop in zip(spans[::2], spans[1::2]) for place in range(start, stop)}
    expected = {place for place, label in enumerate(slow.labels) if label != IGNORE and place}
    if batch.column("input_ids")[number].as_py() != list(slow.input_ids) or supervised != expected:
        raise NotTheSame(f"line {example.line}")


def cache_key(*parts: object) -> str:
    """Return the name of a cache folder: a hash of everything its content depends on."""
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:32]
