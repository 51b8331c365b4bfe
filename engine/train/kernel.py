"""Cross entropy of a linear head without its logits: chunk by chunk, the gradient made in the forward pass.

    for each chunk of rows:  z = h W' -> nll;  dz = c (softmax(z) - onehot) -> dh = dz W, dW += dz' h;  z is thrown away

That is possible because the coefficients c are known before the forward pass (`engine.train.loss`).  Memory beyond the
gradient of the hidden states is a chunk of logits, whatever the number of tokens.

M = supervised tokens, H = hidden size, V = vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 23
"""Logits that are held at once: 32 MiB in float32."""


class _WeightedTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, coefficients: Tensor,
        cap: float, with_grad: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wants_hidden, wants_weight, wants_bias = (with_grad and needed for needed in ctx.needs_input_grad[:3])
        compute = _compute_dtype(hidden, weight)
        matrix, rows = weight.to(compute), max(16, CHUNK_ELEMENTS // weight.shape[0])
        nll = torch.empty(len(targets), dtype=coefficients.dtype, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=coefficients.dtype) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=coefficients.dtype) if bias is not None and wants_bias else None
        wants_any = wants_hidden or wants_weight or wants_bias
        # every chunk is computed in the same place: a new one would be held beside the one before
        products = matrix.new_empty(min(rows, len(targets)), len(matrix))
        exact = products if compute == nll.dtype else torch.empty_like(products, dtype=nll.dtype)
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            h = hidden[part].to(compute)
            product, z = products[: len(h)], exact[: len(h)]
            torch.mm(h, matrix.T, out=product)
            if z.dtype != product.dtype:
                z.copy_(product)
            nll[part] = _nll_and_gradient(z, bias, targets[part], coefficients[part], cap, wants_any)
            if not wants_any:
                continue
            if grad_bias is not None:
                grad_bias += z.sum(dim=0)
            dz = z if z.dtype == product.dtype else product.copy_(z)
            if grad_hidden is not None:
                grad_hidden[part] = dz @ matrix
            if grad_weight is not None and grad_weight.dtype == h.dtype:
                grad_weight.addmm_(dz.T, h)  # no second [V, H] for the sum
            elif grad_weight is not None:
                grad_weight += dz.T @ h
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, bias.dtype if bias is not None else None)
        ctx.mark_non_differentiable(nll)
        return (nll * coefficients).sum(), nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the loss kernel keeps its gradient for one backward pass only")
        scaled = (  # in place: the head's gradient is as large as the head
            None if grad is None else grad.mul_(grads[0]).to(dtype)
            for grad, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        )
        ctx.grads = None
        return (*scaled, None, None, None, None)


def weighted_token_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    coefficients: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the weighted loss of a linear head, and the nll of every token.

        loss = sum over tokens of  c * cross entropy(head(h), target)

    Args:
        hidden: Hidden states of the supervised positions, shape (M, H). Carries the gradient.
        weight: The head's matrix, shape (V, H); gets a gradient if it is trained.
        targets: The token that comes next, shape (M,).
        coefficients: c of each token, float32, shape (M,); known beforehand, no gradient.
        bias: The head's bias, shape (V,).
        softcap: Logits are squashed to cap * tanh(z / cap); 0 = not.

    Returns:
        The loss, scalar float32, and the nll in nats, float32, shape (M,), without gradient.
    """
    exact = coefficients if hidden.dtype == torch.float64 else coefficients.float()
    with_grad = torch.is_grad_enabled()  # inside the function it never is
    result: tuple[Tensor, Tensor] = _WeightedTokenLoss.apply(hidden, weight, bias, targets, exact, softcap, with_grad)
    return result


def _nll_and_gradient(
    z: Tensor, bias: Tensor | None, targets: Tensor, coefficients: Tensor, cap: float, with_grad: bool
) -> Tensor:
    """Return the nll of a chunk of rows; their logits z, shape (rows, V), become the loss's gradient, if wanted."""
    if bias is not None:
        z += bias.to(z.dtype)
    slope = None
    if cap:
        z.div_(cap).tanh_()
        slope = 1 - z * z if with_grad else None
        z.mul_(cap)
    chosen = z.gather(1, targets[:, None]).squeeze(1)
    top = z.amax(dim=1, keepdim=True)
    z.sub_(top).exp_()
    total = z.sum(dim=1, keepdim=True)
    nll = total.log().squeeze(1) + top.squeeze(1) - chosen
    if with_grad:
        z.mul_(coefficients[:, None] / total)
        z.scatter_add_(1, targets[:, None], -coefficients[:, None])
        if slope is not None:
            z.mul_(slope)
    return nll


def _compute_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of the products: that of autocast where it is on, else the weights' own."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype
