"""Safetensors files, read by index and written one tensor at a time.

The library writes a file from a dictionary of all its tensors; here only the one being written is in memory.

Source: the safetensors format, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open

from engine.contract.errors import UserError
from engine.contract.files import read_json

INDEX = "model.safetensors.index.json"
NAMES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def shards_of(folder: Path) -> dict[str, str]:
    """Return tensor name -> file name of a model folder.

    Raises:
        UserError: If it holds no safetensors, or its index names a file that is not there.
    """
    index = read_json(folder / INDEX)
    if isinstance(index, dict) and isinstance(index.get("weight_map"), dict):
        places = {str(name): Path(str(file)).name for name, file in index["weight_map"].items()}
        if missing := sorted({file for file in places.values() if not (folder / file).is_file()}):
            raise UserError(f"{folder} lacks {missing[0]}, which its index names.", fix="fetch the model again.")
        return places
    single = folder / "model.safetensors"
    if not single.is_file():
        raise UserError(f"{folder} holds no safetensors weights.", fix="choose another model.")
    with safe_open(single, framework="pt") as file:
        return dict.fromkeys(file.keys(), single.name)


class ShardWriter:
    """Writes one safetensors file whose tensors come one by one, in any order, each once.

    Args:
        path: The file.
        shapes: Name -> dtype and shape of every tensor that will come.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        self.places: dict[str, tuple[int, int]] = {}
        # large elements first: every tensor then begins at a multiple of its element's size
        for name, (dtype, shape) in sorted(shapes.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
            size = dtype.itemsize * torch.Size(shape).numel()
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
            self.places[name] = (end, size)
            end += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.start = 8 + len(text)
        self.file = open(path, "wb")
        self.file.write(struct.pack("<Q", len(text)) + text)
        self.missing = set(shapes)

    def write(self, name: str, value: torch.Tensor) -> None:
        """Write one tensor at its place.

        Raises:
            ValueError: If it has another size than was announced.
        """
        offset, size = self.places[name]
        flat = value.detach().contiguous().cpu().view(-1).view(torch.uint8)
        if flat.numel() != size:
            raise ValueError(f"{name} has {flat.numel()} bytes, {size} were announced")
        self.file.seek(self.start + offset)
        self.file.write(memoryview(flat.numpy()))
        self.missing.discard(name)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.file.close()
        if kind is None and self.missing:
            raise ValueError(f"never written: {sorted(self.missing)[:3]}")
