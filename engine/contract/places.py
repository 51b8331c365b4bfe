"""Where things lie on disk: one data root, chosen once.

$MFT_STUDIO_HOME or ~/.mft-studio   ->  runs/ datasets/ models/ cache/ waiting/ locks/ tmp/
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.contract.errors import UserError

MIN_FREE_BYTES = 2 * 2**30
"""Nothing large is begun with less free disk than this."""


def modelscope_endpoint() -> str:
    """Return the address of ModelScope: MODELSCOPE_ENDPOINT, read as its own client does, or its own."""
    value = os.environ.get("MODELSCOPE_ENDPOINT", "").strip() or "https://modelscope.cn"
    return (value if value.lower().startswith(("http://", "https://")) else f"https://{value}").rstrip("/")


@dataclass(frozen=True, slots=True)
class DataRoot:
    """The folders of one installation; made on first use."""

    path: Path

    @property
    def runs(self) -> Path:
        """All run directories."""
        return self.path / "runs"

    @property
    def datasets(self) -> Path:
        """Task files that people uploaded, one folder per task."""
        return self.path / "datasets"

    @property
    def models(self) -> Path:
        """Models that this program fetched or converted."""
        return self.path / "models"

    @property
    def cache(self) -> Path:
        """What can be made again: encoded examples, tokenizers. Safe to delete when nothing runs."""
        return self.path / "cache"

    @property
    def prepared(self) -> Path:
        """Encoded examples of task files, one folder per file, tokenizer and template."""
        return self.cache / "prepared"

    @property
    def codecs(self) -> Path:
        """Tokenizers in the form that needs no torch."""
        return self.cache / "codecs"

    @property
    def facts(self) -> Path:
        """Measured facts of tasks, for the studio's preview."""
        return self.cache / "facts"

    @property
    def waiting(self) -> Path:
        """Tickets of the runs that wait for devices."""
        return self.path / "waiting"

    @property
    def accounts(self) -> Path:
        """Who may log in."""
        return self.path / "accounts.json"

    @property
    def temporary(self) -> Path:
        """Uploads on their way, downloads in progress; may be emptied when nothing runs."""
        return self.path / "tmp"

    def make(self) -> DataRoot:
        """Create the folders, private to this user.

        Raises:
            UserError: If the place cannot be written.
        """
        try:
            for folder in (self.path, self.runs, self.datasets, self.models, self.prepared, self.temporary):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            fix = "set MFT_STUDIO_HOME to a folder you can write to."
            raise UserError(f"The data folder {self.path} cannot be made: {error.strerror}.", fix=fix) from None
        return self


def data_root() -> DataRoot:
    """Return the data root of this user, from `MFT_STUDIO_HOME` or the home folder."""
    chosen = os.environ.get("MFT_STUDIO_HOME")
    return DataRoot(Path(chosen).expanduser().resolve() if chosen else Path.home() / ".mft-studio")


def free_bytes(path: Path) -> int:
    """Return the free disk space at `path` or its nearest existing parent, bytes."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def require_free(path: Path, needed: int, *, what: str) -> None:
    """Refuse to begin something that would fill the disk.

    Raises:
        UserError: If less than `needed` bytes plus a reserve is free at `path`.
    """
    free = free_bytes(path)
    if free < needed + MIN_FREE_BYTES // 4:
        gib = 2**30
        raise UserError(
            f"{what} needs {needed / gib:.1f} GiB of disk, {free / gib:.1f} GiB are free at {path}.",
            fix="free some space, delete old runs, or set MFT_STUDIO_HOME to a larger disk.",
            kind="disk_full",
        )
