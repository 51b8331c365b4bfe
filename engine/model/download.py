"""Files of a hub model to a folder of ours: counted, checked, and continued where a cut download ended.

    models/.<name>@<commit>.part/<file>.part -> whole, its hash right -> <file>;  all there -> source.json -> rename

huggingface_hub's own download begins every file anew when its process is killed, which for a shard is minutes or hours.
The bytes themselves come through its `http_get`: ranges, retries, log-in, proxies.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from engine.contract.errors import UserError
from engine.contract.files import replace_json
from engine.contract.memory import gigabytes
from engine.contract.places import require_free

Progress = Callable[[str, float | None], None]
"""Takes a phrase and the share done, None if unknown."""
TOLD_EVERY_S = 1.0
READ_BYTES = 1 << 22
TRIES = 2
"""A file whose hash is wrong is fetched so often before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a model on a hub."""

    name: str
    size: int
    url: str
    sha256: str = ""
    git_sha1: str = ""
    """Of small files, which git holds itself: the hash of `blob <size>` and the content."""


class Counter:
    """Tells how much of a download is here, and how fast it comes.

    Args:
        name: What is downloaded.
        total: Bytes of all files.
        progress: Told about once a second.
    """

    def __init__(self, name: str, total: int, progress: Progress) -> None:
        self.name, self.total, self.progress = name, total, progress
        self.done, self._fresh, self._began, self._told = 0, 0, time.monotonic(), 0.0

    def add(self, size: int, *, fresh: bool = True) -> None:
        """Count bytes; those that lay here already say nothing about the speed."""
        self.done += size
        self._fresh += size if fresh else 0
        now = time.monotonic()
        if now - self._told < TOLD_EVERY_S and self.done < self.total:
            return
        self._told = now
        speed = max(0, self._fresh) / max(now - self._began, 1e-3)
        rate = f", {gigabytes(int(speed))}/s" if self._fresh else ""
        text = f"downloading {self.name}: {gigabytes(self.done)} of {gigabytes(self.total)}{rate}"
        self.progress(text, self.done / max(1, self.total))


class _Counted:
    """A file that counts what is written to it."""

    def __init__(self, file: BinaryIO, counter: Counter) -> None:
        self.file, self.counter = file, counter

    def write(self, data: bytes) -> int:
        self.counter.add(len(data))
        return self.file.write(data)

    def truncate(self) -> int:
        """Begin the file anew: the hub did not go on where it was asked to."""
        before = os.fstat(self.file.fileno()).st_size
        self.counter.add(self.file.tell() - before, fresh=False)
        return self.file.truncate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    name: str,
    source: dict[str, Any],
    progress: Progress,
    headers: dict[str, str] | None = None,
) -> Path:
    """Bring the files into `folder`, which exists under its name only when it is whole.

    Args:
        files: What to bring.
        folder: Where; must not exist yet.
        name: What it is, for people.
        source: Written as `source.json`, last.
        progress: Told what is here, and of how much.
        headers: What each request carries; None for those of the Hugging Face hub, its token among them.

    Raises:
        UserError: If the disk is too small or a file is not what the hub says it is.
        OSError: The network or the disk; what came so far is kept.
    """
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(mode=0o700, parents=True, exist_ok=True)
    counter = Counter(name, sum(file.size for file in files), progress)
    here = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    require_free(part, max(0, counter.total - here), what=name)
    for file in files:
        _bring(file, part, counter, headers)
    replace_json(part / "source.json", {**source, "bytes": counter.total, "time": time.time()})
    os.rename(part, folder)
    return folder


def _bring(file: RemoteFile, part: Path, counter: Counter, headers: dict[str, str] | None) -> None:
    """Bring one file, going on where it was cut."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    target = part / file.name
    if not target.resolve().is_relative_to(part.resolve()):
        raise UserError(f"The hub names a file outside of the model: {file.name[:80]!r}.", fix="choose another model.")
    if target.is_file():  # renamed only after its hash was right
        counter.add(file.size, fresh=False)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.part")
    for _ in range(TRIES):
        unfinished.touch()
        with open(unfinished, "r+b") as plain:
            have = plain.seek(0, os.SEEK_END)
            if have > file.size:
                have = plain.seek(0)
                plain.truncate()
            counter.add(have, fresh=False)
            before = counter.done - have
            if have < file.size:
                counted: Any = _Counted(plain, counter)
                carried = build_hf_headers() if headers is None else dict(headers)
                http_get(file.url, counted, resume_size=have, headers=carried, expected_size=file.size or None)
            plain.flush()
            os.fsync(plain.fileno())
        if _is_right(unfinished, file):
            counter.done = before + file.size
            os.rename(unfinished, target)
            return
        unfinished.unlink()
        counter.done = before
    problem = f"{file.name} of {counter.name} came damaged {TRIES} times: its hash is not the one the hub names."
    raise UserError(problem, fix="try again later, or check the proxy between here and the hub.")


def _is_right(path: Path, file: RemoteFile) -> bool:
    """Return whether size and hash are those the hub names."""
    if path.stat().st_size != file.size:
        return False
    if not file.sha256 and not file.git_sha1:
        return True
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest() == (file.sha256 or file.git_sha1)
