"""Data sets from the Hugging Face hub and ModelScope: fetched once, kept as JSON Lines, read like any other file.

    hf://org/name -> datasets.load_dataset (no scripts, no remote code) -> rows -> data.jsonl -> source.json

Rows are written one by one, so memory stays small.  A value that JSON cannot hold (a date, bytes, NaN) is written as
text, and `source.json` names its column.  The hub is asked before `load_dataset`, which by itself prefers a folder of
that name in the working directory, and its own builders (`json`, `csv`), to the hub.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

from engine.contract.errors import Problem, UserError
from engine.contract.files import new_folder, replace_json
from engine.contract.hub_path import HubDataset, is_hub_path, parse_hub_path
from engine.contract.places import MIN_FREE_BYTES, DataRoot, free_bytes
from engine.contract.recipe import Recipe

Progress = Callable[[str, float | None], None]
MODELSCOPE = "requirements-modelscope.txt"
"""ModelScope's client and what its data sets import; not needed for anything else."""
EXPORT = "refs/convert/parquet"
"""The hub's own Parquet copy of a data set; a config is a folder in it."""
CHECK_DISK_ROWS = 10_000
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def local_recipe(recipe: Recipe, root: DataRoot, progress: Progress = lambda *_: None) -> Recipe:
    """Return the recipe with every hub path replaced by its local copy, fetching what is missing.

    Raises:
        UserError: With the problems of all tasks at once.
    """
    tasks, problems = [], []
    for index, task in enumerate(recipe.tasks):
        changed: dict[str, str] = {}
        for key in ("path", "eval_path"):
            path = getattr(task, key)
            if path and is_hub_path(path):
                try:
                    changed[key] = str(fetch_dataset(parse_hub_path(path), root, progress))
                except UserError as error:
                    field = f"tasks.{index}.{key}"
                    problems += [
                        Problem(problem=f"Task `{task.name}`: {p.problem}", fix=p.fix, field=field)
                        for p in error.problems
                    ]
        tasks.append(task.model_copy(update=changed))
    if problems:
        raise UserError.of(problems)
    return recipe.model_copy(update={"tasks": tuple(tasks)})


def fetch_dataset(dataset: HubDataset, root: DataRoot, progress: Progress = lambda *_: None) -> Path:
    """Return the local copy of a data set, downloading it if it is not here.

    Raises:
        UserError: One sentence that says why it cannot be had.
    """
    if (found := dataset.find(root)) is not None:
        return found
    folder = dataset.folder(root)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"another process is fetching {dataset.name}; waiting for it", None)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (found := dataset.find(root)) is not None:
            return found
        _require_disk(folder.parent, dataset)
        progress(f"downloading {dataset.name}", None)
        try:
            rows, told = _from_modelscope(dataset) if dataset.hub == "modelscope" else _from_huggingface(dataset)
            with new_folder(folder, replace=True) as temporary:
                written = _write(rows, temporary / "data.jsonl", dataset, progress)
                replace_json(temporary / "source.json", {**_source(dataset), **told, **written, "time": time.time()})
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _disk_full(dataset) from None
    return folder / "data.jsonl"


def _source(dataset: HubDataset) -> dict[str, Any]:
    """Return what was asked for, as `source.json` keeps it."""
    return {
        "path": dataset.path,
        "hub": dataset.hub,
        "name": dataset.name,
        "config": dataset.config,
        "split": dataset.split,
    }


def _disk_full(dataset: HubDataset) -> UserError:
    return UserError(f"The disk is full: {dataset.name} does not fit.", fix="free some space, then try again.")


def _require_disk(folder: Path, dataset: HubDataset) -> None:
    if free_bytes(folder) < MIN_FREE_BYTES // 4:
        raise _disk_full(dataset)


def _ask_huggingface(dataset: HubDataset) -> dict[str, Any]:
    """Return commit and licence of a data set; refuses one that is not there before anything is downloaded."""
    import httpx2 as httpx  # what huggingface_hub 2 is built on
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    offline = next((key for key in OFFLINE if os.environ.get(key, "").upper() in ("1", "TRUE", "YES", "ON")), None)
    if offline:
        text = f"The data set {dataset.name} is not on this machine and {offline} is set."
        raise UserError(text, fix="unset it, or use a file of your own.")
    try:
        info = HfApi().dataset_info(dataset.name, revision=dataset.revision, timeout=10)
    except GatedRepoError:
        raise _gated(dataset) from None
    except RevisionNotFoundError:
        text = f"{dataset.name} has no revision `{dataset.revision}`."
        raise UserError(text, fix="leave `revision` out of the path, or name a branch, tag or commit.") from None
    except RepositoryNotFoundError:
        raise _not_there(dataset) from None
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise _unreachable(dataset, error) from None
    except ValueError:
        text = f"What answered for {dataset.name} is not the Hugging Face hub (a login page or proxy?)."
        raise UserError(text, fix="check the network and HF_ENDPOINT.") from None
    licence = (info.card_data or {}).get("license") or ""
    return {
        "revision": info.sha or "",
        "licence": licence if isinstance(licence, str) else ", ".join(map(str, licence)),
    }


def _from_huggingface(dataset: HubDataset) -> tuple[Iterable[Mapping[str, Any]], dict[str, Any]]:
    """Return the rows and what is known of where they come from."""
    told = _ask_huggingface(dataset)
    import httpx2 as httpx
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    where = {"name": dataset.config}
    if dataset.revision == EXPORT and dataset.config:
        where = {"data_dir": dataset.config}
    try:
        rows = load_dataset(f"hf://datasets/{dataset.name}", split=dataset.split, revision=dataset.revision, **where)
    except DatasetNotFoundError as error:
        raise (_gated(dataset) if "gated" in str(error).lower() else _not_there(dataset)) from None
    except ValueError as error:  # an unknown config or split: the library lists those there are
        text = " ".join(line for line in str(error).splitlines()[:2] if "xample of usage" not in line)[:300]
        raise UserError(
            f"{dataset.name}: {text}", fix="write config and split in the path as they are called."
        ) from None
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        fix = f"try revision={EXPORT} (with config= if it has several), or download its files yourself."
        raise UserError(f"{dataset.name} needs a script of its own, which is never run.", fix=fix) from None
    except (DatasetsError, OSError, HfHubHTTPError, httpx.HTTPError) as error:
        raise _unreadable(dataset, error) from None
    return rows, told


def _gated(dataset: HubDataset) -> UserError:
    fix = "accept its licence on huggingface.co and log in with `hf auth login`."
    return UserError(f"{dataset.name} is gated: its authors want you to accept a licence.", fix=fix, kind="gated")


def _not_there(dataset: HubDataset) -> UserError:
    fix = "check the spelling; for a private data set log in with `hf auth login`."
    return UserError(f"There is no data set {dataset.name} on the Hugging Face hub.", fix=fix)


def _unreachable(dataset: HubDataset, error: BaseException) -> UserError:
    if getattr(getattr(error, "response", None), "status_code", 0) == 429:
        text = f"The Hugging Face hub has had too many requests and refuses {dataset.name} for now."
        return UserError(text, fix="wait some minutes; logged in (`hf auth login`) the limits are higher.")
    text = f"The Hugging Face hub could not be reached for {dataset.name}: {_first_line(error)}"
    return UserError(text, fix="check the network, or use a file of your own.")


def _unreadable(dataset: HubDataset, error: BaseException) -> UserError:
    """Tell a full disk, files that are not there or cannot be read, and a hub out of reach apart."""
    from datasets.exceptions import DatasetsError, FileNotFoundDatasetsError

    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    full = (errno.ENOSPC, errno.EDQUOT)
    if any(isinstance(e, OSError) and (e.errno in full or "disk space" in str(e)) for e in chain):
        return _disk_full(dataset)
    if isinstance(error, FileNotFoundDatasetsError) or type(error).__name__ == "EmptyDatasetError":
        where = f" under `{dataset.config}`" if dataset.revision == EXPORT and dataset.config else ""
        fix = "look at its files on the hub: only JSON, CSV, Parquet, Arrow and text can be read."
        return UserError(f"{dataset.name} holds no data files that can be read{where}.", fix=fix)
    if isinstance(error, DatasetsError):
        fix = "download the files yourself and correct them, or choose another revision."
        return UserError(f"The files of {dataset.name} cannot be read: {_first_line(chain[-1])}", fix=fix)
    return _unreachable(dataset, error)


def _from_modelscope(dataset: HubDataset) -> tuple[Iterable[Mapping[str, Any]], dict[str, Any]]:
    """Load through ModelScope's own client, an optional extra."""
    try:
        from modelscope.msdatasets import MsDataset
        from modelscope_hub.errors import HubError
    except ImportError as error:
        missing = "" if (error.name or "").startswith("modelscope") else f" (`{error.name}` is missing)"
        fix = f"run `pip install -r {MODELSCOPE}`, or use the Hugging Face hub (hf://)."
        raise UserError(f"ModelScope data sets need its client, which is not installed{missing}.", fix=fix) from None
    try:
        rows = MsDataset.load(
            dataset.name, subset_name=dataset.config, split=dataset.split, version=dataset.revision or "master"
        )
    except (HubError, ValueError, OSError, RuntimeError, KeyError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = f"ModelScope could not give {dataset.name}: {_first_line(error)}"
        raise UserError(text, fix="check name, split and network.") from None
    return rows, {"revision": dataset.revision or "master", "licence": ""}


def _write(rows: Iterable[Mapping[str, Any]], target: Path, dataset: HubDataset, progress: Progress) -> dict[str, Any]:
    """Write rows as strict JSON Lines; returns how many, and the columns whose values were turned into text."""
    count, total, as_text = 0, len(rows) if isinstance(rows, Sized) else 0, set[str]()
    with open(target, "x", encoding="utf-8") as file:
        for row in rows:
            if count % CHECK_DISK_ROWS == 0:
                _require_disk(target.parent, dataset)
                progress(f"writing {dataset.name}, row {count:,}", count / total if total else None)
            plain = {str(key): _plain(value, str(key), as_text) for key, value in row.items()}
            file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    if count == 0:
        raise UserError(f"The split `{dataset.split}` of {dataset.name} is empty.", fix="choose another split.")
    return {"rows": count, "as_text": sorted(as_text)}


def _plain(value: Any, column: str, as_text: set[str]) -> Any:
    """Return a value that strict JSON can hold and that reads as what it was; `column` is noted if it became text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, column, as_text) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, column, as_text) for item in value]
    as_text.add(column)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(bytes(value)).decode("ascii")
    return str(value)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
