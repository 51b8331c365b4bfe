"""The log-in page: plain HTML that needs no script, in the colours of the studio."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from string import Template

WRONG = "The name or the password is wrong."
LOCKED = "Too many tries. Wait a minute, then try again."


class LoginPage:
    """Fills `login.html` with the tokens of `studio.css`, read once.

    Args:
        assets: Folder that holds both.
    """

    def __init__(self, assets: Path) -> None:
        styles = (assets / "studio.css").read_text(encoding="utf-8")
        light, dark = re.findall(r"^:root[^{]*\{(.*?)\}", styles, re.S | re.M)[:2]
        tokens = f":root {{{light}}}\n@media (prefers-color-scheme: dark) {{ :root {{{dark}}} }}"
        page = Template((assets / "login.html").read_text(encoding="utf-8"))
        self._page = Template(page.safe_substitute(tokens=tokens))

    def html(self, *, wanted: str, user: str = "", wrong: bool = False, locked: bool = False) -> str:
        """Return the page.

        Args:
            wanted: Address to go to afterwards, one of the studio's own.
            user: Name to begin with.
            wrong: Whether the last try was.
            locked: Whether there were too many tries.
        """
        text = LOCKED if locked else WRONG if wrong else ""
        note = f'<p class="note" role="alert" id="login-note">{text}</p>' if text else ""
        about = ' aria-describedby="login-note"' if text else ""
        first, second = ("", " autofocus") if user else (" autofocus", "")
        return self._page.substitute(
            note=note, about=about, wanted=escape(wanted), user=escape(user[:64]), focus_user=first, focus_word=second
        )


def bounce_page(address: str) -> str:
    """Return a page that goes to an address of the studio by itself."""
    target = escape(address)
    return (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={target}">'
        f'<title>MFT Studio</title><a href="{target}">MFT Studio</a>'
    )
