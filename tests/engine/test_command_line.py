"""The command line as a stranger meets it: a mistake is told at once, in words, before anything heavy is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "bitsandbytes")
SCRIPT = f"""
import sys
from engine.__main__ import main
status = main(sys.argv[1:])
print("loaded:", *[name for name in {HEAVY} if name in sys.modules])
sys.exit(status)
"""


@pytest.mark.parametrize("argv", [["merge", "nope"], ["export", "nope"], ["combine", "nope", "nope"]])
def test_a_run_that_is_not_there_is_told_before_the_libraries_are_loaded(argv, tmp_path, monkeypatch):
    monkeypatch.setenv("MFT_STUDIO_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", SCRIPT, *argv], capture_output=True, text=True, timeout=120)

    assert done.returncode == 2
    assert done.stderr.startswith(f"{argv[0]}: There is no run `nope`.") and "  -> " in done.stderr
    assert done.stdout.splitlines() == ["loaded:"]


def test_a_reader_that_has_enough_is_no_traceback(tmp_path):
    """What `python -m engine runs | head` does, with a reader that leaves before the first line."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "MFT_STUDIO_HOME": str(tmp_path)}
    argv = [sys.executable, "-m", "engine", "runs"]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    os.close(writing)

    assert (done.returncode, done.stderr) == (141, "")
