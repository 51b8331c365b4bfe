"""The model families that are checked, one record each; others that transformers knows natively are tried as they are.

    family -> tiny random model of its architecture -> load, LoRA, QLoRA, full, merge, reload, generate

`python -m engine families --check` does all of it with the code that trains.  What differs between families (names of
layers, fused experts, attention, head) is found in the model itself; a record only says what is to be expected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engine.model.tiny_tokenizer import character_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GPT2_SIZES: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 512}
DEEPSEEK: dict[str, Any] = {
    "moe_intermediate_size": 24,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 4,
    "head_dim": 8,
}
ROUTED: dict[str, Any] = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
NO_DROPOUT: dict[str, Any] = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture."""

    model_type: str
    """What its config.json says."""
    known_as: str
    """Names under which people know its models."""
    tiny: dict[str, Any] = field(default_factory=dict)
    """Config values of a tiny model, besides `SIZES`."""
    sizes: dict[str, Any] = field(default_factory=lambda: SIZES)
    experts: int = 0
    """Fused expert parameters of the tiny model; 0 for a dense one."""
    dense_left_out: int = 0
    """Linear layers of the tiny model that get no adapter, because peft takes their names for experts."""
    eager: bool = False
    """Whether transformers has no sdpa for it."""
    quantized: bool = True
    """Whether QLoRA works."""


FAMILIES: tuple[Family, ...] = (
    Family(model_type="llama", known_as="LLaMA, Llama 2 and 3, CodeLlama, DeepSeek-Coder, SmolLM, Yi"),
    Family(model_type="mistral", known_as="Mistral, Codestral", tiny={"sliding_window": None}),
    Family(
        model_type="mixtral", known_as="Mixtral", tiny={"num_local_experts": 4, "num_experts_per_tok": 2}, experts=4,
    ),
    Family(model_type="deepseek_v2", known_as="DeepSeek-V2, Coder-V2", tiny=DEEPSEEK, experts=2, dense_left_out=6),
    Family(model_type="deepseek_v3", known_as="DeepSeek-V3", tiny=DEEPSEEK, experts=2, dense_left_out=6),
    Family(model_type="qwen2", known_as="Qwen1.5, Qwen2, Qwen2.5, Qwen2.5-Coder"),
    Family(
        model_type="qwen2_moe", known_as="Qwen1.5-MoE, Qwen2-MoE", experts=4,
        tiny={**ROUTED, "shared_expert_intermediate_size": 24},
    ),
    Family(model_type="qwen3", known_as="Qwen3", tiny={"head_dim": 8}),
    Family(model_type="qwen3_moe", known_as="Qwen3-MoE, Qwen3-Coder", tiny={**ROUTED, "head_dim": 8}, experts=4),
    Family(model_type="olmoe", known_as="OLMoE", tiny={"num_experts": 4, "num_experts_per_tok": 2}, experts=4),
    Family(model_type="gpt_bigcode", known_as="StarCoder, SantaCoder", tiny=NO_DROPOUT, sizes=GPT2_SIZES),
    Family(model_type="starcoder2", known_as="StarCoder2", tiny={"sliding_window": None}),
    Family(model_type="gpt_neox", known_as="GPT-NeoX, Pythia"),
    Family(model_type="phi", known_as="Phi-1.5, Phi-2", tiny={"num_key_value_heads": 4, "resid_pdrop": 0.0}),
    Family(model_type="phi3", known_as="Phi-3, Phi-4", tiny={"original_max_position_embeddings": 512}),
    Family(model_type="gemma", known_as="Gemma, CodeGemma", tiny={"head_dim": 8}),
    Family(
        model_type="gemma2", known_as="Gemma 2", eager=True,
        tiny={"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8},
    ),
    Family(
        model_type="gemma3_text", known_as="Gemma 3",
        tiny={"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8},
    ),
    Family(model_type="glm", known_as="GLM-4-9B; ChatGLM2 and 3, CodeGeeX2 after conversion", tiny={"head_dim": 8}),
    Family(model_type="glm4", known_as="GLM-4-0414", tiny={"head_dim": 8}),
    Family(model_type="smollm3", known_as="SmolLM3"),
    Family(model_type="falcon", known_as="Falcon", quantized=False),
    Family(
        model_type="codegen", known_as="CodeGen", eager=True,
        sizes={**GPT2_SIZES, "n_inner": None, "rotary_dim": 4}, tiny=NO_DROPOUT,
    ),
)  # fmt: skip


def family_of(model_type: str) -> Family | None:
    """Return the record of an architecture, None if it is not one of those that are checked."""
    return next((family for family in FAMILIES if family.model_type == model_type), None)


def tiny_model(family: Family, seed: int = 0) -> Any:
    """Return a random model of a family, float32, about 30 thousand weights, for `character_tokenizer`."""
    torch.manual_seed(seed)
    vocabulary = len(character_tokenizer())
    tokens = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 2}
    config = AutoConfig.for_model(family.model_type, **{**family.sizes, **tokens, **family.tiny})
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = 2
    return model


def save_tiny_model(family: Family, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model of a family and its tokenizer as a local model folder and return it."""
    tiny_model(family, seed).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder
