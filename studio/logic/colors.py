"""The colour of a task: one of eight, the same on every page of a data root and for life.

    task_colors(root, ("sql", "docs")) -> {"sql": 0, "docs": 3}       kept in colors.json, which only the studio writes

A new name gets the colour that its companions (the tasks it is asked for with) use least, then the one that is used
least at all, so the tasks of a run differ as long as there are no more than eight.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from engine.contract.files import read_json, replace_json
from engine.contract.places import DataRoot

NUM_COLORS = 8
MAX_KEPT = 5000
_LOCK = threading.Lock()


def known_colors(root: DataRoot) -> dict[str, int]:
    """Return the colour of every task that has been seen."""
    found = read_json(root.path / "colors.json")
    known = found.items() if isinstance(found, dict) else ()
    return {name: number for name, number in known if isinstance(number, int) and 0 <= number < NUM_COLORS}


def task_colors(root: DataRoot, names: Iterable[str]) -> dict[str, int]:
    """Return the colour of each task, choosing and keeping one for those that are new."""
    wanted = list(dict.fromkeys(names))
    with _LOCK:
        known = known_colors(root)
        fresh = [name for name in wanted if name not in known]
        for name in fresh:
            near = Counter(known[other] for other in wanted if other in known)
            everywhere = Counter(known.values())
            known[name] = min(range(NUM_COLORS), key=lambda c: (near[c], everywhere[c], c))
        if fresh and len(known) <= MAX_KEPT:
            replace_json(root.path / "colors.json", known)
    return {name: known[name] for name in wanted}
