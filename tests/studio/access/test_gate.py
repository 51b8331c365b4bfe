"""The gate: nothing of the studio without a session, few guesses, and a way in for its owner's programs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from studio.access.accounts import Accounts
from studio.access.gate import Gate, local_address
from studio.access.opening import Access
from studio.access.throttle import LOCK_S, PER_ADDRESS, PER_USER, Throttle
from tests.asgi import ask, ask_async, reached

ASSETS = Path(__file__).resolve().parents[3] / "assets"
WORD, OURS = "correct horse battery", "http://127.0.0.1:7860"
ROUTES = [
    "/", "/new", "/studio/api/header.json", "/studio/api/log.txt?id=x", "/studio-static/studio.css", "/config",
    "/logout", "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/cancel",
    "/gradio_api/heartbeat/x", "/theme.css", "/manifest.json", "/login/", "/LOGIN", "//login", "/login/../new",
]  # fmt: skip


@pytest.fixture
def gate(tmp_path):
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.set_password("ada", WORD)
    return Gate(reached, access=Access(accounts=accounts, port=7860), assets=ASSETS)


def log_in(gate, user="ada", password=WORD, **more):
    return ask(gate, "/login", "POST", form={"user": user, "password": password, **more}, origin=OURS)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_is_reached_without_a_session(gate, path, method):
    for cookie in ("", "studio_session_7860=", "studio_session_7860=guess", "studio_session_7861=x"):
        answer = ask(gate, path, method, cookie=cookie)
        assert answer.status in (401, 403) and b"reached" not in answer.body


def test_a_page_sends_to_the_log_in_and_the_log_in_back(gate):
    answer = ask(gate, "/run?id=a b", accept="text/html", sec_fetch_site="none")
    assert (answer.status, answer.headers["location"]) == (303, "/login?next=%2F")  # a blank is no address of ours
    answer = ask(gate, "/run?id=a%20b", accept="text/html")
    assert answer.headers["location"] == "/login?next=%2Frun%3Fid%3Da%2520b"
    page = ask(gate, answer.headers["location"])
    assert page.status == 200 and b'value="/run?id=a%20b"' in page.body
    assert log_in(gate, next="/run?id=a%20b").headers["location"] == "/run?id=a%20b"


def test_a_link_from_elsewhere_is_asked_for_again_by_our_own_page(gate):
    """It comes without the strict cookie although the person is logged in."""
    answer = ask(gate, '/run?id="><script>', accept="text/html", sec_fetch_site="cross-site")
    assert answer.status == 200 and b'content="0;url=/run?id=&quot;&gt;&lt;script&gt;"' in answer.body


def test_the_right_password_opens_everything_until_the_log_out(gate):
    answer = log_in(gate)
    cookie = answer.headers["set-cookie"]
    assert answer.status == 303 and answer.headers["location"] == "/"
    assert cookie.startswith("studio_session_7860=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; ")) and "Secure" not in cookie
    token = cookie.split(";")[0]
    inside = ask(gate, "/studio/api/header.json", cookie=f"other=1; {token}")
    assert inside.status == 200 and inside.headers["x-user"] == "ada"
    assert ask(gate, "/logout", cookie=token).status == 200  # only a POST logs out: this one reached the application
    assert ask(gate, "/logout", "POST", cookie=token).status == 403  # without an origin it may come from anywhere
    assert ask(gate, "/logout", "POST", cookie=token, origin=OURS).status == 303
    assert ask(gate, "/studio/api/header.json", cookie=token).status == 401


def test_over_https_the_cookie_stays_there(gate):
    answer = ask(gate, "/login", "POST", form={"user": "ada", "password": WORD}, origin=OURS, scheme="https")
    assert "Secure" in answer.headers["set-cookie"].split("; ")


def test_a_wrong_password_says_so_and_shows_nothing_of_it(gate):
    answer = log_in(gate, user='"><script>', password="hunter2-hunter2")
    assert answer.status == 401 and b"wrong" in answer.body
    assert b'value="&quot;&gt;&lt;script&gt;"' in answer.body and answer.body.count(b"<script>") == 1
    assert b"hunter2" not in answer.body
    assert ask(gate, "/login", "POST", form={"user": "ada", "password": WORD}).status == 403  # no origin


def test_of_200_guesses_few_are_checked_one_by_one_or_at_once(gate, monkeypatch):
    checked = []
    monkeypatch.setattr(gate.accounts, "check", lambda user, password: bool(checked.append(password)))
    statuses = [log_in(gate, password=f"guess {i}").status for i in range(100)]
    assert len(checked) == PER_USER <= 6 and statuses.count(429) == 100 - PER_USER

    async def many():
        form = {"user": "bob", "password": "guess"}
        return await asyncio.gather(
            *(ask_async(gate, "/login", "POST", form=form, origin=OURS, client="10.0.0.9") for _ in range(100))
        )

    asyncio.run(many())
    assert len(checked) <= 12


def test_the_throttle_by_account_by_address_and_after_the_pause():
    now = [0.0]
    throttle = Throttle(clock=lambda: now[0])
    assert [throttle.wait_s("a", "ada") for _ in range(PER_USER)] == [0.0] * PER_USER
    assert throttle.wait_s("a", "ada") == LOCK_S
    assert throttle.wait_s("b", "ada") == 0.0  # somebody at another address is not locked out
    now[0] = 30.0
    assert throttle.wait_s("a", "ada") == 30.0  # trying on does not make it longer
    now[0] = 60.0
    assert throttle.wait_s("a", "ada") == 0.0

    names = [f"user{i}" for i in range(PER_ADDRESS + 5)]
    assert [throttle.wait_s("c", name) for name in names] == [0.0] * PER_ADDRESS + [LOCK_S] * 5


def test_knowing_the_password_forgets_the_own_tries_only():
    throttle = Throttle(clock=lambda: 0.0)
    for _ in range(3):
        throttle.wait_s("a", "ada")
    for i in range(PER_ADDRESS - 4):
        throttle.wait_s("a", f"guess{i}")
    throttle.wait_s("a", "ada")
    throttle.succeeded("a", "ada")
    assert [throttle.wait_s("a", f"more{i}") for i in range(5)] == [0.0] * 4 + [LOCK_S]


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "//evil.test",
        "/\\evil.test",
        "http://evil.test",
        "javascript:alert(1)",
        "/a\r\nSet-Cookie: x",
        "/login",
        "/ü",
    ],
)
def test_the_log_in_leads_to_the_studio_only(wanted):
    assert local_address(wanted) == "/"
    assert local_address("/run?id=x&next=//evil.test") == "/run?id=x&next=//evil.test"


def test_without_accounts_browsers_pass_and_programs_need_the_token_to_change_something(tmp_path):
    access = Access(accounts=Accounts(tmp_path / "accounts.json"), token="t" * 20)
    gate = Gate(reached, access=access, assets=ASSETS)
    assert ask(gate, "/gradio_api/queue/join", "POST", origin=OURS).status == 200
    assert ask(gate, "/studio/api/header.json").status == 200
    assert ask(gate, "/gradio_api/queue/join", "POST").status == 403
    assert ask(gate, "/gradio_api/queue/join", "POST", x_studio_token="t" * 19).status == 403
    assert ask(gate, "/gradio_api/queue/join", "POST", x_studio_token="t" * 20).status == 200


def test_a_studio_that_others_reach_lets_nobody_in_without_accounts(tmp_path):
    access = Access(accounts=Accounts(tmp_path / "accounts.json"), exposed=True, token="t")
    gate = Gate(reached, access=access, assets=ASSETS)
    assert ask(gate, "/config").status == 401
    assert ask(gate, "/gradio_api/queue/join", "POST", origin=OURS, x_studio_token="t").status == 401
    assert log_in(gate).status == 401


def test_a_password_set_while_the_studio_runs_counts_at_once(tmp_path):
    accounts = Accounts(tmp_path / "accounts.json")
    gate = Gate(reached, access=Access(accounts=accounts), assets=ASSETS)
    assert ask(gate, "/config").status == 200
    Accounts(accounts.path).set_password("ada", WORD)
    assert ask(gate, "/config").status == 401


def test_the_log_in_speaks_the_language_of_the_browser_and_brings_the_other_one(gate):
    english, chinese = ask(gate, "/login"), ask(gate, "/login", accept_language="zh-CN,zh;q=0.9,en;q=0.5")
    assert b'<html lang="en">' in english.body and b">Password</span>" in english.body
    assert b'<html lang="zh-CN">' in chinese.body and ">密码</span>".encode() in chinese.body
    assert 'data-en="Password" data-zh="密码"'.encode() in english.body
    assert b"data-text" not in english.body and b"$" not in english.body.split(b"<script>")[0]


@pytest.mark.parametrize(
    ("cookie", "said"), [("", False), ("studio_session_7861=other", False), ("studio_session_7860=over", True)]
)
def test_a_session_that_is_over_is_told(gate, cookie, said):
    answer = ask(gate, "/login", cookie=cookie)
    assert (b"Your session has ended. Log in again." in answer.body) is said


def test_what_is_wrong_with_a_log_in_is_told_in_chinese_too(gate):
    form = {"user": "ada", "password": "no"}
    answers = [ask(gate, "/login", "POST", form=form, origin=OURS, accept_language="zh-CN") for _ in range(6)]
    assert answers[0].status == 401 and ">用户名或密码错误。</p>".encode() in answers[0].body
    assert answers[-1].status == 429 and ">尝试次数过多。请等一分钟再试。</p>".encode() in answers[-1].body
