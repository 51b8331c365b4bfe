"""Record batches of pyarrow -> records, each measured before it is copied.

A few hundred bytes can decode to gigabytes (a dictionary value repeated, a list of two billion nulls).  So columns of
types that can hide this are left out, every row is measured first, and the decoded bytes of a file have a budget.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from engine.contract.errors import UserError
from engine.contract.turns import BadRecord

MAX_RECORD_BYTES = 8 * 2**20
"""Longest record of any file format."""
BATCH_ROWS = 64
EXPANSION = 200
"""A file may decode to this many times its own size ..."""
FREE_BYTES = 512 * 2**20
"""... beyond the first half gigabyte."""
VALUE_BYTES = 16
"""What a Python value costs at the least: counted for every value of a list, so that lists of nothing are not free."""


class RowReader:
    """Turns the batches of one file into records and keeps its budget.

    Args:
        path: The file, for messages.
        file: The open file; its size sets the budget.
        form: What to call the format in messages.
    """

    def __init__(self, path: Path, file: BinaryIO, form: str) -> None:
        self._path, self._form = path, form
        self._budget = FREE_BYTES + EXPANSION * os.fstat(file.fileno()).st_size
        self._number = 0

    def rows(self, batch: Any) -> Iterator[tuple[int, Any]]:
        """Yield (row number, record or `BadRecord`) of a batch.

        Raises:
            UserError: If the file decodes to absurdly much.
        """
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            size = _cost(part)
            if size <= MAX_RECORD_BYTES:  # as a rule: all rows together are no more than one record may be
                self._spend(size)
                values = _values(part)
                yield from enumerate(values, start=self._number + 1)
                self._number += part.num_rows
                continue
            for index in range(part.num_rows):
                self._number += 1
                row = part.slice(index, 1)
                size = _cost(row)
                self._spend(size)
                if size > MAX_RECORD_BYTES:
                    yield self._number, BadRecord(f"the record is longer than {MAX_RECORD_BYTES >> 20} MiB")
                else:
                    yield self._number, _values(row)[0]

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            many = f"decodes to far more than its size (row {self._number})"
            raise UserError(f"{self._path.name} is {self._form} file that {many}.", fix="write it as JSON Lines.")


def readable_columns(path: Path, schema: Any, notes: list[str]) -> list[str]:
    """Return the names of a schema's columns that can be measured; the others are told in `notes`.

    Raises:
        UserError: If there is none.
    """
    names = [field.name for field in schema if readable(field.type)]
    left_out = [field.name[:40] for field in schema if not readable(field.type)]
    if left_out and not names:
        raise UserError(f"{path.name} has no column that can be read.", fix="save text columns, or JSON Lines.")
    if left_out:
        notes.append(f"columns of types that are not read: {', '.join(left_out[:8])}")
    return names


def readable(kind: Any, *, nested: bool = False) -> bool:
    """Whether a column of this pyarrow type can be measured: plain values, structs and lists of them.

    Dictionaries within lists, views, run-end-encoded and other types can repeat a value without taking bytes.
    """
    import pyarrow as arrow

    types = arrow.types
    if isinstance(kind, arrow.BaseExtensionType):  # JSON text is one
        return bool(types.is_string(kind.storage_type) or types.is_large_string(kind.storage_type))
    if types.is_dictionary(kind):
        value = kind.value_type
        return not nested and (types.is_string(value) or types.is_large_string(value))
    if types.is_struct(kind):
        return all(readable(kind.field(index).type, nested=True) for index in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return readable(kind.value_type, nested=True)
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    plain = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_temporal, types.is_decimal)
    return any(test(kind) for test in (*texts, *plain))


def _values(part: Any) -> list[Any]:
    """Copy measured rows into Python; a row that has no Python form stands as a `BadRecord`."""
    try:
        rows: list[Any] = part.to_pylist()
        return rows
    except (ValueError, OverflowError) as error:  # a date beyond year 9999, a struct with two fields of one name
        if part.num_rows == 1:
            return [BadRecord(f"a value cannot be read: {str(error)[:120]}")]
        return [value for index in range(part.num_rows) for value in _values(part.slice(index, 1))]


def _cost(part: Any) -> int:
    """Return the bytes that rows take when they are copied, at the least."""
    return sum(_column_cost(column) for column in part.columns)


def _column_cost(column: Any) -> int:
    import pyarrow as arrow
    from pyarrow import compute

    if isinstance(column, arrow.DictionaryArray):
        total = 0
        for index in column.indices.to_pylist():
            if index is not None and len(column.dictionary):
                total += compute.binary_length(column.dictionary.slice(index, 1))[0].as_py() or 0
        return total
    return int(column.nbytes) + VALUE_BYTES * _num_nested(column)


def _num_nested(column: Any) -> int:
    """Return how many values the lists and structs of a column hold, at every level."""
    import pyarrow as arrow

    if isinstance(column, arrow.StructArray):
        fields = [column.field(index) for index in range(column.type.num_fields)]
        return sum(len(field) + _num_nested(field) for field in fields)
    if isinstance(column, (arrow.ListArray, arrow.LargeListArray, arrow.FixedSizeListArray)):
        values = column.flatten()
        return len(values) + _num_nested(values)
    return 0
