"""How many passwords somebody may try: 5 in a minute for one account, 30 for one address, then a minute's pause.

A try is counted before it is checked, so that many at once are not more than many in a row.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = LOCK_S = 60.0
PER_USER, PER_ADDRESS = 5, 30
MAX_KEYS = 10_000


class Throttle:
    """Counts the tries of the last minute.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries: dict[tuple[str, ...], deque[float]] = {}
        self._locked: dict[tuple[str, ...], float] = {}

    def wait_s(self, address: str, user: str) -> float:
        """Count a try; return 0 if it may be checked, else the seconds until the next one may."""
        now = self._clock()
        self._forget(now)
        wait = 0.0
        for key, limit in (((address, user), PER_USER), ((address,), PER_ADDRESS)):
            if key not in self._locked:
                tries = self._tries.setdefault(key, deque())
                while tries and tries[0] <= now - WINDOW_S:
                    tries.popleft()
                if len(tries) < limit:
                    continue
                self._locked[key] = now + LOCK_S
            wait = max(wait, self._locked[key] - now)
        if not wait:
            for key in ((address, user), (address,)):
                self._tries[key].append(now)
        return wait

    def succeeded(self, address: str, user: str) -> None:
        """Forget the tries of somebody who knew the password; those for other accounts of the address stay."""
        mine = self._tries.pop((address, user), deque())
        if everybody := self._tries.get((address,)):
            for _ in range(min(len(mine), len(everybody))):
                everybody.pop()

    def _forget(self, now: float) -> None:
        for key in [key for key, until in self._locked.items() if until <= now]:
            del self._locked[key]
            self._tries.pop(key, None)
        if len(self._tries) > MAX_KEYS:
            for key in [key for key, tries in self._tries.items() if not tries or tries[-1] <= now - WINDOW_S]:
                del self._tries[key]
