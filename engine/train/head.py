"""The loss inside the output head, which is called exactly once per forward pass.

    with head.expecting(batch, coefficients): output = model(...)
    head.result(output) -> loss, nll                                  the model's logits carry the loss, nothing else

Sharded models (ZeRO-3, FSDP) gather the head's weights around its `forward`; a loss that called the head chunk by chunk
would gather a different number of times on ranks with different lengths, and hang.  So the chunks are inside.  What a
family does to its logits after the head (a soft cap, a scale) is done here too; that it is the same is checked on a few
tokens before it is used (`attach_loss_head`), else the plain logits stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.train.focal import Focal
from engine.train.kernel import weighted_token_loss
from engine.train.loss import token_nll

PROBE_TOKENS = 9
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Nats that the loss of a probe token may differ by: rounding of the logits, which the plain way does elsewhere."""


class LossHead:
    """A linear output head that can answer with the loss instead of the logits.

    Args:
        linear: The head.
        scale: What the family multiplies its logits by.
        softcap: What it squashes them to; 0 = not.
    """

    def __init__(self, linear: nn.Linear, *, scale: float, softcap: float) -> None:
        self.linear, self.scale, self.softcap = linear, scale, softcap
        self._plain: Callable[[Tensor], Tensor] = linear.forward
        self._expected: tuple[dict[str, Tensor], Tensor, Focal | None] | None = None
        self.loss: Tensor | None = None
        self.nll: Tensor | None = None
        linear.forward = self._forward  # type: ignore[method-assign]

    @contextmanager
    def expecting(self, batch: dict[str, Tensor], coefficients: Tensor, focal: Focal | None = None) -> Iterator[None]:
        """Make the next forward pass compute the loss of a batch of `engine.data.collate`."""
        self._expected, self.loss, self.nll = (batch, coefficients, focal), None, None
        try:
            yield
        finally:
            self._expected = None

    def result(self, output: Any) -> tuple[Tensor, Tensor]:
        """Return the loss, scalar, and the nll of the supervised tokens, shape (M,), after the forward pass."""
        assert self.loss is not None and self.nll is not None
        touched = self.scale != 1.0 or self.softcap != 0.0  # the family changes its logits: take the loss as it was
        return (self.loss if touched else output.logits.reshape(())), self.nll

    def detach(self) -> None:
        """Give the head its own forward back."""
        self.linear.forward = self._plain  # type: ignore[method-assign]

    def _forward(self, hidden: Tensor) -> Tensor:
        if self._expected is None:
            return self._plain(hidden)
        batch, coefficients, focal = self._expected
        chosen = hidden[0] if hidden.shape[0] == 1 else hidden[batch["row"], batch["column"]]
        if self.scale != 1.0:
            chosen = chosen * self.scale

        def loss_of(coefficients: Tensor) -> tuple[Tensor, Tensor]:
            bias, targets = self.linear.bias, batch["targets"]
            return weighted_token_loss(
                chosen, self.linear.weight, targets, coefficients, bias=bias, softcap=self.softcap
            )

        if focal is None:
            self.loss, self.nll = loss_of(coefficients)
        else:
            with torch.no_grad():
                _, nll = loss_of(coefficients)
                value, coefficients = focal(nll, batch, coefficients)
            loss, self.nll = loss_of(coefficients)
            self.loss = with_value(loss, (value * nll).sum())
        # it must look like logits; and the loss travels through the model's output, where sharding hangs its hooks
        return self.loss.reshape(1, 1, 1)


def with_value(loss: Tensor, value: Tensor) -> Tensor:
    """Return a loss that has the gradient of one scalar and the value of another."""
    return loss - loss.detach() + value


def attach_loss_head(model: Any, tell: Callable[[str], None] = lambda _: None) -> LossHead | None:
    """Put the loss into a model's head if it gives the same loss as the plain logits there.

    Args:
        model: A causal language model, with or without adapter, not yet wrapped for several devices.
        tell: Told what was decided and why.

    Returns:
        The head, or None: the plain logits of supervised positions are used then.
    """
    linear = model.get_output_embeddings()
    if type(linear) is not nn.Linear:
        tell(f"Loss: plain logits (the output head is a {type(linear).__name__}).")
        return None
    config = model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    head = LossHead(linear, scale=scale, softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0))
    worst = _difference(model, head)
    if worst <= TOLERANCE.get(linear.weight.dtype, 1e-3):
        tell("Loss: in the output head, chunk by chunk; no logits are kept.")
        return head
    head.detach()
    tell(f"Loss: plain logits (this family does something of its own to them: the loss would differ by {worst:.2g}).")
    return None


@torch.no_grad()
def _difference(model: Any, head: LossHead) -> float:
    """Return the largest difference of a probe token's loss between the plain logits and the head."""
    device = head.linear.weight.device
    ids = torch.arange(1, PROBE_TOKENS + 1, device=device)[None] % head.linear.weight.shape[0]
    targets = ids[0].roll(-1)
    was_training = model.training
    model.eval()
    plain = token_nll(model(input_ids=ids, use_cache=False).logits[0], targets)
    batch = {"targets": targets, "row": torch.zeros_like(targets), "column": torch.arange(len(targets), device=device)}
    with head.expecting(batch, torch.ones(len(targets), device=device)):
        model(input_ids=ids, use_cache=False)
    model.train(was_training)
    if head.nll is None:
        return float("inf")
    assert head.loss is not None
    difference = float((head.nll - plain).abs().max())
    return difference if difference == difference else float("inf")
