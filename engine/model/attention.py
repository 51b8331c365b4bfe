"""Attention of documents that lie side by side in one row: each document by itself.

    position_ids [0 1 2 3 0 1 2 0 1]  ->  documents of 4, 3 and 2 tokens  ->  causal sdpa of each, side by side again

With plain sdpa such a row needs a mask, and a mask makes the CPU work out all L^2 scores of the row, in vain where two
documents meet; one by one it is half the sum of l^2, and no mask is built.  It is exact, so it is used wherever a few
probe tokens come out as with plain sdpa - on the CPU: GPUs have varlen kernels for this.

L = tokens of the row, l = tokens of a document, H = heads, D = size of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_document"
"""Under which transformers finds it."""
PROBE_LENGTHS = (7, 2, 1, 5)
"""Documents of the probe row, tokens."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Share of its length that a token's last hidden state may differ by: the same sums in another order, layer by layer.
A token that sees another document differs by far more."""


def document_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """Attend within each document, causally; with a mask, or a single document per row, this is plain sdpa.

    Args:
        module: The attention layer.
        query: Shape (B, H, L, D).
        key: Shape (B, H_kv, L, D).
        value: Shape (B, H_kv, L, D).
        attention_mask: Of `document_mask`: None where documents can only be told apart by `position_ids`.
        given: What else transformers passes on; `position_ids`, shape (1 or B, L), start at 0 in every document.

    Returns:
        Shape (B, L, H, D), and no attention weights.
    """
    positions = given.get("position_ids")
    if attention_mask is None and positions is not None and positions.shape[-1] == query.shape[2] > 1:
        rows = [document_lengths(row) for row in positions]
        if any(len(lengths) > 1 for lengths in rows):
            if len(rows) == 1:
                return _one_by_one(module, query, key, value, rows[0], given), None
            parts = zip(query.split(1), key.split(1), value.split(1), rows, strict=True)
            return torch.cat([_one_by_one(module, q, k, v, lengths, given) for q, k, v, lengths in parts]), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **given)


def _one_by_one(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], given: dict[str, Any]
) -> Tensor:
    # split, not slices: a slice's gradient is a row of zeros for each document
    parts = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    return torch.cat([sdpa_attention_forward(module, q, k, v, None, **given)[0] for q, k, v in parts], dim=1)


def document_lengths(position_ids: Tensor) -> list[int]:
    """Return the tokens of each document of a row, from positions that go up by one within a document, shape (L,)."""
    ends = (torch.diff(position_ids) != 1).nonzero().flatten().tolist()
    borders = [0, *(end + 1 for end in ends), len(position_ids)]
    return [stop - start for start, stop in zip(borders, borders[1:])]


def document_mask(
    *, attention_mask: Tensor | None = None, use_vmap: bool = False, **given: Any
) -> Tensor | None:  # the signature transformers calls
    """Return no mask for whole rows without padding (`document_attention` tells documents apart), else that of sdpa."""
    if attention_mask is None and given["q_length"] == given["kv_length"] and not use_vmap:
        return None
    return sdpa_mask(attention_mask=attention_mask, use_vmap=use_vmap, **given)


def attend_by_document(model: PreTrainedModel, tell: Callable[[str], None] = lambda _: None) -> bool:
    """Let a model on the CPU attend document by document if it gives the hidden states of plain sdpa so.

    Args:
        model: Loaded with sdpa, without adapter.
        tell: Told what was decided and why.

    Returns:
        Whether it does now.
    """
    if model.config._attn_implementation != "sdpa":
        return False
    if reason := _narrow_sight(model.config):
        tell(f"Attention: sdpa with a mask over the whole row ({reason}).")
        return False
    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, document_mask)
    expected = _probe(model)
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        tell(f"Attention: sdpa with a mask over the whole row ({str(error).splitlines()[0]}).")
        return False
    difference = float(((_probe(model) - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
    if difference <= TOLERANCE.get(model.dtype, 1e-3):
        tell("Attention: document by document, without a mask.")
        return True
    model.set_attn_implementation("sdpa")
    tell(f"Attention: sdpa with a mask over the whole row (one by one, documents would differ by {difference:.2%}).")
    return False


def _narrow_sight(config: Any) -> str:
    """Return why a token may not see all that stands before it in its document, or an empty string."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        return f"some layers are {', '.join(sorted(kinds))}"
    if getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None):
        return "this family looks back only so far"
    return ""


@torch.no_grad()
def _probe(model: PreTrainedModel) -> Tensor:
    """Return the last hidden states of a row of small documents, float32, shape (L, hidden size)."""
    device = model.get_input_embeddings().weight.device
    positions = torch.cat([torch.arange(length) for length in PROBE_LENGTHS]).to(device)
    ids = torch.arange(1, len(positions) + 1, device=device) % model.config.get_text_config().vocab_size
    was_training = model.training
    model.eval()
    output = model.base_model(input_ids=ids[None], position_ids=positions[None], use_cache=False)
    model.train(was_training)
    return output.last_hidden_state[0].float()
