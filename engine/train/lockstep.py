"""Ranks that answer together: a forward pass of a sharded model needs all of them, so all make the same ones.

    rank 0: the prompts; then per token: what comes next, and whether to stop  -- small broadcasts -->  the other ranks

Nothing that decides about another forward pass is a rank's own: neither its clock, nor a float sum that a different GPU
rounds differently.  The exchanges have groups of their own on the processor, apart from those inside the model, so
that after an error the ranks can find out whether all of them had it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=10)
"""Of an exchange: the slowest rank's forward pass is shorter."""
ERROR_TIMEOUT = timedelta(seconds=60)
"""So long after its own error a rank waits for the same error of the others."""


class Lockstep:
    """The exchanges of all ranks; each rank must make one, and call its methods in the same order."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.group_after_errors = dist.new_group(backend="gloo", timeout=ERROR_TIMEOUT)
        self.stop = False
        """Whether rank 0 has decided that the answers end where they are."""

    def from_first(self, value: Any) -> Any:
        """Return rank 0's value."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def agree(self, tokens: Sequence[int], stop: Callable[[], bool]) -> list[int]:
        """Return rank 0's tokens, and take over whether it stops.

        Args:
            tokens: The next one of each row, as this rank sees it.
            stop: Whether to stop; asked on rank 0 only.
        """
        told = torch.tensor([int(self.rank == 0 and stop()), *tokens])
        dist.broadcast(told, src=0, group=self.group)
        self.stop = bool(told[0])
        agreed: list[int] = told[1:].tolist()
        return agreed

    def all_failed(self) -> bool:
        """Whether each rank calls this, so that none waits for another inside the model; for after an error."""
        try:
            dist.barrier(self.group_after_errors)
        except RuntimeError:
            return False
        return True
