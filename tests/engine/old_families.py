"""Tiny models of the old families with tokenizers of their kind, and what they compute, written down from their papers.

The forward passes are plain formulas on the old tensors, without a line of the converter or of transformers:
RMSNorm x / rms(x) g; rotary positions as complex multiplication by exp(i p theta); attention head by head; MLP
down(silu(gate x) up x).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.model.convert.tiny_old import GLM_D, HEADS, LAYERS, TINY_OLD, D, F, H, save_config, tiny_weights

Weights = dict[str, Tensor]
Forward = Callable[[Weights, Tensor], Tensor]


def rms(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * gain


def rotate(x: Tensor, theta: float, *, pairs: str, dims: int, stretch: float = 1.0) -> Tensor:
    """Turn the first `dims` of x, shape (T, d), by its position; a pair is (i, i + dims/2) or (2i, 2i + 1)."""
    angles = torch.outer(torch.arange(x.shape[0]) / stretch, theta ** (-torch.arange(0, dims, 2) / dims))
    turn = torch.polar(torch.ones_like(angles), angles)
    real, rest = x[:, :dims], x[:, dims:]
    if pairs == "halves":
        turned = torch.complex(real[:, : dims // 2], real[:, dims // 2 :]) * turn
        return torch.cat([turned.real, turned.imag, rest], 1)
    turned = torch.view_as_complex(real.reshape(x.shape[0], dims // 2, 2).contiguous()) * turn
    return torch.cat([torch.view_as_real(turned).reshape(x.shape[0], dims), rest], 1)


def attend(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Tensor:
    """Causal attention, query head by query head; several of them may share a key head."""
    out = []
    for i, query in enumerate(q):
        shared = i * len(k) // len(q)
        scores = query @ k[shared].T / query.shape[1] ** 0.5
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
        out.append(scores.softmax(1) @ v[shared])
    return torch.cat(out, 1)


def gated(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    g = x @ gate.T
    return (g * torch.sigmoid(g) * (x @ up.T)) @ down.T


def _heads(x: Tensor, count: int, turn: Callable[[Tensor], Tensor] = lambda x: x) -> list[Tensor]:
    return [turn(part) for part in x.chunk(count, dim=1)]


def _halves(x: Tensor) -> Tensor:
    return rotate(x, 10000.0, pairs="halves", dims=D)


# --- Qwen 1


def qwen(w: Weights, tokens: Tensor) -> Tensor:
    x = w["transformer.wte.weight"][tokens]
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        y = rms(x, w[f"{p}ln_1.weight"], 1e-6) @ w[f"{p}attn.c_attn.weight"].T + w[f"{p}attn.c_attn.bias"]
        q, k, v = y[:, :H], y[:, H : 2 * H], y[:, 2 * H :]
        x = (
            x
            + attend(_heads(q, HEADS, _halves), _heads(k, HEADS, _halves), _heads(v, HEADS))
            @ w[f"{p}attn.c_proj.weight"].T
        )
        y = rms(x, w[f"{p}ln_2.weight"], 1e-6)
        x = x + gated(y, w[f"{p}mlp.w2.weight"], w[f"{p}mlp.w1.weight"], w[f"{p}mlp.c_proj.weight"])
    return rms(x, w["transformer.ln_f.weight"], 1e-6) @ w["lm_head.weight"].T


# --- everything that is a llama under other names


def _llama(w: Weights, tokens: Tensor, project: Callable[[Tensor, str], tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Everything but the head; `project` gives q, k and v."""
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        q, k, v = project(rms(x, w[f"{p}input_layernorm.weight"], 1e-6), f"{p}self_attn.")
        groups = k.shape[1] // D
        y = attend(_heads(q, HEADS, _halves), _heads(k, groups, _halves), _heads(v, groups))
        x = x + y @ w[f"{p}self_attn.o_proj.weight"].T + w.get(f"{p}self_attn.o_proj.bias", torch.zeros(()))
        y = rms(x, w[f"{p}post_attention_layernorm.weight"], 1e-6)
        x = x + gated(y, *(w[f"{p}mlp.{part}_proj.weight"] for part in ("gate", "up", "down")))
    return rms(x, w["model.norm.weight"], 1e-6)


def _packed(w: Weights) -> Callable[[Tensor, str], tuple[Tensor, Tensor, Tensor]]:
    return lambda x, p: (x @ w[f"{p}W_pack.weight"].T).split(H, dim=1)


def _apart(w: Weights) -> Callable[[Tensor, str], tuple[Tensor, ...]]:
    def project(x: Tensor, p: str) -> tuple[Tensor, ...]:
        return tuple(x @ w[f"{p}{n}_proj.weight"].T + w.get(f"{p}{n}_proj.bias", torch.zeros(())) for n in "qkv")

    return project


def baichuan(w: Weights, tokens: Tensor) -> Tensor:
    return _llama(w, tokens, _packed(w)) @ w["lm_head.weight"].T


def baichuan2(w: Weights, tokens: Tensor) -> Tensor:
    rows = w["lm_head.weight"]
    return _llama(w, tokens, _packed(w)) @ (rows / (rows * rows).sum(1, keepdim=True).sqrt()).T


def llama(w: Weights, tokens: Tensor) -> Tensor:
    return _llama(w, tokens, _apart(w)) @ w["lm_head.weight"].T


# --- InternLM2: two key heads, each packed with its two queries


