"""The weights of a model folder, safetensors or pickled, one tensor at a time.

A pickled file is opened with torch's restricted reader, which builds tensors and plain containers and refuses every
other object; its data stay in the file until they are used.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.contract.errors import UserError
from engine.contract.files import read_json


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights, safetensors where there are both.

    Raises:
        UserError: If there are none, or an index names one that is not there.
    """
    for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = read_json(folder / f"{stem}.{ending}.index.json")
        if isinstance(index, dict) and isinstance(index.get("weight_map"), dict):
            files = [folder / Path(str(name)).name for name in sorted(set(index["weight_map"].values()))]
            if missing := [file.name for file in files if not file.is_file()]:
                fix = "download the model again."
                raise UserError(f"{folder} lacks {', '.join(missing[:3])}, which its index names.", fix=fix)
            return files
        if found := sorted(folder.glob(f"{stem}*.{ending}")):
            return found
    fix = "choose the folder that holds config.json and the weights."
    raise UserError(f"{folder} holds neither model*.safetensors nor pytorch_model*.bin.", fix=fix)


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """Open one file: an object with `keys()`, and `get_tensor(name)` that reads one tensor.

    Raises:
        UserError: If the file is damaged, or pickles anything but tensors.
    """
    if path.suffix == ".safetensors":
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read: {error}.", fix="download it again.") from None
        with file as opened:
            yield opened
        return
    yield _Pickled(path)


class _Pickled:
    """A pickled state dict that looks like an open safetensors file."""

    def __init__(self, path: Path) -> None:
        try:
            found = _load(path)
        except pickle.UnpicklingError:
            problem = f"{path} pickles more than tensors, which could run code when it is loaded."
            raise UserError(problem, fix="do not load this file; find the model as safetensors.") from None
        except (RuntimeError, EOFError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(f"{path} cannot be read: {reason}", fix="download it again.") from None
        if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
            problem = f"{path} is not a plain table of weights."
            raise UserError(problem, fix="choose the folder that holds the model's pytorch_model*.bin.")
        self.tensors: dict[str, Tensor] = {str(name): value for name, value in found.items()}

    def keys(self) -> list[str]:
        return list(self.tensors)

    def get_tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
    return torch.load(path, map_location="cpu", weights_only=True)  # the format of torch before 1.6
