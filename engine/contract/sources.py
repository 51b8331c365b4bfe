"""A path -> the files it stands for: one file, a folder of files, or a folder made by `datasets.save_to_disk`.

    file                                      ->  itself
    folder                                    ->  every task file beneath, sorted by relative path
    state.json + data-*.arrow                 ->  these Arrow files
    dataset_dict.json + a folder per split    ->  the Arrow files of `train`

Hidden entries and links in a folder are never followed; how many there are is told.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.readers import EXTENSIONS, file_digest, open_regular, read_records
from engine.contract.strict_json import BadJson, parse_strict

MAX_FILES = 10_000
MAX_ENTRIES = 200_000
"""Entries of a folder that are looked at, so that `/` is refused soon."""
MAX_NAMED = 20
"""Files that are named one by one in warnings; the others are counted."""
MAX_INDEX_BYTES = 2**20
STATE, SPLITS = "state.json", "dataset_dict.json"
HUGGING_FACE = frozenset({STATE, SPLITS, "dataset_info.json"})
"""What `save_to_disk` writes about the data: never data itself."""
FileFailed = Callable[[str, UserError], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the records of a task come from."""

    path: Path
    is_folder: bool
    files: tuple[tuple[str, Path], ...]
    """(path relative to the folder with `/`, path) in reading order; the relative path of a single file is empty."""
    notes: tuple[str, ...] = ()


def find_source(path: Path) -> Source:
    """Find the files a task path stands for; a path that is no folder stands for itself, whatever it is.

    Raises:
        UserError: If a folder holds no task file, too many, or splits of which none is `train`.
    """
    try:
        is_folder = path.is_dir() and not path.is_symlink()
    except ValueError:  # a NUL character: opening it says so
        is_folder = False
    if not is_folder:
        return Source(path, False, (("", path),))
    if (path / SPLITS).is_file():
        return _split(path)
    saved = _saved(path)
    files, notes = (saved, ()) if saved else _walk(path)
    if not files:
        fix = f"put files ending in {', '.join(EXTENSIONS)} into it, or choose one file."
        told = f" ({notes[0]})" if notes else ""
        raise UserError(f"{path.name} is a folder without task files{told}.", fix=fix)
    return Source(path, True, files, notes)


def read_source(source: Source, notes: list[str], failed: FileFailed) -> Iterator[tuple[str, int, Any]]:
    """Yield (relative path, line, record or `BadRecord`) of all files in order.

    Args:
        source: The files.
        notes: Remarks about files as a whole are appended here.
        failed: Called with a file of a folder that cannot be used, or not to its end. Records before that are out.

    Raises:
        UserError: If the source is a single file that cannot be used.
    """
    notes += source.notes
    for name, path in source.files:
        remarks: list[str] = []
        try:
            for line, record in read_records(path, remarks):
                yield name, line, record
        except UserError as error:
            if not source.is_folder:
                raise
            failed(name, error)
        notes += [f"{name}: {remark}" if name else remark for remark in remarks]


def measure(source: Source) -> tuple[int, str]:
    """Return bytes and sha256 of a source; of a folder it is taken over (relative path, sha256) of its files.

    Raises:
        UserError: If a single file cannot be read. In a folder such a file counts as one without bytes.
    """
    if not source.is_folder:
        digest_of_file = file_digest(source.path)  # says what is wrong with a file that is not there
        return source.path.stat().st_size, digest_of_file
    total, digest = 0, hashlib.sha256()
    for name, path in source.files:
        try:
            part = file_digest(path)
            total += path.stat().st_size
        except (UserError, OSError):
            part = "unreadable"
        digest.update(f"{name}\0{part}\n".encode())
    return total, digest.hexdigest()


def _walk(folder: Path) -> tuple[tuple[tuple[str, Path], ...], tuple[str, ...]]:
    """List the task files beneath a folder and what is ignored."""
    files: list[tuple[str, Path]] = []
    ignored = {"hidden": 0, "links": 0, "of another kind": 0}
    looked_at, folders = 0, [("", folder)]
    while folders:
        prefix, here = folders.pop()
        for entry in _entries(here):
            looked_at += 1
            if looked_at > MAX_ENTRIES or len(files) > MAX_FILES:
                limit = f"more than {MAX_FILES} task files" if len(files) > MAX_FILES else f"over {MAX_ENTRIES} entries"
                raise UserError(f"{folder.name} holds {limit}.", fix="choose a smaller folder, or join the files.")
            name = prefix + entry.name
            if entry.name.startswith("."):
                ignored["hidden"] += 1
            elif entry.is_symlink():
                ignored["links"] += 1
            elif entry.is_dir(follow_symlinks=False):
                folders.append((f"{name}/", here / entry.name))
            elif _is_task_file(entry):
                files.append((name, here / entry.name))
            else:
                ignored["of another kind"] += 1
    told = ", ".join(f"{count} {what}" for what, count in ignored.items() if count)
    return tuple(sorted(files)), (f"entries of the folder that are ignored: {told}",) if told else ()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = []
            for entry in entries:
                found.append(entry)
                if len(found) > MAX_ENTRIES:
                    break
            return found
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise UserError(f"The folder {folder.name} cannot be read: {reason}.", fix="check its permissions.") from None


def _is_task_file(entry: os.DirEntry[str]) -> bool:
    """Whether to read an entry; a name that is no UTF-8 could not be told or stored."""
    suffix = os.path.splitext(entry.name)[1].lower()
    plain = suffix in EXTENSIONS and entry.name not in HUGGING_FACE and entry.is_file(follow_symlinks=False)
    return plain and not any("\ud800" <= character <= "\udfff" for character in entry.name)


def _saved(folder: Path, prefix: str = "") -> tuple[tuple[str, Path], ...]:
    """Return the Arrow files of a folder made by `save_to_disk`; caches beside them are not part of it."""
    if not (folder / STATE).is_file():
        return ()
    entries = [e for e in _entries(folder) if e.name.startswith("data-") and e.name.endswith(".arrow")]
    names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    if len(names) > MAX_FILES:
        raise UserError(f"{folder.name} holds more than {MAX_FILES} task files.", fix="save it in fewer shards.")
    return tuple((prefix + name, folder / name) for name in names)


def _split(folder: Path) -> Source:
    """Choose the `train` split of a saved `DatasetDict`."""
    with open_regular(folder / SPLITS) as file:
        text = file.read(MAX_INDEX_BYTES).decode("utf-8", "replace")
    try:
        value = parse_strict(text)
    except BadJson as error:
        raise UserError(f"{folder.name}/{SPLITS}: {error}.", fix="save the dataset again.") from None
    listed = value.get("splits") if isinstance(value, dict) else None
    splits = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    shown = ", ".join(f"`{name[:60]}`" for name in splits[:MAX_NAMED]) or "none"
    if "train" not in splits:
        problem = f"{folder.name} holds several splits and none is called train: {shown}."
        raise UserError(problem, fix=f"choose the folder of one of them: {folder.name}/<split>.")
    train = folder / "train"
    files = () if train.is_symlink() else _saved(train, "train/")
    if not files:
        raise UserError(f"{folder.name}/train holds no Arrow files.", fix="save the dataset again.")
    note = (f"the split `train` is read, of: {shown}",) if len(splits) > 1 else ()
    return Source(folder, True, files, note)
