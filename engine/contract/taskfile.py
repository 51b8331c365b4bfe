"""A task file or folder -> examples, every record accounted for.

    path -> files (engine.contract.sources) -> records (engine.contract.readers) -> Example | SkippedRow(line, reason)

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

from engine.contract.columnar import MAX_RECORD_BYTES
from engine.contract.columns import GUESS_FROM, guess_columns, outline
from engine.contract.errors import UserError
from engine.contract.files import replace_text
from engine.contract.readers import EXTENSIONS
from engine.contract.records import BadRecord, Columns, Example, Message, found, parse_record
from engine.contract.sources import MAX_NAMED, Source, find_source, measure, read_source

__all__ = [
    "EXTENSIONS",
    "MAX_RECORD_BYTES",
    "Columns",
    "Example",
    "Message",
    "SkippedRow",
    "TaskScan",
    "UnusableFile",
    "iter_examples",
    "load_examples",
    "scan_examples",
    "scan_task_file",
    "source_measure",
    "write_messages",
]

MAX_SKIPPED_KEPT = 1000
"""Reasons kept word by word; all are counted."""

_SPECIAL = re.compile(r"<\|[a-zA-Z_][\w ]{0,40}\|>|</?s>|\[/?INST\]|<(?:bos|eos|pad|unk)>")
_SECRET = re.compile(r"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY")
_PLAIN = re.compile(r"[A-Za-z_][\w-]*")
_INVISIBLE = re.compile("[\u200b\u200c\u2060\ufeff\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """One record that was not used."""

    line: int
    """1-based line, or number of the record in a JSON list."""
    reason: str
    file: str = ""
    """Path relative to the folder that is read; empty if the task is a single file."""

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.file} line {self.line}" if self.file else f"line {self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScan:
    """What a task file or folder holds."""

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
    """Size of the file, or of all files of the folder together."""
    sha256: str
    """Of the file's bytes; of a folder, of the (relative path, sha256) pairs of its files."""


class UnusableFile(UserError):
    """A file that was read to its end and holds nothing to use; `scan` says what became of every record.

    `columns` are those of the first record, `guess` is what they may mean, if that seems clear.
    """

    def __init__(
        self, problem: str, fix: str, scan: TaskScan, columns: tuple[str, ...] = (), guess: Columns | None = None
    ) -> None:
        super().__init__(problem, fix)
        self.scan, self.columns, self.guess = scan, columns, guess


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
    outlines: list[Any] = field(default_factory=list)
    """Of the first records that are skipped, to guess their columns from."""
    failed: list[str] = field(default_factory=list)
    """Files of a folder that cannot be used, with the reason; the first `MAX_NAMED`."""
    failed_total: int = 0
    num_pairs: int = 0
    num_texts: int = 0

    def skip(self, row: SkippedRow, record: Any) -> None:
        self.records += 1
        self.skipped_total += 1
        if len(self.skipped) < MAX_SKIPPED_KEPT:
            self.skipped.append(row)
        if not self.used and len(self.outlines) < GUESS_FROM:
            self.outlines.append(outline(record))

    def fail(self, file: str, error: UserError) -> None:
        self.failed_total += 1
        if len(self.failed) < MAX_NAMED:
            self.failed.append(f"{file} is not used, or not to its end: {error.problem}")

    def use(self, example: Example, kind: str) -> None:
        self.records += 1
        self.used += 1
        self.formats[kind] = self.formats.get(kind, 0) + 1
        text = "\0".join([message.content for message in example.messages])
        if example.kind == "preference":
            self.num_pairs += 1
            text += "\0\0" + "\0".join([message.content for message in example.rejected])
        elif example.kind == "text":
            self.num_texts += 1
        elif example.tools or any([message.tool_calls for message in example.messages]):
            text += "\0\0" + "\0".join([example.tools, *(message.tool_calls for message in example.messages)])
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        # cheap tests first: a million records are scanned while somebody waits
        found = {
            "are exact duplicates of another record": key in self.seen,
            "ends with a user turn, which carries no loss": example.messages[-1].role == "user",
            "spell a special token; it is trained as plain text": ("<" in text or "[" in text)
            and _SPECIAL.search(text),
            "look like they hold a secret (token or key)": (
                "hf_" in text or "sk-" in text or "AKI" in text or "--B" in text
            )
            and _SECRET.search(text),
            "hold invisible or direction-changing characters": not text.isascii() and _INVISIBLE.search(text),
        }
        self.seen.add(key)
        for note, here in found.items():
            if here:
                self.notes[note] = self.notes.get(note, 0) + 1

    def warnings(self) -> list[str]:
        told = list(self.failed)
        if self.failed_total > len(self.failed):
            told.append(f"{self.failed_total - len(self.failed)} more files of the folder are not used")
        if self.num_pairs:
            pairs = f"{self.num_pairs} of {self.used} records are preference pairs"
            told.append(f"{pairs}: `chosen` is trained, `rejected` is kept for later")
        if self.num_texts:
            told.append(
                f"{self.num_texts} of {self.used} records are plain text: all of it is trained, without a prompt"
            )
        told += [f"{count} of {self.used} records {note}" for note, count in self.notes.items()]
        if self.used == 1:
            told.append("there is only 1 record, so nothing can be held out")
        if self.records and self.skipped_total / self.records >= 0.2:
            told.append(f"{self.skipped_total / self.records:.0%} of the records are skipped")
        if len(self.formats) > 1:
            told.append(f"the file mixes formats: {', '.join(self.formats)}")
        return told


