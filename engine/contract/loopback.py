"""Who may speak to a server of ours: programs on this machine, and pages that the server itself has sent.

A browser can be made to address 127.0.0.1 under a stranger's name (DNS rebinding) or from a stranger's page; both show
in the headers.  The studio and the engine's endpoint ask here.
"""

from __future__ import annotations

from collections.abc import Mapping

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
SERVE_PORT = 7870
"""Default port of `python -m engine serve`."""


def refusal(
    headers: Mapping[str, str], *, method: str, hosts: frozenset[str] = LOOPBACK_HOSTS, scheme: str = "http"
) -> str:
    """Return why a request is refused, or an empty string.

    Args:
        headers: Names in lower case.
        method: A page elsewhere may link here (a GET that navigates a window), and do nothing else.
        hosts: Names under which the server may be addressed, without port.
        scheme: How the server is spoken to: http or https.
    """
    host = headers.get("host", "").lower()
    if without_port(host) not in hosts:
        return "This address is not allowed. Use 127.0.0.1."
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"{scheme}://{host}":
        return "Requests from other pages are not allowed."
    to_window = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest", "document") == "document"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not (method == "GET" and to_window):
        return "Requests from other pages are not allowed."
    return ""


def without_port(host: str) -> str:
    """Return the name in a Host header."""
    name, separator, port = host.rpartition(":")
    return name if separator and port.isascii() and port.isdigit() else host
