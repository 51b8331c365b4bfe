"""Secrets out of text that people will see or pass on: tokens, keys, passwords in addresses.

    "401 for https://ada:pw@host with Bearer hf_abc..."  ->  "401 for https://[removed]@host with Bearer [removed]"

It looks for the usual forms, and for the very values of this process's secret variables.
"""

from __future__ import annotations

import os
import re
from functools import cache

HIDDEN = "[removed]"
FORMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        # keys that are told by how they begin: Hugging Face, OpenAI and alike, GitHub, GitLab, Slack
        (r"\b(hf_|api_org_|sk-|rk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-)[\w-]{8,}", rf"\1{HIDDEN}"),
        (r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", rf"\1{HIDDEN}"),
        (r"(?i)\b((?:authorization|x-api-key|cookie)\s*[:=]\s*)\S.*", rf"\1{HIDDEN}"),
        (r"(?i)(\bbearer\s+)[\w.~+/-]{8,}=*", rf"\1{HIDDEN}"),
        (r"(?i)(\b\w*(?:token|secret|password|api_?key)\w*[\"']?\s*[:=]\s*[\"']?)[^\s\"',}]{6,}", rf"\1{HIDDEN}"),
        (r"(?i)(\w+://)[^\s/@:]+:[^\s/@]+@", rf"\1{HIDDEN}@"),
        # addresses that are a password: Slack, Discord, Feishu
        (r"(hooks\.slack\.com/services/|discord(?:app)?\.com/api/webhooks/|/bot/v2/hook/)[\w/-]+", rf"\1{HIDDEN}"),
    )
)
"""What looks like a secret, and what stands in its place."""
SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIALS?|PRIVATE_KEY)", re.I)
MIN_VALUE = 8
"""Shorter values of variables are words that stand in any text."""


def redact(text: str) -> str:
    """Return the text with every secret in it replaced."""
    for value in _own_secrets():
        text = text.replace(value, HIDDEN)
    for pattern, instead in FORMS:
        text = pattern.sub(instead, text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret."""
    return bool(SECRET_NAME.search(name))


@cache
def _own_secrets() -> tuple[str, ...]:
    found = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= MIN_VALUE}
    return tuple(sorted((value for value in found if "/" not in value[:1]), key=len, reverse=True))
