"""The old families, one function each: their configuration -> native class, its configuration, the table of tensors.

Qwen 1 -> qwen2.  Baichuan 7B, Aquila, InternLM, InternLM2 -> llama.  ChatGLM2 and 3, CodeGeeX2 -> glm.

What decides between variants is read in the configuration or, as text, in the modeling file beside it; that file is
never run.  A variant that the native class cannot express is refused, never approximated.

Sources: the published modeling files and configurations of the families; h = hidden size, d = size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from engine.model.convert.layout import LLAMA_NAMES, Layout, Native, Split, Unsupported, split_rows

Config = Mapping[str, Any]
ROPE_BASE = 10000.0


def native_of(config: Config, folder: Path) -> Native:
    """Return what a checkpoint of an old family becomes.

    Args:
        config: Its config.json; `model_type` is a key of `OLD_FAMILIES`.
        folder: Where its modeling file may lie.

    Raises:
        Unsupported: If no native class computes the same.
    """
    if config.get("quantization_config") or config.get("quantization_bit"):
        raise Unsupported("Its weights are quantized.", "convert the unquantized release of the same model.")
    for part in ("visual", "vision_config", "audio"):
        if config.get(part):
            raise Unsupported("It also sees or hears; only language models are converted.", "choose a text model.")
    sources = sorted(folder.glob("modeling_*.py"))
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sources)
    return OLD_FAMILIES[str(config["model_type"])](config, text)


def _qwen(config: Config, _: str) -> Native:
    """c_attn is q, k, v, h rows each; the MLP is c_proj(w1(x) silu(w2(x))), half of `intermediate_size` wide."""
    h, heads = config["hidden_size"], config["num_attention_heads"]
    if config.get("kv_channels", h // heads) * heads != h or config.get("rotary_pct", 1.0) != 1.0:
        raise Unsupported(
            "Its heads or rotary positions are cut in a way no published Qwen has.", "use a published one."
        )
    if not config.get("no_bias", True):
        raise Unsupported("It has biases where qwen2 has none (`no_bias` is false).", "use a published Qwen.")
    length = int(config.get("seq_length") or config["max_position_embeddings"])
    old, new = "transformer.h.{}.", "model.layers.{}."
    names = {
        "transformer.wte.weight": "model.embed_tokens.weight",
        "transformer.ln_f.weight": "model.norm.weight",
        "lm_head.weight": "lm_head.weight",
        f"{old}ln_1.weight": f"{new}input_layernorm.weight",
        f"{old}ln_2.weight": f"{new}post_attention_layernorm.weight",
        f"{old}attn.c_proj.weight": f"{new}self_attn.o_proj.weight",
        f"{old}mlp.w1.weight": f"{new}mlp.up_proj.weight",
        f"{old}mlp.w2.weight": f"{new}mlp.gate_proj.weight",
        f"{old}mlp.c_proj.weight": f"{new}mlp.down_proj.weight",
    }
    packed = {f"{old}attn.c_attn.{kind}": split_rows(*_qkv(h, h, kind)) for kind in ("weight", "bias")}
    notes = ()
    if config.get("use_dynamic_ntk") or config.get("use_logn_attn"):
        notes = (
            f"It is exact up to {length} tokens. Beyond them Qwen stretched its attention (dynamic NTK, log n), which "
            "qwen2 does not; max_position_embeddings says so.",
        )
    native = {
        **_sizes(config),
        "intermediate_size": config["intermediate_size"] // 2,
        "num_hidden_layers": config["num_hidden_layers"],
        "num_key_value_heads": heads,
        "rms_norm_eps": config.get("layer_norm_epsilon", 1e-6),
        "rope_theta": float(config.get("rotary_emb_base", ROPE_BASE)),
        "max_position_embeddings": length,
        "use_sliding_window": False,
    }
    return Native(model_type="qwen2", config=native, layout=Layout(names=names, packed=packed), notes=notes)


def _baichuan(config: Config, text: str) -> Native:
    """W_pack is q, k, v, h rows each.  The head of Baichuan2 divides its rows by their length: stored that way."""
    by_class = (config.get("architectures") or [""])[0] == "BaiChuanForCausalLM"
    rotary = "RotaryEmbedding" in text if text else by_class or bool(config.get("max_position_embeddings"))
    if not rotary or "alibi" in text.lower():
        raise Unsupported(
            "It is a Baichuan 13B: its positions are ALiBi slopes, and no class of transformers has those together "
            "with its gated MLP and RMSNorm.",
            "use Baichuan-7B or Baichuan2-7B, which convert, or a model of that size such as Qwen2.5-14B.",
        )
    h = config["hidden_size"]
    known = {64000: False, 125696: True}.get(config["vocab_size"])
    normalized = "NormHead" in text if text else known
    if normalized is None:
        raise Unsupported(
            f"Whether its output head is normalized (Baichuan2) cannot be told from a vocabulary of "
            f"{config['vocab_size']}.",
            "put its modeling_baichuan.py into the folder: it is read, never run.",
        )
    packed: dict[str, Split] = {"model.layers.{}.self_attn.W_pack.weight": split_rows(*_qkv(h, h, "weight"))}
    if normalized:
        packed["lm_head.weight"] = _normalized_head
    native = {
        **_sizes(config),
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "max_position_embeddings": config.get("max_position_embeddings") or config.get("model_max_length", 4096),
    }
    notes = (
        ("Baichuan2's head is stored normalized. A full fine-tuning trains it as a plain one.",) if normalized else ()
    )
    return Native(model_type="llama", config=native, layout=Layout(names=LLAMA_NAMES, packed=packed), notes=notes)


def _normalized_head(weight: Tensor) -> Mapping[str, Tensor]:
    return {"lm_head.weight": normalize(weight.float(), dim=1).to(weight.dtype)}


def _chatglm(config: Config, text: str) -> Native:
    """query_key_value is q (all heads), k, v (the groups); dense_h_to_4h is gate, then up, as glm has it."""
    if config.get("position_encoding_2d") or "num_layers" not in config or "inner_hidden_size" in config:
        raise Unsupported(
            "It is the first ChatGLM: no class of transformers has its two-dimensional positions and prefix attention.",
            "use ChatGLM2 or ChatGLM3, which convert, or GLM-4.",
        )
    if config["padded_vocab_size"] > 100_000:
        raise Unsupported(
            "It is a GLM-4, which is published for transformers' own class too.",
            "use the repository whose name ends in -hf, such as zai-org/glm-4-9b-chat-hf.",
        )
    wanted = {
        "rmsnorm": True, "post_layer_norm": True, "multi_query_attention": True, "add_bias_linear": False,
        "apply_residual_connection_post_layernorm": False, "fp32_residual_connection": False,
    }  # fmt: skip
    if wrong := [name for name, value in wanted.items() if bool(config.get(name, value)) != value]:
        raise Unsupported(
            f"Its config.json sets {', '.join(wrong)} as no published ChatGLM does.", "use a published one."
        )
    if config.get("pre_seq_len"):
        raise Unsupported("It is a P-tuning prefix (`pre_seq_len`).", "convert the model it was made for.")
    d, heads, groups = config["kv_channels"], config["num_attention_heads"], config["multi_query_group_num"]
    bias = bool(config.get("add_qkv_bias", False))
    old, new = "transformer.encoder.layers.{}.", "model.layers.{}."
    names = {
        "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
        "transformer.encoder.final_layernorm.weight": "model.norm.weight",
        "transformer.output_layer.weight": "lm_head.weight",
        f"{old}input_layernorm.weight": f"{new}input_layernorm.weight",
        f"{old}post_attention_layernorm.weight": f"{new}post_attention_layernorm.weight",
        f"{old}self_attention.dense.weight": f"{new}self_attn.o_proj.weight",
        f"{old}mlp.dense_h_to_4h.weight": f"{new}mlp.gate_up_proj.weight",
        f"{old}mlp.dense_4h_to_h.weight": f"{new}mlp.down_proj.weight",
    }
    kinds = ("weight", "bias") if bias else ("weight",)
    packed = {
        f"{old}self_attention.query_key_value.{kind}": split_rows(*_qkv(heads * d, groups * d, kind)) for kind in kinds
    }
    native = {
        "vocab_size": config["padded_vocab_size"],
        "hidden_size": config["hidden_size"],
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "num_hidden_layers": config["num_layers"],
        "intermediate_size": config["ffn_hidden_size"],
        "head_dim": d,
        "attention_bias": bias,
        "attention_dropout": 0.0,
        "rms_norm_eps": config.get("layernorm_epsilon", 1e-5),
        "max_position_embeddings": config["seq_length"],
        "tie_word_embeddings": False,
        "rope_parameters": _chatglm_rope(config, text),
    }
    return Native(model_type="glm", config=native, layout=Layout(names=names, packed=packed))


def _chatglm_rope(config: Config, text: str) -> dict[str, Any]:
    """Return the positions; of the long variants ChatGLM2's divides positions, ChatGLM3's multiplies the base."""
    ratio = float(config.get("rope_ratio", 1))
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": ROPE_BASE, "partial_rotary_factor": 0.5}
    if ratio == 1:
        return rope
    if "base * self.rope_ratio" in text:
        return {**rope, "rope_theta": ROPE_BASE * ratio}
    if "/ self.rope_ratio" in text:
        return {**rope, "rope_type": "linear", "factor": ratio}
    raise Unsupported(
        f"Its rope_ratio {ratio:g} means one thing in ChatGLM2 and another in ChatGLM3.",
        "put its modeling_chatglm.py into the folder: it is read, never run.",
    )


def _aquila(config: Config, _: str) -> Native:
    """A llama in all but name."""
    return Native(model_type="llama", config=_llama_like(config), layout=Layout(names=LLAMA_NAMES))


def _internlm(config: Config, _: str) -> Native:
    """A llama with biases in its attention."""
    native = {**_llama_like(config), "attention_bias": bool(config.get("bias", True))}
    return Native(model_type="llama", config=native, layout=Layout(names=LLAMA_NAMES))


def _internlm2(config: Config, _: str) -> Native:
    """wqkv holds, for each key-value head, its queries, its key and its value; w1 is the gate, w3 up, w2 down."""
    h, heads = config["hidden_size"], config["num_attention_heads"]
    groups, d = config.get("num_key_value_heads") or heads, h // heads
    old, new = "model.layers.{}.", "model.layers.{}."
    names = {
        "model.tok_embeddings.weight": "model.embed_tokens.weight",
        "model.norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
        f"{old}attention_norm.weight": f"{new}input_layernorm.weight",
        f"{old}ffn_norm.weight": f"{new}post_attention_layernorm.weight",
        f"{old}attention.wo.weight": f"{new}self_attn.o_proj.weight",
        f"{old}attention.wo.bias": f"{new}self_attn.o_proj.bias",
        f"{old}feed_forward.w1.weight": f"{new}mlp.gate_proj.weight",
        f"{old}feed_forward.w3.weight": f"{new}mlp.up_proj.weight",
        f"{old}feed_forward.w2.weight": f"{new}mlp.down_proj.weight",
    }

    def unpack(kind: str) -> Split:
        def apply(value: Tensor) -> Mapping[str, Tensor]:
            grouped = value.reshape(groups, heads // groups + 2, d, *value.shape[1:])
            parts = {"q": grouped[:, :-2], "k": grouped[:, -2], "v": grouped[:, -1]}
            rest = value.shape[1:]
            return {f"{new}self_attn.{name}_proj.{kind}": part.reshape(-1, *rest) for name, part in parts.items()}

        return apply

    packed = {f"{old}attention.wqkv.{kind}": unpack(kind) for kind in ("weight", "bias")}
    native = {**_llama_like(config), "attention_bias": bool(config.get("bias", False))}
    return Native(model_type="llama", config=native, layout=Layout(names=names, packed=packed))


def _qkv(queries: int, keys: int, kind: str) -> tuple[tuple[str, int], ...]:
    sizes = {"q": queries, "k": keys, "v": keys}
    return tuple((f"model.layers.{{}}.self_attn.{part}_proj.{kind}", size) for part, size in sizes.items())


def _sizes(config: Config) -> dict[str, Any]:
    """Return what all of them call alike."""
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "num_attention_heads": config["num_attention_heads"],
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
    }


def _llama_like(config: Config) -> dict[str, Any]:
    """Return the configuration of a family that says everything as llama does."""
    if config.get("hidden_act", "silu") != "silu":
        raise Unsupported(
            f"Its activation {config['hidden_act']} is none a published model has.", "use a published one."
        )
    return {
        **_sizes(config),
        "intermediate_size": config["intermediate_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_key_value_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "rope_theta": float(config.get("rope_theta") or ROPE_BASE),
        "max_position_embeddings": config["max_position_embeddings"],
        **({"rope_scaling": dict(config["rope_scaling"])} if config.get("rope_scaling") else {}),
    }


OLD_FAMILIES: dict[str, Callable[[Config, str], Native]] = {
    "qwen": _qwen,
    "baichuan": _baichuan,
    "chatglm": _chatglm,
    "aquila": _aquila,
    "internlm": _internlm,
    "internlm2": _internlm2,
}
"""`model_type` of config.json -> what becomes of it."""
