"""Secrets out of text that people will see or pass on: tokens, keys, passwords in addresses.

    "401 for https://ada:pw@host with Bearer hf_abc..."  ->  "401 for https://[hidden]@host with Bearer [hidden]"

It looks for the usual forms, and for the very values of this process's secret variables.
"""

from __future__ import annotations

import os
import re
from functools import cache

HIDDEN = "[hidden]"
FORMS = re.compile(
    r"""
      \b(?:hf|api_org)_[A-Za-z0-9]{16,}                         # Hugging Face
    | \b(?:sk|rk|pk)-[A-Za-z0-9_-]{16,}                         # OpenAI, Anthropic and those like them
    | \b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})       # GitHub
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                             # AWS
    | \bglpat-[\w-]{16,} | \bxox[abprs]-[\w-]{10,}              # GitLab, Slack
    | (?<=hooks\.slack\.com/services/)[\w/]+                    # addresses that are a password
    | (?<=discord\.com/api/webhooks/)[\w/-]+ | (?<=discordapp\.com/api/webhooks/)[\w/-]+
    | (?<=open-apis/bot/v2/hook/)[\w-]+ | (?<=access_token=)[\w-]+
    | (?<=://)[^\s/@:]+:[^\s/@]+(?=@)                           # user:password@host
    | (?<=[Bb]earer\ )[\w.~+/-]{8,}=*
    | (?<=[Pp]assword[=:])\s?\S{4,} | (?<=\b[Tt]oken[=:])\s?[\w.~+/-]{8,}
    | \b[0-9a-f]{40}\b(?=.{0,20}wandb) | (?<=WANDB_API_KEY=)\S+
    """,
    re.X,
)
SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIALS?|PRIVATE_KEY)", re.I)
MIN_VALUE = 8
"""Shorter values of variables are words that stand in any text."""


def redact(text: str) -> str:
    """Return the text with every secret in it replaced."""
    for value in _own_secrets():
        text = text.replace(value, HIDDEN)
    return FORMS.sub(HIDDEN, text)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret."""
    return bool(SECRET_NAME.search(name))


@cache
def _own_secrets() -> tuple[str, ...]:
    found = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= MIN_VALUE}
    return tuple(sorted((value for value in found if "/" not in value[:1]), key=len, reverse=True))