def iter_examples(
    path: Path, columns: Columns | None = None, on_skip: Callable[[SkippedRow], None] | None = None
) -> Iterator[Example]:
    """Stream the usable examples of a file or folder.

    Args:
        path: A task file, or a folder of them. Files of a folder that cannot be used are left out.
        columns: Which column means what. None = known names are recognized.
        on_skip: Called with every record that is not used.

    Raises:
        UserError: If the file as a whole cannot be used.
    """
    for file, line, record in read_source(find_source(path), [], lambda name, error: None):
        try:
            yield parse_record(_require(record), line, columns, file=file)[0]
        except BadRecord as error:
            if on_skip:
                on_skip(SkippedRow(line, str(error), file))


def load_examples(path: Path, columns: Columns | None = None) -> tuple[list[Example], TaskScan]:
    """Read a whole file or folder.

    Args:
        path: A task file, or a folder of them.
        columns: Which column means what. None = known names are recognized.

    Raises:
        UserError: If it cannot be used, or holds no usable record.
    """
    examples: list[Example] = []
    return examples, _scan(path, columns, examples.append)


def scan_examples(path: Path, keep: Callable[[Example], None], columns: Columns | None = None) -> TaskScan:
    """Check a whole file or folder and hand every usable example to `keep`, in order.

    Raises:
        UserError: If it cannot be used, or holds no usable record.
    """
    return _scan(path, columns, keep)


def source_measure(path: Path) -> tuple[int, str]:
    """Return the size of a task file or folder in bytes, and the hash of its content.

    Raises:
        UserError: If it cannot be read.
    """
    return measure(find_source(path))


def scan_task_file(path: Path, columns: Columns | None = None) -> TaskScan:
    """Check a whole file or folder without keeping its examples.

    Args:
        path: A task file, or a folder of them.
        columns: Which column means what. None = known names are recognized.

    Raises:
        UserError: If it cannot be used, or holds no usable record.
    """
    return _scan(path, columns, lambda _: None)


def write_messages(path: Path, examples: list[Example]) -> None:
    """Write examples as canonical JSON Lines, atomically: `messages`, `text`, or `chosen` and `rejected`."""
    rows = [_plain(example) for example in examples]
    replace_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _plain(example: Example) -> dict[str, Any]:
    """Return the record that is read back as this example."""
    if example.kind == "text":
        return {"text": example.messages[0].content}
    if example.kind == "preference":
        return {"chosen": _turns(example.messages), "rejected": _turns(example.rejected)}
    tools = {"tools": json.loads(example.tools)} if example.tools else {}
    return {"messages": _turns(example.messages), **tools}


def _turns(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    turns = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.name:
            turn["name"] = message.name
        if message.tool_calls:
            turn["tool_calls"] = json.loads(message.tool_calls)
        turns.append(turn)
    return turns


def _scan(path: Path, columns: Columns | None, keep: Callable[[Example], None]) -> TaskScan:
    source = find_source(path)
    tally, notes = _Tally(), list[str]()
    for file, line, record in read_source(source, notes, tally.fail):
        try:
            example, kind = parse_record(_require(record), line, columns, file=file)
        except BadRecord as error:
            tally.skip(SkippedRow(line, str(error), file), record)
            continue
        tally.use(example, kind)
        keep(example)
    scan = _result(source, tally, notes)
    if not tally.records:
        told = f" {'; '.join(tally.failed[:3])}" if tally.failed else ""
        fix = "add examples, one record per line or row."
        raise UnusableFile(f"{path.name} has no records.{told}", fix, scan)
    if not tally.used:
        reasons: dict[str, str] = {}
        for row in tally.skipped:
            reasons.setdefault(row.reason, row.place)
        first = "; ".join(f"{place}: {reason}" for reason, place in [*reasons.items()][:3])
        problem = f"0 of {tally.records} records in {path.name} can be used. {first}."
        names = next(([str(name) for name in outline] for outline in tally.outlines if outline), [])
        guess = guess_columns(tally.outlines) if columns is None else None
        raise UnusableFile(problem, _way_out(tally.outlines, guess), scan, tuple(names), guess)
    return scan


def _way_out(outlines: list[Any], guess: Columns | None) -> str:
    """Return what to do about a file without a usable record."""
    if guess is None:
        return "see the README for the forms that are read, or name the `columns` of the task."
    first = next(outline for outline in outlines if outline)
    # to be pasted into a recipe: a name that YAML would read otherwise is quoted
    quoted = {role: name if _PLAIN.fullmatch(name) else json.dumps(name) for role, name in guess.named().items()}
    named = ", ".join(f"{role}: {name}" for role, name in quoted.items())
    return f"no known columns (found: {found(first)}); say what they mean, perhaps columns: {{{named}}}"


def _result(source: Source, tally: _Tally, notes: list[str]) -> TaskScan:
    num_bytes, sha256 = measure(source)
    if len(notes) > MAX_NAMED:
        notes = [*notes[:MAX_NAMED], f"and {len(notes) - MAX_NAMED} more remarks about files of the folder"]
    return TaskScan(
        path=source.path,
        format=" + ".join(sorted(tally.formats, key=lambda kind: -tally.formats[kind])),
        num_records=tally.records,
        num_used=tally.used,
        num_skipped=tally.skipped_total,
        skipped=tuple(tally.skipped),
        warnings=tuple([*notes, *tally.warnings()]),
        num_bytes=num_bytes,
        sha256=sha256,
    )


def _require(record: Any) -> Any:
    """Raise the problem that stands in a record's place."""
    if isinstance(record, BadRecord):
        raise record
    return record
