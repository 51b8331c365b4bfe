"""The Chat page's logic without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from studio.chat_client import Done, Loaded, Memory, Piece, Progress
from studio.logic import chat, chat_prompts
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
    """A client that answers with the speaker's name, in one batch, and fails after the first words when told to."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.asked, self.memory = fail, [], Memory(5, 0)

    def ask(self, base, rows, **settings):
        self.asked.append((base, rows, settings))
        yield Progress("loading the base model")
        yield Loaded("float32", "GPU 0 is used by a run: answering on GPU 1.")
        for row, (speaker, _) in enumerate(rows):
            yield Piece(row, speaker.name[:2])
        if self.fail:
            raise UserError("Out of memory.", fix="choose a smaller one.")
        for row, (speaker, _) in enumerate(rows):
            yield Piece(row, speaker.name[2:])
            yield Done(
                row=row, text=speaker.name, num_tokens=2, prompt_tokens=3, seconds=0.1, speaker=f"I am {speaker.name}",
                stop_reason="end of turn", notes=["Said."],
            )  # fmt: skip


def question(text: str = "Hi", **changes) -> chat.Ask:
    values = {"run_id": "r1", "left": "base", "right": "step-000004", "system": "Be brief", "gold": "g"}
    return chat.Ask(question=text, **{**values, **changes})


def talk_to(root, client, ask: chat.Ask, talk=None):
    talk = chat.new_talk() if talk is None else talk
    views = list(chat.answer(client, root, ask, talk))
    json.dumps(views)
    return views, talk


def test_both_sides_answer_with_their_own_history(root):
    client = Echo()
    _, talk = talk_to(root, client, question())
    views, talk = talk_to(root, client, question("And?"), talk)
    assert [turn["content"] for turn in talk["right"]] == ["Hi", "step-000004", "And?", "step-000004"]
    (_, left), (speaker, right) = client.asked[-1][1]
    assert [turn["role"] for turn in left] == ["system", "user", "assistant", "user"]
    assert right[2] == {"role": "assistant", "content": "step-000004"} and left[2]["content"] == "base"
    assert speaker.kind == "adapter" and speaker.folder.endswith("step-000004")
    last = views[-1]
    assert last["finished"] and last["gold"] == "g" and last["held_in"] == "float32" and last["memory"]["memory_bytes"]
    assert last["seat"].endswith("answering on GPU 1.")  # still there when all is said
    state = last["columns"][1]["turns"][-1]["state"]
    assert state["speaker"] == "I am step-000004" and state["notes"] == ["Said."]


def test_the_phases_of_a_question_can_be_seen(root):
    views, _ = talk_to(root, Echo(), question())
    assert views[0]["phase"] == "starting" and views[1]["phase"] == "loading the base model"
    assert any(view.get("answering") for view in views) and not views[-1].get("answering")


def test_a_failure_is_a_sentence_and_the_talk_stays_as_it_was(root):
    _, talk = talk_to(root, Echo(), question())
    views, talk = talk_to(root, Echo(fail=True), question("And?"), talk)
    assert views[-1]["problem"] == "Out of memory." and views[-1]["gold"] == "g"
    assert [turn["content"] for turn in talk["left"]] == ["Hi", "base"]


def test_nothing_is_asked_without_a_question(root):
    client = Echo()
    views, _ = talk_to(root, client, question("   "))
    assert "no question" in views[-1]["problem"] and client.asked == []


def test_settings_and_precision_reach_the_worker(root):
    client = Echo()
    settings = chat.Settings(temperature=0.5, top_p=0.9, max_new_tokens=7, seed=3, drop_oldest=True)
    talk_to(root, client, question(settings=settings, precision="4 bit"))
    base, _, sent = client.asked[0]
    assert base.four_bit and "as you chose" in base.reason
    assert sent == {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7, "seed": 3, "drop_oldest": True}


def test_the_last_question_can_be_taken_back(root):
    _, talk = talk_to(root, Echo(), question())
    _, talk = talk_to(root, Echo(), question("And?"), talk)
    assert chat.take_back(talk) == "And?" and [turn["content"] for turn in talk["left"]] == ["Hi", "base"]
    assert chat.take_back(talk) == "Hi" and chat.take_back(talk) == "" and talk == chat.new_talk()


def test_choices_name_the_newest_and_other_runs_on_the_same_base(root):
    other = create_run_at(root.runs / "r2", override(RECIPE, ["name=Second"]))
    far = create_run_at(root.runs / "r3", override(RECIPE, ["model_name_or_path=some/other-1b"]))
    for run in (other, far):
        (run.checkpoints / "step-000002").mkdir()
        (run.checkpoints / "step-000002" / "manifest.json").write_text("{}")
    choices, newest = chat.speaker_choices(root, "r1")
    assert newest == "step-000004"
    assert choices[:2] == [("Base model", "base"), ("step-000004 (newest)", "step-000004")]
    assert choices[2:] == [("Second \u00b7 r2: step-000002", "r2:step-000002")]
    client = Echo()
    talk_to(root, client, question(left="r2:step-000002"))
    assert client.asked[0][1][0][0].run == "r2"
    views, _ = talk_to(root, client, question(left="r3:step-000002"))
    assert "another base model" in views[-1]["problem"]


def test_tasks_and_prompts(root):
    assert chat.run_choices(root)[0][1] == "r1" and chat.weight_choices(root, "r1") == ["step-000004"]
    assert chat_prompts.tasks(root, "r1") == ["sql", "bug-fix"]
    prompts = chat_prompts.prompts(root, "r1", "sql")
    assert len(prompts) > 3 and prompts[0].system and prompts[0].gold.startswith('"""')
    for task, why in (("bug-fix", "no longer where the recipe says"), ("no such task", "no task of this run")):
        with pytest.raises(UserError, match=f"(?i){why}"):
            chat_prompts.prompts(root, "r1", task)


@pytest.mark.parametrize("weights", ["../../etc", "merged/../..", "", "merged/nothing", "step-000009", "r1:base"])
def test_speakers_cannot_leave_the_run(root, weights):
    views, _ = talk_to(root, client := Echo(), question(right=weights))
    assert views[-1]["problem"] and client.asked == []


def test_snippets_name_the_run_and_the_model(root):
    own = chat_prompts.code(PROJECT, "r1", "step-000004")
    assert own["command"].endswith("-m engine serve r1") and '\'{"model": "step-000004"' in own["curl"]
    compile(own["python"], "snippet", "exec")
    assert chat_prompts.code(PROJECT, "r1", "r2:step-000002")["command"].endswith("-m engine serve r2")
    assert chat_prompts.code(PROJECT, "", "") == {}
