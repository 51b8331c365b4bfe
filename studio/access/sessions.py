"""Who is logged in.  In memory only: a restart of the studio ends all sessions, and no secret of theirs is on disk.

A session ends after 12 hours without a request, after 7 days, by logging out, and when the account's password changes.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from studio.access.accounts import Accounts

IDLE_S = 12 * 3600.0
LONGEST_S = 7 * 24 * 3600.0
MAX_SESSIONS = 1000


@dataclass(slots=True)
class _Session:
    user: str
    stamp: str
    began: float
    seen: float


class Sessions:
    """The sessions of one studio, found by the hash of their token.

    Args:
        accounts: Who has an account.
        clock: Seconds that never go back.
    """

    def __init__(self, accounts: Accounts, clock: Callable[[], float] = time.monotonic) -> None:
        self._accounts, self._clock = accounts, clock
        self._sessions: dict[bytes, _Session] = {}

    def begin(self, user: str) -> str:
        """Return the token of a new session."""
        now, token = self._clock(), secrets.token_urlsafe(32)
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].seen)]
        self._sessions[_key(token)] = _Session(user, self._accounts.stamp(user), now, now)
        return token

    def user_of(self, token: str) -> str:
        """Return who a token belongs to, empty if to nobody any more."""
        session, now = self._sessions.get(_key(token)), self._clock()
        if session is None:
            return ""
        over = now - session.seen > IDLE_S or now - session.began > LONGEST_S
        if over or not session.stamp or session.stamp != self._accounts.stamp(session.user):
            self.end(token)
            return ""
        session.seen = now
        return session.user

    def end(self, token: str) -> None:
        """Forget a session."""
        self._sessions.pop(_key(token), None)


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
