"""Shapes of the models in our presets, for estimates before a `config.json` is on this disk.

    known_config("codellama/CodeLlama-7b-hf") -> {"hidden_size": 4096, ...} | None

The numbers are those of the public `config.json` files on the Hugging Face hub; only what `engine.contract.estimate` reads is
kept.  A config that is on the disk always wins over this table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_CONFIG_BYTES = 4_000_000
"""Real configs are a few kilobytes; a larger file is no config."""


def _llama(vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, **more: Any) -> dict[str, Any]:
    """Build the config of a model with gated MLPs; `more` replaces or adds keys."""
    return {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "tie_word_embeddings": False,
        **more,
    }


_CODELLAMA_7B = _llama(32016, 4096, 32, 32, 32, 11008)
_CODELLAMA_13B = _llama(32016, 5120, 40, 40, 40, 13824)
_QWEN_CODER_7B = _llama(152064, 3584, 28, 28, 4, 18944, model_type="qwen2", attention_bias=True)
_MIXTRAL = _llama(32000, 4096, 32, 32, 8, 14336, model_type="mixtral", num_local_experts=8, num_experts_per_tok=2)

KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": _llama(49152, 576, 30, 9, 3, 1536, tie_word_embeddings=True),
    "codellama/CodeLlama-7b-hf": _CODELLAMA_7B,
    "codellama/CodeLlama-7b-Instruct-hf": _CODELLAMA_7B,
    "codellama/CodeLlama-7b-Python-hf": {**_CODELLAMA_7B, "vocab_size": 32000},
    "codellama/CodeLlama-13b-hf": _CODELLAMA_13B,
    "codellama/CodeLlama-13b-Instruct-hf": _CODELLAMA_13B,
    "codellama/CodeLlama-13b-Python-hf": {**_CODELLAMA_13B, "vocab_size": 32000},
    "Qwen/Qwen2.5-Coder-7B": _QWEN_CODER_7B,
    "Qwen/Qwen2.5-Coder-7B-Instruct": _QWEN_CODER_7B,
    "mistralai/Mixtral-8x7B-v0.1": _MIXTRAL,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": _MIXTRAL,
}
"""Hub id -> the part of its public config.json that the estimates read."""


def known_config(model_name_or_path: str) -> dict[str, Any] | None:
    """Return the shapes of a preset model by hub id, any letter case; None for every other model."""
    wanted = model_name_or_path.strip().lower()
    return next((config for name, config in KNOWN_CONFIGS.items() if name.lower() == wanted), None)


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return `folder/config.json` as plain values, or None if there is none that can be read."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            return None
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
