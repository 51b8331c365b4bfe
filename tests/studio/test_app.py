"""Starting the studio: ports, hosts and the environment."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import app

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_taken_default_port_moves_on_and_says_so(taken, monkeypatch, capsys):
    monkeypatch.setattr(app, "DEFAULT_PORT", taken)
    assert app.choose_port("127.0.0.1", None) > taken
    assert f"{taken} is taken" in capsys.readouterr().out


def test_a_taken_wanted_port_is_refused(taken, capsys):
    with pytest.raises(SystemExit) as caught:
        app.choose_port("127.0.0.1", taken)
    assert caught.value.code == 2 and "--port" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--host", "0.0.0.0"], ["--data-root", "/proc/nothing"]])
def test_what_cannot_be_served_is_refused_with_a_sentence(words):
    result = subprocess.run(
        [sys.executable, "app.py", *words], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 2
    assert "app.py: error:" in result.stderr and "Traceback" not in result.stderr


def test_gradio_cannot_be_opened_up_by_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_SHARE", "1")
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "x")  # restored afterwards
    app.prepare_environment(tmp_path)
    opened = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert opened == {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(tmp_path)}
