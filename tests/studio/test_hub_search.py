"""Searching the hub for a model: what is asked, what is told, and that nothing hangs, raises or leaks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from studio.logic import hub_search, model_choice
from studio.logic.hub_search import HubModel, search
from tests.hub_of_models import HubOfModels, hub_of_models


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stub as the hub of this process, which is not logged in."""
    for key in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with hub_of_models() as address:
        monkeypatch.setenv("HF_ENDPOINT", address + "/")
        yield HubOfModels


def test_models_that_write_text_are_told_with_what_decides(hub):
    found = search("  llama  ")
    (model,) = found.models
    assert (found.state, found.query) == ("results", "llama")
    assert model == HubModel(
        name="meta-llama/Llama-3.2-1B", weights=1_235_814_400, downloads=2_000_000, licence="llama3.2", gated=True
    )
    (asked,) = hub.asked
    assert (asked["search"], asked["pipeline_tag"], asked["sort"]) == ("llama", "text-generation", "downloads")
    assert int(asked["limit"]) == hub_search.LIMIT


def test_what_the_hub_does_not_say_is_not_made_up(hub):
    (model,) = search("onerror").models
    assert (model.weights, model.licence, model.gated) == (None, "", False)


def test_few_characters_and_no_finds_are_states_of_their_own(hub):
    assert search(" q ").state == "empty" and not hub.asked
    assert search("zzz").state == "none"


@pytest.mark.parametrize(
    ("words", "told"), [("busy", "refused the search with code 429"), ("odd", "is not the Hugging Face hub")]
)
def test_a_hub_that_refuses_is_one_sentence_at_once(hub, words, told):
    found = search(words)
    assert found.state == "error" and told in found.text and "\n" not in found.text and len(hub.asked) == 1


def test_a_hub_that_hangs_is_waited_for_only_so_long(hub, monkeypatch):
    monkeypatch.setattr(hub_search, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(hub, "slow_s", 3600.0)
    found = search("slow")
    assert found.state == "error" and "did not answer within" in found.text


def test_offline_says_why(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert search("qwen").as_json() | {"models": []} == {
        "query": "qwen", "state": "offline", "text": "HF_HUB_OFFLINE is set.", "models": [], "account": "",
    }  # fmt: skip
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    model_choice.why_unreachable(wait_s=5.0)
    found = search("qwen")
    assert found.state == "offline" and "http://127.0.0.1:9 does not answer" in found.text


def test_of_a_token_only_its_account_is_told(hub, monkeypatch):
    assert search("qwen").account == "" and set(hub.tokens) == {""}
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    found = search("llama")
    assert found.account == "ada" and "hf_abc" not in str(found.as_json())
    assert "Bearer hf_abcdefghijklmnopqrstuvwxyz" in hub.tokens
    assert "hf_abc" not in search("busy").text


def test_a_search_loads_no_torch(hub):
    """In a process of its own: the studio stays small."""
    code = "import sys; from studio.logic.hub_search import search; print(search('qwen').state, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == ["results", "False"]
