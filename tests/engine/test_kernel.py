"""The loss in the head: value and gradients of the plain loss, whatever the chunks; refused where it differs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.data.collate import lay_side_by_side
from engine.data.tokenize import IGNORE, Encoded
from engine.train import kernel
from engine.train.head import attach_loss_head
from engine.train.kernel import weighted_token_loss
from engine.train.trainer import weighted_loss
from tests.tiny_model import tiny_llama


def problem(dtype: torch.dtype, *, tokens: int = 37, hidden: int = 24, vocabulary: int = 101):
    torch.manual_seed(3)
    inputs = [
        torch.randn(shape, dtype=dtype, requires_grad=True)
        for shape in ((tokens, hidden), (vocabulary, hidden), (vocabulary,))
    ]
    return *inputs, torch.randint(0, vocabulary, (tokens,)), torch.rand(tokens, dtype=torch.float64)


def plain_loss(h, w, b, targets, coefficients, cap: float):
    z = h @ w.T + b
    z = cap * torch.tanh(z / cap) if cap else z
    return (functional.cross_entropy(z, targets, reduction="none") * coefficients.to(z.dtype)).sum()


@pytest.mark.parametrize("cap", [0.0, 3.0])
@pytest.mark.parametrize("chunk_rows", [1, 16, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_loss_and_all_gradients_are_those_of_the_plain_loss(monkeypatch, dtype, tolerance, chunk_rows, cap):
    monkeypatch.setattr(kernel, "CHUNK_ELEMENTS", 101 * chunk_rows)
    h, w, b, targets, coefficients = problem(dtype)
    expected = plain_loss(h, w, b, targets, coefficients, cap)
    loss, nll = weighted_token_loss(h, w, targets, coefficients, bias=b, softcap=cap)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    assert not nll.requires_grad
    for ours, plain in zip(
        torch.autograd.grad(3 * loss, (h, w, b)), torch.autograd.grad(3 * expected, (h, w, b)), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=10 * tolerance)


def test_a_frozen_head_and_no_tokens_are_fine():
    h, w, _, targets, coefficients = problem(torch.float32)
    frozen = w.detach()
    loss, _ = weighted_token_loss(h, frozen, targets, coefficients)
    (grad,) = torch.autograd.grad(loss, h)
    assert grad.shape == h.shape
    nothing, nll = weighted_token_loss(h[:0], frozen, targets[:0], coefficients[:0])
    assert nothing.item() == 0 and len(nll) == 0


def test_without_gradients_nothing_is_kept():
    h, w, _, targets, coefficients = problem(torch.float32)
    with torch.no_grad():
        loss, nll = weighted_token_loss(h, w, targets, coefficients)
    assert not loss.requires_grad and torch.isfinite(nll).all()


def batch():
    ids = torch.randint(3, 60, (23,), generator=torch.Generator().manual_seed(1)).tolist()
    return lay_side_by_side([(0, Encoded(ids, [IGNORE] * 9 + ids[9:]))])


def test_the_head_gives_the_model_the_gradients_of_the_plain_way():
    coefficients, grads = torch.rand(14), []
    for with_head in (False, True):
        model = tiny_llama()
        head = attach_loss_head(model) if with_head else None
        weighted_loss(model, batch(), coefficients, head).loss.backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, ours in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_a_family_that_treats_its_logits_otherwise_keeps_the_plain_way():
    class Odd(type(tiny_llama())):
        def forward(self, *arguments, **keywords):
            output = super().forward(*arguments, **keywords)
            output.logits = output.logits * 3.0 + torch.arange(output.logits.shape[-1])
            return output

    told = []
    model = tiny_llama()
    model.__class__ = Odd
    plain = model(torch.arange(5)[None]).logits
    assert attach_loss_head(model, told.append) is None and "plain logits" in told[0]
    torch.testing.assert_close(model(torch.arange(5)[None]).logits, plain)  # the head is as it was


def test_a_head_that_is_no_plain_linear_layer_is_left_alone():
    model = tiny_llama()
    model.lm_head = nn.Sequential(model.lm_head)
    assert attach_loss_head(model) is None
