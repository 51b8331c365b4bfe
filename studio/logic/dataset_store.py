"""Keep uploaded task files: copy, scan in a child, appear by rename; delete into the trash.

    datasets/<name>/{data.*, heldout.*?, meta.json}    a folder that exists is complete; meta.json has the scans

An unusable file keeps its row and its reason, not its bytes.  Names are slugs of ours; the name a person gave is text.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import Problem, UserError
from engine.contract.files import child, read_json, replace_json, slug
from engine.contract.places import DataRoot, require_free
from engine.contract.taskfile import EXTENSIONS
from studio.logic.task_scan import UnknownColumns, scan_in_child

MAX_FILE_BYTES = 2 * 2**30
"""A larger task file is refused; the studio's upload limit should say the same."""
MAX_FILES = 100
HELDOUT = re.compile(r"\.heldout(?=\.[a-z]+$)", re.IGNORECASE)
"""What marks a held-out file: `sql.heldout.jsonl` belongs to the task of `sql.jsonl`."""
Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of one uploaded file."""

    ok: bool
    text: str
    task: str = ""


def add_files(
    root: DataRoot, project: Path, uploads: Sequence[tuple[str, Path]], progress: Progress = lambda *_: None
) -> list[Note]:
    """Make a task of every uploaded file; `<task>.heldout.*` is attached to the task of that name.

    Args:
        root: Where tasks are kept.
        project: The checkout, whose sample tasks have names that are taken.
        uploads: (name as the person had it, temporary file) of each upload.
        progress: Told the share done and what is being read.

    Returns:
        One note per file, in order of work. Problems of single files are notes, never exceptions.
    """
    if len(uploads) > MAX_FILES:
        return [Note(ok=False, text=f"{len(uploads)} files at once are too many: at most {MAX_FILES}.")]
    heldout = [item for item in uploads if HELDOUT.search(item[0])]
    training = [item for item in uploads if item not in heldout]
    made: dict[str, str] = {}
    notes = []
    for index, (name, path) in enumerate([*training, *heldout]):
        progress(index / len(uploads), f"reading {shown_name(name)}")
        try:
            if (name, path) in heldout:
                notes.append(_attach_heldout(root, project, name, path, made))
            else:
                note = _add_task(root, project, name, path)
                made.setdefault(_stem(name), note.task)
                notes.append(note)
        except UserError as error:
            notes.append(Note(ok=False, text=f"{shown_name(name)}: {error.problem} {error.fix}".strip()))
        except OSError as error:
            notes.append(Note(ok=False, text=f"{shown_name(name)}: it could not be stored: {error.strerror}."))
    return notes


def delete_task(root: DataRoot, name: str) -> Path:
    """Move an uploaded task to the trash inside the datasets folder and return where it went.

    Raises:
        UserError: If there is no such upload; samples cannot be deleted.
    """
    folder = child(root.datasets, name)
    if not folder.is_dir():
        raise UserError(f"There is no uploaded task `{name}`.", fix="sample tasks cannot be deleted.")
    trash = root.datasets / ".trash"
    trash.mkdir(mode=0o700, exist_ok=True)
    target = trash / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    os.rename(folder, target)
    return target


def stored_file(folder: Path, stem: str) -> Path | None:
    """Return the task's file called `data` or `heldout`, whatever its kind; None if there is none."""
    return next((path for suffix in EXTENSIONS if (path := folder / f"{stem}{suffix}").is_file()), None)


def _suffix(name: str) -> str:
    """Return the extension a file is stored with.

    Raises:
        UserError: If it is none that can be read.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in EXTENSIONS:
        raise UserError("it is no task file.", fix=f"Task files end in {', '.join(EXTENSIONS)}.")
    return suffix


def shown_name(name: str) -> str:
    """Return a stranger's file name as one short printable line."""
    return "".join(c if c.isprintable() else "?" for c in name)[:80] or "(no name)"


def _stem(name: str) -> str:
    """Return the task name that a file name means: `Text to Code.jsonl` is `text-to-code`."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    base = HELDOUT.sub("", base)
    known = next((suffix for suffix in EXTENSIONS if base.lower().endswith(suffix)), "")
    base = base[: len(base) - len(known)]
    return slug(base, fallback="task", any_script=True)


def _add_task(root: DataRoot, project: Path, name: str, upload: Path) -> Note:
    """Copy, scan and publish one training file; an unusable one keeps its row and its reason, not its bytes."""
    suffix = _suffix(name)
    folder = root.datasets / f".new-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    meta: dict[str, Any] = {"original_name": shown_name(name), "added_at": time.time()}
    problem = ""
    try:
        data = folder / f"data{suffix}"
        _copy(upload, data)
        try:
            meta |= _scanned(data)
        except UserError as error:
            problem = error.problem.replace(data.name, shown_name(name))
            meta["problem"] = Problem(problem=problem, fix=error.fix).as_json()
            if isinstance(error, UnknownColumns):  # kept: naming its columns makes it usable
                meta["found"] = list(error.columns)
            else:
                data.unlink()
        replace_json(folder / "meta.json", meta)
        task = _publish(root, project, folder, _stem(name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if problem:
        return Note(ok=False, text=f"{shown_name(name)} is unusable: {problem}", task=task)
    report = meta["report"]
    guessed = meta.get("columns")
    text = f"{shown_name(name)} is task `{task}`: {report['num_used']} of {report['num_records']} records used."
    if task != _stem(name):
        text += f" The name `{_stem(name)}` is taken."
    if guessed:
        words = ", ".join(f"`{column}` as {role}" for role, column in guessed.items())
        text += f" Its columns were guessed: {words}. Open the task to change that."
    return Note(ok=True, text=text, task=task)


def name_columns(root: DataRoot, name: str, columns: Mapping[str, str]) -> Note:
    """Read an uploaded task again with other columns; nothing changes if that leaves no usable record."""
    folder = child(root.datasets, name)
    data = stored_file(folder, "data")
    if data is None:
        return Note(ok=False, text=f"The file of task `{name}` is not here.")
    meta = read_json(folder / "meta.json") or {}
    try:
        report = scan_in_child(data, columns)
    except UserError as error:
        return Note(ok=False, text=f"{error.problem.replace(data.name, name)} {error.fix}".strip(), task=name)
    meta = {key: value for key, value in meta.items() if key != "problem"}
    replace_json(folder / "meta.json", {**meta, "report": report.as_json(), "columns": dict(columns), "guessed": False})
    return Note(ok=True, text=f"Task `{name}`: {report.num_used} of {report.num_records} records used.", task=name)


def add_cleaned(root: DataRoot, project: Path, name: str, file: Path) -> str:
    """Publish a cleaned file as a task of its own, `<name>-clean`, and return its name.

    Args:
        root: Where tasks are kept.
        project: The checkout, whose sample tasks have names that are taken.
        name: The task it came from.
        file: `data.jsonl` in a new folder inside `root.datasets`.
    """
    meta = {"original_name": f"{name}, cleaned", "added_at": time.time(), "report": scan_in_child(file).as_json()}
    replace_json(file.parent / "meta.json", meta)
    return _publish(root, project, file.parent, slug(f"{name}-clean", any_script=True))


def _scanned(data: Path) -> dict[str, Any]:
    """Scan a file; columns whose names say nothing are guessed if that is clear, and said to be a guess."""
    try:
        return {"report": scan_in_child(data).as_json()}
    except UnknownColumns as error:
        if not error.guess:
            raise
        try:
            report = scan_in_child(data, error.guess).as_json()
        except UserError:
            raise error from None
        return {"report": report, "columns": error.guess, "guessed": True, "found": list(error.columns)}


def _attach_heldout(root: DataRoot, project: Path, name: str, upload: Path, made: dict[str, str]) -> Note:
    """Put a held-out file beside its task's data."""
    stem = _stem(name)
    task = made.get(stem) or stem
    folder = root.datasets / task
    suffix = _suffix(name)
    if stored_file(folder, "data") is None:
        raise UserError(f"there is no uploaded task `{task}` to hold out for.", fix="Upload its training file with it.")
    temporary = folder / f".heldout-{secrets.token_hex(6)}{suffix}"
    try:
        _copy(upload, temporary)
        report = scan_in_child(temporary, (read_json(folder / "meta.json") or {}).get("columns"))
        previous = stored_file(folder, "heldout")
        os.replace(temporary, folder / f"heldout{suffix}")
        if previous is not None and previous.suffix != suffix:
            previous.unlink()
    finally:
        temporary.unlink(missing_ok=True)
    meta = read_json(folder / "meta.json") or {}
    replace_json(folder / "meta.json", {**meta, "heldout": report.as_json()})
    return Note(
        ok=True, text=f"{shown_name(name)} is held out for task `{task}`: {report.num_used} examples.", task=task
    )


def _copy(source: Path, target: Path) -> None:
    """Copy a regular file that is not too large; links, pipes and devices are refused."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as reader:
        info = os.fstat(reader.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise UserError("it is no regular file.")
        if info.st_size > MAX_FILE_BYTES:
            raise UserError(
                f"it is larger than {MAX_FILE_BYTES // 2**30} GiB.", fix="Split it into several tasks or files."
            )
        require_free(target.parent, info.st_size, what="Storing this file")
        with open(target, "xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)


def _publish(root: DataRoot, project: Path, folder: Path, stem: str) -> str:
    """Rename a finished folder to the first free name: stem, stem-2, ...; an unusable task of that name gives way."""
    taken = {path.stem for path in sample_files(project)}
    old = root.datasets / stem
    if old.is_dir() and stored_file(old, "data") is None:
        delete_task(root, stem)
    for number in range(1, 1000):
        name = stem if number == 1 else f"{stem[:58]}-{number}"
        target = root.datasets / name
        if name in taken or target.exists():
            continue
        try:
            os.rename(folder, target)
        except OSError:  # somebody else took the name between the look and the rename
            continue
        return name
    raise UserError(f"there are too many tasks called `{stem}`.", fix="Rename the file.")


def sample_files(project: Path) -> list[Path]:
    """Return the training files of the sample tasks that came with the studio, by name."""
    found = sorted((project / "assets" / "samples").glob("*.jsonl"))
    return [path for path in found if not HELDOUT.search(path.name)]
