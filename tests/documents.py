"""What a Markdown document tells people to type: its code blocks, its commands, its pieces of recipes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.S | re.M)
ENGINE = re.compile(r"^(?:\.venv/bin/)?python -m engine (.+)$")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    document: str
    line: int
    """Line of its first line in the document."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each command of a shell block; comments and lines that go on are read as a shell does."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words

    def fragments(self) -> Iterator[str]:
        """Yield the recipes in a YAML block: a new one begins where a top-level key comes again."""
        seen: set[str] = set()
        lines: list[str] = []
        for line in self.text.splitlines():
            if (key := re.match(r"[a-z_]+:", line)) and key.group() in seen:
                yield "\n".join(lines)
                seen, lines = set(), []
            seen |= {key.group()} if key else set()
            lines.append(line)
        yield "\n".join(lines)


@dataclass(frozen=True)
class Document:
    """A Markdown file of this project."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def name(self) -> str:
        return str(self.path.relative_to(PROJECT))

    def blocks(self, *languages: str) -> list[Block]:
        """Return its fenced blocks in these languages; without any, all."""
        found = [
            Block(self.name, self.text.count("\n", 0, match.start()) + 2, match.group(1), match.group(2))
            for match in FENCE.finditer(self.text)
        ]
        return [block for block in found if not languages or block.language in languages]

    def inline(self) -> list[str]:
        """Return its code in single back-ticks; a line end inside is a blank."""
        return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", self.text))]

    def links(self) -> list[str]:
        """Return where its links and pictures lead."""
        return re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", self.text))

    def anchors(self) -> set[str]:
        """Return the anchors of its headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.+)$", FENCE.sub("", self.text), re.M)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def documents() -> list[Document]:
    """Return every document that tells people what to type."""
    return [Document(path) for path in DOCUMENTS]


def engine_words(command: list[str]) -> list[str] | None:
    """Return the words after `python -m engine`; None if a command is another one."""
    if match := ENGINE.match(shlex.join(command)):
        return shlex.split(match.group(1))
    return None
