"""Who may log in: names and scrypt hashes in one file that only its owner can read.

accounts.json   {"users": {"ada": {"salt": "...", "hash": "...", "n": 32768}}}        mode 0600, written by the command

A file that cannot be read lets nobody in; it never counts as "no accounts".
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from hmac import compare_digest
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import replace_text

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
MIN_LENGTH, MAX_LENGTH = 10, 1024
"""Characters of a password."""
COST = 2**15
"""scrypt's n: 32 MiB and about 0.1 s for one guess."""
MAX_COST = 2**18


class Accounts:
    """The accounts of one data root; a change of the file counts from the next look on.

    Args:
        path: The file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: tuple[int, int] | None = None
        self._users: dict[str, dict[str, Any]] = {}
        self._nobody = _hashed(secrets.token_hex(16))

    @property
    def is_used(self) -> bool:
        """Whether a log-in is needed: there is a file, whatever it holds, and it does not say that there is nobody."""
        return self.path.exists() and (bool(self.names()) or self.problem() != "")

    def names(self) -> list[str]:
        """Return who has an account, in order."""
        self._read()
        return sorted(self._users)

    def problem(self) -> str:
        """Return why the file cannot be used; empty if it can, or is not there."""
        try:
            value = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return ""
        except (OSError, ValueError):
            return f"The accounts in {self.path} cannot be read."
        users = value.get("users") if isinstance(value, dict) else None
        whole = isinstance(users, dict) and all(NAME.fullmatch(name) and _is_entry(users[name]) for name in users)
        return "" if whole else f"The accounts in {self.path} are damaged."

    def check(self, name: str, password: str) -> bool:
        """Whether the password is that of the account; takes as long for a name that nobody has."""
        self._read()
        known = self._users.get(name)
        entry = known or self._nobody
        guess = _scrypt(password[:MAX_LENGTH], bytes.fromhex(entry["salt"]), entry["n"])
        return compare_digest(guess, bytes.fromhex(entry["hash"])) and known is not None

    def stamp(self, name: str) -> str:
        """Return what changes when the account's password does; empty without such an account."""
        self._read()
        return str(self._users[name]["hash"]) if name in self._users else ""

    def set_password(self, name: str, password: str) -> None:
        """Make an account, or give it another password.

        Raises:
            UserError: If the name or the password will not do, or the file is damaged.
        """
        if not NAME.fullmatch(name):
            raise UserError(f"{name[:40]!r} is no user name.", fix="use a-z, 0-9, dot, dash and underscore, up to 32.")
        if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
            raise UserError(
                f"The password must have {MIN_LENGTH} to {MAX_LENGTH} characters.", fix="choose another one."
            )
        self._write({**self._for_change(), name: _hashed(password)})

    def remove(self, name: str) -> None:
        """Remove an account.

        Raises:
            UserError: If there is none of that name, or the file is damaged.
        """
        users = self._for_change()
        if name not in users:
            raise UserError(f"There is no account {name[:40]!r}.", fix=f"choose one of: {', '.join(users) or 'none'}.")
        self._write({key: value for key, value in users.items() if key != name})

    def _for_change(self) -> dict[str, dict[str, Any]]:
        if problem := self.problem():
            raise UserError(problem, fix="delete the file and set the passwords again.")
        self._read()
        return dict(self._users)

    def _write(self, users: dict[str, dict[str, Any]]) -> None:
        replace_text(self.path, json.dumps({"users": users}, indent=1) + "\n", mode=0o600)

    def _read(self) -> None:
        try:
            found = self.path.stat()
        except OSError:
            self._read_at, self._users = None, {}
            return
        version = (found.st_mtime_ns, found.st_ino)
        if version == self._read_at:
            return
        try:
            value = json.loads(self.path.read_bytes())["users"].items()
            self._users = {str(name): entry for name, entry in value if _is_entry(entry)}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._users = {}
        self._read_at = version


def _hashed(password: str) -> dict[str, Any]:
    salt = secrets.token_bytes(16)
    return {"salt": salt.hex(), "hash": _scrypt(password, salt, COST).hex(), "n": COST}


def _scrypt(password: str, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=cost, r=8, p=1, maxmem=2**30)


def _is_entry(value: Any) -> bool:
    try:
        cost = int(value["n"])
        fine = bytes.fromhex(value["salt"]) and bytes.fromhex(value["hash"])
    except (TypeError, KeyError, ValueError):
        return False
    return bool(fine) and 2**14 <= cost <= MAX_COST and cost & (cost - 1) == 0
