"""Messages to a webhook: who gets what, how often, and never the secret in the address."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from engine.contract.errors import UserError
from engine.contract.files import append_json
from engine.contract.places import DataRoot
from engine.contract.settings import Settings, read_settings, settings_file, write_settings
from engine.launch import webhook
from engine.launch.notices import NanWatch, tell_end, url_file
from engine.launch.webhook import Message, check_url, masked, payload, send
from tests.fake_runs import fake_run

SECRET = "T000/B000/verysecretpath"
MESSAGE = Message(event="test", run="r", name="Fake", text="Fake has <failed> & hf_abcdefghijklmnopqrst", cause="c")


@pytest.fixture
def stub():
    """A server that keeps what it is sent and answers what the test says, 200 when it says nothing more."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            server.got.append((self.path, json.loads(body)))
            self.send_response(server.statuses.pop(0) if server.statuses else 200)
            self.send_header("location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.statuses = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def url_of(server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{SECRET}"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MFT_STUDIO_HOME", str(tmp_path))
    return DataRoot(tmp_path).make()


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://x/y", "file:///etc/passwd", "http://hooks.slack.com/x", "http://10.0.0.1/x", "https://u:p@x/y",
     "https://", "https://a b/c", "http://localhost.evil.test/", "https://x:99999/", "http://[::ffff:1.2.3.4]/"],
)  # fmt: skip
def test_only_https_or_this_machine(url):
    with pytest.raises(UserError) as caught:
        check_url(url)
    assert caught.value.fix


def test_what_each_service_wants_and_nothing_that_calls_people():
    text = "Fake has <failed> & hf_[removed]"
    assert payload("hooks.slack.com", MESSAGE) == {"text": "Fake has &lt;failed&gt; &amp; hf_[removed]"}
    assert payload("discord.com", MESSAGE) == {"content": text, "allowed_mentions": {"parse": []}}
    assert payload("open.feishu.cn", MESSAGE) == {"msg_type": "text", "content": {"text": text}}
    assert payload("qyapi.weixin.qq.com", MESSAGE) == {"msgtype": "text", "text": {"content": text}}
    told = payload("example.org", MESSAGE)
    assert told["text"] == text and told["event"] == "test" and told["run"] == "r"


@pytest.mark.parametrize(
    ("statuses", "tries", "why"),
    [([], 1, ""), ([500, 429], 3, ""), ([503] * 5, 3, "503"), ([404], 1, "404"), ([302], 1, "not followed")],
)
def test_it_is_tried_three_times_at_most_and_never_elsewhere(stub, statuses, tries, why):
    stub.statuses = list(statuses)
    told = send(url_of(stub), MESSAGE, pauses=(0.0, 0.0))
    assert len(stub.got) == tries and (why in told if why else told == "")
    assert "secret" not in told


def test_nobody_there_is_a_sentence_without_the_secret():
    told = send(f"http://127.0.0.1:9/{SECRET}", MESSAGE, pauses=(0.0,))
    assert told == "127.0.0.1 does not answer."


@pytest.mark.parametrize("ip", ["169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:169.254.169.254"])
def test_a_name_that_leads_to_credentials_of_a_cloud_is_refused(monkeypatch, ip):
    monkeypatch.setattr(webhook.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (ip, 443))])
    monkeypatch.setattr(webhook.socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
    assert "not sent to" in send("https://hooks.example.org/x", MESSAGE, pauses=())


def test_the_end_of_a_run_is_told_if_wanted(root, stub, capfd):
    write_settings(root, Settings(webhook_url=url_of(stub), notify_finished=False))
    url_file(root).parent.mkdir()
    url_file(root).write_text("http://gpu-box.lab:7860")
    run = fake_run(root.runs, "failed")
    for end in ("finished", "stopped", "failed"):
        tell_end(run, end, "Out of memory." if end == "failed" else "")
    ((path, told),) = stub.got
    assert path == f"/{SECRET}" and told["text"].startswith("Fake has failed. Out of memory.")
    assert told["link"] == f"http://gpu-box.lab:7860/run?id={run.id}" and told["event"] == "failed"

    stub.statuses = [404]
    tell_end(run, "failed", "")
    err = capfd.readouterr().err
    assert "127.0.0.1 answers 404." in err and "secret" not in err


def test_the_first_loss_that_is_no_number_is_told_once(root, stub):
    write_settings(root, Settings(webhook_url=url_of(stub)))
    run = fake_run(root.runs, "running")
    watch = NanWatch(run)
    watch.look()
    for step in (7, 8):
        append_json(run.events_file, {"step": step, "kind": "problem", "text": f"Not a number at step {step}: x."})
        watch.look()
    for thread in threading.enumerate():
        if thread.name == "webhook":
            thread.join(10)
    assert [told["event"] for _, told in stub.got] == ["not_a_number"] and "step 7" in stub.got[0][1]["text"]


def test_settings_are_private_and_a_broken_file_is_the_defaults(root):
    assert read_settings(root) == Settings()
    wanted = Settings(webhook_url="https://x/y", default_gpus="0,1")
    write_settings(root, wanted)
    assert read_settings(root) == wanted and settings_file(root).stat().st_mode & 0o777 == 0o600
    settings_file(root).write_text('{"default_gpus": 7, "notify_failed": false, "new": 1}')
    assert read_settings(root) == Settings(notify_failed=False)
    settings_file(root).write_text("{")
    assert read_settings(root) == Settings()


def test_what_is_shown_of_an_address_is_where_it_goes():
    assert masked(f"https://hooks.slack.com/services/{SECRET}") == "hooks.slack.com/…"
    assert masked("") == masked("https://[") == ""
