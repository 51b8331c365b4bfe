"""What ModelScope has of a model: its files with sizes and hashes, at a commit.

    modelscope://org/name -> GET /api/v1/models/org/name/repo/files -> Listing

The routes are those that ModelScope's own client uses (modelscope_hub 0.5); nothing of it is needed here.  The service
names no commit of a branch, but one of each file: the newest of them is the state of all, which is asked for and
compared before it is believed.

MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN are honoured, as by the client; the token goes to that address only.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from engine.contract.errors import UserError
from engine.contract.models import COMMIT, MODELSCOPE
from engine.contract.places import modelscope_endpoint
from engine.model.download import RemoteFile

BRANCH = "master"
TIMEOUT_S = 15.0
MAX_CONFIG_BYTES = 4_000_000
TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A model on a hub, before anything of it is downloaded."""

    commit: str
    """What it is at; empty if the hub does not say."""
    model_type: str
    files: tuple[RemoteFile, ...]
    """Those of its top folder."""

    @property
    def key(self) -> str:
        """Its commit, or without one a hash of what its files hold."""
        held = sorted(f"{file.name}\0{file.size}\0{file.sha256}" for file in self.files)
        return self.commit or hashlib.sha256("\n".join(held).encode()).hexdigest()


def headers() -> dict[str, str]:
    """Return what a request carries: the token, if one is set."""
    token = os.environ.get("MODELSCOPE_API_TOKEN", "").strip()
    return {"User-Agent": "mft-studio", **({"Authorization": f"Bearer {token}"} if token else {})}


def list_model(name: str, revision: str | None) -> Listing:
    """Return what ModelScope has of a model.

    Args:
        name: `modelscope://org/name`.
        revision: Branch, tag or commit; None for the branch `master`.

    Raises:
        UserError: If it has no such model or revision, or what it says cannot be used.
        OSError: If it cannot be reached.
    """
    short = name.removeprefix(MODELSCOPE)
    asked = revision or BRANCH
    entries = _entries(short, asked)
    commit = asked if COMMIT.fullmatch(asked) else _newest_commit(entries)
    if commit and commit != asked and _state(_entries(short, commit)) != _state(entries):
        commit = ""
    files = tuple(_remote_file(short, commit or asked, entry) for entry in entries if _is_top(entry))
    config = next((file for file in files if file.name == "config.json"), None)
    kind = _get(config.url).get("model_type") if config and config.size < MAX_CONFIG_BYTES else None
    return Listing(commit=commit, model_type=str(kind or ""), files=files)


def _entries(short: str, revision: str) -> list[dict[str, Any]]:
    query = urlencode({"Revision": revision, "Recursive": "True"})
    said = _get(f"{_address(short)}/repo/files?{query}")
    data = said.get("Data")
    entries = data.get("Files") if isinstance(data, dict) else data
    if said.get("Success") is False or not isinstance(entries, list):
        problem = f"ModelScope could not list {short} at `{revision}`: {str(said.get('Message', ''))[:200]}"
        raise _refuse(problem, "check the spelling, and model.revision.")
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("Type") != "tree"]


def _newest_commit(entries: list[dict[str, Any]]) -> str:
    """Return the commit that changed a file last: what the files are at, since none was changed after it."""
    dated = [(entry.get("CommittedDate"), entry.get("Revision")) for entry in entries]
    known = [(date, str(commit)) for date, commit in dated if isinstance(date, int) and COMMIT.fullmatch(str(commit))]
    return max(known)[1] if known and len(known) == len(entries) else ""


def _state(entries: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(str(entry.get("Path")), str(entry.get("Sha256"))) for entry in entries}


def _is_top(entry: dict[str, Any]) -> bool:
    return "/" not in str(entry.get("Path", "/"))


def _remote_file(short: str, revision: str, entry: dict[str, Any]) -> RemoteFile:
    name, size, sha256 = str(entry["Path"]), entry.get("Size"), str(entry.get("Sha256") or "").lower()
    query = urlencode({"Revision": revision, "FilePath": name})
    if not isinstance(size, int) or size < 0:
        raise _refuse(f"ModelScope does not say how large {name[:80]} of {short} is.", "choose another model.")
    return RemoteFile(name=name, size=size, url=f"{_address(short)}/repo?{query}", sha256=sha256)


def _address(short: str) -> str:
    return f"{modelscope_endpoint()}/api/v1/models/{quote(short)}"


def _get(url: str) -> dict[str, Any]:
    import httpx2 as httpx  # what huggingface_hub 2 is built on

    for attempt in range(1, TRIES + 1):
        answer = httpx.get(url, headers=headers(), timeout=TIMEOUT_S, follow_redirects=True)
        if answer.status_code < 500 or attempt == TRIES:
            break
        time.sleep(attempt)
    answer.raise_for_status()
    said = answer.json()
    if not isinstance(said, dict):
        raise ValueError("not an object")
    return said


@contextmanager
def told(name: str, revision: str | None) -> Iterator[None]:
    """Turn what ModelScope refuses into one sentence."""
    import httpx2 as httpx
    from huggingface_hub.errors import HfHubHTTPError

    short = name.removeprefix(MODELSCOPE)
    try:
        yield
    except (httpx.HTTPStatusError, HfHubHTTPError) as error:
        code = getattr(error.response, "status_code", 0)
        if code == 404:
            at = f" at `{revision}`" if revision else ""
            raise _refuse(
                f"There is no model {short}{at} on ModelScope.", "check the spelling, and model.revision."
            ) from None
        if code in (401, 403):
            fix = "accept its licence on ModelScope and set MODELSCOPE_API_TOKEN for the studio."
            raise UserError(
                f"ModelScope gives {short} only to some people.", fix=fix, field="model_name_or_path", kind="gated"
            ) from None
        raise _refuse(f"ModelScope refuses {short} with code {code}.", "try again later.") from None
    except (httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space and resume: what was downloaded is kept."
            raise UserError(
                f"The disk is full: {short} does not fit.", fix=fix, field="model_name_or_path", kind="disk_full"
            ) from None
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        fix = "check the network and try again, which goes on where it was cut; or choose a local model folder."
        raise _refuse(f"ModelScope could not be reached for {short}: {reason}.", fix) from None
    except ValueError as error:
        problem = f"What answered for {short} is not ModelScope: {str(error)[:120]}"
        raise _refuse(problem, "check the network and MODELSCOPE_ENDPOINT.") from None


def _refuse(problem: str, fix: str) -> UserError:
    return UserError(problem, fix=fix, field="model_name_or_path")
