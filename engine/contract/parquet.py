"""Parquet -> records, without trusting what the file says about itself.

The footer is checked against the file's size, strings stay dictionary-encoded until a row is needed, and rows are
measured before they are copied (`engine.contract.columnar`).  pyarrow is imported only when a file is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from engine.contract.columnar import BATCH_ROWS, RowReader, readable_columns
from engine.contract.errors import UserError

MAX_FOOTER_BYTES = 64 * 2**20


def read_parquet(path: Path, file: BinaryIO, notes: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (row number, record or `BadRecord`).

    Args:
        path: The file, for messages.
        file: The open file.
        notes: Columns that are not read are told here.

    Raises:
        UserError: If the file is no intact Parquet, or decodes to absurdly much.
    """
    _check_footer(path, file)
    import pyarrow as arrow
    from pyarrow import parquet

    reader = RowReader(path, file, "a Parquet")
    try:
        limits = {"thrift_string_size_limit": MAX_FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
        schema = parquet.read_schema(file)
        texts = [f.name for f in schema if arrow.types.is_string(f.type) or arrow.types.is_large_string(f.type)]
        names = readable_columns(path, schema, notes)
        file.seek(0)
        source = parquet.ParquetFile(file, read_dictionary=texts, page_checksum_verification=True, **limits)
        columns = None if len(names) == len(schema) else names
        batches = source.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False)
        while (batch := next(batches, None)) is not None:
            yield from reader.rows(batch)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        problem = f"{path.name} is not a readable Parquet file: {reason}."
        raise UserError(problem, fix="write the file again.") from None


def _check_footer(path: Path, file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - 8))
    tail = file.read(8)
    footer = int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != b"PAR1" or footer + 12 > size or footer > MAX_FOOTER_BYTES:
        raise UserError(f"{path.name} is a damaged Parquet file: its footer is wrong.", fix="write the file again.")
    file.seek(0)
