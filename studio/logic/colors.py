"""The look of a task: one of eight colours in one of three shapes, the same on every page of a data root and for life.

    task_colors(root, ("sql", "docs")) -> {"sql": 0, "docs": 11}      kept in colors.json, which only the studio writes

Look n is colour n % 8 of the theme in shape n // 8 of `assets/island.js`.  A new name gets the look that its companions
(the tasks it is asked for with) use least, of those a colour that they use least, then the first shape, then what is
used least at all: the tasks of a run differ in colour up to eight and in colour and shape up to 24.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from engine.contract.files import read_json, replace_json
from engine.contract.places import DataRoot

NUM_COLORS = 8
NUM_LOOKS = 3 * NUM_COLORS
MAX_KEPT = 5000
_LOCK = threading.Lock()


def known_colors(root: DataRoot) -> dict[str, int]:
    """Return the look of every task that has been seen."""
    found = read_json(root.path / "colors.json")
    known = found.items() if isinstance(found, dict) else ()
    return {name: number for name, number in known if isinstance(number, int) and 0 <= number < NUM_LOOKS}


def task_colors(root: DataRoot, names: Iterable[str]) -> dict[str, int]:
    """Return the look of each task, choosing and keeping one for those that are new."""
    wanted = list(dict.fromkeys(names))
    with _LOCK:
        known = known_colors(root)
        fresh = [name for name in wanted if name not in known]
        for name in fresh:
            near = Counter(known[other] for other in wanted if other in known)
            tints = Counter(look % NUM_COLORS for look in near.elements())
            everywhere = Counter(known.values())
            known[name] = min(
                range(NUM_LOOKS),
                key=lambda n: (near[n], tints[n % NUM_COLORS], n // NUM_COLORS, everywhere[n], n),
            )
        if fresh and len(known) <= MAX_KEPT:
            replace_json(root.path / "colors.json", known)
    return {name: known[name] for name in wanted}
