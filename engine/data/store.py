"""Encoded examples on disk: Arrow, memory-mapped, written once per (data, columns, tokenizer, template, turns).

    cache/prepared/<key>/tokens.arrow   per example: input_ids, spans (supervised [start, stop) pairs), line, file, key
                         meta.json      what the scan found; written last, so a folder that has it is complete

The length policy, the split and the packs are arithmetic over this file (`engine.data.rows`, `engine.data.pack`), so
changing `max_length` encodes nothing again.  N = examples.
"""

from __future__ import annotations

import hashlib
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
from engine.data.scramble import IntArray
from engine.data.tokenize import IGNORE, AssistantTurns, Encoded, Piece, assemble, pieces

VERSION = 1
"""Raise it when encoding changes: old caches are then never read."""
CHUNK = 2048
"""Examples per Arrow record batch; every batch but the last has this many."""
COMPARED = 64
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
    flat = [piece for cut in cuts for piece in cut]
    ids = iter(_encode_pieces(codec, flat, fast=shortcuts))
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for number, (example, cut) in enumerate(zip(examples, cuts, strict=True)):
        parts = [next(ids) for _ in cut]
        encoded = assemble(codec, cut, parts, is_text=bool(cut) and example.kind == "text")
        if shortcuts and cut and number % COMPARED == 0:
            _compare(codec, example, encoded, assistant_turns)
        columns["input_ids"].append(encoded.input_ids)
        columns["spans"].append(_spans(encoded, cut, parts))
        columns["line"].append(example.line)
        columns["file"].append(example.file)
        columns["key"].append(content_key(example))
    return EncodedChunk(pa.RecordBatch.from_pydict(columns, schema=SCHEMA), tuple(refused), rewritten)


def content_key(example: Example) -> int:
    """Return a 64-bit hash of an example's content: equal for exact copies, whatever their line."""
    words = (part for m in example.messages for part in (m.role, m.content, m.tool_calls))
    text = "\0".join((example.tools, *words))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


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


def _encode_pieces(codec: Codec, flat: Sequence[Piece], *, fast: bool) -> list[list[int]]:
    """Encode pieces in two calls: those with words to be kept literally, and all others."""
    ids: list[list[int]] = [[]] * len(flat)
    for literal in (False, True):
        places = [index for index, piece in enumerate(flat) if piece.literal is literal]
        texts = [flat[index].text for index in places]
        found = codec.encode_fast(texts) if fast and not literal else codec.encode(texts, literal=literal)
        for place, part in zip(places, found, strict=True):
            ids[place] = part
    return ids


def _compare(codec: Codec, example: Example, encoded: Encoded, assistant_turns: AssistantTurns) -> None:
    """Encode an example the slow way and insist on the same tokens and labels."""
    cut, _ = pieces(codec, example, assistant_turns=assistant_turns, by_shape=False)
    parts = _encode_pieces(codec, cut, fast=False)
    slow = assemble(codec, cut, parts, is_text=example.kind == "text")
    if slow != encoded:
        raise NotTheSame(f"line {example.line}")


def _spans(encoded: Encoded, cut: Sequence[Piece], parts: Sequence[Sequence[int]]) -> list[int]:
    """Return the supervised stretches as start, stop, start, stop ...; the first token is never supervised."""
    extra = len(encoded.input_ids) - sum(len(part) for part in parts)
    position = max(0, extra - 1)  # tokens before a plain text; one stands after it
    spans: list[int] = []
    for number, (piece, part) in enumerate(zip(cut, parts, strict=True)):
        start, position = position, position + len(part)
        stop = position + (1 if extra and number == len(cut) - 1 else 0)
        if not piece.supervised or stop <= max(start, 1):
            continue
        if spans and spans[-1] == start:
            spans[-1] = stop
        else:
            spans += [max(start, 1), stop]
    return spans


def cache_key(*parts: object) -> str:
    """Return the name of a cache folder: a hash of everything its content depends on."""
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:32]
