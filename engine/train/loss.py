"""The multi-task loss as per-token coefficients over the whole optimizer step.

    loss = sum over supervised tokens of  c * cross entropy          c known before the forward pass

    token_mean        c = 1 / N                every token counts the same (MFTCoder's case1)
    sample_mean       c = 1 / (B n_b)          every example counts the same (case2)
    task_mean         c = w_t / (W N_t)        every task's mean token loss counts by its weight (case3; its Eq. 1)
    task_sample_mean  c = w_t / (W B_t n_b)    every task's mean example loss counts by its weight (case4)

N, N_t = supervised tokens of the step and of its task t; B, B_t = examples; n_b = supervised tokens of the example;
W = sum of the weights of the tasks that are present.  The counts run over all micro-batches on all ranks, so the loss
does not depend on micro-batch size, accumulation or number of GPUs; MFTCoder divides per micro-batch and rank, where at
micro-batch 1 the task weights cancel.  With the estimator `dataset` the counts are those *expected* of a step: then a
rare task has its whole share too, in the steps that hold it (unbiased for Eq. 1 of arXiv:2311.02303 at any batch size).

T = tasks, M = supervised tokens of a micro-batch, V = vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Reduction = Literal["token_mean", "sample_mean", "task_mean", "task_sample_mean"]
BY_SAMPLE = frozenset({"sample_mean", "task_sample_mean"})
"""Reductions whose coefficient is divided by the supervised tokens of the token's example."""


def token_coefficients(
    num_tokens: Tensor, num_samples: Tensor, weights: Tensor, *, reduction: Reduction = "task_mean"
) -> Tensor:
    """Return the coefficient of a token of each task; for `BY_SAMPLE` still to be divided by n_b.

    Args:
        num_tokens: Supervised tokens per task in the whole optimizer step, or expected of one, shape (T,).
        num_samples: Examples with supervised tokens, likewise, shape (T,).
        weights: Task weights >= 0, shape (T,). Only their ratios matter.
        reduction: See the module's header.

    Returns:
        Coefficients in the dtype of `weights`, shape (T,); 0 for a task that is absent. They add up to 1 over the
        tokens of the step, unless no task with weight is present: then all are 0.

    Raises:
        ValueError: If the shapes differ.
    """
    if not num_tokens.shape == num_samples.shape == weights.shape:
        shapes = tuple(tuple(part.shape) for part in (num_tokens, num_samples, weights))
        raise ValueError(f"num_tokens, num_samples and weights must share one (T,) shape, got {shapes}")
    counts = (num_samples if reduction in BY_SAMPLE else num_tokens).to(weights.dtype)
    present = counts > 0
    if reduction in ("token_mean", "sample_mean"):
        total = counts.sum()
        return torch.where(present, 1.0 / torch.where(total > 0, total, torch.ones_like(total)), 0.0)
    kept = torch.where(present, weights, 0.0)
    total = kept.sum()
    share = torch.where(total > 0, kept / total, torch.zeros_like(kept))
    return torch.where(present, share / torch.where(present, counts, torch.ones_like(counts)), 0.0)


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each token in nats, at least float32 whatever the logits' dtype.

    Args:
        logits: Shape (M, V).
        targets: Token ids, shape (M,).
    """
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(exact, targets, reduction="none")


def per_task_sum(values: Tensor, task: Tensor, num_tasks: int) -> Tensor:
    """Add up values by task on the device, without a host sync.

    Args:
        values: Shape (M,).
        task: Task index of each value, shape (M,).
        num_tasks: T.

    Returns:
        Shape (T,), the dtype of `values`.
    """
    return torch.zeros(num_tasks, dtype=values.dtype, device=values.device).index_add_(0, task, values)
