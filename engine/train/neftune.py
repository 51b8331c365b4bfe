"""NEFTune for packed rows: uniform noise on the embeddings while training, scaled by each example's own length.

    noise ~ U(-1, 1) * alpha / sqrt(L d)          L = tokens of the example, d = hidden size

transformers' own hook takes the length of the row for L; a padding-free row holds many examples, so its noise would be
too small by the square root of their number.  Source: Jain et al. 2023, arXiv:2310.05914.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def add_neftune(model: Any, alpha: float) -> None:
    """Put the noise on a model's input embeddings.

    Args:
        model: A causal language model, with or without adapter, called with `position_ids` or `attention_mask`.
        alpha: Strength of the noise.
    """
    seen: dict[str, Tensor] = {}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.clear()
        if module.training:
            seen["length"] = example_lengths(kwargs.get("position_ids"), kwargs.get("attention_mask"))

    def disturb(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if "length" not in seen:
            return output
        size = alpha / torch.sqrt(seen["length"] * output.shape[-1])
        return output + torch.empty_like(output).uniform_(-1, 1) * size[..., None].to(output.dtype)

    model.register_forward_pre_hook(look, with_kwargs=True)
    model.get_input_embeddings().register_forward_hook(disturb)


def example_lengths(position_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
    """Return the number of tokens of each token's example, shape [B, L].

    Args:
        position_ids: Restarting at 0 with each example of a padding-free row, shape [1, L].
        attention_mask: 1 for the tokens of the row's one example, shape [B, L]; used if there are no position ids.
    """
    if position_ids is None:
        assert attention_mask is not None
        return attention_mask.sum(dim=1, keepdim=True).expand_as(attention_mask)
    example = (position_ids[0] == 0).cumsum(0) - 1
    count = torch.zeros_like(example).index_add(0, example, torch.ones_like(example))
    return count[example][None]
