"""Who computes where, and who waits: runs take turns on the devices of this machine.

    start_run -> supervisor (detached) -> ticket in waiting/ -> its turn? -> locks -> training -> locks freed -> next

There is no scheduler to die: every waiting run has its own supervisor, which looks once a second whether its turn has
come, under one lock for all.  It is first come, first served: a run that cannot start yet keeps the devices it will
need from those behind it, so that a large one never starves; runs that want other devices pass.  A ticket whose
supervisor is gone (a reboot) keeps its place until `revive`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import read_json, replace_json
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.rundir import ProcessId, RunDir, effective_state
from engine.contract.stored import restore
from engine.launch.command import resolve_device
from engine.launch.devices import Machine, inventory
from engine.launch.locks import CPU, Device, acquire, devices_of, holder_of

FOREIGN_BYTES = 2**30
"""A free GPU on which programs that are not ours hold more than this is waited for."""
EVALUATION = "evaluate-"
"""Before the run's id in the ticket of an evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A run that waits for devices; `waiting/<run>.json`, written by its supervisor."""

    run: str
    path: str
    """The run directory."""
    order: float
    """Place in the line: when it came, s since 1970, or before everybody after "run next"."""
    count: int = 1
    """Devices it needs."""
    chosen: tuple[str, ...] = ()
    """Keys of the devices it insists on; empty = any GPUs."""
    resume_from: str = ""
    reason: str = ""
    """Why it waits, in words."""
    process: dict[str, Any] | None = None
    """`ProcessId` of the supervisor as JSON."""

    @classmethod
    def read(cls, path: Path) -> Ticket | None:
        """Read a ticket; None if the file is none."""
        return restore(cls, read_json(path))

    @property
    def called(self) -> str:
        """Who that is, within a sentence."""
        of = self.run.removeprefix(EVALUATION)
        return f"run {of}" if of == self.run else f"the evaluation of run {of}"

    def alive(self) -> bool:
        """Whether its supervisor still waits."""
        process = ProcessId.read(self.process)
        return process is not None and process.alive()


def ticket_for(recipe: Recipe, *, run: str, path: Path, order: float, resume_from: str = "") -> Ticket:
    """Return the ticket of a run.

    Raises:
        UserError: If the recipe asks for devices that are not there.
    """
    machine = inventory()
    device = resolve_device(recipe, machine)
    chosen: tuple[str, ...] = (CPU,) if device == "cpu" else ()
    if device == "cuda" and recipe.launch.gpus:
        chosen = tuple(machine.gpus[index].uuid for index in recipe.launch.gpu_indices())
    count = len(chosen) or recipe.launch.processes_here
    me = asdict(ProcessId.of(os.getpid()))
    return Ticket(run=run, path=str(path), order=order, count=count, chosen=chosen, resume_from=resume_from, process=me)


def waiting(root: DataRoot) -> list[Ticket]:
    """Return the tickets of this data root, first in line first, also those whose supervisor is gone."""
    found = (Ticket.read(path) for path in root.waiting.glob("*.json"))
    return sorted((ticket for ticket in found if ticket), key=lambda ticket: (ticket.order, ticket.run))


def assign(tickets: Sequence[Ticket], free: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Say which tickets may start now, and on what.

    Args:
        tickets: First in line first.
        free: Keys of the free devices, GPUs in their order.
    """
    left, given = list(free), {}
    for ticket in tickets:
        wanted = ticket.chosen or [key for key in left if key != CPU][: ticket.count]
        mine = [key for key in wanted if key in left]
        left = [key for key in left if key not in mine]  # kept from those behind, also if it is not enough yet
        if len(mine) == ticket.count:
            given[ticket.run] = tuple(mine)
    return given


def try_turn(ticket: Ticket, root: DataRoot) -> tuple[dict[Device, int], str]:
    """Take the devices of a ticket if its turn has come.

    Returns:
        The devices with the open files of their locks, and the reason if there are none.

    Raises:
        UserError: If a lock cannot be opened.
    """
    with _one_at_a_time(root):
        machine = inventory()
        devices = devices_of(machine, root)
        busy = busy_reasons(devices, machine)
        others = [other for other in waiting(root) if other.alive() and other.run != ticket.run]
        line = sorted([*others, ticket], key=lambda one: (one.order, one.run))
        mine = assign(line, [device.key for device in devices if device.key not in busy]).get(ticket.run, ())
        taken: dict[Device, int] = {}
        for device in devices:
            if device.key not in mine:
                continue
            descriptor = acquire(device, ticket.called)
            if descriptor is None:  # somebody of another data root was faster
                for held in taken.values():
                    os.close(held)
                return {}, f"{device.label} was taken this moment."
            taken[device] = descriptor
        return taken, "" if taken else _reason(ticket, line, devices, busy)


def busy_reasons(devices: Sequence[Device], machine: Machine) -> dict[str, str]:
    """Return {key: why} of the devices that cannot be used now."""
    reasons = {}
    used_by = {gpu.uuid: gpu.processes for gpu in machine.gpus}
    for device in devices:
        holder = holder_of(device)
        foreign = [one for one in used_by.get(device.key, ()) if one.used_bytes > FOREIGN_BYTES]
        if holder is not None:
            reasons[device.key] = f"{device.label} is used by {holder}"
        elif foreign:
            words = ", ".join(
                f"{one.used_bytes / 2**30:.1f} GiB by {one.name} ({one.user}, pid {one.pid})" for one in foreign
            )
            reasons[device.key] = f"{device.label} is used by other programs: {words}"
    return reasons


def outlook(recipe: Recipe, root: DataRoot) -> str:
    """Return why a run of this recipe would wait, empty if it could start at once.

    Raises:
        UserError: If it asks for devices that are not there.
    """
    ticket = ticket_for(recipe, run="", path=root.path, order=time.time())
    machine = inventory()
    devices = devices_of(machine, root)
    busy = busy_reasons(devices, machine)
    line = [*(other for other in waiting(root) if other.alive()), ticket]
    free = [device.key for device in devices if device.key not in busy]
    return "" if ticket.run in assign(line, free) else _reason(ticket, line, devices, busy)


def write_ticket(ticket: Ticket, root: DataRoot) -> Path:
    """Write the ticket's file and return its path."""
    root.waiting.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = root.waiting / f"{ticket.run}.json"
    replace_json(path, asdict(ticket))
    return path


def first_order(root: DataRoot) -> float:
    """Return a place before everybody who waits."""
    return min([ticket.order for ticket in waiting(root)], default=time.time()) - 1.0


def revive(root: DataRoot) -> list[str]:
    """Let runs wait on whose supervisors are gone, after a reboot for example; return their ids.

    Their places in the line stay. Somebody who opens the studio, or `python -m engine queue`, calls this.
    """
    from engine.launch.supervisor import start_run  # the supervisor waits by this module

    again = []
    for ticket in waiting(root):
        run = RunDir(Path(ticket.path))
        if ticket.alive() or effective_state(run) == "queued":
            continue
        (root.waiting / f"{ticket.run}.json").unlink(missing_ok=True)
        if run.recipe_file.is_file() and effective_state(run) == "lost":
            with contextlib.suppress(UserError):  # its data or devices are gone: its page says so
                start_run(run, resume_from=ticket.resume_from, order=ticket.order)
                again.append(ticket.run)
    return again


def _reason(ticket: Ticket, line: Sequence[Ticket], devices: Sequence[Device], busy: dict[str, str]) -> str:
    """Return why a ticket waits: what is in use, and who stands before it."""
    wanted = ticket.chosen or [device.key for device in devices if device.key != CPU]
    words = [busy[key] for key in wanted if key in busy]
    before = [other.run for other in line[: line.index(ticket)] if set(other.chosen or wanted) & set(wanted)]
    if before:
        words.append(f"{len(before)} before it in the queue")
    return "; ".join(words) + "." if words else "Not enough devices are free."


@contextlib.contextmanager
def _one_at_a_time(root: DataRoot) -> Iterator[None]:
    """Let one supervisor of this data root decide at a time."""
    root.waiting.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(root.waiting / ".turn", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
