"""Secrets: out of what is shown and written, and not handed to processes that do not need them."""

from __future__ import annotations

import pytest

from engine.contract import redact as module
from engine.contract.errors import Problem
from engine.contract.places import DataRoot
from engine.contract.redact import redact
from engine.launch.processes import child_environment
from engine.train.record import RunRecord
from studio.logic.run import RunWatcher
from studio.logic.run_log import read_log
from tests.fake_runs import fake_run

CANARIES = {
    "hf": "hf_CaNaRyCaNaRyCaNaRyCaNaRy01",
    "sk": "sk-proj-CaNaRyCaNaRyCaNaRy02",
    "aws": "AKIACANARYCANARY0303",
    "github": "ghp_CaNaRyCaNaRyCaNaRyCaNaRyCaNaRyCa04",
    "bearer": "Authorization: Bearer CaNaRy.CaNaRy.CaNaRy05",
    "address": "https://ada:CaNaRyCaNaRy06@host/x",
    "webhook": "https://hooks.slack.com/services/T0/B0/CaNaRyCaNaRy07",
    "variable": "WANDB_API_KEY=CaNaRyCaNaRy08",
}


def found(text: str) -> list[str]:
    """Return what is left of the canaries."""
    return [word for word in ("CaNaRy", "CANARY") if word in text]


@pytest.mark.parametrize("secret", CANARIES.values(), ids=CANARIES)
def test_a_secret_goes_and_the_words_around_it_stay(secret):
    told = redact(f"before {secret}\nafter")
    assert not found(told) and told.startswith("before ") and told.endswith("after") and "[removed]" in told


@pytest.mark.parametrize(
    "text",
    [
        "loss 1.25 at 400 tokens/s",
        "tokenizer: fast",
        "task-sk-1 of hf",
        "https://host:8080/x@y",
        "key: value",
        "step 12: lr 2e-4",
    ],
)
def test_other_words_stay(text):
    assert redact(text) == text


def test_values_of_this_process_are_known(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_SECRET", "plainwordsecret")
    module._own_secrets.cache_clear()
    try:
        assert redact("it said plainwordsecret.") == "it said [removed]."
    finally:
        module._own_secrets.cache_clear()


def test_nothing_of_a_run_shows_or_keeps_one(tmp_path):
    text = " | ".join(CANARIES.values())
    run = fake_run(tmp_path / "runs", "failed")
    record = RunRecord(run, attempt=1, rank=0)
    record.event("problem", text)
    record.error(Problem(problem=text, fix=text), RuntimeError(text))
    written = [path.read_text() for path in run.path.rglob("*") if path.is_file()]
    assert len(written) > 5 and not any(map(found, written))

    run.log_file.write_text(f"{text}\n")  # what a library prints is not ours to change; what is shown of it is
    assert not found(repr(RunWatcher(DataRoot(tmp_path)).look(run.id)))
    assert not found(repr(read_log(run, -1)))


def test_a_child_gets_only_the_secrets_it_may_need(monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "DB_PASSWORD", "GITHUB_TOKEN", "HF_TOKEN", "GRADIO_SHARE"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    environment = child_environment()
    assert {name for name, value in environment.items() if value == "canary"} == {"HF_TOKEN"}
    assert environment["NCCL_DEBUG"] == "INFO" and "PATH" in environment
