"""How far the studio may be opened: loopback without more ado, anything else only with accounts and named hosts."""

from __future__ import annotations

import getpass
import ipaddress
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from engine.contract.errors import Problem, UserError
from engine.contract.loopback import LOOPBACK_HOSTS
from studio.access.accounts import Accounts

HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a studio may be reached, and by whom."""

    accounts: Accounts
    hosts: frozenset[str] = LOOPBACK_HOSTS
    """Names under which it may be addressed, as in a Host header without port."""
    exposed: bool = False
    """Whether other machines reach it: then nobody gets in without an account."""
    port: int = 0
    token: str = ""
    """Token of this start, for programs that drive the studio while no log-in is needed."""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_opening(host: str, allowed: Sequence[str], accounts: Accounts) -> Access:
    """Return how the studio will be reached.

    Args:
        host: Address to listen on.
        allowed: Names given by `--allowed-host`.
        accounts: Who may log in.

    Raises:
        UserError: If it may not be opened like this; all reasons at once.
    """
    names, problems = set(LOOPBACK_HOSTS), []
    for name in allowed:
        if (known := _host_name(name)) is None:
            fix = "give a plain name or address, without port, as it stands in the browser: gpu-box.lab"
            problems.append(Problem(problem=f"--allowed-host {name[:80]!r} is no host name.", fix=fix))
        else:
            names.add(known)
    if problem := accounts.problem():
        fix = "delete the file and set the passwords again with --set-password."
        problems.append(Problem(problem=problem, fix=fix))
    if not is_loopback(host):
        reach = f"--host {host} lets other machines in"
        if not accounts.names() and not accounts.problem():
            fix = "set one first: python app.py --set-password NAME"
            problems.append(Problem(problem=f"{reach}, so it needs a password.", fix=fix))
        if not allowed:
            fix = "name what people type into the browser: --allowed-host gpu-box.lab (also several times)"
            problems.append(Problem(problem=f"{reach}, so it needs the name under which they may.", fix=fix))
    elif is_loopback(host) and host not in ("localhost", "127.0.0.1", "::1"):
        names.add(str(_host_name(host)))
    if problems:
        raise UserError.of(problems)
    return Access(accounts=accounts, hosts=frozenset(names), exposed=not is_loopback(host))


def ask_password(accounts: Accounts, name: str) -> None:
    """Set an account's password, asked for twice and never shown; from a pipe it is the first line.

    Raises:
        UserError: If it will not do.
    """
    if sys.stdin.isatty():
        password = getpass.getpass(f"Password for {name}: ")
        if getpass.getpass("Again: ") != password:
            raise UserError("The two passwords differ.", fix="try again.")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    accounts.set_password(name, password)


def _host_name(text: str) -> str | None:
    """Return a host as it stands in a Host header without port; None if it is none."""
    bare = text.strip().lower()
    try:
        address = ipaddress.ip_address(bare.strip("[]"))
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        return bare if HOST_NAME.fullmatch(bare) and ".." not in bare else None
