"""The log-in page: plain HTML that needs no script, in the colours and the languages of the studio.

An element marked `data-text` in `login.html` holds a sentence of ours.  It is sent in the language that the browser
asks for, with both beside it, so that the page's own script can follow the choice that was made in the studio.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from string import Template

from studio.language import catalogue

WRONG = "The name or the password is wrong."
LOCKED = "Too many tries. Wait a minute, then try again."
ENDED = "Your session has ended. Log in again."
OURS = re.compile(r"<(\w+)([^<>]*) data-text>([^<]+)</")
"""An element with a sentence of ours."""


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
        self._chinese = catalogue()

    def html(
        self,
        *,
        wanted: str,
        accepts: str = "",
        user: str = "",
        wrong: bool = False,
        locked: bool = False,
        ended: bool = False,
    ) -> str:
        """Return the page.

        Args:
            wanted: Address to go to afterwards, one of the studio's own.
            accepts: Languages of the browser, as in `Accept-Language`.
            user: Name to begin with.
            wrong: Whether the last try was.
            locked: Whether there were too many tries.
            ended: Whether there was a session that is over.
        """
        text = LOCKED if locked else WRONG if wrong else ENDED if ended else ""
        look = 'class="note" role="alert"' if wrong or locked else 'class="note calm" role="status"'
        note = f'<p {look} id="login-note" data-text>{text}</p>' if text else ""
        about = ' aria-describedby="login-note"' if text else ""
        first, second = ("", " autofocus") if user else (" autofocus", "")
        is_chinese = accepts.strip().lower().startswith("zh")
        page = self._page.substitute(
            language="zh-CN" if is_chinese else "en", note=note, about=about, wanted=escape(wanted),
            user=escape(user[:64]), focus_user=first, focus_word=second,
        )  # fmt: skip

        def in_both(found: re.Match[str]) -> str:
            tag, attributes, english = found.groups()
            chinese = self._chinese[english]
            both = f'data-en="{escape(english)}" data-zh="{escape(chinese)}"'
            return f"<{tag}{attributes} {both}>{escape(chinese if is_chinese else english)}</"

        return OURS.sub(in_both, page)


def bounce_page(address: str) -> str:
    """Return a page that goes to an address of the studio by itself."""
    target = escape(address)
    return (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={target}">'
        f'<title>MFT Studio</title><a href="{target}">MFT Studio</a>'
    )
