"""The held-out loss of each example, by the code that trains: the same rows, the same masking, the same sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.contract.eval_results import Scores
from engine.data.collate import Collator
from engine.data.tokenize import Encoded
from engine.train.head import attach_loss_head
from engine.train.trainer import weighted_loss


@torch.no_grad()
def example_losses(model: Any, rows: Sequence[Encoded], *, batch_size: int, padded: bool, autocast: bool) -> Scores:
    """Return summed nll (nats) and supervised tokens of each example; their ratio is the trainer's evaluation loss.

    Args:
        model: On its device, in eval mode, with or without adapter.
        rows: Examples, each with supervised tokens.
        batch_size: Examples per forward pass.
        padded: Whether batches are padded, as in the run; else examples lie side by side.
        autocast: Whether the run computes in bfloat16 over float32 weights.
    """
    collate = Collator(1, padded=padded)
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].input_ids))
    nll, counts = [0.0] * len(rows), [0.0] * len(rows)
    head = attach_loss_head(model)
    try:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = collate([(0, [rows[place]]) for place in places])
            batch = {name: value.to(model.device) for name, value in batch.items()}
            with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
                found = weighted_loss(model, batch, torch.zeros_like(batch["targets"]), head).nll
            sums = torch.zeros(len(places), dtype=torch.float64)
            example = batch["target_example"].cpu()
            sums.index_add_(0, example, found.double().cpu())
            for place, total, count in zip(places, sums.tolist(), torch.bincount(example).tolist(), strict=True):
                nll[place], counts[place] = total, float(count)
    finally:
        if head is not None:
            head.detach()
    return Scores(values=tuple(nll), counts=tuple(counts))
