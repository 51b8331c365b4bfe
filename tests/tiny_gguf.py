"""A tiny Llama as llama.cpp would write it: q and k rows in its order, a byte-level vocabulary."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOKENS = (*SPECIAL, *bytes_to_unicode().values(), "th", "the")
MERGES = ("t h", "th e")


def gguf_llama(seed: int = 0, **more: object) -> LlamaForCausalLM:
    """Return a random two-layer Llama, float32, of the vocabulary `TOKENS`."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    kept = {"num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENS), **sizes, **kept, **more))


def write_gguf(path: Path, model: LlamaForCausalLM, *, kind: str = "F32", pre: str = "gpt-2", **more: object) -> Path:
    """Write a model as a GGUF file.

    Args:
        path: The file.
        model: What `gguf_llama` gave.
        kind: How matrices are held: F32, F16 or Q8_0.
        pre: The rule by which texts are cut.
        more: Values of the header: of the type str, int or float.
    """
    config = model.config
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, str(more.pop("architecture", "llama")))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(TOKENS))
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(list(MERGES))
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    adders = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
    tensors = {key: value for key, value in more.items() if isinstance(value, np.ndarray)}
    for key, value in more.items():
        if key not in tensors:
            adders[type(value)](key, value)
    for name, weight in model.state_dict().items():
        _add(writer, _name(name), _ordered(name, weight.float().numpy(), config), kind)
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, array: np.ndarray, kind: str) -> None:
    if array.ndim == 1 or kind == "F32":
        writer.add_tensor(name, array)
    elif kind == "F16":
        writer.add_tensor(name, array.astype(np.float16))
    else:
        held = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(array, held), raw_dtype=held)


def _name(name: str) -> str:
    parts = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm",
    }  # fmt: skip
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return name


def _ordered(name: str, array: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """Pair the rows of a rotated head as llama.cpp does: (first, second half) becomes (even, odd)."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            halves = array.reshape(count, 2, array.shape[0] // count // 2, array.shape[1])
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
    return array
