"""Data sets from the Hugging Face hub and ModelScope: fetched once, kept as JSON Lines, read like any other file.

    hf://org/name -> datasets.load_dataset (no scripts, no remote code) -> rows -> data.jsonl -> source.json

Rows are written one by one, so memory stays small; a value that JSON cannot hold (a date, bytes) is written as text.
"""

from __future__ import annotations

import base64
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.contract.errors import Problem, UserError
from engine.contract.files import replace_json
from engine.contract.hub_path import HubDataset, is_hub_path, parse_hub_path
from engine.contract.places import MIN_FREE_BYTES, DataRoot, free_bytes
from engine.contract.recipe import Recipe

Progress = Callable[[str, float | None], None]
MODELSCOPE = "modelscope==1.40.2"
CHECK_DISK_ROWS = 10_000


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
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (found := dataset.find(root)) is not None:
            return found
        progress(f"downloading {dataset.name}", None)
        rows, told = _load(dataset)
        temporary = folder.with_name(f".new-{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        try:
            count = _write(rows, temporary / "data.jsonl", dataset, progress)
            replace_json(temporary / "source.json", {**told, "path": dataset.path, "rows": count, "time": time.time()})
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder / "data.jsonl"


def _load(dataset: HubDataset) -> tuple[Iterable[Mapping[str, Any]], dict[str, Any]]:
    """Return the rows and what is known of where they come from."""
    if dataset.hub == "modelscope":
        return _from_modelscope(dataset)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        text = f"The data set {dataset.name} is not on this machine and HF_HUB_OFFLINE is set."
        raise UserError(text, fix="unset it, or use a file of your own.")
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows = load_dataset(dataset.name, dataset.config, split=dataset.split, revision=dataset.revision)
    except DatasetNotFoundError as error:
        if "gated" in str(error).lower():
            fix = "accept its licence on huggingface.co and log in with `hf auth login`."
            raise UserError(f"{dataset.name} is gated: its authors want you to accept a licence.", fix=fix) from None
        fix = "check the spelling; for a private data set log in with `hf auth login`."
        raise UserError(f"There is no data set {dataset.name} on the Hugging Face hub.", fix=fix) from None
    except ValueError as error:  # an unknown config or split: the library lists those there are
        raise UserError(f"{dataset.name}: {_first_line(error)}", fix="choose one of these in the path.") from None
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        fix = "try revision=refs/convert/parquet, or download its files yourself."
        raise UserError(f"{dataset.name} needs a script of its own, which is never run.", fix=fix) from None
    except (HfHubHTTPError, DatasetsError, OSError) as error:
        text = f"The Hugging Face hub could not be reached for {dataset.name}: {_first_line(error)}"
        raise UserError(text, fix="check the network, or use a file of your own.") from None
    version = str(getattr(rows, "version", "") or "")
    licence = str(getattr(getattr(rows, "info", None), "license", "") or "")
    return rows, {"hub": "huggingface", "version": version, "licence": licence}


def _from_modelscope(dataset: HubDataset) -> tuple[Iterable[Mapping[str, Any]], dict[str, Any]]:
    """Load through ModelScope's own client, an optional extra."""
    try:
        from modelscope.msdatasets import MsDataset
    except ImportError:
        fix = f"run `pip install {MODELSCOPE}`, or use the Hugging Face hub (hf://)."
        raise UserError("ModelScope data sets need its client, which is not installed.", fix=fix) from None
    try:
        rows = MsDataset.load(
            dataset.name, subset_name=dataset.config, split=dataset.split, version=dataset.revision or "master"
        )
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        text = f"ModelScope could not give {dataset.name}: {_first_line(error)}"
        raise UserError(text, fix="check name, split and network.") from None
    return rows, {"hub": "modelscope", "version": "", "licence": ""}


def _write(rows: Iterable[Mapping[str, Any]], target: Path, dataset: HubDataset, progress: Progress) -> int:
    """Write rows as strict JSON Lines; returns how many."""
    count = 0
    with open(target, "x", encoding="utf-8") as file:
        for row in rows:
            if count % CHECK_DISK_ROWS == 0:
                if free_bytes(target.parent) < MIN_FREE_BYTES // 4:
                    raise UserError(f"The disk is full: {dataset.name} does not fit.", fix="free some space.")
                progress(f"writing {dataset.name}, row {count:,}", None)
            file.write(json.dumps(_plain(dict(row)), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _plain(value: Any) -> Any:
    """Return a value that strict JSON can hold and that reads as what it was."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(bytes(value)).decode("ascii")
    return str(value)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
