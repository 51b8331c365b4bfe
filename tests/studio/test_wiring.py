"""No page drops what a user chose or ordered while the last answer was on its way."""

from __future__ import annotations

import pytest

from app import PROJECT, prepare_environment
from engine.contract.places import DataRoot
from studio.context import StudioContext

Event = tuple[str, str, set[tuple[str, str]], bool]
"""Name, trigger mode, (component, event) that start it, whether the server has a part in it."""
ONCE_IS_RIGHT = {"load", "tick"}
"""The opening of a page, and a clock: the next one comes."""
STARTERS = {("Button", "click"), ("Textbox", "submit")}
"""What starts something: a double click starts it once."""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """The events of all pages."""
    root = DataRoot(tmp_path_factory.mktemp("wiring")).make()
    prepare_environment(root.temporary)
    from studio.shell import build_blocks

    blocks = build_blocks(StudioContext(root=root, project=PROJECT))
    found = [
        (
            str(fn.api_name),
            str(fn.trigger_mode),
            {(type(blocks.blocks.get(target)).__name__, event) for target, event in fn.targets},
            fn.fn is not None,
        )
        for fn in blocks.fns.values()
    ]
    assert len(found) > 60
    return found


def test_only_starters_and_clocks_may_leave_an_event_out(events):
    wrong = [
        name
        for name, mode, targets, has_server_part in events
        if mode == "once"
        and has_server_part
        and not targets <= STARTERS
        and not {e for _, e in targets} <= ONCE_IS_RIGHT
    ]
    assert wrong == []


def test_orders_of_islands_are_all_carried_out(events):
    """An island's order is in its value: the answer to the last one would overwrite it, if it had to wait."""
    orders = {"submit", "edit", "delete", "apply", "retry", "download"}
    wrong = [
        name
        for name, mode, targets, _ in events
        if mode != "multiple" and any(kind == "HTML" and event in orders for kind, event in targets)
    ]
    assert wrong == []


def test_clocks_do_not_pile_up_on_a_slow_machine(events):
    assert [name for name, mode, targets, _ in events if any(e == "tick" for _, e in targets) and mode != "once"] == []
