"""Shapes of models: the table of our presets, and how many weights a `config.json` means.

    known_config("codellama/CodeLlama-7b-hf") -> {"hidden_size": 4096, ...} | None -> ParameterCount

The numbers are those of the public `config.json` files on the Hugging Face hub; only what the estimates read is kept.
A config that is on the disk always wins over this table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.recipe import Recipe

MAX_CONFIG_BYTES = 4_000_000
"""Real configs are a few kilobytes; a larger file is no config."""
UNGATED_MLP = frozenset({"starcoder2", "gpt_neox", "gpt2", "gpt_bigcode", "phi", "falcon", "opt"})
"""Model types whose MLP has two matrices; all others are taken to have gate, up and down."""

OUTPUT_HEADS = frozenset({"lm_head", "embed_out", "output_layer"})
"""What families call the layer that makes the logits."""


def _llama(
    vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, **more: Any
) -> dict[str, Any]:
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
_CODELLAMA_34B = _llama(32000, 8192, 48, 64, 8, 22016)


def _qwen(*sizes: int, **more: Any) -> dict[str, Any]:
    return _llama(*sizes, model_type="qwen2", attention_bias=True, **more)


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
    "codellama/CodeLlama-34b-hf": _CODELLAMA_34B,
    "codellama/CodeLlama-34b-Instruct-hf": _CODELLAMA_34B,
    "codellama/CodeLlama-34b-Python-hf": _CODELLAMA_34B,
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": _qwen(151936, 896, 24, 14, 2, 4864, tie_word_embeddings=True),
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": _qwen(151936, 1536, 28, 12, 2, 8960, tie_word_embeddings=True),
    "Qwen/Qwen2.5-Coder-14B-Instruct": _qwen(152064, 5120, 48, 40, 8, 13824),
    "Qwen/Qwen2.5-Coder-32B-Instruct": _qwen(152064, 5120, 64, 40, 8, 27648),
    "Qwen/Qwen3-4B": _llama(151936, 2560, 36, 32, 8, 9728, model_type="qwen3", head_dim=128, tie_word_embeddings=True),
    "Qwen/Qwen3-8B": _llama(151936, 4096, 36, 32, 8, 12288, model_type="qwen3", head_dim=128),
    "deepseek-ai/deepseek-coder-6.7b-instruct": _llama(32256, 4096, 32, 32, 32, 11008),
    "deepseek-ai/deepseek-coder-33b-base": _llama(32256, 7168, 62, 56, 8, 19200),
    "bigcode/starcoder2-15b": _llama(49152, 6144, 40, 48, 4, 24576, model_type="starcoder2", attention_bias=True),
    "EleutherAI/gpt-neox-20b": _llama(50432, 6144, 44, 64, 64, 24576, model_type="gpt_neox", attention_bias=True),
    "zai-org/codegeex2-6b": _llama(65024, 4096, 28, 32, 2, 13696, model_type="glm", attention_bias=True),
    "Qwen/Qwen2.5-Coder-7B": _QWEN_CODER_7B,
    "Qwen/Qwen2.5-Coder-7B-Instruct": _QWEN_CODER_7B,
    "mistralai/Mixtral-8x7B-v0.1": _MIXTRAL,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": _MIXTRAL,
}
"""Hub id -> the part of its public config.json that the estimates read."""


def known_config(model_name_or_path: str) -> dict[str, Any] | None:
    """Return the shapes of a preset model by its id on either hub, any letter case; None for every other model."""
    wanted = model_name_or_path.strip().lower().removeprefix("modelscope://")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """Numbers of weights by kind, because each kind is stored and trained differently."""

    embeddings: int
    head: int
    """0 if the output head shares the embedding matrix."""
    attention: int
    mlp: int
    """Dense MLP layers, shared experts included."""
    experts: int
    """Fused expert weights of a mixture-of-experts model."""
    other: int
    """Norms, biases and routers."""
    active_experts: int
    """The part of `experts` that one token passes through."""

    @property
    def total(self) -> int:
        """All weights."""
        return self.embeddings + self.head + self.attention + self.mlp + self.experts + self.other

    @property
    def quantized(self) -> int:
        """Weights that `method: qlora` stores in 4 bit."""
        return self.attention + self.mlp + self.experts

    @property
    def active(self) -> int:
        """Weights that take part in one token's matrix products; a tied head is counted once."""
        return self.attention + self.mlp + self.active_experts + (self.head or self.embeddings)


def count_parameters(config: Mapping[str, Any]) -> ParameterCount:
    """Count the weights of a decoder from its `config.json`, by kind.

    Raises:
        UserError: If a size is missing or no positive number.
    """
    config = config.get("text_config") or config
    hidden, layers = (
        config_size(config, "hidden_size", "n_embd", "d_model"),
        config_size(config, "num_hidden_layers", "n_layer"),
    )
    vocab, heads = config_size(config, "vocab_size"), config_size(config, "num_attention_heads", "n_head")
    kv_heads = config_size(config, "num_key_value_heads", default=heads)
    head_dim = config_size(config, "head_dim", default=max(1, hidden // heads))
    inner = config_size(config, "intermediate_size", "n_inner", default=4 * hidden)
    tied = bool(config.get("tie_word_embeddings", False))
    matrices = 2 if config.get("model_type") in UNGATED_MLP else 3
    attention = layers * hidden * head_dim * (2 * heads + 2 * kv_heads)
    experts = config_size(config, "num_local_experts", "num_experts", "n_routed_experts", default=0)
    expert_width = config_size(config, "moe_intermediate_size", default=inner)
    shared = config_size(config, "shared_expert_intermediate_size", default=0)
    dense = layers * matrices * hidden * (shared if experts else inner)
    per_expert = layers * matrices * hidden * expert_width
    biases = layers * head_dim * (heads + 2 * kv_heads) if config.get("attention_bias") else 0
    return ParameterCount(
        embeddings=vocab * hidden,
        head=0 if tied else vocab * hidden,
        attention=attention,
        mlp=dense,
        experts=experts * per_expert,
        other=(2 * layers + 1) * hidden + layers * experts * hidden + biases,
        active_experts=config_size(config, "num_experts_per_tok", default=2) * per_expert if experts else 0,
    )


def num_parameters(config: Mapping[str, Any]) -> int:
    """Return the number of weights; UserError if the config lacks a size."""
    return count_parameters(config).total


def num_trainable(recipe: Recipe, config: Mapping[str, Any]) -> int:
    """Return the number of trained weights: all of them, or r * (in + out) per adapted linear layer.

    Routers get no adapter, fused experts r * (in + out) each with `target_experts`, the output head only by name.  A
    list in `target_modules` is matched on the usual names (`q_proj`, ...).
    """
    if recipe.method == "full":
        return num_parameters(config)
    config = config.get("text_config") or config
    hidden, layers = (
        config_size(config, "hidden_size", "n_embd", "d_model"),
        config_size(config, "num_hidden_layers", "n_layer"),
    )
    heads = config_size(config, "num_attention_heads", "n_head")
    head_dim = config_size(config, "head_dim", default=max(1, hidden // heads))
    query, key = heads * head_dim, config_size(config, "num_key_value_heads", default=heads) * head_dim
    shapes = {"q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (query, hidden)}
    experts = config_size(config, "num_local_experts", "num_experts", "n_routed_experts", default=0)
    if not experts:
        inner = config_size(config, "intermediate_size", "n_inner", default=4 * hidden)
        shapes |= {"up_proj": (hidden, inner), "down_proj": (inner, hidden)}
        if config.get("model_type") not in UNGATED_MLP:
            shapes["gate_proj"] = (hidden, inner)
    wanted = recipe.lora.target_modules
    chosen = shapes.values() if wanted == "all-linear" else [size for name, size in shapes.items() if name in wanted]
    each = sum(rows + columns for rows, columns in chosen)
    if experts and recipe.lora.target_experts:
        width = config_size(config, "moe_intermediate_size", "intermediate_size", "n_inner", default=4 * hidden)
        each += experts * (hidden + 2 * width + width + hidden)
    head = hidden + config_size(config, "vocab_size") if adapts_head(recipe) else 0
    return recipe.lora.r * (layers * each + head)


def adapts_head(recipe: Recipe) -> bool:
    """Whether a LoRA adapter lies on the output head; then its logits are kept (`engine.train.head`)."""
    wanted = recipe.lora.target_modules
    return recipe.method != "full" and wanted != "all-linear" and not OUTPUT_HEADS.isdisjoint(wanted)


def config_size(config: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    """Return the first of `keys` that is set; it must be above 0, or 0 where a default exists.

    Raises:
        UserError: If none is set and there is no default.
    """
    for key in keys:
        value = config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
            continue
        if value > 0 or default is not None:
            return value
    if default is None:
        fix = "choose a causal language model."
        raise UserError(f"config.json says no usable `{keys[0]}`.", fix=fix, field="model_name_or_path")
    return default
