"""One line of a terminal that is written over, and not a byte elsewhere."""

from __future__ import annotations

import io

import pytest

from engine.model.progress_line import progress_line


class Terminal(io.StringIO):
    """A terminal of 40 columns."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> str:
        """What stands on its only line."""
        line = [" "] * 40
        for part in self.getvalue().split("\r"):
            line[: len(part)] = part
        assert len(line) == 40 and "\n" not in self.getvalue(), "it went on to another line"
        return "".join(line).rstrip()


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "40")
    return Terminal()


def test_a_shorter_line_leaves_nothing_of_a_longer_one(terminal):
    with progress_line(terminal) as progress:
        progress("downloading org/name: 1.0 GiB of 2.0 GiB, 10 MiB/s", 0.5)
        assert terminal.screen() == "   50% downloading org/name: 1.0 GiB of"
        progress("ready", None)
        assert terminal.screen() == "       ready"
    assert terminal.screen() == ""


def test_the_line_is_gone_before_an_error_is_told(terminal):
    with pytest.raises(ValueError, match="no"), progress_line(terminal) as progress:
        progress("downloading", 0.5)
        raise ValueError("no")
    assert terminal.screen() == ""


def test_a_name_cannot_steer_the_terminal(terminal):
    with progress_line(terminal) as progress:
        progress("converting \x1b[2J.gguf", 0.0)
        assert terminal.screen() == "    0% converting \\x1b[2J.gguf"


def test_a_file_gets_nothing():
    file = io.StringIO()
    with progress_line(file) as progress:
        progress("downloading", 0.5)
    assert file.getvalue() == ""
