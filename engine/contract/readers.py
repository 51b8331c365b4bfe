"""Files of any supported kind -> records, one at a time, each with the line it stands on.

    .jsonl .json -> strict JSON     .csv .tsv -> cells as text, never guessed     .parquet .arrow -> rows, measured

A record that cannot be read stands in the stream as a `BadRecord`, so that nothing is lost silently; a file that cannot
be read at all is a `UserError`.  Links, pipes, devices, archives and binaries are refused by what they are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from engine.contract.arrow import FILE_MAGIC, read_arrow
from engine.contract.columnar import MAX_RECORD_BYTES
from engine.contract.errors import UserError
from engine.contract.parquet import read_parquet
from engine.contract.records import CHAT_COLUMNS, BadRecord
from engine.contract.strict_json import BadJson, parse_strict

MAX_JSON_BYTES = 64 * 2**20
"""A .json list has to be read whole; larger data belongs into JSON Lines."""
EXTENSIONS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
BOM = b"\xef\xbb\xbf"
Record = tuple[int, Any]
"""Line (or number) of a record, and its value or the `BadRecord` in its place."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data itself"),
)
_ARROW_STREAM = b"\xff\xff\xff\xff"
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def read_records(path: Path, notes: list[str]) -> Iterator[Record]:
    """Yield the records of a task file.

    Args:
        path: The file.
        notes: Remarks about the file as a whole are appended here.

    Raises:
        UserError: If the file as a whole cannot be used.
    """
    with open_regular(path) as file:
        head = file.read(4096)
        kind = _kind(path, head, notes)
        file.seek(len(BOM) if head.startswith(BOM) else 0)
        if kind == ".parquet":
            file.seek(0)
            yield from read_parquet(path, file, notes)
        elif kind == ".arrow":
            yield from read_arrow(path, file, notes)
        elif kind in (".csv", ".tsv"):
            yield from _table(path, file, kind, notes)
        elif kind == ".json":
            yield from _whole_json(path, file, notes)
        else:
            yield from _lines(file)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file without following a link or waiting on a pipe.

    Raises:
        UserError: Naming what stands in the way.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.", fix="check the path.") from None
    except OSError as error:
        reason = "it is a symbolic link" if path.is_symlink() else (error.strerror or "it cannot be opened")
        raise UserError(f"{path.name} cannot be read: {reason}.", fix="choose a regular file you may read.") from None
    except ValueError:
        raise UserError("The file name holds a NUL character.", fix="rename the file.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        kind = "a folder" if path.is_dir() else "not a regular file"
        os.close(descriptor)
        raise UserError(f"{path.name} is {kind}.", fix="choose a task file.")
    return os.fdopen(descriptor, "rb")


def _kind(path: Path, head: bytes, notes: list[str]) -> str:
    """Return how to read a file: its extension, corrected by unambiguous content.

    Raises:
        UserError: If it is nothing that can be read.
    """
    if not head.removeprefix(BOM):
        raise UserError(f"{path.name} is empty.", fix="choose a file with examples.")
    for magic, what in _MAGIC:
        if head.startswith(magic):
            fix = "run `git lfs pull`." if "LFS" in what else "unpack it first."
            raise UserError(f"{path.name} is {what}.", fix=fix)
    suffix, is_parquet = path.suffix.lower(), head.startswith(b"PAR1")
    if is_parquet != (suffix == ".parquet"):
        content = "Parquet" if is_parquet else "JSON, not Parquet" if _looks_like_json(head) else "not Parquet"
        raise UserError(f"{path.name}: the content is {content}.", fix="give the file the extension of its content.")
    if is_parquet:
        return ".parquet"
    is_arrow = head.startswith((FILE_MAGIC, _ARROW_STREAM))
    if is_arrow != (suffix == ".arrow"):
        content = "Arrow" if is_arrow else "not Arrow"
        raise UserError(f"{path.name}: the content is {content}.", fix="give the file the extension of its content.")
    if is_arrow:
        return ".arrow"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path.name} is UTF-16 text.", fix="save it as UTF-8.")
    if sum(byte < 9 or 13 < byte < 32 for byte in head) > max(8, len(head) // 20) or head[:2] in _PICKLE:
        raise UserError(f"{path.name} is binary, not text.", fix="choose a text, Parquet or Arrow file.")
    if suffix == ".json" and _looks_like_lines(head):
        notes.append("the content is JSON Lines, read as such")
        return ".jsonl"
    if suffix == "" and _looks_like_json(head):
        notes.append("the file has no extension; the content is JSON Lines, read as such")
        return ".jsonl"
    if suffix not in EXTENSIONS:
        raise UserError(f"{path.name} is no task file.", fix=f"use one of: {', '.join(EXTENSIONS)}.")
    return suffix


def _looks_like_json(head: bytes) -> bool:
    return head.removeprefix(BOM).lstrip()[:1] in (b"{", b"[")


def _looks_like_lines(head: bytes) -> bool:
    """Whether a .json file is JSON Lines: its first line is one whole object and more follows."""
    first, newline, rest = head.removeprefix(BOM).lstrip().partition(b"\n")
    return bool(newline and rest.strip()) and first.startswith(b"{") and isinstance(_parse_line(first), dict)


def _lines(file: BinaryIO) -> Iterator[Record]:
    number = 0
    while raw := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(raw) > MAX_RECORD_BYTES and not raw.endswith(b"\n"):
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
            yield number, BadRecord(f"the record is longer than {MAX_RECORD_BYTES >> 20} MiB")
            continue
        if raw.strip(b" \t\r\n"):
            yield number, _parse_line(raw)


def _parse_line(raw: bytes) -> Any:
    try:
        return parse_strict(raw.decode("utf-8").strip(" \t\r\n"))
    except UnicodeDecodeError as error:
        return BadRecord(f"not valid UTF-8 at byte {error.start + 1} of the line")
    except BadJson as error:
        return BadRecord(str(error))


def _whole_json(path: Path, file: BinaryIO, notes: list[str]) -> Iterator[Record]:
    data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        problem = f"{path.name} is larger than {MAX_JSON_BYTES >> 20} MiB, too large for one JSON value."
        raise UserError(problem, fix="save it as JSON Lines.")
    try:
        value = parse_strict(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text (byte {error.start + 1}).", fix="save it as UTF-8.") from None
    except BadJson as error:
        raise UserError(f"{path.name}: {error}.", fix="correct the file, or save it as JSON Lines.") from None
    if isinstance(value, dict):
        chat_columns = {column for column, _, _ in CHAT_COLUMNS}
        lists = [key for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
        if len(value) == 1 and lists and lists[0] not in chat_columns:
            notes.append(f"the records stand under the key `{lists[0][:40]}`")
            value = value[lists[0]]
        else:
            value = [value]
    if not isinstance(value, list):
        raise UserError(f"{path.name} holds neither a list of records nor a record.", fix="save a list of objects.")
    yield from enumerate(value, start=1)


def _table(path: Path, file: BinaryIO, kind: str, notes: list[str]) -> Iterator[Record]:
    """Read CSV or TSV: every cell is text, a row has as many cells as the header, lines are where a record begins."""
    # bytes that are no UTF-8 become lone surrogates, which name their row instead of losing the file
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    start = text.tell()
    first = text.readline(1 << 20)
    text.seek(start)
    delimiter = "\t" if kind == ".tsv" else ","
    if kind == ".csv" and ";" in first and "," not in first:
        delimiter = ";"
        notes.append("the columns are separated by semicolons")
    csv.field_size_limit(MAX_RECORD_BYTES)
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = _header(path, next(rows, []))
        line = rows.line_num + 1
        for cells in rows:
            if cells:
                yield line, _row(header, cells)
            line = rows.line_num + 1
    except csv.Error as error:
        problem = f"{path.name}: the table breaks off at line {rows.line_num}: {error}."
        raise UserError(problem, fix="check the quotes around that line.") from None


def _header(path: Path, header: list[str]) -> list[str]:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path.name} has two columns called `{twice[0][:60]}`.", fix="give each column its own name.")
    return header


def _row(header: list[str], cells: list[str]) -> Any:
    if len(cells) != len(header):
        return BadRecord(f"the row has {len(cells)} of {len(header)} cells")
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return BadRecord("not valid UTF-8")
    return dict(zip(header, cells))
