"""A turn on a device for something that is no training: it waits in the same line, and never beside a training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir
from engine.launch.beside import step_back
from engine.launch.locks import CPU
from engine.launch.queue import EVALUATION, ticket_for, try_turn, write_ticket

POLL_S = 1.0


@contextmanager
def turn_on_device(run: RunDir, recipe: Recipe, root: DataRoot, tell: Callable[[str], None]) -> Iterator[str]:
    """Wait for one device of a kind that the run uses, and hold it; call this before torch looks for devices.

    Args:
        run: Whose models will be measured.
        recipe: Says where the run computes.
        root: The data root, whose line is waited in.
        tell: Told why it waits, whenever the reason changes.

    Yields:
        cuda or cpu. With a GPU, `CUDA_VISIBLE_DEVICES` of this process shows that one only. The process has the lowest
        priority then: runs on other devices need the processor too.

    Raises:
        UserError: If the recipe asks for devices that are not there.
    """
    # the path is no run directory: nothing starts a training for it after a reboot
    name = f"{EVALUATION}{run.id}"
    ticket = ticket_for(recipe, run=name, path=run.evaluations, order=time.time())
    ticket = replace(ticket, count=1, chosen=ticket.chosen[:1])
    file = root.waiting / f"{name}.json"
    reason = ""
    try:
        while True:
            held, why = try_turn(ticket, root)
            if held:
                break
            if why != reason:
                reason, ticket = why, replace(ticket, reason=why)
                write_ticket(ticket, root)
                tell(f"waiting: {why}")
            time.sleep(POLL_S)
    finally:
        file.unlink(missing_ok=True)
    device = next(iter(held))
    step_back()
    try:
        if device.key != CPU:
            os.environ["CUDA_VISIBLE_DEVICES"] = device.key
        yield "cpu" if device.key == CPU else "cuda"
    finally:
        for descriptor in held.values():
            os.close(descriptor)
