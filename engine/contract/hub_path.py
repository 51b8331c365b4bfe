"""A data set on a hub as a task path, and where its copy lies on this disk.

    hf://org/name?config=python&split=train&revision=main     modelscope://org/name?split=train
    -> root/datasets/.hub/<slug>-<hash>/{data.jsonl, source.json}       source.json is written last: the copy is whole

The hub's address is what a recipe keeps; what was fetched, with its revision, is what `source.json` says.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode

from engine.contract.errors import UserError
from engine.contract.files import slug
from engine.contract.places import DataRoot

SCHEMES: dict[str, Literal["huggingface", "modelscope"]] = {"hf": "huggingface", "modelscope": "modelscope"}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PLAIN = re.compile(r"[\w./@:+-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset:
    """One split of a data set on a hub."""

    hub: Literal["huggingface", "modelscope"]
    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None

    @property
    def path(self) -> str:
        """The task path that means this data set."""
        scheme = next(key for key, hub in SCHEMES.items() if hub == self.hub)
        asked = {
            "config": self.config,
            "split": None if self.split == "train" else self.split,
            "revision": self.revision,
        }
        query = urlencode({key: value for key, value in asked.items() if value}, quote_via=quote, safe="/")
        return f"{scheme}://{self.name}" + (f"?{query}" if query else "")

    def folder(self, root: DataRoot) -> Path:
        """Return where the copy lies or would lie."""
        digest = hashlib.sha256(self.path.encode()).hexdigest()[:8]
        return root.datasets / ".hub" / f"{slug(self.name.replace('/', '--'))[:50]}-{digest}"

    def find(self, root: DataRoot) -> Path | None:
        """Return the copy's data file if it is whole."""
        folder = self.folder(root)
        return folder / "data.jsonl" if (folder / "source.json").is_file() else None


def is_hub_path(path: str) -> bool:
    """Whether a task path means a data set on a hub."""
    return path.partition("://")[0] in SCHEMES


def on_disk(path: str, root: DataRoot) -> Path | None:
    """Return where a task's data lie: the path itself, or the copy of a data set; None for one not fetched yet."""
    try:
        return parse_hub_path(path).find(root) if is_hub_path(path) else Path(path)
    except UserError:
        return None


def parse_hub_path(path: str) -> HubDataset:
    """Read a hub path.

    Raises:
        UserError: If a part of it is missing or wrong.
    """
    scheme, _, rest = path.partition("://")
    name, _, query = rest.partition("?")
    fix = "write it as hf://org/name?config=python&split=train."
    if scheme not in SCHEMES or not _NAME.fullmatch(name):
        raise UserError(f"{path[:120]!r} is no data set on a hub.", fix=fix)
    values = dict(parse_qsl(query))
    unknown = sorted(set(values) - {"config", "split", "revision"})
    wrong = [key for key, value in values.items() if not _PLAIN.fullmatch(value)]
    if unknown or wrong:
        raise UserError(f"{path[:120]!r}: `{(unknown or wrong)[0][:40]}` cannot be used.", fix=fix)
    return HubDataset(hub=SCHEMES[scheme], name=name, **{"split": "train", **values})
