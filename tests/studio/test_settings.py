"""The Settings page as plain values: what it shows, and what it never shows."""

from __future__ import annotations

import json

import pytest

from engine.contract.errors import UserError
from engine.contract.files import replace_json
from engine.contract.places import DataRoot
from engine.contract.settings import Settings, read_settings, write_settings
from studio.access.accounts import Accounts
from studio.logic import settings
from tests.fake_runs import fake_run

URL = "https://hooks.slack.com/services/T0/B0/verysecretpath"


@pytest.fixture
def root(tmp_path):
    return DataRoot(tmp_path / "home").make()


def test_no_secret_is_on_the_page(root, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_thisisaverysecrettoken1234")
    write_settings(root, Settings(webhook_url=URL))
    Accounts(root.accounts).set_password("ada", "correct horse battery")
    told = json.dumps(settings.look(root))
    assert '"HF_TOKEN"' in told and '"hooks.slack.com/\\u2026"' in told and '"ada"' in told
    assert not any(secret in told for secret in ("verysecret", "hf_this", "correct horse", "scrypt", "salt"))


def test_sizes_are_counted_without_following_links(root, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x" * 5000)
    (root.runs / "link").symlink_to(tmp_path)
    (root.runs / "a").mkdir()
    (root.runs / "a" / "file").write_bytes(b"x" * 300)
    runs = next(one for one in settings.look(root)["folders"] if one["name"] == "Runs")
    assert 300 <= runs["bytes"] < 1000 and runs["whole"]


def test_the_cache_is_emptied_when_no_run_needs_it(root):
    (root.cache / "prepared" / "x").mkdir(parents=True)
    (root.cache / "prepared" / "x" / "tokens").write_bytes(b"x" * 2**20)
    run = fake_run(root.runs, "running")
    with pytest.raises(UserError, match="using the cache"):
        settings.request(root, {"action": "clean", "what": "cache"})
    (run.path / "recipe.yaml").unlink()
    assert settings.request(root, {"action": "clean", "what": "cache"}) == "1 MiB are free again."
    assert list(root.cache.iterdir()) == [root.prepared] and list(root.prepared.iterdir()) == []


def test_emptying_the_trash_does_not_follow_links(root, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    trash = root.path / "trash"
    trash.mkdir()
    (trash / "link").symlink_to(tmp_path / "kept")
    (trash / "run").mkdir()
    settings.request(root, {"action": "clean", "what": "trash"})
    assert list(trash.iterdir()) == [] and (tmp_path / "kept" / "file").exists()


@pytest.mark.parametrize("what", ["", "runs", "..", "models"])
def test_nothing_else_can_be_emptied(root, what):
    with pytest.raises(UserError):
        settings.request(root, {"action": "clean", "what": what})


def test_a_webhook_is_checked_saved_and_forgotten(root):
    with pytest.raises(UserError, match="https"):
        settings.request(root, {"action": "webhook", "url": "http://example.org/x"})
    assert settings.request(root, {"action": "webhook", "url": f" {URL} "}).endswith("hooks.slack.com from now on.")
    assert read_settings(root).webhook_url == URL
    settings.request(root, {"action": "notify", "notify_finished": False, "notify_failed": "yes"})
    assert read_settings(root) == Settings(webhook_url=URL, notify_finished=False, notify_failed=False)
    settings.request(root, {"action": "forget_webhook"})
    assert settings.look(root)["webhook"] == ""
    with pytest.raises(UserError, match="no webhook"):
        settings.request(root, {"action": "test_webhook"})


def test_a_message_that_is_not_taken_is_told_without_the_address(root):
    write_settings(root, Settings(webhook_url="http://127.0.0.1:9/verysecretpath"))
    with pytest.raises(UserError) as caught:
        settings.request(root, {"action": "test_webhook"})
    assert "does not answer" in str(caught.value) and "secret" not in str(caught.value)


def test_gpus_that_are_not_there_are_not_chosen(root):
    settings.request(root, {"action": "gpus", "gpus": [7, "0", None]})
    assert read_settings(root).default_gpus == ""


def test_a_new_recipe_begins_with_as_many_of_the_chosen_gpus_as_it_needs(root):
    assert settings.first_gpus(root, 1) == {}
    write_settings(root, Settings(default_gpus="2,3"))
    assert settings.first_gpus(root, 1) == {"launch.gpus": "2"}
    assert settings.first_gpus(root, 2) == {"launch.gpus": "2,3"}
    assert settings.first_gpus(root, 3) == {}


def test_what_the_doctor_said_is_shown_whatever_the_file_holds(root):
    assert settings.look(root)["doctor"] is None
    settings.doctor_file(root).parent.mkdir(exist_ok=True)
    one = {"fine": True, "fact": "torch 2", "advice": ""}
    replace_json(settings.doctor_file(root), {"state": "done", "result": {"findings": [one, 7]}})
    assert settings.look(root)["doctor"]["findings"] == [one]
    replace_json(settings.doctor_file(root), {"state": "done", "result": {"findings": "x"}})
    assert settings.look(root)["doctor"]["findings"] == []
