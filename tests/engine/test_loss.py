"""The loss by hand: shares, absent tasks, cut batches."""

from __future__ import annotations

import pytest
import torch

from engine.train.loss import Reduction, per_task_sum, token_nll
from engine.train.loss import token_coefficients as both_counts


def token_coefficients(counts, weights, *, reduction: Reduction = "task_mean"):
    """The reductions by tokens do not look at the number of examples."""
    return both_counts(counts, torch.ones_like(counts), weights, reduction=reduction)


def test_each_task_counts_by_its_weight_whatever_its_size():
    counts, weights = torch.tensor([3, 5]), torch.tensor([1.0, 3.0])
    nll_sums = torch.tensor([6.0, 20.0])  # 2 and 4 nats per token

    loss = (token_coefficients(counts, weights) * nll_sums).sum()

    assert loss.item() == pytest.approx(0.25 * 2.0 + 0.75 * 4.0)


def test_coefficients_times_counts_add_up_to_one():
    counts = torch.tensor([7, 0, 31, 9])
    for reduction in ("task_mean", "token_mean"):
        coefficients = token_coefficients(counts, torch.tensor([1.0, 2.0, 0.5, 3.0]), reduction=reduction)
        assert (coefficients * counts).sum().item() == pytest.approx(1.0)


def test_an_absent_task_gives_its_share_to_the_others():
    coefficients = token_coefficients(torch.tensor([4, 0]), torch.tensor([1.0, 99.0]))
    assert coefficients.tolist() == [0.25, 0.0]


def test_token_mean_ignores_weights():
    coefficients = token_coefficients(torch.tensor([2, 6]), torch.tensor([5.0, 1.0]), reduction="token_mean")
    assert coefficients.tolist() == [0.125, 0.125]


def test_only_tasks_without_weight_give_a_zero_loss_and_no_nan():
    assert token_coefficients(torch.tensor([3, 0]), torch.tensor([0.0, 1.0])).tolist() == [0.0, 0.0]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        token_coefficients(torch.tensor([1, 2]), torch.tensor([1.0]))


def test_nll_is_float32_also_for_bfloat16_logits():
    logits = torch.zeros(2, 8, dtype=torch.bfloat16)
    nll = token_nll(logits, torch.tensor([0, 7]))
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, torch.full((2,), 8.0).log())


def test_sums_by_task():
    sums = per_task_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 3)
    assert sums.tolist() == [2.0, 0.0, 5.0]


def test_by_example_the_counts_are_examples():
    tokens, examples, weights = torch.tensor([40, 5]), torch.tensor([2, 1]), torch.tensor([1.0, 3.0])
    assert both_counts(tokens, examples, weights, reduction="sample_mean").tolist() == pytest.approx([1 / 3, 1 / 3])
    assert both_counts(tokens, examples, weights, reduction="task_sample_mean").tolist() == pytest.approx(
        [1 / 8, 3 / 4]
    )
