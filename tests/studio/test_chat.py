"""The Chat and Export pages' logic without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from studio.chat_client import Done
from studio.logic import chat, export
from tests.fake_runs import RECIPE

PROJECT = Path(__file__).resolve().parents[2]
SAMPLES = PROJECT / "assets" / "samples"


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    root = DataRoot(tmp_path).make()
    heldout = SAMPLES / "comment-generation.heldout.jsonl"
    run = create_run_at(
        root.runs / "r1", override(RECIPE, [f"tasks.0.eval_path={heldout}", "tasks.1.eval_path=/gone.jsonl"])
    )
    checkpoint = run.checkpoints / "step-000004"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    (checkpoint / "adapter_config.json").write_text("{}")
    return root


class Echo:
    """A client that answers with the side's name, and forgets to answer when told to fail."""

    def __init__(self, fail: str = "") -> None:
        self.fail, self.asked = fail, []

    def ensure_loaded(self, *wanted) -> None:
        self.asked.append(wanted)

    def stream(self, side, messages, **sampling):
        if side == self.fail:
            raise UserError("Out of memory.", fix="choose a smaller one.")
        self.asked.append([turn["role"] for turn in messages])
        yield side[:2]
        yield side[2:]
        yield Done(side, 2, 0.1, f"adapter of {side}", "end of turn")


def talk(root, client, question="Hi", histories=None):
    histories = {"base": [], "tuned": []} if histories is None else histories
    arguments = {"run_id": "r1", "weights": "step-000004", "system": "Be brief", "gold": "g", "histories": histories}
    views = list(chat.answer(client, root, question=question, sampling=chat.Sampling(), **arguments))
    return views[-1], histories


def test_both_sides_answer_with_their_own_history(root):
    client = Echo()
    view, histories = talk(root, client)
    view, histories = talk(root, client, "And?", histories)
    assert [turn["content"] for turn in histories["tuned"]] == ["Hi", "tuned", "And?", "tuned"]
    assert client.asked[-1] == ["system", "user", "assistant", "user"]
    assert view["columns"][0]["state"].startswith("adapter of base") and view["gold"] == "g"
    json.dumps(view)


def test_a_failure_is_a_sentence_and_the_history_stays_clean(root):
    view, histories = talk(root, Echo(fail="tuned"))
    assert view["problem"] == "Out of memory." and histories["tuned"] == []
    assert [turn["content"] for turn in histories["base"]] == ["Hi", "base"]


def test_nothing_is_asked_without_a_question(root):
    client = Echo()
    view, _ = talk(root, client, "   ")
    assert "no question" in view["problem"] and client.asked == []


def test_sources_and_prompts(root):
    run_id = chat.run_choices(root)[0][1]
    assert chat.weight_choices(root, run_id) == ["step-000004"]
    prompts = chat.prompts(root, run_id)
    assert {prompt.task for prompt in prompts} == {"sql"} and prompts[0].system and prompts[0].gold.startswith('"""')
    with pytest.raises(UserError, match="no step-000009"):
        chat.sources(create_run_at(root.runs / "r2", RECIPE), "step-000009")


@pytest.mark.parametrize("weights", ["../../etc", "merged/../..", "", "merged/nothing"])
def test_weights_cannot_leave_the_run(root, weights):
    from engine.contract.rundir import open_run

    with pytest.raises(UserError):
        chat.sources(open_run(root.runs, "r1"), weights)


def test_a_merge_needs_a_checkpoint_and_a_free_name(root, monkeypatch):
    started = []
    monkeypatch.setattr(export, "start_job", lambda *arguments: started.append(arguments))
    with pytest.raises(UserError, match="checkpoint"):
        export.request_merge(root, "r1", "step-999999", "x")
    export.request_merge(root, "r1", "step-000004", "../My Model; rm -rf")
    (_, argv, _), *_ = started
    assert argv[argv.index("--output") + 1] == "my-model-rm--rf"
    (root.runs / "r1" / "merged" / "taken").mkdir()
    with pytest.raises(UserError, match="already"):
        export.request_merge(root, "r1", "step-000004", "taken")
    assert "facts" in export.look(root, "r1", "step-000004") and "empty" in export.look(root, "", "")
