"""The peak memory of one process of a run, part by part, each as a range.

    config.json values + Recipe + device [+ tokens of a micro-batch] -> MemoryEstimate        arithmetic only, no torch

What is counted is what this engine does: no logits are kept (`engine.train.kernel`) unless the output head has an
adapter, documents attend by themselves,
on the CPU LoRA's layers keep their input once (`engine.model.low_rank`).  `benchmarks/memory_fit.py` compares the
ranges with measured peaks.

N = tokens in a micro-batch, H = hidden size, A = query size, K = key size, I = MLP width, L = layers, V = vocabulary.
All sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.contract.model_facts import UNGATED_MLP, adapts_head, config_size, count_parameters, num_trainable
from engine.contract.recipe import Recipe

GIB = 2**30
Device = Literal["cuda", "cpu"]
NF4_BYTES, NF4_STATE_BYTES = 0.5, 1 / 64 + 1 / 2048
"""Bytes per weight in 4-bit NormalFloat, and of its block scales, themselves in 8 bit (double quantization)."""
OPTIMIZER_BYTES = {"adamw_torch": (8, 8), "adamw_8bit": (2, 2), "paged_adamw_8bit": (0, 2), "paged_adamw_32bit": (0, 8)}
"""AdamW's two moments per trained weight; paged ones leave a GPU that is full."""
SAVED_BYTES = {
    ("joined", 2): (16, 4, 8), ("joined", 4): (24, 8, 16),
    ("peft", 2): (36, 4, 10), ("peft", 4): (24, 8, 16),
    ("full", 2): (30, 4, 8), ("full", 4): (32, 8, 16),
}  # fmt: skip
"""(LoRA in one piece, as peft computes it, or all weights; bytes of the computing type) -> bytes kept for the backward
pass per token and layer for each of H, K and I; counted with `saved_tensors_hooks` on llamas of several shapes."""
ACTIVATION_RANGE: dict[Device, tuple[float, float]] = {"cpu": (1.1, 1.7), "cuda": (1.0, 1.3)}
"""What the peak is relative to what is kept: temporary arrays, and on the CPU room that malloc does not give back."""
RECOMPUTED_LAYERS: dict[Device, tuple[float, float]] = {"cpu": (1.5, 6.0), "cuda": (1.0, 2.0)}
"""The same with gradient checkpointing, relative to one layer."""
BASE_BYTES: dict[Device, tuple[int, int]] = {
    "cpu": (int(0.3 * GIB), int(0.75 * GIB)),
    "cuda": (GIB // 8, int(1.2 * GIB)),
}
"""Python and its libraries; on a GPU the CUDA context and the libraries' workspaces."""
CHUNK_BYTES = 1 << 25
"""Logits that the loss kernel holds at once, float32."""
LOGIT_BYTES = 12
"""Per logit where they are kept: itself, its log softmax and its gradient, in float32 or at times two in 16 bit."""
SHORTEST_SHARE = {"bfd": 0.8}
"""Smallest micro-batch to be expected, as a share of what `max_length` allows, while the rows are not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Peak memory of one device, as a range."""

    ranges: tuple[tuple[str, int, int], ...]
    """What it is made of: name, low and high end, in bytes."""
    num_past_runs: int = 0
    """Earlier runs of this machine that it was corrected by."""

    @property
    def low_bytes(self) -> int:
        """The low end."""
        return sum(low for _, low, _ in self.ranges)

    @property
    def high_bytes(self) -> int:
        """The high end."""
        return sum(high for _, _, high in self.ranges)

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """What the high end is made of, in bytes."""
        return tuple((name, high) for name, _, high in self.ranges)

    @property
    def text(self) -> str:
        """`9-12 GiB`."""
        return range_text(self.low_bytes, self.high_bytes)

    def between(self, low: float, high: float, *, num_past_runs: int) -> MemoryEstimate:
        """Return the part of the range between two places of it: 0 is its low end, 1 its high end."""
        ranges = tuple((name, int(a + low * (b - a)), int(a + high * (b - a))) for name, a, b in self.ranges)
        return MemoryEstimate(ranges=ranges, num_past_runs=num_past_runs)


def range_text(low: int, high: int) -> str:
    """Write a range of bytes as `9-12 GiB`."""
    a, b = gib_text(low), gib_text(high)
    return f"{b} GiB" if a == b else f"{a}-{b} GiB"


def gigabytes(size: int) -> str:
    """Write bytes as GiB of 2**30, one decimal below ten."""
    return f"{gib_text(size)} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.0f} MiB"


def gib_text(size: int) -> str:
    """Write bytes in units of 2**30 as a number, one decimal below ten."""
    value = size / GIB
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def estimate_memory(
    recipe: Recipe,
    config: Mapping[str, Any],
    *,
    device: Device = "cuda",
    native_bf16: bool = True,
    tokens: tuple[int, int] | None = None,
) -> MemoryEstimate:
    """Estimate the peak memory of one process that holds everything.

        weights       full: 4 bytes each (float32 masters); else 2, or 4 where the device has no bfloat16;
                      `qlora`: 0.5 for attention, MLP and experts, and 1/64 of quantization state
        16-bit copy   full in bfloat16: the matrices as they compute
        unpacked      `qlora`: the experts of one layer, or the largest matrix, while they compute
        gradients     4 per trained weight, with more than one process once more to send them;  optimizer: 8, or 2
        activations   N * L * (c_H H + c_K K + c_I I), or N * L * H and some layers with gradient checkpointing
        attention     scores (eager) or masks where documents cannot attend one by one, N^2
        loss          a chunk of logits, the gradient of the hidden states, and that of a trained head
        logits        with an adapter on the output head: at most N * V in float32, three times

    Args:
        recipe: The recipe.
        config: Values of the model's config.json.
        device: Where it runs.
        native_bf16: Whether the device multiplies bfloat16 natively, which decides `dtype: auto`.
        tokens: Fewest and most tokens that the largest micro-batch may hold; None = from `max_length`.

    Raises:
        UserError: If the config lacks a size.
    """
    count, trained = count_parameters(config), num_trainable(recipe, config)
    config = config.get("text_config") or config
    full, qlora = recipe.method == "full", recipe.method == "qlora"
    number = 4 if recipe.model.dtype == "float32" or (recipe.model.dtype == "auto" and not native_bf16) else 2
    most = recipe.optim.per_device_train_batch_size * recipe.data.max_length
    tokens = tokens or (int(SHORTEST_SHARE.get(recipe.data.packing, 0.25) * most), most)
    hidden, vocab = config_size(config, "hidden_size", "n_embd", "d_model"), config_size(config, "vocab_size")
    layers = config_size(config, "num_hidden_layers", "n_layer")
    quantized = count.quantized if qlora else 0
    weights = int(NF4_BYTES * quantized) + (4 if full else number) * (count.total - quantized)
    whole = number * (count.experts // layers or max(vocab * hidden, count.mlp // layers // 3)) if qlora else 0
    moments = OPTIMIZER_BYTES[recipe.optim.optimizer]
    head = 4 * vocab * hidden if full else 0
    loss = [CHUNK_BYTES + 4 * hidden * n for n in tokens]
    known = {
        "weights": weights,
        "quantization": int(NF4_STATE_BYTES * quantized),
        "unpacked": whole,
        "16-bit copy": 2 * count.active if full and number == 2 else 0,
        "adapter": 0 if full else 4 * trained,
        "gradients": 4 * trained,
        "sent gradients": 4 * trained if recipe.launch.num_processes > 1 else 0,
    }
    logits = LOGIT_BYTES * tokens[1] * vocab if adapts_head(recipe) else 0  # low end: hardly a token is supervised
    base = BASE_BYTES[device]
    ranges: list[tuple[str, int, int]] = [
        *((name, size, size) for name, size in known.items()),
        ("optimizer", moments[0] * trained, moments[1] * trained),
        ("activations", *_activations(recipe, config, tokens, number, device)),
        ("attention", *_attention(recipe, config, tokens, number, device)),
        ("loss", loss[0], 2 * (loss[1] + head)),
        ("logits", 0, logits),
        ("overhead", base[0], base[1] + weights // 20),
    ]
    return MemoryEstimate(ranges=tuple(part for part in ranges if part[2]))


def _activations(
    recipe: Recipe, config: Mapping[str, Any], tokens: tuple[int, int], number: int, device: Device
) -> tuple[int, int]:
    """Return what the layers keep for the backward pass."""
    hidden, layers = (
        config_size(config, "hidden_size", "n_embd", "d_model"),
        config_size(config, "num_hidden_layers", "n_layer"),
    )
    heads = config_size(config, "num_attention_heads", "n_head")
    head_dim = config_size(config, "head_dim", default=max(1, hidden // heads))
    keys = head_dim * config_size(config, "num_key_value_heads", default=heads)
    inner = config_size(config, "intermediate_size", "n_inner", default=4 * hidden)
    per_token = 0.0
    if config_size(config, "num_local_experts", "num_experts", "n_routed_experts", default=0):
        chosen = config_size(config, "num_experts_per_tok", default=2)
        inner = config_size(config, "moe_intermediate_size", default=inner) * chosen
        inner += config_size(config, "shared_expert_intermediate_size", default=0)
        per_token = 3 * number * chosen * hidden  # each token once for each of its experts
    joined = device == "cpu" and recipe.method == "lora" and not (recipe.lora.lora_dropout or recipe.lora.use_dora)
    kind = "full" if recipe.method == "full" else "joined" if joined else "peft"
    for_hidden, for_keys, for_inner = SAVED_BYTES[kind, number]
    for_inner = for_inner // 2 if config.get("model_type") in UNGATED_MLP else for_inner
    wide = 2 * number * (heads * head_dim - hidden)  # queries and what they find are as wide as the heads
    per_token += for_hidden * hidden + for_keys * keys + for_inner * inner + max(0, wide)
    if recipe.lora.lora_dropout and kind != "full":
        per_token += (8 if device == "cpu" else 5) * (6 * hidden + inner)  # mask and result of each layer's dropout
    low, high = RECOMPUTED_LAYERS[device] if recipe.model.gradient_checkpointing else ACTIVATION_RANGE[device]
    high *= 1.4 if recipe.method == "qlora" and device == "cpu" else 1.0  # dequantized once more on the way back
    if recipe.model.gradient_checkpointing:
        kept = layers * hidden * number
        return int(tokens[0] * (kept + low * per_token)), int(tokens[1] * (kept + high * per_token))
    return int(low * layers * tokens[0] * per_token), int(high * layers * tokens[1] * per_token)


def _attention(
    recipe: Recipe, config: Mapping[str, Any], tokens: tuple[int, int], number: int, device: Device
) -> tuple[int, int]:
    """Return what attention keeps besides: scores of whole rows, or masks over them."""
    layers = 1 if recipe.model.gradient_checkpointing else config_size(config, "num_hidden_layers", "n_layer")
    padded = recipe.data.packing in ("padding", "length_grouped")
    rows = recipe.optim.per_device_train_batch_size if padded else 1
    squares = [n * n // rows for n in tokens]
    if recipe.model.attn_implementation == "eager":
        each = layers * config_size(config, "num_attention_heads", "n_head") * (4 if number == 4 else 6)
        return each * squares[0], int(1.5 * each * squares[1])
    narrow = bool(config.get("sliding_window")) and config.get("use_sliding_window", True) is not False
    flash = recipe.model.attn_implementation == "flash_attention_2"
    if flash or (device == "cpu" and not narrow):
        return 0, 0
    return squares[0], (1 + layers * number) * squares[1]
