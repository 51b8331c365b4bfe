"""One number for the content of an example: equal for exact copies, whatever their line or file."""

from __future__ import annotations

import hashlib

from engine.contract.records import Example


def content_key(example: Example) -> int:
    """Return a 64-bit hash of roles, texts and tool calls."""
    words = (part for m in example.messages for part in (m.role, m.content, m.tool_calls))
    text = "\0".join((example.tools, *words))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
