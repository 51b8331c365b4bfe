"""Tell people that a run has ended, or has met a loss that is not a number: one message to a webhook.

    supervisor -> Message -> payload of the host's kind (Slack, Discord, Feishu, DingTalk, WeCom, plain JSON) -> POST

Sent by the run's own supervisor, so it works with the studio closed.  https only, except to this machine; redirects are
not followed; the address that was checked is the one connected to; link-local addresses (where clouds keep their
credentials) are refused.  What the other side answers is never shown, and the address is never written anywhere.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from engine.contract.errors import UserError
from engine.contract.redact import redact

TIMEOUT_S = 10.0
PAUSES_S = (1.0, 5.0)
"""Before the second and the third try; there is no fourth."""
MAX_TEXT = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is told."""

    event: str
    """finished, failed, not_a_number or test."""
    run: str
    """Id of the run."""
    name: str
    text: str
    """All of it in one or two sentences."""
    cause: str = ""
    link: str = ""
    """Page of the run, if a studio has been open on this data root."""


def check_url(url: str) -> SplitResult:
    """Return a webhook's address in parts.

    Raises:
        UserError: If it is not one that messages may be sent to.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if not host or parts.username is not None or not url.isascii() or any(c.isspace() for c in url.strip()):
        raise UserError("This is not the address of a webhook.", fix="paste it as the service shows it: https://...")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback_name(host)):
        raise UserError("A webhook must begin with https://.", fix="only one on this machine may be http.")
    return parts


def masked(url: str) -> str:
    """Return what may be shown of a webhook's address: where it goes, not its secret."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    return f"{host}/…" if host else ""


def payload(host: str, message: Message) -> dict[str, Any]:
    """Return what a service wants to be sent."""
    text = redact(message.text)[:MAX_TEXT] + (f"\n{message.link}" if message.link else "")
    if host.endswith("slack.com"):
        return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    if host.endswith(("discord.com", "discordapp.com")):
        return {"content": text, "allowed_mentions": {"parse": []}}
    if host.endswith(("feishu.cn", "larksuite.com")):
        return {"msg_type": "text", "content": {"text": text}}
    if host in ("oapi.dingtalk.com", "qyapi.weixin.qq.com"):
        return {"msgtype": "text", "text": {"content": text}}
    return {**asdict(message), "text": text, "cause": redact(message.cause)}


def send(url: str, message: Message, *, pauses: tuple[float, ...] = PAUSES_S) -> str:
    """Send a message, again after a pause if the other side cannot take it now.

    Returns:
        Empty if it was taken, else why not, without the address.
    """
    try:
        parts = check_url(url)
    except UserError as error:
        return error.problem
    body = json.dumps(payload(parts.hostname or "", message), ensure_ascii=False).encode()
    why = ""
    for pause in (*pauses, None):
        why, again = _post(parts, body)
        if not why or not again or pause is None:
            break
        time.sleep(pause)
    return why


def _post(parts: SplitResult, body: bytes) -> tuple[str, bool]:
    """Send once; return why it did not work, and whether another try may."""
    host = parts.hostname or ""
    connection: http.client.HTTPConnection | None = None
    try:
        address = _address(host, parts.port or (443 if parts.scheme == "https" else 80), parts.scheme)
        connection = _connect(host, address, secure=parts.scheme == "https")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {"content-type": "application/json", "user-agent": "mft-studio"})
        status = connection.getresponse().status
    except PermissionError:
        return f"{host} leads to an address that messages are not sent to.", False
    except socket.gaierror:
        return f"{host} cannot be found.", True
    except ssl.SSLError:
        return f"{host} has no certificate that is trusted here.", False
    except (OSError, http.client.HTTPException, ValueError):
        return f"{host} does not answer.", True
    finally:
        if connection is not None:
            connection.close()
    if 200 <= status < 300:
        return "", False
    if 300 <= status < 400:
        return f"{host} sends on to another address, which is not followed.", False
    return f"{host} answers {status}.", status == 429 or status >= 500


def _address(host: str, port: int, scheme: str) -> tuple[str, int]:
    """Return where to connect to.

    Raises:
        PermissionError: If that is no place to send messages to.
        OSError: If the name leads nowhere.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for entry in found:
        ip = ipaddress.ip_address(entry[4][0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or (scheme == "http" and not ip.is_loopback):
            raise PermissionError
    return str(found[0][4][0]), int(found[0][4][1])


def _connect(host: str, address: tuple[str, int], *, secure: bool) -> http.client.HTTPConnection:
    """Open a connection to a checked address under the name it was found by."""
    connection = http.client.HTTPConnection(host, address[1], timeout=TIMEOUT_S)
    raw = socket.create_connection(address, timeout=TIMEOUT_S)
    connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
    return connection


def _is_loopback_name(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
