"""What a run can be exported as: one record per format, without torch.

adapter, merged -> of the run        bnb-4bit, gptq, awq, gguf-* -> made of a merged model, in exports/<name>/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import child, read_json
from engine.contract.model_facts import config_size, num_parameters
from engine.contract.rundir import RunDir

GROUP_SIZES = (128, 64, 32)
"""Weights that share a scale in GPTQ and AWQ; the first that divides every layer's inputs is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """One kind of result."""

    key: str
    title: str
    text: str
    """What it is good for, one sentence."""
    bits: float
    """Bits per weight of the linear layers, scales included; 0 for an adapter."""
    embedding_bits: float = 16.0
    """Bits per weight of the embeddings and the head."""
    rounding: bool = False
    """Whether it needs auto-round (requirements-export.txt)."""
    exact: bool = False
    """Whether it must answer exactly like what it was made of."""

    @property
    def is_gguf(self) -> bool:
        """Whether the result is one file for llama.cpp."""
        return self.key.startswith("gguf-")


_ALL = (
    ExportFormat(key="adapter", title="Adapter", text="The LoRA weights alone, for the base model.", bits=0),
    ExportFormat(
        key="merged", title="Merged, 16 bit", text="One whole model that every tool can load.", bits=16, exact=True
    ),
    ExportFormat(key="bnb-4bit", title="bitsandbytes, 4 bit", text="For transformers and vLLM on a GPU.", bits=4.13),
    ExportFormat(
        key="gptq", title="GPTQ, 4 bit", text="For vLLM, SGLang and transformers on a GPU.", bits=4.31, rounding=True
    ),
    ExportFormat(
        key="awq", title="AWQ, 4 bit", text="For vLLM, SGLang and transformers on a GPU.", bits=4.31, rounding=True
    ),
    ExportFormat(
        key="gguf-bf16", title="GGUF, bf16", text="For llama.cpp and Ollama, nothing lost.", bits=16, exact=True
    ),
    ExportFormat(
        key="gguf-q8_0", title="GGUF, q8_0", text="For llama.cpp and Ollama, half of it.", bits=8.5, embedding_bits=8.5
    ),
    ExportFormat(
        key="gguf-q4_k_m", title="GGUF, q4_K_M", text="For llama.cpp and Ollama on small machines.", bits=5.0,
        embedding_bits=6.6, rounding=True,
    ),
)  # fmt: skip
FORMATS: dict[str, ExportFormat] = {item.key: item for item in _ALL}
OF_MERGED = tuple(item.key for item in _ALL if item.key not in ("adapter", "merged"))
"""Formats that are made of a merged model."""


def find_format(key: str) -> ExportFormat:
    """Return a format by its key.

    Raises:
        UserError: If there is none.
    """
    if key not in FORMATS:
        raise UserError(f"There is no format `{key[:40]}`.", fix=f"choose one of {', '.join(FORMATS)}.")
    return FORMATS[key]


def export_bytes(config: Mapping[str, Any], form: ExportFormat) -> int:
    """Return about how large a result is, bytes; 0 for an adapter, whose size is that of the checkpoint's."""
    if not form.bits:
        return 0
    embedding = config_size(config, "vocab_size") * config_size(config, "hidden_size")
    embedding *= 1 if config.get("tie_word_embeddings") else 2
    return int((max(0, num_parameters(config) - embedding) * form.bits + embedding * form.embedding_bits) / 8)


def pick_group_size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the largest group size that divides the inputs of every layer.

    Args:
        shapes: Layer -> (outputs, inputs).

    Raises:
        UserError: If none does.
    """
    for size in GROUP_SIZES:
        if all(inputs % size == 0 for _, inputs in shapes.values()):
            return size
    bad = next(f"{name} has {inputs}" for name, (_, inputs) in shapes.items() if inputs % GROUP_SIZES[-1])
    raise UserError(
        f"GPTQ and AWQ need layers whose number of inputs is a multiple of {GROUP_SIZES[-1]}; {bad}.",
        fix="choose bnb-4bit or a GGUF format.",
    )


def merged_of(run: RunDir, checkpoint: str) -> Path | None:
    """Return a merged model of a checkpoint that is there already, the newest one."""
    found = [
        path.parent
        for path in run.merged.glob("*/merge.json")
        if (read_json(path) or {}).get("checkpoint") == checkpoint and not path.parent.name.startswith(".")
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def find_result(run: RunDir, name: str) -> Path:
    """Return the folder of `merged/NAME`, `exports/NAME` or `adapters/NAME`.

    Raises:
        UserError: If there is none.
    """
    kind, _, own_name = name.partition("/")
    places = {"merged": run.merged, "exports": run.exports, "adapters": run.adapters}
    folder = child(places[kind], own_name) if kind in places else None
    if folder is None or not folder.is_dir():
        raise UserError(f"This run has no {name[:80]}.", fix="choose one from the list.")
    return folder
