"""Merge an adapter into a base of several shards and print: bytes of the largest shard, peak bytes, shards."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from engine.export.shards import shards_of
from engine.export.stream import read_adapter, stream_merge

HIDDEN, RANK, SHARDS, LAYERS_PER_SHARD = 1024, 8, 8, 6


def write_base(folder: Path) -> None:
    folder.mkdir()
    places = {}
    for shard in range(SHARDS):
        names = [f"model.layers.{shard * LAYERS_PER_SHARD + i}.q_proj.weight" for i in range(LAYERS_PER_SHARD)]
        file = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        save_file({name: torch.randn(HIDDEN, HIDDEN) for name in names}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text("{}")


def write_adapter(folder: Path, base: Path) -> None:
    folder.mkdir()
    tensors = {}
    for name in shards_of(base):
        path = "base_model.model." + name.removesuffix(".weight")
        tensors[f"{path}.lora_A.weight"] = torch.randn(RANK, HIDDEN)
        tensors[f"{path}.lora_B.weight"] = torch.randn(HIDDEN, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 16}))


def peak_while(work) -> int:
    """Return by how many bytes the resident memory grew at most while something was done."""
    process, ended = psutil.Process(os.getpid()), threading.Event()
    start = process.memory_info().rss
    highest = [start]

    def look() -> None:
        while not ended.is_set():
            highest[0] = max(highest[0], process.memory_info().rss)
            time.sleep(0.001)

    watcher = threading.Thread(target=look)
    watcher.start()
    work()
    ended.set()
    watcher.join()
    return highest[0] - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    home = Path(sys.argv[1])
    write_base(home / "base")
    write_adapter(home / "adapter", home / "base")
    layers = read_adapter(home / "adapter")
    torch.randn(HIDDEN, HIDDEN) @ torch.randn(HIDDEN, HIDDEN)  # what a first product allocates is not the merge's

    def merge() -> None:
        told = lambda *_: None  # noqa: E731
        stream_merge(home / "base", layers, home / "out", dtype=torch.float32, quantized={}, progress=told)

    peak = peak_while(merge)
    largest = max(path.stat().st_size for path in (home / "base").glob("*.safetensors"))
    print(largest, peak, len(list((home / "out").glob("*.safetensors"))))
