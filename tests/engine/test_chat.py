"""The chat worker through its client: who speaks is read from the model, a stop acts, a death is a sentence."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest

from engine.chat.worker import Worker
from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.contract.speakers import BaseModel, Speaker, base_of, speakers_of
from engine.train.main import train
from studio.chat_client import ChatClient, Done, Loaded, Piece
from tests.tiny_run import new_attempt

QUESTION = [{"role": "user", "content": "abc 1"}]


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    run = create_run_at(tmp_path_factory.mktemp("chat") / "run", override(recipe, ["optim.max_steps=3"]))
    train(run, new_attempt(run))
    return run


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    client = ChatClient(tmp_path_factory.mktemp("chatlog") / "chat.log")
    yield client
    client.unload()


def ask(client: ChatClient, run, messages=QUESTION, **settings) -> tuple[list, list[Done]]:
    rows = [(speaker, messages) for speaker in speakers_of(run)]
    said = list(client.ask(base_of(run), rows, **{"max_new_tokens": 12, **settings}))
    return said, sorted((item for item in said if isinstance(item, Done)), key=lambda done: done.row)


def test_base_and_tuned_stream_side_by_side_and_say_who_they_are(client, trained):
    said, (base, tuned) = ask(client, trained)
    assert base.speaker == "base model, adapter off" and tuned.speaker == "adapter step-000003"
    assert base.together and tuned.together and base.text != tuned.text
    pieces = [item for item in said if isinstance(item, Piece)]
    for done in (base, tuned):
        assert "".join(piece.text for piece in pieces if piece.row == done.row) == done.text
    order = [piece.row for piece in pieces]
    assert order != sorted(order), "one answer was finished before the other began"
    assert [item.held_in for item in said if isinstance(item, Loaded)] == ["float32"]
    assert client.memory.memory_bytes > 50e6


def test_a_stop_ends_long_answers_early(client, trained):
    reasons = []
    for seed in range(10):  # a random model may end its turn by itself, now and then
        rows = [(speaker, QUESTION) for speaker in speakers_of(trained)]
        stream = client.ask(base_of(trained), rows, max_new_tokens=400, temperature=1.0, seed=seed)
        next(item for item in stream if isinstance(item, Piece))
        client.cancel()
        done = [item for item in stream if isinstance(item, Done)]
        reasons += [item.stop_reason for item in done]
        if "stopped" in reasons:
            assert min(item.num_tokens for item in done) < 400
            return
    raise AssertionError(reasons)


def test_a_second_question_is_refused_while_one_is_answered(client, trained):
    stream = client.ask(base_of(trained), [(speakers_of(trained)[0], QUESTION)], max_new_tokens=12)
    next(stream)
    with pytest.raises(UserError, match="answering another question"):
        next(client.ask(base_of(trained), [(speakers_of(trained)[0], QUESTION)]))
    assert isinstance(list(stream)[-1], Done)


@pytest.mark.parametrize(
    ("messages", "settings", "match"),
    [
        ([{"role": "wizard"}], {}, "content"),
        (QUESTION, {"temperature": 9}, "temperature"),
        (QUESTION, {"top_p": 0.0, "seed": -1}, "top-p.*seed"),
        ([{"role": "user", "content": "a" * 600}], {}, "can see 512"),
        ([{"role": "user", "content": "half of \ud83d"}], {}, "lone surrogate"),
    ],
)
def test_a_question_that_cannot_be_answered_is_a_sentence_and_leaves_the_worker_alive(
    client, trained, messages, settings, match
):
    process = client._process
    with pytest.raises(UserError, match=match):
        ask(client, trained, messages, **settings)
    assert ask(client, trained)[1][0].text
    assert process is None or client._process is process


def test_a_missing_model_is_a_sentence(client):
    with pytest.raises(UserError, match="no model folder"):
        list(client.ask(BaseModel(model="/nowhere/at/all"), [(Speaker(name="base"), QUESTION)]))


def test_a_killed_worker_is_a_sentence_and_the_next_question_starts_a_new_one(client, trained):
    ask(client, trained)
    os.kill(client._process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="chat process ended"):
        ask(client, trained)
    assert ask(client, trained)[1][1].text


def test_an_unload_gives_the_memory_back_and_the_next_question_loads_again(client, trained):
    ask(client, trained)
    pid = client._process.pid
    client.unload()
    assert client.memory.memory_bytes == 0 and not os.path.exists(f"/proc/{pid}")
    assert ask(client, trained)[1][0].text


def test_running_out_of_memory_is_a_sentence_and_drops_what_is_loaded(monkeypatch):
    out = io.BytesIO()
    worker = Worker(out)
    worker.models = object()
    monkeypatch.setattr(worker, "ask", lambda _: (_ for _ in ()).throw(RuntimeError("CUDA out of memory. Tried ...")))
    worker.read([json.dumps({"id": 1, "op": "ask"}), "no json", "[]", json.dumps({"id": 2, "op": "dance"})])
    worker.serve()
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["problem"], first["id"], worker.models) == ("Out of memory.", 1, None)
    assert "4 bit" in first["fix"] and "dance" in second["problem"]
