"""The endpoint over real HTTP: the forms of the API, also for every malformed request; nobody without the token."""

from __future__ import annotations

import json
import re
import socket
import threading
import time

import httpx
import pytest
import uvicorn

from engine.chat import server as serving
from engine.chat.models import ChatModels
from engine.chat.serve_command import listen
from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.contract.speakers import base_of, speakers_of
from engine.train.main import train
from tests.tiny_run import new_attempt

TOKEN = "secret-token"
HELLO = [{"role": "user", "content": "abc 1"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def served(recipe, tmp_path_factory):
    run = create_run_at(tmp_path_factory.mktemp("serve") / "run", override(recipe, ["optim.max_steps=3"]))
    train(run, new_attempt(run))
    models = ChatModels(base_of(run), lambda _: None)
    app = serving.build_app(models, {speaker.name: speaker for speaker in speakers_of(run)}, token=TOKEN)
    listening = listen(0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield listening.getsockname()[1], app.app.state.endpoint
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def client(served):
    with httpx.Client(
        base_url=f"http://127.0.0.1:{served[0]}", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    ) as client:
        yield client


def events(response: httpx.Response) -> list:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def ask(client: httpx.Client, model: str, **more) -> dict:
    body = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 12, **more}
    response = client.post(CHAT, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_models_are_the_base_and_the_checkpoints(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["base", "step-000003"]
    assert client.get("/v1/models/step-000003").json()["object"] == "model"


def test_base_and_checkpoint_answer_and_say_who_they_are(client):
    tuned, base = ask(client, "step-000003"), ask(client, "base")
    assert tuned["object"] == "chat.completion" and tuned["choices"][0]["message"]["role"] == "assistant"
    assert tuned["system_fingerprint"] == "adapter step-000003"
    assert base["system_fingerprint"] == "base model, adapter off"
    assert base["choices"][0]["message"]["content"] != tuned["choices"][0]["message"]["content"]
    assert ask(client, "base")["choices"] == base["choices"]
    usage = base["usage"]
    # <|im_start|>user\n abc 1 <|im_end|>\n <|im_start|>assistant\n: 1 + 5 + 5 + 2 + 1 + 10 ids of one character each
    assert usage["prompt_tokens"] == 24 and usage["total_tokens"] == 24 + usage["completion_tokens"]
    reason = "length" if usage["completion_tokens"] == 12 else "stop"
    assert base["choices"][0]["finish_reason"] == reason


def test_a_stream_is_the_whole_answer_in_pieces(client):
    whole = ask(client, "step-000003")["choices"][0]
    body = {"model": "step-000003", "messages": HELLO, "temperature": 0, "max_tokens": 12, "stream": True}
    *chunks, usage = events(client.post(CHAT, json={**body, "stream_options": {"include_usage": True}}))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == whole["message"]["content"]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert chunks[-1]["system_fingerprint"] == "adapter step-000003" and len({c["id"] for c in chunks}) == 1
    assert usage["choices"] == [] and usage["usage"]["prompt_tokens"] == 24


def test_a_seed_repeats_and_a_stop_text_ends(client):
    sampled = {"temperature": 1.0, "max_tokens": 30}
    first, again, other = (ask(client, "base", seed=seed, **sampled)["choices"][0] for seed in (1, 1, 2))
    assert first == again and first["message"] != other["message"]
    text = first["message"]["content"]
    stop = text[4:6]
    cut = ask(client, "base", seed=1, stop=[stop], **sampled)["choices"][0]
    assert cut["message"]["content"] == text[: text.index(stop)] and cut["finish_reason"] == "stop"


def test_a_text_is_continued(client):
    body = {"model": "base", "prompt": "abc<|im_end|>", "temperature": 0, "max_tokens": 5}
    answer = client.post(TEXT, json=body).json()
    assert answer["object"] == "text_completion" and answer["usage"]["prompt_tokens"] > 4  # a word, no special token
    chunks = events(client.post(TEXT, json={**body, "stream": True}))
    assert "".join(c["choices"][0]["text"] for c in chunks) == answer["choices"][0]["text"]
    assert client.post(TEXT, json={"model": "base", "prompt": ["abc"]}).json()["usage"]["completion_tokens"] <= 16


def test_parameters_that_change_nothing_are_taken(client):
    harmless = {"n": 1, "user": "me", "presence_penalty": 0.0, "tools": None, "logprobs": False, "top_p": None}
    parts = [{"role": "developer", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "abc"}]}]
    assert ask(client, "base", **harmless, response_format={"type": "text"}, messages=parts)["choices"]


BAD_BODIES = [
    (b"", "cannot be read"),
    (b"{", "cannot be read"),
    (b"\xff\xfe", "not UTF-8"),
    (b"[1]", "JSON object"),
    (b'"text"', "JSON object"),
    (b"[" * 100_000, "nested deeper"),
    (b'{"model": NaN}', "NaN"),
    (b'{"model": "base", "model": "base"}', "duplicate key"),
    (b"{}", "`messages` is missing"),
]
BAD_FIELDS = [
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [7]}, "messages"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages"),
    ({"messages": [{"role": "user", "content": "half \ud83d"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "nul \x00"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, None),
    ({"messages": [{"role": "user", "content": "x" * 600}]}, None),
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": 5000}, "max_tokens"),
    ({"seed": "one"}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"x": 1}}, "stream_options"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"presence_penalty": 1}, "presence_penalty"),
    ({"top_k": 5}, "top_k"),
]


def check_error(response: httpx.Response, status: int) -> dict:
    assert response.status_code == status, response.text
    assert "Traceback" not in response.text and 'File "' not in response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(("body", "words"), BAD_BODIES, ids=range(len(BAD_BODIES)))
def test_a_body_that_cannot_be_read_is_an_error(client, body, words):
    assert words in check_error(client.post(CHAT, content=body), 400)["message"]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS, ids=range(len(BAD_FIELDS)))
