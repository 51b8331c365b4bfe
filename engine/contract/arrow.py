"""Arrow files (`datasets.save_to_disk`, pyarrow) -> records, without trusting what the file says about itself.

    stream: message ...          file: ARROW1 padding | the same stream | footer          the footer is never used

Nothing is copied but the row that is read: batches lie in a memory map.  Compressed batches would have to be unpacked
whole, so they are refused before pyarrow opens them.  pyarrow is imported only when a file is read.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from engine.contract.columnar import RowReader, readable_columns
from engine.contract.errors import UserError

FILE_MAGIC = b"ARROW1\x00\x00"
_OLD_COMPRESSION = b"experimental_compression"
"""How files of 2020 said that they are compressed; pyarrow still believes it."""
_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2
"""Kinds of messages: `MessageHeader` in Arrow's Message.fbs."""


def read_arrow(path: Path, file: BinaryIO, notes: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (row number, record or `BadRecord`).

    Args:
        path: The file, for messages.
        file: The open file.
        notes: Columns that are not read are told here.

    Raises:
        UserError: If the file is no intact Arrow file, is compressed, or decodes to absurdly much.
    """
    import pyarrow as arrow

    reader = RowReader(path, file, "an Arrow")
    try:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        buffer = arrow.py_buffer(data[len(FILE_MAGIC) :] if data[:8] == FILE_MAGIC else data)
        _refuse_compression(path, buffer)
        schema = arrow.ipc.open_stream(arrow.BufferReader(buffer)).schema
        wanted = _columns(path, schema, notes)
        options = arrow.ipc.IpcReadOptions(use_threads=False, included_fields=wanted)
        stream = arrow.ipc.open_stream(arrow.BufferReader(buffer), options=options)
        while (batch := _next(stream)) is not None:
            batch.validate(full=True)  # offsets of a stranger's file are read by C++ without a look
            yield from reader.rows(batch)
    except (arrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(f"{path.name} is not a readable Arrow file: {reason}.", fix="write the file again.") from None


def _next(stream: Any) -> Any:
    try:
        return stream.read_next_batch()
    except StopIteration:
        return None


def _columns(path: Path, schema: Any, notes: list[str]) -> list[int]:
    """Return the indices of the columns that can be read."""
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise UserError(f"{path.name} has two columns called `{twice[0][:60]}`.", fix="give each column its own name.")
    names = set(readable_columns(path, schema, notes))
    return [index for index, name in enumerate(schema.names) if name in names]


def _refuse_compression(path: Path, buffer: Any) -> None:
    """Look at every message's header: one that names a codec ends the reading."""
    import pyarrow as arrow

    for message in arrow.ipc.MessageReader.open_stream(arrow.BufferReader(buffer)):
        if _is_compressed(bytes(message.metadata)):
            problem = f"{path.name} is a compressed Arrow file, which cannot be read piece by piece."
            raise UserError(problem, fix="save it without compression, or as Parquet or JSON Lines.")


def _is_compressed(metadata: bytes) -> bool:
    """Whether the flatbuffer of a message is a record or dictionary batch with `compression` set.

    Raises:
        ValueError: If an offset leads out of the buffer.
    """
    if _OLD_COMPRESSION in metadata:
        return True
    message = _number(metadata, 0, 4)
    kind_at = _field(metadata, message, 1)
    kind = metadata[kind_at] if kind_at else 0
    if kind not in (_RECORD_BATCH, _DICTIONARY_BATCH):
        return False
    batch = _table(metadata, message, 2)
    if kind == _DICTIONARY_BATCH:
        batch = _table(metadata, batch, 1)
    return _field(metadata, batch, 3) != 0


def _table(data: bytes, table: int, index: int) -> int:
    at = _field(data, table, index)
    if not at:
        raise ValueError("a message without content")
    return at + _number(data, at, 4)


def _field(data: bytes, table: int, index: int) -> int:
    """Return where the field of a flatbuffer table stands, 0 if it is not set."""
    vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    entry = 4 + 2 * index
    if entry + 2 > _number(data, vtable, 2):
        return 0
    offset = _number(data, vtable + entry, 2)
    if offset and table + offset >= len(data):
        raise ValueError("a message that points out of itself")
    return table + offset if offset else 0


def _number(data: bytes, at: int, size: int) -> int:
    if not 0 <= at <= len(data) - size:
        raise ValueError("a message that points out of itself")
    return int.from_bytes(data[at : at + size], "little")
