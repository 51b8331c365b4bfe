"""When the studio may be opened to others: refused quickly, with everything that is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from studio.access.accounts import Accounts
from studio.access.opening import ask_password, check_opening

PROJECT = Path(__file__).resolve().parents[3]
WORD = "correct horse battery"


@pytest.fixture
def accounts(tmp_path):
    return Accounts(tmp_path / "accounts.json")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.7"])
def test_loopback_opens_without_more_ado(accounts, host):
    access = check_opening(host, [], accounts)
    assert not access.exposed and (f"[{host}]" if ":" in host else host) in access.hosts


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu-box.lab"])
def test_anything_else_needs_an_account_and_a_name_and_all_that_is_missing_is_said(accounts, host):
    with pytest.raises(UserError) as caught:
        check_opening(host, [], accounts)
    assert "--set-password" in str(caught.value) and "--allowed-host" in str(caught.value)
    with pytest.raises(UserError, match="set-password"):
        check_opening(host, ["gpu-box.lab"], accounts)
    accounts.set_password("ada", WORD)
    with pytest.raises(UserError, match="allowed-host"):
        check_opening(host, [], accounts)
    access = check_opening(host, ["GPU-box.lab", "192.168.1.5", "fe80::1"], accounts)
    assert access.exposed and {"gpu-box.lab", "192.168.1.5", "[fe80::1]", "localhost"} <= access.hosts


@pytest.mark.parametrize("name", ["*", "http://x", "x:7860", "a..b", "", "x/y", ".lab"])
def test_a_host_is_a_plain_name(accounts, name):
    with pytest.raises(UserError, match="no host name"):
        check_opening("127.0.0.1", [name], accounts)


def test_a_damaged_file_of_accounts_is_told_before_anything_starts(accounts):
    accounts.path.write_text("{")
    with pytest.raises(UserError, match="damaged|cannot be read"):
        check_opening("127.0.0.1", [], accounts)


def test_an_unsafe_start_is_refused_before_anything_heavy_is_imported(tmp_path):
    argv = [sys.executable, "-X", "importtime", "app.py", "--host", "0.0.0.0", "--data-root", str(tmp_path)]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert done.returncode == 2 and "studio" in imported
    assert not imported & {"gradio", "fastapi", "uvicorn", "pydantic", "numpy", "torch", "transformers"}
    assert "Traceback" not in done.stderr
    assert any("needs a password" in line for line in told) and any("--set-password NAME" in line for line in told)
    assert any("--allowed-host gpu-box.lab" in line for line in told)


def test_a_password_is_never_an_argument(tmp_path, monkeypatch):
    argv = [sys.executable, "app.py", "--data-root", str(tmp_path), "--set-password", "ada"]
    done = subprocess.run(argv, cwd=PROJECT, input=f"{WORD}\n", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and WORD not in done.stdout + done.stderr
    assert Accounts(tmp_path / "accounts.json").check("ada", WORD)
    short = subprocess.run(argv, cwd=PROJECT, input="short\n", capture_output=True, text=True, timeout=300)
    assert short.returncode == 2 and "10 to 1024" in short.stderr
    assert Accounts(tmp_path / "accounts.json").check("ada", WORD)


def test_two_different_words_are_no_password(accounts, monkeypatch):
    words = iter([WORD, WORD + "!"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(words))
    with pytest.raises(UserError, match="differ"):
        ask_password(accounts, "ada")
    assert accounts.names() == []
