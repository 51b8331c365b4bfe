"""Merge an adapter into a model file by file, one tensor at a time: memory of a shard, whatever the size of the model.

    shard of the base -> each weight: [nf4 and back] + scale B A [DoRA] -> dtype -> shard of the same name

The layout on disk stays that of the base.  Every merged layer is compared with base plus adapter on random inputs,
before and after rounding.  Adapters on fused experts, or under other names than the files have, are not for this room.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.export.shards import ShardWriter, shards_of

PREFIX = "base_model.model."
PROBES = 4
EXACT = 1e-4
"""Largest relative difference between a merged layer and base plus adapter in float32, before it is rounded."""
KEPT_FILES = ("config.json", "generation_config.json")

Quantize = Callable[[Tensor], Tensor]
"""What a 4-bit run did to a weight of its base: to nf4 and back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """The adapter of one linear layer: W + scale B A, or with a magnitude m: m (W + scale B A) / |W + scale B A|."""

    a: Tensor
    """Shape (r, I), float32."""
    b: Tensor
    """Shape (O, r), float32."""
    scale: float
    magnitude: Tensor | None
    """Shape (O,), float32; DoRA only."""

    def merge(self, weight: Tensor) -> Tensor:
        """Return the merged weight of a float32 one, shape (O, I)."""
        merged = torch.addmm(weight, self.b, self.a, alpha=self.scale)
        if self.magnitude is not None:
            merged *= (self.magnitude / merged.norm(dim=1)).unsqueeze(1)
        return merged

    def apply(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return what base plus adapter make of x, shape (n, I), without the merged weight."""
        y = x @ weight.T + self.scale * (x @ self.a.T) @ self.b.T
        if self.magnitude is None:
            return y
        square = (weight * weight).sum(1) + 2 * self.scale * ((weight @ self.a.T) * self.b).sum(1)
        square += self.scale**2 * ((self.b @ (self.a @ self.a.T)) * self.b).sum(1)
        return y * (self.magnitude / square.sqrt())


def read_adapter(folder: Path) -> dict[str, LowRank] | None:
    """Return the adapter of each layer by the layer's name, or None if it has parts that cannot be merged alone."""
    config = read_json(folder / "adapter_config.json") or {}
    if any(config.get(key) for key in ("target_parameters", "rank_pattern", "alpha_pattern", "fan_in_fan_out")):
        return None
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    tensors, found = load_file(folder / "adapter_model.safetensors"), {}
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        path = key.removesuffix(".lora_A.weight")
        magnitude = tensors.pop(f"{path}.lora_magnitude_vector", None)
        a, b = tensors.pop(key).float(), tensors.pop(f"{path}.lora_B.weight").float()
        size = magnitude.float() if magnitude is not None else None
        found[path.removeprefix(PREFIX)] = LowRank(a=a, b=b, scale=scale, magnitude=size)
    return None if tensors else found


def can_stream(base: Path, layers: Mapping[str, LowRank] | None) -> bool:
    """Whether the files of a base model hold every adapted layer under its own name."""
    return bool(layers) and {f"{name}.weight" for name in layers or ()} <= set(shards_of(base))


def stream_merge(
    base: Path,
    layers: Mapping[str, LowRank],
    target: Path,
    *,
    dtype: torch.dtype,
    quantized: Mapping[str, Quantize],
    progress: Callable[[str, float | None], None],
) -> dict[str, Any]:
    """Write base plus adapter as a model folder of its own.

    Args:
        base: Folder of the base model.
        layers: Adapters by the name of their layer.
        target: Folder to write; the tokenizer is not written.
        dtype: In which the weights are stored.
        quantized: Name of a weight -> what the run's 4-bit base made of it, for all quantized ones.
        progress: Told which shard is being written.

    Returns:
        `layer_difference` before and `stored_layer_difference` after rounding, relative, the largest of all layers.

    Raises:
        UserError: If a merged layer does not compute what base plus adapter do.
    """
    target.mkdir(parents=True, exist_ok=True)
    places = shards_of(base)
    files = sorted(set(places.values()))
    exact = rounded = 0.0
    total = 0
    for number, file in enumerate(files):
        progress(f"merging shard {number + 1} of {len(files)}", number / len(files))
        with safe_open(base / file, framework="pt") as shard:
            names = [name for name in shard.keys() if places.get(name) == file]
            shapes = {name: _shape(shard, name, dtype) for name in names}
            with ShardWriter(target / file, shapes) as writer:
                for name, value, differences in _merged(shard, names, layers, quantized, dtype):
                    exact, rounded = max(exact, differences[0]), max(rounded, differences[1])
                    total += value.numel() * value.element_size()
                    writer.write(name, value)
    if not exact <= EXACT:
        raise UserError(
            f"A merged layer does not answer like base plus adapter: they differ by {exact:.2g} of the output.",
            fix="use the adapter unmerged, and report this with the run's log.",
        )
    if len(files) > 1 or files != ["model.safetensors"]:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True))
    _write_config(base, target, dtype)
    return {"layer_difference": exact, "stored_layer_difference": rounded}


def _merged(
    shard: Any,
    names: list[str],
    layers: Mapping[str, LowRank],
    quantized: Mapping[str, Quantize],
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor, tuple[float, float]]]:
    """Yield the tensors of a shard as they are to be stored, with the relative differences of merged ones."""
    for name in names:
        value: Tensor = shard.get_tensor(name)
        if not value.is_floating_point():
            yield name, value, (0.0, 0.0)
            continue
        value = value.to(dtype)  # as it was trained on
        if name in quantized:
            value = quantized[name](value)
        layer = layers.get(name.removesuffix(".weight"))
        if layer is None:
            yield name, value, (0.0, 0.0)
            continue
        weight = value.float()
        merged = layer.merge(weight)
        stored = merged.to(dtype)
        x = torch.randn(PROBES, weight.shape[1], generator=torch.Generator().manual_seed(0))
        wanted = layer.apply(weight, x)
        size = float(wanted.norm()) or 1.0
        ours, kept = float((x @ merged.T - wanted).norm()), float((x @ stored.float().T - wanted).norm())
        yield name, stored, (ours / size, kept / size)


def _shape(shard: Any, name: str, dtype: torch.dtype) -> tuple[torch.dtype, tuple[int, ...]]:
    part = shard.get_slice(name)
    kind = part.get_dtype()
    kept = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
            "BOOL": torch.bool}  # fmt: skip
    return kept.get(kind, dtype), tuple(part.get_shape())


def _write_config(base: Path, target: Path, dtype: torch.dtype) -> None:
    """Copy the configuration, saying in which dtype the weights are now."""
    for name in KEPT_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)
    config = read_json(target / "config.json") or {}
    config.pop("torch_dtype", None)
    config.pop("quantization_config", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False))
