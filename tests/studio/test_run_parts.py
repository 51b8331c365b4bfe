"""Failure card, checkpoints and log of the Run page."""

from __future__ import annotations

import os

import pytest

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from studio.logic import run_checkpoints
from studio.logic.draft import initial
from studio.logic.run import RunWatcher
from studio.logic.run_failure import report_text, without_secrets
from studio.logic.run_log import read_log
from tests.fake_runs import fake_run


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path).make()


def test_a_failure_offers_changes_and_each_opens_a_form_with_them_marked(root, tmp_path):
    run = fake_run(root.runs, "failed")
    card = RunWatcher(root).look(run.id)["failure"]
    assert card["problem"] == "Out of memory." and card["meaning"]
    assert card["ways"][0]["href"] == f"/new?from={run.id}&fix=1"
    draft = initial(root, tmp_path, run_id=run.id, fix="1")
    assert draft.marked == ("optim.per_device_train_batch_size", "optim.gradient_accumulation_steps")
    assert (draft.values[draft.marked[0]], draft.values[draft.marked[1]]) == (2, 2)
    for wrong in ("0", "99", "x"):
        assert "remedy" in initial(root, tmp_path, run_id=run.id, fix=wrong).notices[0].problem


def test_a_report_holds_the_recipe_and_the_log_but_no_secret(root):
    run = fake_run(root.runs, "failed")
    run.log_file.write_text("token hf_abcdefghijklmnop\nAuthorization: Bearer xyz\nHF_TOKEN=abcdefgh12\nlast words\n")
    text = report_text(run)
    assert "some/model-1b" in text and "last words" in text and "Out of memory." in text
    for secret in ("abcdefghijklmnop", "xyz", "abcdefgh12"):
        assert secret not in text


def test_words_about_tokens_stay():
    text = "loss 1.23 at 400 tokens/s; tokens_seen: 81234; tokenizer: fast"
    assert without_secrets("https://me:secret1@host/x") == "https://[removed]@host/x"
    assert "400 tokens/s" in without_secrets(text)


def test_a_living_run_keeps_its_best_and_its_last_checkpoint(root):
    run = fake_run(root.runs, "running")
    old = run.checkpoints / "step-000005"
    old.mkdir()
    (old / "manifest.json").write_text("{}")
    rows = RunWatcher(root).look(run.id)["saved"]
    assert [(row["name"], row["is_last"], row["is_best"], row["may_delete"]) for row in rows] == [
        ("step-000010", True, True, False),
        ("step-000005", False, False, True),
    ]
    assert (rows[0]["eval_loss"], rows[1]["bytes"]) == (4.0, 2)
    with pytest.raises(UserError, match="still needs"):
        run_checkpoints.request_delete(root, run.id, "step-000010")
    assert "trash" in run_checkpoints.request_delete(root, run.id, "step-000005")
    assert [path.name for path in run.checkpoint_dirs()] == ["step-000010"]
    assert (root.path / "trash").is_dir()
    for name in ("step-000005", "../x", ""):
        with pytest.raises(UserError):
            run_checkpoints.request_delete(root, run.id, name)


def test_a_run_that_is_over_may_lose_all_its_checkpoints(root):
    run = fake_run(root.runs, "finished")
    assert RunWatcher(root).look(run.id)["saved"][0]["may_delete"]
    run_checkpoints.request_delete(root, run.id, "step-000010")
    assert RunWatcher(root).look(run.id)["saved"] == []


def test_a_log_is_handed_out_in_whole_lines_and_only_what_is_new(root):
    run = fake_run(root.runs, "running")
    run.log_file.write_bytes(b"one\n10 %\r20 %\ntw")
    first = read_log(run, -1)
    assert (first["lines"], first["reset"]) == (["one", "20 %"], True)
    with open(run.log_file, "ab") as file:
        file.write(b"o\nthree")
    second = read_log(run, first["offset"])
    assert (second["lines"], second["reset"]) == (["two"], False)
    assert read_log(run, second["offset"])["lines"] == []
    os.truncate(run.log_file, 0)
    assert read_log(run, second["offset"])["reset"]


def test_a_long_log_begins_near_its_end_with_a_whole_line(root):
    run = fake_run(root.runs, "running")
    run.log_file.write_text("".join(f"line {i}\n" for i in range(100_000)))
    found = read_log(run, -1)["lines"]
    assert found[-1] == "line 99999" and found[0].startswith("line ") and len(found) < 10_000


def test_the_steps_before_training_are_told_with_their_share(root):
    view = RunWatcher(root).look(fake_run(root.runs, "preparing").id)
    states = [(stage["name"], stage["state"], stage["share"]) for stage in view["stages"]]
    assert states[1:4] == [("model", "done", None), ("data", "now", 0.4), ("load", "later", None)]
