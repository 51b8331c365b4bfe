"""Parquet -> records, without trusting what the file says about itself.

A few hundred bytes can claim or decode to gigabytes.  So the footer is checked against the file's size, strings stay
dictionary-encoded until a row is needed, every value is measured before it is copied, and decoded bytes have a budget.
pyarrow is imported here only, when a Parquet file is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from engine.contract.errors import UserError
from engine.contract.records import BadRecord

MAX_RECORD_BYTES = 8 * 2**20
"""Longest record of any file format."""
MAX_FOOTER_BYTES = 64 * 2**20
BATCH_ROWS = 64
EXPANSION = 200
"""A file may decode to this many times its own size ..."""
FREE_BYTES = 512 * 2**20
"""... beyond the first half gigabyte."""


def read_parquet(path: Path, file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """Yield (row number, record or `BadRecord`).

    Raises:
        UserError: If the file is no intact Parquet, or decodes to absurdly much.
    """
    _check_footer(path, file)
    import pyarrow as arrow
    from pyarrow import parquet

    def broken(error: Exception) -> UserError:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        return UserError(f"{path.name} is not a readable Parquet file: {reason}.", fix="write the file again.")

    try:
        limits = {"thrift_string_size_limit": MAX_FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
        schema = parquet.read_schema(file)
        texts = [f.name for f in schema if arrow.types.is_string(f.type) or arrow.types.is_large_string(f.type)]
        file.seek(0)
        source = parquet.ParquetFile(file, read_dictionary=texts, page_checksum_verification=True, **limits)
        batches = source.iter_batches(batch_size=BATCH_ROWS, use_threads=False)
        number, decoded, budget = 0, 0, FREE_BYTES + EXPANSION * os.fstat(file.fileno()).st_size
        while (batch := next(batches, None)) is not None:
            for index in range(batch.num_rows):
                number += 1
                row = batch.slice(index, 1)
                size = _row_bytes(row)
                decoded += size
                if decoded > budget:
                    problem = f"{path.name} is a Parquet file that decodes to far more than its size (row {number})."
                    raise UserError(problem, fix="write the rows out as JSON Lines.")
                if size > MAX_RECORD_BYTES:
                    yield number, BadRecord(f"the record is longer than {MAX_RECORD_BYTES >> 20} MiB")
                else:
                    yield number, row.to_pylist()[0]
    except (arrow.ArrowException, OSError) as error:
        raise broken(error) from None


def _row_bytes(row: Any) -> int:
    """Return the bytes a single-row batch takes when it is copied, dictionary values counted by what they stand for."""
    import pyarrow as arrow
    from pyarrow import compute

    total = 0
    for column in row.columns:
        if isinstance(column, arrow.DictionaryArray):
            index = column.indices[0].as_py()
            if index is not None and len(column.dictionary):
                total += compute.binary_length(column.dictionary.slice(index, 1))[0].as_py() or 0
        else:
            total += column.nbytes
    return total


def _check_footer(path: Path, file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - 8))
    tail = file.read(8)
    footer = int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != b"PAR1" or footer + 12 > size or footer > MAX_FOOTER_BYTES:
        raise UserError(f"{path.name} is a damaged Parquet file: its footer is wrong.", fix="write the file again.")
    file.seek(0)
