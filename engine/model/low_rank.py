"""LoRA's linear layer in one piece: the sum of base and adapter without passes over the data between the products.

    forward    y = x W' + b;  u = x A';  y += u (s B)'
    backward   dx = g W;  du = g (s B);  dx += du A;  dA = du' x;  dB = s g' u        W is frozen

peft computes the same as a chain of layers that scales, adds and casts arrays of the size of x and y in between, and
for bfloat16 weights keeps a float32 copy of x per layer.  Here x is kept once for all layers that read it, and the
products are made in the dtype of x; A and B stay float32 masters and so do their gradients.

N = tokens, I, O = features in and out, r = rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        down, up = a.to(x.dtype), (b * scale).to(x.dtype)
        y = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
        u = flat @ down.T
        y.addmm_(u, up.T)
        ctx.save_for_backward(x, weight, a, b, u)
        ctx.scale = scale
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, u = ctx.saved_tensors
        g = grads[0].reshape(-1, weight.shape[0])
        down, up = a.to(x.dtype), (b * ctx.scale).to(x.dtype)
        du = g @ up
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_x = (g @ weight).addmm_(du, down).view(x.shape)
        if ctx.needs_input_grad[3]:
            grad_a = (du.T @ x.reshape(-1, x.shape[-1])).to(a.dtype)
        if ctx.needs_input_grad[4]:
            grad_b = (g.T @ u).to(b.dtype).mul_(ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None


def low_rank_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return x W' + bias + scale (x A') B'.

    Args:
        x: Shape (..., I).
        weight: The frozen W, shape (O, I), in the dtype of x; gets no gradient.
        bias: Frozen, shape (O,).
        a: LoRA's A, shape (r, I), any float dtype; its gradient has the same.
        b: LoRA's B, shape (O, r), likewise.
        scale: lora_alpha / r.

    Returns:
        Shape (..., O), in the dtype of x.

    Source: LoRA (Hu et al. 2021, arXiv:2106.09685), eq. 3.
    """
    result: Tensor = _LowRankLinear.apply(x, weight, bias, a, b, scale)
    return result


def join_low_rank_layers(model: nn.Module, tell: Callable[[str], None] = lambda _: None) -> int:
    """Let a model's plain LoRA layers compute in one piece; the others stay as they are.

    Args:
        model: With one LoRA adapter, on one device; its base is frozen.
        tell: Told what was decided and why.

    Returns:
        How many layers do now.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    plain = [layer for layer in layers if _is_plain(layer)]
    for layer in plain:
        layer.forward = _joined(layer)  # type: ignore[method-assign]
    if layers:
        rest = f"; {len(layers) - len(plain)} as peft computes them (dropout, 4 bits or a variant)"
        tell(f"LoRA: {len(plain)} layers in one piece{rest if len(plain) < len(layers) else ''}.")
    return len(plain)


def _is_plain(layer: LoraLinear) -> bool:
    """Return whether a layer is W x + s B A x with a frozen, unquantized W and nothing else."""
    names = list(layer.lora_A)
    if type(layer) is not LoraLinear or type(layer.base_layer) is not nn.Linear or len(names) != 1:
        return False
    (name,) = names
    down, up = layer.lora_A[name], layer.lora_B[name]
    extra = (
        layer.lora_variant or getattr(layer, "fan_in_fan_out", False) or down.bias is not None or up.bias is not None
    )
    frozen = not any(parameter.requires_grad for parameter in layer.base_layer.parameters())
    return not extra and frozen and isinstance(layer.lora_dropout[name], nn.Identity)


def _joined(layer: LoraLinear) -> Callable[..., Tensor]:
    """Return the layer's new forward; whatever is not plain training or evaluation goes through peft's own."""
    own: Callable[..., Tensor] = type(layer).forward
    (name,) = layer.lora_A

    def forward(x: Tensor, *arguments: Any, **given: Any) -> Tensor:
        base = layer.base_layer
        usual = not (arguments or given or layer.disable_adapters or layer.merged) and layer.active_adapters == [name]
        if not usual or x.dtype != base.weight.dtype or torch.is_autocast_enabled(x.device.type):
            return own(layer, x, *arguments, **given)
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        return low_rank_linear(x, base.weight, base.bias, a, b, layer.scaling[name])

    return forward
