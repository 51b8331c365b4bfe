"""`python -m engine queue`: who waits for which device and why; change the order, or leave the line."""

from __future__ import annotations

import argparse

from engine.contract.errors import UserError
from engine.contract.places import data_root
from engine.contract.rundir import is_waiting, open_run, request
from engine.launch.devices import inventory
from engine.launch.locks import devices_of, holder_of
from engine.launch.queue import revive, waiting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--first", metavar="RUN", help="let a waiting run be the next")
    parser.add_argument("--cancel", metavar="RUN", help="take a waiting run out of the queue")


def run(arguments: argparse.Namespace) -> int:
    """Print the devices and the line; runs whose supervisors are gone wait on."""
    root = data_root()
    for asked, what in ((arguments.first, "first"), (arguments.cancel, "cancel")):
        if not asked:
            continue
        if not is_waiting(chosen := open_run(root.runs, asked)):
            raise UserError(f"Run {asked} does not wait.", fix="`python -m engine queue` shows those that do.")
        request(chosen, "first" if what == "first" else "cancel")
        print(f"{asked}: asked to {'be the next' if what == 'first' else 'leave the queue'}")
        return 0
    for name in revive(root):
        print(f"{name}: waits again")
    for device in devices_of(inventory(), root):
        print(f"{device.label:8} {holder_of(device) or 'free'}")
    for number, ticket in enumerate(waiting(root), start=1):
        print(f"{number:>3}. {ticket.run}: {ticket.reason or 'about to start'}")
    return 0
