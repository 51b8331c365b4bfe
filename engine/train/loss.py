"""The multi-task loss as per-token coefficients over the whole optimizer step.

    loss = sum over tokens of  c[task of the token] * cross entropy        c known before the forward pass
    task_mean:   c_t = w_t / (num_tokens_t * sum of w over the tasks present)     Eq. 1 of MFTCoder (arXiv:2311.02303)
    token_mean:  c_t = 1 / sum_t num_tokens_t

`num_tokens` counts all micro-batches on all ranks, so the loss does not depend on micro-batch size, accumulation or
number of GPUs.  MFTCoder divides per micro-batch and rank: there, task weights cancel at micro-batch 1.

T = tasks, M = supervised tokens of a micro-batch, V = vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Reduction = Literal["task_mean", "token_mean"]


def task_coefficients(num_tokens: Tensor, weights: Tensor, *, reduction: Reduction = "task_mean") -> Tensor:
    """Return the coefficient of a token of each task.

    Args:
        num_tokens: Supervised tokens per task in the whole optimizer step, shape (T,).
        weights: Task weights >= 0, shape (T,). Only their ratios matter.
        reduction: See the module's header.

    Returns:
        Coefficients, float32, shape (T,); 0 for a task that is absent. Times num_tokens they add up to 1, unless no
        task with weight is present: then all are 0.

    Raises:
        ValueError: If the shapes differ.
    """
    if num_tokens.shape != weights.shape:
        raise ValueError(f"num_tokens and weights must share one (T,) shape, got {num_tokens.shape}, {weights.shape}")
    counts = num_tokens.to(torch.float32)
    present = counts > 0
    if reduction == "token_mean":
        return torch.where(present, 1.0 / counts.sum().clamp(min=1.0), 0.0)
    kept = torch.where(present, weights.to(torch.float32), 0.0)
    total = kept.sum()
    share = torch.where(total > 0, kept / total, torch.zeros_like(kept))
    return torch.where(present, share / counts.clamp(min=1.0), 0.0)


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy of each token in nats, float32 whatever the logits' dtype.

    Args:
        logits: Shape (M, V).
        targets: Token ids, shape (M,).
    """
    return functional.cross_entropy(logits.float(), targets, reduction="none")


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
