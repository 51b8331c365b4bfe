"""Write and read the small files of a run so that a reader never sees half of one.

replace_text  temp file in the same folder -> flush -> fsync -> rename       one writer, any number of readers
new_folder    temp folder beside it -> rename                               folders that are whole or not there
append_json   one whole line per write, O_APPEND                            streams
read_rows     from a byte offset to the last newline                        tails, torn last line ignored
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.redact import redact

NEW_FOLDER = ".tmp-"
"""How the name of a folder begins that is not whole yet."""
LONGEST_SLUG = 64
"""Characters of a file name made from a text."""


def replace_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write `text` to `path` atomically: readers see the old content or the new, never a mixture.

    Args:
        path: The file.
        text: Its new content.
        mode: Permissions, less what the umask takes away; 0o600 for what holds a secret.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically; a non-finite number is written as null, which JSON can hold."""
    replace_text(path, json.dumps(finite(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n")


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `target` that takes its name if the block ends well, and is gone otherwise.

    Args:
        target: The folder to make; one process at a time makes it. What a killed one left is removed.
        replace: Whether a folder that is there already, such as a broken one, makes way in the end.
    """
    temporary = target.with_name(f"{NEW_FOLDER}{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def append_json(path: Path, row: dict[str, Any]) -> None:
    """Append one row as one line. A single writer per file; non-finite numbers become null."""
    line = (json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    size, written = os.fstat(descriptor).st_size, 0
    try:
        while written < len(line):
            written += os.write(descriptor, line[written:])
    except OSError:
        if written:  # the disk filled up within the line: a reader must not meet half of it
            os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any | None:
    """Return the value in a JSON file, or None if the file is missing or holds no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def read_rows(
    path: Path, offset: int = 0, *, max_bytes: int | None = None, parse: Callable[[bytes], Any] = json.loads
) -> tuple[list[dict[str, Any]], int]:
    """Read the rows that were appended since `offset`.

    Args:
        path: A file of JSON lines; a missing file has no rows.
        offset: Byte offset returned by the previous call; beyond the end (the file was replaced) means start over.
        max_bytes: Read no more than this at once; a line that is longer is skipped as broken.
        parse: Reads one line; raises ValueError at a broken one.

    Returns:
        The rows and the next offset. A last line without newline is left for the next call; broken lines are skipped.
    """
    try:
        with open(path, "rb") as file:
            if offset > os.fstat(file.fileno()).st_size:
                offset = 0
            file.seek(offset)
            data = file.read(-1 if max_bytes is None else max_bytes)
    except FileNotFoundError:
        return [], 0
    end = data.rfind(b"\n") + 1
    if not end and len(data) == max_bytes:
        return [], offset + len(data)
    rows = []
    for line in data[:end].split(b"\n"):
        try:
            row = parse(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows, offset + end


def truncate_torn_tail(path: Path) -> None:
    """Cut a last line without newline, left by a kill in mid-write, before a new writer appends."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def tail_text(path: Path, *, max_lines: int = 40, max_bytes: int = 64_000) -> str:
    """Return the last lines of a text file, control characters made visible; empty if there is no file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - max_bytes))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    # progress bars rewrite their line with \r: keep what stands at the end
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(visible(line) for line in lines[-max_lines - 1 :]).strip("\n")


def finite(value: Any) -> Any:
    """Return the value with every NaN and infinity replaced by None, inside lists and mappings too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def slug(text: str, *, fallback: str = "item", any_script: bool = False) -> str:
    """Return `text` as a file name: [a-z0-9._-], at most `LONGEST_SLUG` long, never starting with a dot or dash.

    Args:
        text: Anything.
        fallback: What is returned if nothing is left.
        any_script: Keep letters and digits of other scripts too, for names that people read and no other program does.
    """
    kept = []
    for char in unicodedata.normalize("NFKC", text):
        plain = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
        kept.append(plain or (char if any_script and (char.isalpha() or char.isdecimal()) else ""))
    outside = r"[^\w.-]+" if any_script else r"[^a-z0-9._-]+"
    return re.sub(outside, "-", "".join(kept).lower()).strip("-._")[:LONGEST_SLUG].strip("-._") or fallback


def child(root: Path, name: str) -> Path:
    """Return `root/name`, refusing names that are not a plain child of `root`.

    Raises:
        UserError: For empty names, separators, `..`, hidden names, control characters and symlinks leading out.
    """
    plain = bool(re.fullmatch(r"[^\W_][\w.-]{0,127}", name))
    path = root / name if plain else root
    if not plain or path.resolve().parent != root.resolve():
        raise UserError(f"{name[:80]!r} is not a valid name here.", fix="choose one from the list.")
    return path


def visible(line: str) -> str:
    """Return a line of a log as people may see it: without secrets, terminal control characters as escapes."""
    return redact("".join(c if c == "\t" or unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in line))
