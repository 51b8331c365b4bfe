"""The chat worker through its client: who speaks is read from the model, a stop acts, a death is a sentence."""

from __future__ import annotations

import os
import signal
import time

import pytest

from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.train.main import train
from studio.chat_client import ChatClient, Done
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


def ask(client: ChatClient, side: str, **sampling) -> tuple[list[str], Done]:
    *pieces, done = client.stream(side, QUESTION, **{"max_new_tokens": 12, **sampling})
    assert isinstance(done, Done)
    return pieces, done


def test_base_and_tuned_answer_for_themselves(client, trained):
    client.ensure_loaded(trained.recipe().model_name_or_path, str(trained.checkpoint_dirs()[-1]))
    pieces, base = ask(client, "base")
    _, tuned = ask(client, "tuned")
    assert base.adapter == "base model, adapter off" and tuned.adapter == "adapter step-000003"
    assert "".join(pieces) == base.text and base.num_tokens <= 12
    assert base.text != tuned.text
    assert ask(client, "base")[1].text == base.text  # the adapter is off again


def test_a_seed_repeats_a_sampled_answer(client, trained):
    client.ensure_loaded(trained.recipe().model_name_or_path, str(trained.checkpoint_dirs()[-1]))
    first, again, other = (ask(client, "tuned", temperature=1.0, seed=seed)[1].text for seed in (1, 1, 2))
    assert first == again != other


def test_a_stop_ends_a_long_answer_early(client, trained):
    client.ensure_loaded(trained.recipe().model_name_or_path, str(trained.checkpoint_dirs()[-1]))
    reasons = []
    for seed in range(10):  # a random model may end its turn by itself, now and then
        started = time.monotonic()
        stream = client.stream("base", QUESTION, max_new_tokens=100_000, temperature=1.0, seed=seed)
        next(stream)
        client.cancel()
        reasons += [piece.stop_reason for piece in stream if isinstance(piece, Done)]
        assert time.monotonic() - started < 20
        if reasons[-1] == "stopped":
            return
    raise AssertionError(reasons)


def test_a_question_that_cannot_be_answered_leaves_the_worker_alive(client, trained):
    client.ensure_loaded(trained.recipe().model_name_or_path, str(trained.checkpoint_dirs()[-1]))
    with pytest.raises(UserError):
        list(client.stream("base", [{"role": "wizard"}]))
    assert ask(client, "base")[1].text


def test_a_missing_model_is_a_sentence(client):
    with pytest.raises(UserError, match="no model folder"):
        client.ensure_loaded("/nowhere/at/all", None)


def test_a_killed_worker_is_a_sentence_and_the_next_question_starts_a_new_one(client, trained):
    model, adapter = trained.recipe().model_name_or_path, str(trained.checkpoint_dirs()[-1])
    client.ensure_loaded(model, adapter)
    os.kill(client._process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="chat process ended"):
        ask(client, "base")
    client.ensure_loaded(model, adapter)
    assert ask(client, "base")[1].text
