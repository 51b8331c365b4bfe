"""What is no training computes beside trainings, and at little cost to them.

    an evaluation          -> last in line for the processor
    a chat, an endpoint    -> behind trainings, but somebody waits -> a GPU that no run holds, or the CPU

An evaluation waits for a device and holds it (`engine.evaluate.turn`).  A chat holds none: it is asked a question now
and then, and a run that wants its GPU sees its memory there and waits.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from engine.contract.places import DataRoot
from engine.launch.devices import inventory
from engine.launch.locks import CPU, devices_of, holder_of

NICE = 19
"""The lowest priority: all of the processor where nobody else wants it, some 1.5 % of a core that a training uses."""
NICE_IN_TALK = 5
"""Some 25 % of a core that a training uses, while an answer is made: with 1.5 % one would wait for minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where a chat computes."""

    visible: str | None
    """What `CUDA_VISIBLE_DEVICES` must be: a GPU's UUID, empty for the CPU; None = as it is."""
    reason: str
    """Why, as a sentence; empty if nobody is in the way."""


def step_back(*, in_talk: bool = False) -> None:
    """Give this process, its threads and what it starts the lowest priority, or one that fits a talk."""
    nice = NICE_IN_TALK if in_talk else NICE
    now = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(now, nice))
    # Linux shares a processor among sessions first, and nice counts inside one only; a session that is not ours alone,
    # a terminal's, keeps its place
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # no such sharing here
            Path("/proc/self/autogroup").write_text(str(nice), encoding="ascii")


def find_seat(root: DataRoot) -> Seat:
    """Return where a chat disturbs no run.

    Raises:
        UserError: If a lock cannot be opened.
    """
    machine = inventory()
    devices = devices_of(machine, root)
    held = {device.key: holder for device in devices if (holder := holder_of(device))}
    gpus = [device for device in devices if device.key != CPU]
    taken = [f"{device.label} is used by {held[device.key]}" for device in gpus if device.key in held]
    free = [device for device in gpus if device.key not in held]
    if taken and free:
        return Seat(visible=free[0].key, reason=f"{'; '.join(taken)}: answering on {free[0].label}.")
    if taken:
        return Seat(visible="", reason=f"{'; '.join(taken)}: answering on the CPU, which is slower.")
    if not gpus and CPU in held:
        return Seat(visible=None, reason=f"The CPU is used by {held[CPU]}: answers are slower.")
    return Seat(visible=None, reason="")


def take_seat(root: DataRoot) -> str:
    """Step back and make torch see that seat only; call this before it looks for devices.

    Returns:
        Why it is that seat; empty if nobody is in the way.
    """
    step_back(in_talk=True)
    seat = find_seat(root)
    if seat.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = seat.visible
    return seat.reason