def test_a_field_that_cannot_be_used_is_an_error_that_names_it(client, fields, param):
    body = json.dumps({"model": "base", "messages": HELLO, "max_tokens": 2, **fields})
    assert check_error(client.post(CHAT, content=body), 400)["param"] == param
    assert check_error(
        client.post(CHAT, content=json.dumps(json.loads(body) | {"stream": fields.get("stream", True)})), 400
    )


def test_all_problems_are_told_at_once(client):
    error = check_error(client.post(CHAT, json={"messages": HELLO, "seed": "x", "n": 3}), 400)
    assert all(word in error["message"] for word in ("`model`", "`seed`", "`n`"))


@pytest.mark.parametrize(
    "fields", [{}, {"prompt": 5}, {"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": "", "echo": True}]
)
def test_malformed_text_completions(client, fields):
    check_error(client.post(TEXT, json={"model": "base", **fields}), 400)


def test_routes_and_models_that_are_not_there(client):
    assert check_error(client.post(CHAT, json={"model": "x", "messages": HELLO}), 404)["code"] == "model_not_found"
    check_error(client.get("/v1/models/x"), 404)
    check_error(client.get("/"), 404)
    check_error(client.get("/docs"), 404)
    check_error(client.get(CHAT), 405)
    check_error(client.delete("/v1/models"), 405)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"authorization": "Bearer \xe9"}, 401),
        ({"host": "evil.test"}, 403),
        ({"host": "127.0.0.1.evil.test"}, 403),
        ({"origin": "http://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_strangers_are_refused(client, headers, status):
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    for response in (client.get("/v1/models", headers=raw), client.post(CHAT, headers=raw, json={})):
        check_error(response, status)


def test_headers_that_come_twice_are_refused(client):
    twice = [("authorization", "Bearer other"), ("authorization", f"Bearer {TOKEN}")]
    with httpx.Client(base_url=client.base_url, headers=twice) as other:
        check_error(other.get("/v1/models"), 400)


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(client, monkeypatch):
    monkeypatch.setattr(serving, "MAX_BODY_BYTES", 1000)
    check_error(client.post(CHAT, content=b"x" * 2000), 413)
    check_error(client.post(CHAT, content=(b"x" * 100 for _ in range(20))), 413)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def request_text(body: dict) -> bytes:
    """Return a question as the bytes of its request, for a client that leaves when the test says so."""
    data = json.dumps({"model": "base", "messages": HELLO, **body})
    head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n{data}".encode()


def test_a_few_wait_and_more_are_told_so_and_a_client_that_leaves_frees_its_place(served, client, monkeypatch):
    port, endpoint = served
    monkeypatch.setattr(serving, "MAX_WAITING", 1)
    begun, release, plain = threading.Event(), threading.Event(), serving.answer_all

    def slow(models, questions, emit, stop):
        begun.set()
        while not release.is_set() and not stop.is_set():
            time.sleep(0.01)
        yield from plain(models, questions, emit, stop)

    monkeypatch.setattr(serving, "answer_all", slow)
    raw = request_text({"max_tokens": 2})
    with (
        socket.create_connection(("127.0.0.1", port)) as first,
        socket.create_connection(("127.0.0.1", port)) as second,
    ):
        first.sendall(raw)
        assert begun.wait(120)
        second.sendall(raw)
        wait_for(lambda: endpoint.waiting == 2)
        refused = client.post(CHAT, json={"model": "base", "messages": HELLO, "max_tokens": 2})
        assert check_error(refused, 429)["type"] == "rate_limit_error" and refused.headers["retry-after"]
        begun.clear()
        first.close()
        assert begun.wait(120), "the client that left still holds its place"
        release.set()
        second.settimeout(120)
        assert b"".join(iter(lambda: second.recv(65536), b"")).startswith(b"HTTP/1.1 200")
    wait_for(lambda: endpoint.waiting == 0)
    assert ask(client, "base")["choices"]


def test_a_failure_of_ours_is_an_error_without_its_traceback(client, monkeypatch):
    def broken(*_):
        raise RuntimeError("weights of /secret/place")
        yield

    monkeypatch.setattr(serving, "answer_all", broken)
    body = {"model": "base", "messages": HELLO, "max_tokens": 2}
    assert "secret" not in check_error(client.post(CHAT, json=body), 500)["message"]
    text = client.post(CHAT, json={**body, "stream": True}).text
    assert '"error"' in text and "secret" not in text and "[DONE]" not in text


@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_a_client_that_leaves_ends_its_answer(served, client, monkeypatch, more):
    begun, stopped, plain = threading.Event(), threading.Event(), serving.answer_all

    def endless(models, questions, emit, stop):
        while not stop.is_set():
            emit(0, "x")
            begun.set()
            time.sleep(0.01)
        stopped.set()
        yield from plain(models, questions, emit, stop)

    monkeypatch.setattr(serving, "answer_all", endless)
    with socket.create_connection(("127.0.0.1", served[0]), timeout=120) as caller:
        caller.sendall(request_text(more))
        assert begun.wait(120) and not stopped.is_set()
        if more:
            assert caller.recv(12) == b"HTTP/1.1 200"  # a stream has begun to come
    assert stopped.wait(120)
    wait_for(lambda: served[1].waiting == 0)


def test_a_taken_port_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for port in (taken.getsockname()[1], 99_999):
            with pytest.raises(UserError, match=re.escape(f"Port {port} ")):
                listen(port)
