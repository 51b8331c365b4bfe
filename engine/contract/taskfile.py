"""A task file -> examples, every record accounted for.

    path -> records (engine.contract.readers) -> Example | SkippedRow(line, reason)

used + skipped = records, always.  Streams in bounded memory.  Nothing is repaired: stored text equals source text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import replace_text
from engine.contract.columnar import MAX_RECORD_BYTES
from engine.contract.readers import EXTENSIONS, file_digest, read_records
from engine.contract.records import BadRecord, Example, Message, parse_record

__all__ = [
    "EXTENSIONS",
    "MAX_RECORD_BYTES",
    "Example",
    "Message",
    "SkippedRow",
    "TaskScan",
    "UnusableFile",
    "iter_examples",
    "load_examples",
    "scan_task_file",
    "write_messages",
]

MAX_SKIPPED_KEPT = 1000
"""Reasons kept word by word; all are counted."""

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


class UnusableFile(UserError):
    """A file that was read to its end and holds nothing to use; `scan` says what became of every record."""

    def __init__(self, problem: str, fix: str, scan: TaskScan) -> None:
        super().__init__(problem, fix)
        self.scan = scan


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
        # cheap tests first: a million records are scanned while somebody waits
        found = {
            "are exact duplicates of another record": key in self.seen,
            "ends with a user turn, which carries no loss": example.messages[-1].role == "user",
            "spell a special token; it is trained as plain text": ("<" in text or "[" in text)
            and _SPECIAL.search(text),
            "look like they hold a secret (token or key)": _SECRET.search(text),
            "hold invisible or direction-changing characters": not text.isascii() and _INVISIBLE.search(text),
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
    for line, record in read_records(path, []):
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
    rows = [{"messages": [{"role": m.role, "content": m.content} for m in e.messages]} for e in examples]
    replace_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _scan(path: Path, keep: Callable[[Example], None]) -> TaskScan:
    tally, notes = _Tally(), list[str]()
    for line, record in read_records(path, notes):
        try:
            example, kind = parse_record(_require(record), line)
        except BadRecord as error:
            tally.skip(line, str(error))
            continue
        tally.use(example, kind)
        keep(example)
    scan = _result(path, tally, notes)
    if not tally.records:
        raise UnusableFile(f"{path.name} has no records.", "add examples, one record per line or row.", scan)
    if not tally.used:
        first = "; ".join(f"line {row.line}: {row.reason}" for row in tally.skipped[:3])
        problem = f"0 of {tally.records} records in {path.name} can be used. {first}."
        raise UnusableFile(problem, "see the README for the forms that are read.", scan)
    return scan


def _result(path: Path, tally: _Tally, notes: list[str]) -> TaskScan:
    return TaskScan(
        path=path,
        format=" + ".join(sorted(tally.formats, key=lambda kind: -tally.formats[kind])),
        num_records=tally.records,
        num_used=tally.used,
        num_skipped=tally.skipped_total,
        skipped=tuple(tally.skipped),
        warnings=tuple([*notes, *tally.warnings()]),
        num_bytes=path.stat().st_size,
        sha256=file_digest(path),
    )


def _require(record: Any) -> Any:
    """Raise the problem that stands in a record's place."""
    if isinstance(record, BadRecord):
        raise record
    return record
