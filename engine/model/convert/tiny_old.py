"""Tiny models of the old families as they lay on disk before: to try a conversion, and everything after it.

`python -m engine families --check` converts each and goes the whole way with the result.  What these tensors compute is
written down, formula by formula, beside the tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.model.families import Family, family_of
from engine.model.tiny_tokenizer import character_tokenizer

H, HEADS, D, F, LAYERS, POSITIONS = 32, 4, 8, 48, 2, 512
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyOld:
    """One tiny old model."""

    becomes: str
    """`model_type` of the native model."""
    config: Mapping[str, Any]
    shapes: Shapes
    """Of every tensor; `{}` is the layer, 0 the vocabulary."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further files of the folder that decide what it is: name -> text."""

    @property
    def family(self) -> Family:
        """The record of the native architecture."""
        found = family_of(self.becomes)
        assert found is not None
        return found


QWEN_SHAPES: Shapes = {
    "transformer.wte.weight": (0, H),
    "transformer.h.{}.ln_1.weight": (H,),
    "transformer.h.{}.ln_2.weight": (H,),
    "transformer.h.{}.attn.c_attn.weight": (3 * H, H),
    "transformer.h.{}.attn.c_attn.bias": (3 * H,),
    "transformer.h.{}.attn.c_proj.weight": (H, H),
    "transformer.h.{}.mlp.w1.weight": (F, H),
    "transformer.h.{}.mlp.w2.weight": (F, H),
    "transformer.h.{}.mlp.c_proj.weight": (H, F),
    "transformer.ln_f.weight": (H,),
    "lm_head.weight": (0, H),
}

LLAMA_SHAPES: Shapes = {
    "model.embed_tokens.weight": (0, H),
    "model.layers.{}.input_layernorm.weight": (H,),
    "model.layers.{}.post_attention_layernorm.weight": (H,),
    "model.layers.{}.self_attn.o_proj.weight": (H, H),
    "model.layers.{}.mlp.gate_proj.weight": (F, H),
    "model.layers.{}.mlp.up_proj.weight": (F, H),
    "model.layers.{}.mlp.down_proj.weight": (H, F),
    "model.norm.weight": (H,),
    "lm_head.weight": (0, H),
}
BAICHUAN_SHAPES: Shapes = {**LLAMA_SHAPES, "model.layers.{}.self_attn.W_pack.weight": (3 * H, H)}
AQUILA_SHAPES: Shapes = {
    **LLAMA_SHAPES,
    "model.layers.{}.self_attn.q_proj.weight": (H, H),
    "model.layers.{}.self_attn.k_proj.weight": (2 * D, H),
    "model.layers.{}.self_attn.v_proj.weight": (2 * D, H),
}
INTERNLM_SHAPES: Shapes = {
    **LLAMA_SHAPES,
    **{f"model.layers.{{}}.self_attn.{p}_proj.weight": (H, H) for p in "qkv"},
    **{f"model.layers.{{}}.self_attn.{p}_proj.bias": (H,) for p in "qkvo"},
}

INTERNLM2_SHAPES: Shapes = {
    "model.tok_embeddings.weight": (0, H),
    "model.layers.{}.attention_norm.weight": (H,),
    "model.layers.{}.ffn_norm.weight": (H,),
    "model.layers.{}.attention.wqkv.weight": (2 * 4 * D, H),
    "model.layers.{}.attention.wo.weight": (H, H),
    "model.layers.{}.feed_forward.w1.weight": (F, H),
    "model.layers.{}.feed_forward.w2.weight": (H, F),
    "model.layers.{}.feed_forward.w3.weight": (F, H),
    "model.norm.weight": (H,),
    "output.weight": (0, H),
}

GLM_D = 12
CHATGLM_SHAPES: Shapes = {
    "transformer.embedding.word_embeddings.weight": (0, H),
    "transformer.encoder.layers.{}.input_layernorm.weight": (H,),
    "transformer.encoder.layers.{}.post_attention_layernorm.weight": (H,),
    "transformer.encoder.layers.{}.self_attention.query_key_value.weight": ((HEADS + 4) * GLM_D, H),
    "transformer.encoder.layers.{}.self_attention.query_key_value.bias": ((HEADS + 4) * GLM_D,),
    "transformer.encoder.layers.{}.self_attention.dense.weight": (H, HEADS * GLM_D),
    "transformer.encoder.layers.{}.mlp.dense_h_to_4h.weight": (2 * F, H),
    "transformer.encoder.layers.{}.mlp.dense_4h_to_h.weight": (H, F),
    "transformer.encoder.final_layernorm.weight": (H,),
    "transformer.output_layer.weight": (0, H),
    "transformer.rotary_pos_emb.inv_freq": (3,),
}

