"""A task file -> examples, every record accounted for.

    path -> regular file, sane bytes -> lines (b"\\n" only) -> strict UTF-8, strict JSON -> Example | SkippedRow

used + skipped = records, always.  Streams JSON Lines in bounded memory; a .json list is read whole up to a limit.
Nothing is repaired: stored text equals source text.  This version reads JSON Lines and JSON.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from engine.contract.errors import UserError
from engine.contract.files import replace_text
from engine.contract.records import CHAT_COLUMNS, BadRecord, Example, Message, parse_record
from engine.contract.strict_json import BadJson, parse_strict

__all__ = ["Example", "Message", "SkippedRow", "TaskScan", "iter_examples", "load_examples", "scan_task_file"]

MAX_RECORD_BYTES = 8 * 2**20
MAX_JSON_BYTES = 64 * 2**20
"""A .json list has to be read whole; larger data belongs into JSON Lines."""
MAX_SKIPPED_KEPT = 1000
"""Reasons kept word by word; all are counted."""
EXTENSIONS = (".jsonl", ".json")
LATER = (".csv", ".tsv", ".parquet")

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"PAR1", "a Parquet file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data itself"),
)
_SPECIAL = re.compile(r"<\|[a-zA-Z_][\w ]{0,40}\|>|</?s>|\[/?INST\]|<(?:bos|eos|pad|unk)>")
_SECRET = re.compile(r"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY")
_INVISIBLE = re.compile("[\u200b\u200c\u2060\ufeff\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """One record that was not used."""

    line: int
    """1-based line, or number of the record in a JSON list."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScan:
    """What a task file holds."""

    path: Path
    format: str
    """`messages`, `chat_rounds`, `prompt/completion` ...; several are joined by ` + `."""
    num_records: int
    num_used: int
    num_skipped: int
    skipped: tuple[SkippedRow, ...]
    """The first `MAX_SKIPPED_KEPT` of them."""
    warnings: tuple[str, ...]
    num_bytes: int
    sha256: str


@dataclass
class _Tally:
    """Counts while a file is read."""

    records: int = 0
    used: int = 0
    skipped_total: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)
    formats: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)
    digest: Any = field(default_factory=hashlib.sha256)

    def skip(self, line: int, reason: str) -> None:
        self.records += 1
        self.skipped_total += 1
        if len(self.skipped) < MAX_SKIPPED_KEPT:
            self.skipped.append(SkippedRow(line, reason))

    def use(self, example: Example, kind: str) -> None:
        self.records += 1
        self.used += 1
        self.formats[kind] = self.formats.get(kind, 0) + 1
        text = "\0".join(message.content for message in example.messages)
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        found = {
            "are exact duplicates of another record": key in self.seen,
            "ends with a user turn, which carries no loss": example.messages[-1].role == "user",
            "spell a special token; it is trained as plain text": bool(_SPECIAL.search(text)),
            "look like they hold a secret (token or key)": bool(_SECRET.search(text)),
            "hold invisible or direction-changing characters": bool(_INVISIBLE.search(text)),
        }
        self.seen.add(key)
        for note, here in found.items():
            if here:
                self.notes[note] = self.notes.get(note, 0) + 1

    def warnings(self) -> list[str]:
        told = [f"{count} of {self.used} records {note}" for note, count in self.notes.items()]
        if self.used == 1:
            told.append("there is only 1 record, so nothing can be held out")
        if self.records and self.skipped_total / self.records >= 0.2:
            told.append(f"{self.skipped_total / self.records:.0%} of the records are skipped")
        if len(self.formats) > 1:
            told.append(f"the file mixes formats: {', '.join(self.formats)}")
        return told


def iter_examples(path: Path, *, on_skip: Callable[[SkippedRow], None] | None = None) -> Iterator[Example]:
    """Stream the usable examples of a file.

    Args:
        path: A task file.
        on_skip: Called with every record that is not used.

    Raises:
        UserError: If the file as a whole cannot be used.
    """
    for line, record in _records(path, _Tally(), []):
        try:
            yield parse_record(_require(record), line)[0]
        except BadRecord as error:
            if on_skip:
                on_skip(SkippedRow(line, str(error)))


def load_examples(path: Path) -> tuple[list[Example], TaskScan]:
    """Read a whole file.

    Raises:
        UserError: If it cannot be used, or holds no usable record.
    """
    examples: list[Example] = []
    return examples, _scan(path, examples.append)


def scan_task_file(path: Path) -> TaskScan:
    """Check a whole file without keeping its examples.

    Raises:
        UserError: If it cannot be used, or holds no usable record.
    """
    return _scan(path, lambda _: None)


def write_messages(path: Path, examples: list[Example]) -> None:
    """Write examples as canonical JSON Lines (`messages`), atomically."""
    import json

    rows = [{"messages": [{"role": m.role, "content": m.content} for m in e.messages]} for e in examples]
    replace_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _scan(path: Path, keep: Callable[[Example], None]) -> TaskScan:
    tally, notes = _Tally(), list[str]()
    for line, record in _records(path, tally, notes):
        try:
            example, kind = parse_record(_require(record), line)
        except BadRecord as error:
            tally.skip(line, str(error))
            continue
        tally.use(example, kind)
        keep(example)
    if not tally.records:
        raise UserError(f"{path.name} has no records.", fix="add examples, one JSON object per line.")
    if not tally.used:
        first = "; ".join(f"line {row.line}: {row.reason}" for row in tally.skipped[:3])
        problem = f"0 of {tally.records} records in {path.name} can be used. {first}."
        raise UserError(problem, fix="see the README for the formats that are read.")
    return TaskScan(
        path=path,
        format=" + ".join(sorted(tally.formats, key=lambda kind: -tally.formats[kind])),
        num_records=tally.records,
        num_used=tally.used,
        num_skipped=tally.skipped_total,
        skipped=tuple(tally.skipped),
        warnings=tuple([*notes, *tally.warnings()]),
        num_bytes=path.stat().st_size,
        sha256=tally.digest.hexdigest(),
    )


def _require(record: Any) -> Any:
    """Raise the problem that stands in a record's place."""
    if isinstance(record, BadRecord):
        raise record
    return record


def _records(path: Path, tally: _Tally, notes: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield (line, parsed record or the `BadRecord` in its place)."""
    suffix = path.suffix.lower()
    if suffix in LATER:
        fix = "convert it to JSON Lines: one JSON object per line."
        raise UserError(f"{path.name}: {suffix} files are not read yet.", fix=fix)
    if suffix not in EXTENSIONS:
        raise UserError(f"{path.name} is no .jsonl or .json file.", fix="rename or convert it.")
    with _open_regular(path) as file:
        head = file.read(4096)
        _refuse_by_content(path, head)
        file.seek(0)
        if head.startswith(b"\xef\xbb\xbf"):
            file.seek(3)
            tally.digest.update(head[:3])
        if suffix == ".json" and not _looks_like_lines(head):
            yield from _whole_json(path, file, tally, notes)
            return
        if suffix == ".json":
            notes.append("the content is JSON Lines, read as such")
        yield from _lines(file, tally)


def _lines(file: BinaryIO, tally: _Tally) -> Iterator[tuple[int, Any]]:
    number = 0
    while raw := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        tally.digest.update(raw)
        if len(raw) > MAX_RECORD_BYTES and not raw.endswith(b"\n"):
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                tally.digest.update(rest)
            tally.digest.update(rest)
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


def _whole_json(path: Path, file: BinaryIO, tally: _Tally, notes: list[str]) -> Iterator[tuple[int, Any]]:
    data = file.read(MAX_JSON_BYTES + 1)
    tally.digest.update(data)
    if len(data) > MAX_JSON_BYTES:
        limit = f"{MAX_JSON_BYTES >> 20} MiB"
        raise UserError(
            f"{path.name} is larger than {limit}, too large for one JSON value.", fix="save it as JSON Lines."
        )
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


def _looks_like_lines(head: bytes) -> bool:
    """Whether a .json file is JSON Lines: its first line is one whole object and more follows."""
    first, newline, rest = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    return bool(newline and rest.strip()) and first.startswith(b"{") and isinstance(_parse_line(first), dict)


def _refuse_by_content(path: Path, head: bytes) -> None:
    if not head.removeprefix(b"\xef\xbb\xbf"):
        raise UserError(f"{path.name} is empty.", fix="choose a file with examples.")
    for magic, what in _MAGIC:
        if head.startswith(magic):
            fix = "run `git lfs pull`." if "LFS" in what else "unpack or convert it to JSON Lines first."
            raise UserError(f"{path.name} is {what}.", fix=fix)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path.name} is UTF-16 text.", fix="save it as UTF-8.")
    control = sum(byte < 9 or 13 < byte < 32 for byte in head)
    if control > max(8, len(head) // 20) or head[:2] in (b"\x80\x04", b"\x80\x05", b"\x80\x03", b"\x80\x02"):
        raise UserError(f"{path.name} is binary, not text.", fix="choose a .jsonl text file.")


def _open_regular(path: Path) -> BinaryIO:
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
        raise UserError(f"{path.name} is {kind}.", fix="choose a .jsonl file.")
    return os.fdopen(descriptor, "rb")
