"""Accounts: hashes only, readable by their owner, and a damaged file lets nobody in."""

from __future__ import annotations

import json
import time

import pytest

from engine.contract.errors import UserError
from studio.access.accounts import Accounts
from studio.access.sessions import IDLE_S, LONGEST_S, Sessions

WORD = "correct horse battery"


@pytest.fixture
def accounts(tmp_path):
    found = Accounts(tmp_path / "accounts.json")
    found.set_password("ada", WORD)
    return found


def test_the_file_holds_a_hash_and_is_private(accounts):
    assert accounts.path.stat().st_mode & 0o777 == 0o600
    assert WORD not in accounts.path.read_text()
    assert json.loads(accounts.path.read_text())["users"]["ada"]["n"] >= 2**14
    assert accounts.names() == ["ada"]


def test_only_the_right_name_with_the_right_password_is_let_in(accounts):
    accounts.set_password("bob", "another long word")
    assert accounts.check("ada", WORD)
    assert not any(accounts.check(*pair) for pair in (("ada", WORD + " "), ("bob", WORD), ("", ""), ("eve", WORD)))


def test_a_name_that_nobody_has_takes_as_long(accounts):
    def seconds(name: str) -> float:
        begin = time.process_time()
        accounts.check(name, "wrong")
        return time.process_time() - begin

    seconds("ada")
    pairs = [(seconds("ada"), seconds("nobody")) for _ in range(7)]
    known, unknown = (min(column) for column in zip(*pairs, strict=True))
    assert 0.8 < known / unknown < 1.25


@pytest.mark.parametrize("name", ["", "Ada", "a b", "../x", "-rf", "a" * 33, "é"])
def test_names_are_plain(accounts, name):
    with pytest.raises(UserError, match="user name"):
        accounts.set_password(name, WORD)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"users": []}', '{"users": {"ada": {}}}', '{"users": {"ada": {"n": 2}}}']
)
def test_a_damaged_file_lets_nobody_in_and_is_not_no_accounts(accounts, text):
    accounts.path.write_text(text)
    assert accounts.is_used and accounts.problem()
    assert not accounts.check("ada", WORD)
    with pytest.raises(UserError, match="delete the file"):
        accounts.set_password("ada", WORD)


def test_a_removed_account_is_gone_and_without_any_no_login_is_needed(accounts):
    accounts.remove("ada")
    assert not accounts.check("ada", WORD) and not accounts.is_used
    with pytest.raises(UserError, match="no account"):
        accounts.remove("ada")


def test_a_session_ends_by_rest_by_age_by_log_out_and_by_a_new_password(accounts):
    now = [0.0]
    sessions = Sessions(accounts, clock=lambda: now[0])
    token = sessions.begin("ada")
    now[0] = IDLE_S
    assert sessions.user_of(token) == "ada"
    now[0] += IDLE_S + 1
    assert sessions.user_of(token) == ""

    token = sessions.begin("ada")
    for _ in range(int(LONGEST_S / IDLE_S)):
        now[0] += IDLE_S
        assert sessions.user_of(token) == "ada"
    now[0] += 1
    assert sessions.user_of(token) == ""

    one, two = sessions.begin("ada"), sessions.begin("ada")
    sessions.end(one)
    assert (sessions.user_of(one), sessions.user_of(two)) == ("", "ada")
    accounts.set_password("ada", "a fresh password")
    assert sessions.user_of(two) == "" == sessions.user_of("")


def test_no_token_is_kept_as_it_is(accounts):
    sessions = Sessions(accounts)
    assert sessions.begin("ada") not in repr(vars(sessions))