_SIZES = {"hidden_size": H, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "tie_word_embeddings": False}
_LLAMA = {**_SIZES, "intermediate_size": F, "rms_norm_eps": 1e-6, "max_position_embeddings": POSITIONS}
_CHATGLM = {
    "model_type": "chatglm", "hidden_size": H, "num_attention_heads": HEADS, "num_layers": LAYERS, "kv_channels": GLM_D,
    "multi_query_attention": True, "multi_query_group_num": 2, "ffn_hidden_size": F, "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True, "add_bias_linear": False, "seq_length": POSITIONS, "rmsnorm": True, "quantization_bit": 0,
}  # fmt: skip
TINY_OLD: dict[str, TinyOld] = {
    "Qwen": TinyOld(
        becomes="qwen2",
        config={**_SIZES, "model_type": "qwen", "intermediate_size": 2 * F, "kv_channels": D, "no_bias": True,
                "layer_norm_epsilon": 1e-6, "seq_length": POSITIONS, "use_logn_attn": True},
        shapes=QWEN_SHAPES,
        files={"generation_config.json": '{"chat_format": "chatml", "top_p": 0.5, "do_sample": true}'},
    ),
    "Baichuan-7B": TinyOld(
        becomes="llama", config={**_LLAMA, "model_type": "baichuan"}, shapes=BAICHUAN_SHAPES,
        files={"modeling_baichuan.py": "class RotaryEmbedding: ..."},
    ),
    "Baichuan2-7B": TinyOld(
        becomes="llama", config={**_LLAMA, "model_type": "baichuan"}, shapes=BAICHUAN_SHAPES,
        files={"modeling_baichuan.py": "class RotaryEmbedding: ...\nclass NormHead: ..."},
    ),
    "ChatGLM2": TinyOld(becomes="glm", config=_CHATGLM, shapes=CHATGLM_SHAPES),
    "ChatGLM2-32k": TinyOld(
        becomes="glm", config={**_CHATGLM, "rope_ratio": 4}, shapes=CHATGLM_SHAPES,
        files={"modeling_chatglm.py": "positions / self.rope_ratio"},
    ),
    "ChatGLM3": TinyOld(
        becomes="glm", config=_CHATGLM, shapes=CHATGLM_SHAPES,
        files={"tokenization_chatglm.py": "roles = ['<|user|>', ...]"},
    ),
    "ChatGLM3-32k": TinyOld(
        becomes="glm", config={**_CHATGLM, "rope_ratio": 50}, shapes=CHATGLM_SHAPES,
        files={"modeling_chatglm.py": "base = base * self.rope_ratio"},
    ),
    "CodeGeeX2": TinyOld(becomes="glm", config={**_CHATGLM, "torch_dtype": "bfloat16"}, shapes=CHATGLM_SHAPES),
    "Aquila2": TinyOld(
        becomes="llama", config={**_LLAMA, "model_type": "aquila", "num_key_value_heads": 2}, shapes=AQUILA_SHAPES,
    ),
    "InternLM": TinyOld(
        becomes="llama", config={**_LLAMA, "model_type": "internlm", "bias": True}, shapes=INTERNLM_SHAPES,
    ),
    "InternLM2": TinyOld(
        becomes="llama", shapes=INTERNLM2_SHAPES,
        config={**_LLAMA, "model_type": "internlm2", "num_key_value_heads": 2, "bias": False},
    ),
}  # fmt: skip
"""What people call a model -> a tiny one of its kind."""


def tiny_weights(old: TinyOld, vocabulary: int, *, scale: float, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of a standard deviation; gains of norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for pattern, shape in old.shapes.items():
        for i in range(LAYERS if "{}" in pattern else 1):
            value = torch.randn([size or vocabulary for size in shape], generator=generator) * scale
            gain = "norm" in pattern or "ln_" in pattern
            weights[pattern.replace("{}", str(i))] = value + 1 if gain else value
    return weights


def save_config(old: TinyOld, folder: Path, vocabulary: int) -> None:
    """Write config.json as the family did, and the files that decide what it is."""
    key = "padded_vocab_size" if old.config["model_type"] == "chatglm" else "vocab_size"
    config = {**old.config, key: vocabulary, "auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in old.files.items():
        (folder / name).write_text(text)


def save_tiny_old(old: TinyOld, folder: Path) -> Path:
    """Write a tiny old model with the tokenizer of tiny models and return its folder."""
    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(folder)
    save_config(old, folder, len(tokenizer))
    save_file(tiny_weights(old, len(tokenizer), scale=0.1), folder / "model.safetensors")
    return folder
