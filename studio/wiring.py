"""How an event of a page behaves when its user is quicker than the machine.

Gradio drops an event while its last one has no answer (`trigger_mode="once"`).  That is right for a button that starts
something and for a clock, and wrong for everything else: the page would go on showing what was chosen before.

    ONCE    a button that starts something, the opening of a page, a clock: twice is once
    NEWEST  what follows a choice: many may be left out, never the last
    EACH    an order from an island, which carries its own object: none is left out, they are carried out in turn
"""

from __future__ import annotations

from typing import Any

ONCE: dict[str, Any] = {"trigger_mode": "once", "show_progress": "hidden"}
NEWEST: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
EACH: dict[str, Any] = {"trigger_mode": "multiple", "show_progress": "hidden"}