def internlm2(w: Weights, tokens: Tensor) -> Tensor:
    x = w["model.tok_embeddings.weight"][tokens]
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        y = rms(x, w[f"{p}attention_norm.weight"], 1e-6) @ w[f"{p}attention.wqkv.weight"].T
        q0, q1, k0, v0, q2, q3, k1, v1 = y.split(D, dim=1)
        y = attend([_halves(q) for q in (q0, q1, q2, q3)], [_halves(k0), _halves(k1)], [v0, v1])
        x = x + y @ w[f"{p}attention.wo.weight"].T
        y = rms(x, w[f"{p}ffn_norm.weight"], 1e-6)
        x = x + gated(y, *(w[f"{p}feed_forward.{part}.weight"] for part in ("w1", "w3", "w2")))
    return rms(x, w["model.norm.weight"], 1e-6) @ w["output.weight"].T


# --- ChatGLM2 and 3: heads of 8, two key heads, half of each head turned, neighbours as pairs


def chatglm(w: Weights, tokens: Tensor, theta: float = 10000.0, stretch: float = 1.0) -> Tensor:
    def turn(x: Tensor) -> Tensor:
        return rotate(x, theta, pairs="neighbours", dims=GLM_D // 2, stretch=stretch)

    x, n = w["transformer.embedding.word_embeddings.weight"][tokens], HEADS * GLM_D
    for i in range(LAYERS):
        p = f"transformer.encoder.layers.{i}."
        y = rms(x, w[f"{p}input_layernorm.weight"], 1e-5) @ w[f"{p}self_attention.query_key_value.weight"].T
        y = y + w[f"{p}self_attention.query_key_value.bias"]
        q, k, v = y.split([n, 2 * GLM_D, 2 * GLM_D], dim=1)
        y = attend(_heads(q, HEADS, turn), _heads(k, 2, turn), _heads(v, 2))
        x = x + y @ w[f"{p}self_attention.dense.weight"].T
        y = rms(x, w[f"{p}post_attention_layernorm.weight"], 1e-5)
        wide = w[f"{p}mlp.dense_h_to_4h.weight"]
        x = x + gated(y, wide[:F], wide[F:], w[f"{p}mlp.dense_4h_to_h.weight"])
    return rms(x, w["transformer.encoder.final_layernorm.weight"], 1e-5) @ w["transformer.output_layer.weight"].T


FORWARD: dict[str, Forward] = {
    "Qwen": qwen,
    "Baichuan-7B": baichuan,
    "Baichuan2-7B": baichuan2,
    "ChatGLM2": chatglm,
    "ChatGLM2-32k": lambda w, tokens: chatglm(w, tokens, stretch=4.0),
    "ChatGLM3": chatglm,
    "ChatGLM3-32k": lambda w, tokens: chatglm(w, tokens, theta=500000.0),
    "CodeGeeX2": chatglm,
    "Aquila2": llama,
    "InternLM": llama,
    "InternLM2": internlm2,
}
"""Name of a tiny model -> the logits, shape (T, V), of its old weights and token ids, shape (T,)."""


def save_old(name: str, folder: Path, *, kind: str = "safetensors", shards: int = 1) -> Weights:
    """Write a tiny old model with a tokenizer of its family's kind and return its weights.

    They are so large that a wrong layout shows in the logits.
    """
    folder.mkdir(parents=True)
    make = {"Qwen": save_tiktoken, "Aquila2": save_pairs}.get(name, save_sentencepiece)
    rows = make(folder) + 230  # room for special tokens, more than there are
    save_config(TINY_OLD[name], folder, rows)
    weights = tiny_weights(TINY_OLD[name], rows, scale=0.3)
    save_weights(weights, folder, kind=kind, shards=shards)
    return weights


def save_weights(weights: Weights, folder: Path, *, kind: str, shards: int = 1) -> None:
    """Write weights in some files, with an index if there are several."""
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names, places = list(weights), {}
    for i in range(shards):
        part = {name: weights[name].contiguous() for name in names[i::shards]}
        file = f"{stem}.{kind}" if shards == 1 else f"{stem}-{i + 1:05}-of-{shards:05}.{kind}"
        places |= dict.fromkeys(part, file)
        if kind == "safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
    if shards > 1:
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": places}))


TEXTS = [
    *Path(__file__).read_text(encoding="utf-8").splitlines(),
    *["philosophy of people", "中文分词测试", "say 1 2 3"] * 9,
]  # fmt: skip


def save_sentencepiece(folder: Path, **settings: object) -> int:
    """Train a tiny sentencepiece on this file and return its number of pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for text in TEXTS if text.strip()), model_writer=model,
        **{"vocab_size": 480, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
           "remove_extra_whitespaces": False, "minloglevel": 2, "num_threads": 1, **settings},
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()


def save_tiktoken(folder: Path) -> int:
    """Write a tiny qwen.tiktoken: 256 bytes, then pairs that occur in this file; returns its number of ranks."""
    ranks = [bytes([i]) for i in range(256)]
    for word in (
        "th",
        "the",
        "in",
        "re",
        "er",
        " t",
        " the",
        "on",
        "an",
        "at",
        "se",
        "sel",
        "self",
        "  ",
        "    ",
        "中",
    ):
        ranks.append(word.encode() if word != "中" else "中".encode()[:2])
    ranks.append("中".encode())
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks)]
    (folder / "qwen.tiktoken").write_text("\n".join(lines) + "\n")
    return len(ranks)


def save_pairs(folder: Path) -> int:
    """Train a tiny GPT-2 tokenizer on this file, with Aquila's kind of added tokens; returns its size."""
    from tokenizers import ByteLevelBPETokenizer

    pairs = ByteLevelBPETokenizer()
    pairs.train_from_iterator(TEXTS, vocab_size=400, show_progress=False)
    pairs.save_model(str(folder))
    size = pairs.get_vocab_size()
    added = {"[CLS]": size, "</s>": size + 1}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "[CLS]", "eos_token": "</s>"}))
    return size + 2
