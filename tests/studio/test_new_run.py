"""A draft in, everything the page says out; Start starts once and says everything that is missing."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.rundir import RunDir, create_run, list_runs
from engine.launch.devices import Machine
from studio.logic import form_fields, mix, new_run
from studio.logic.draft import Draft, initial, load_yaml
from studio.logic.new_run import look, request_start
from studio.logic.task_choice import TaskChoice

GOOD = '{"messages": [{"role": "user", "content": "add"}, {"role": "assistant", "content": "a + b"}]}\n'
MACHINE = Machine(
    gpus=(),
    cpu_count=2,
    cpu_percent=0.0,
    ram_total=24 * 2**30,
    ram_used=0,
    cpu_bf16=True,
    gpu_note="No NVIDIA driver answers.",
)
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}


@pytest.fixture(autouse=True)
def nobody_measures(monkeypatch):
    """Keep `look` from starting processes; what it starts is tested in test_mix.py."""
    monkeypatch.setattr(mix, "request_facts", lambda *_: False)


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path / "root").make()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "assets" / "samples").mkdir(parents=True)
    (folder / "presets").mkdir()
    (folder / "assets" / "samples" / "sorting.jsonl").write_text(GOOD * 30)
    (folder / "assets" / "samples" / "naming.jsonl").write_text(GOOD * 10)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY))
    (folder / "model.safetensors").write_bytes(b"\0" * 16)
    (folder / "tokenizer.json").write_text("{}")
    return str(folder)


@pytest.fixture
def draft(root: DataRoot, project: Path, model: str) -> Draft:
    empty = initial(root, project)
    tasks = tuple(replace(task, checked=True) for task in empty.tasks)
    return Draft(values={**empty.values, "model_name_or_path": model}, tasks=tasks)


@pytest.fixture
def started(monkeypatch) -> list[str]:
    calls: list[str] = []

    def start(run: RunDir, *, resume_from: str = "") -> None:
        time.sleep(0.05)
        calls.append(run.id)

    monkeypatch.setattr(new_run.supervisor, "start_run", start)
    return calls


def fields(view: new_run.NewRunView) -> set[str]:
    return {problem.field for problem in view.problems}


def test_an_empty_page_says_what_to_choose(root, project):
    view = look(initial(root, project), root, project, machine=MACHINE)

    assert [problem.problem for problem in view.problems] == ["Choose at least one task.", "Choose a model."]
    assert not view.can_start
    assert view.num_changed == 0


def test_a_complete_draft_can_start_and_shows_its_plan(root, project, draft):
    view = look(draft, root, project, machine=MACHINE)

    assert view.problems == ()
    facts = dict(view.facts)
    assert facts["Effective batch"] == "4 examples"
    assert facts["Optimizer steps"].startswith("10 ")  # 30 - 2 and 10 - 1 held out: 37 examples in batches of 4
    assert facts["Runs on"] == "CPU, 2 cores"
    assert view.fit_state == "fits"
    assert "model_name_or_path: " in view.yaml
    assert view.command.startswith("python -m engine train recipe.yaml --output-dir runs/")


def test_all_problems_come_at_once_with_their_fields(root, project, draft):
    tasks = (replace(draft.tasks[0], weight="heavy"), replace(draft.tasks[1], path="/nowhere.jsonl"))
    values = {**draft.values, "optim.learning_rate": 5.0, "lora.r": 2.5}

    view = look(Draft(values=values, tasks=tasks), root, project, machine=MACHINE)

    assert {"optim.learning_rate", "lora.r", "tasks.0.weight", "tasks.1.path"} <= fields(view)
    assert "learning_rate" in view.yaml


def test_a_missing_task_does_not_hide_a_wrong_setting(root, project):
    empty = initial(root, project)
    view = look(replace(empty, values={**empty.values, "data.max_length": 1}), root, project, machine=MACHINE)
    assert {"tasks", "model_name_or_path", "data.max_length"} <= fields(view)


def test_a_model_too_big_for_this_cpu_is_refused_with_the_reason(root, project, draft, model):
    Path(model, "config.json").write_text(
        json.dumps({**TINY, "hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 28672})
    )
    view = look(draft, root, project, machine=MACHINE)

    assert view.fit_state == "no"
    assert any("too many to train on a CPU" in problem.problem for problem in view.problems)


def test_a_hub_model_out_of_reach_says_so(root, project, draft, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    view = look(
        replace(draft, values={**draft.values, "model_name_or_path": "some/where"}), root, project, machine=MACHINE
    )

    assert any("the hub cannot be reached: HF_HUB_OFFLINE is set" in problem.problem for problem in view.problems)


def test_a_missing_model_folder_says_so(root, project, draft):
    view = look(
        replace(draft, values={**draft.values, "model_name_or_path": "/nowhere"}), root, project, machine=MACHINE
    )
    assert any("There is no model folder" in problem.problem for problem in view.problems)


def test_an_unusable_task_cannot_be_chosen(root, project, draft):
    tasks = (replace(draft.tasks[0], problem="no usable record"),)
    assert "tasks.0.path" in fields(look(replace(draft, tasks=tasks), root, project, machine=MACHINE))


def test_a_preset_ticks_its_tasks_and_fills_the_form(root, project):
    task = "{name: order, path: ../assets/samples/sorting.jsonl, weight: 2}"
    text = f"model_name_or_path: m\noptim: {{max_steps: 5}}\ntasks:\n- {task}\n"
    (project / "presets" / "one.yaml").write_text(text)

    draft = initial(root, project, preset="one")

    assert [(task.name, task.checked, task.weight, task.num_used) for task in draft.tasks] == [
        ("order", True, 2.0, 30),
        ("naming", False, 1.0, 10),
    ]
    assert draft.values["optim.max_steps"] == 5


@pytest.mark.parametrize("preset", ["missing", "../presets/one", "..", "a/b", "nul\0"])
def test_a_preset_that_is_not_there_is_a_notice(root, project, preset):
    draft = initial(root, project, preset=preset)
    assert draft.notices
    assert draft.values == form_fields.defaults()


def test_settings_of_a_run_come_back(root, project, draft):
    view = look(draft, root, project, machine=MACHINE)
    run = create_run(root.runs, view.recipe)

    again = initial(root, project, run_id=run.id)

    assert look(again, root, project, machine=MACHINE).recipe == view.recipe
    assert initial(root, project, run_id="no-such-run").notices


def test_a_run_is_continued_with_its_settings_and_the_weights_it_ended_with(root, project, draft):
    view = look(draft, root, project, machine=MACHINE)
    run = create_run(root.runs, view.recipe)
    assert "no checkpoint" in initial(root, project, continued=run.id).notices[0].problem

    saved = run.checkpoints / "step-000060"
    saved.mkdir()
    (saved / "manifest.json").write_text("{}")
    goes_on = initial(root, project, continued=run.id)
    assert goes_on.source == f"Goes on from run {run.id}, step-000060"
    recipe = look(goes_on, root, project, machine=MACHINE).recipe
    assert recipe.continue_from == str(saved) and recipe.tasks == view.recipe.tasks
    assert recipe.optim.num_train_epochs == 1 and recipe.order_seed != view.recipe.order_seed

    shutil.rmtree(saved)
    problems = look(goes_on, root, project, machine=MACHINE).problems
    assert [problem.field for problem in problems] == ["continue_from"]


def test_pasted_yaml_fills_the_form_and_bad_yaml_names_everything(root, project, draft):
    view = look(draft, root, project, machine=MACHINE)
    assert look(load_yaml(view.yaml, root, project), root, project, machine=MACHINE).recipe == view.recipe
    with pytest.raises(UserError) as caught:
        load_yaml("model_name_or_path: m\nlearning_rate: 1\ntasks: []\n", root, project)
    assert {problem.field for problem in caught.value.problems} == {"learning_rate", "tasks"}


def test_tasks_survive_the_way_through_the_browser(draft):
    for task in draft.tasks:
        assert TaskChoice.read(json.loads(json.dumps(task.as_json()))) == task


@pytest.mark.parametrize("value", [None, 3, [], {"name": 1, "path": "x"}, {"name": "a"}])
def test_nonsense_from_a_browser_is_no_task(value):
    assert TaskChoice.read(value) is None


def test_start_makes_one_run_and_starts_it(root, project, draft, started):
    run_id = request_start(draft, root, project, token="page", machine=MACHINE)

    assert started == [run_id]
    assert [run.id for run in list_runs(root.runs)] == [run_id]
    assert RunDir(root.runs / run_id).recipe() == look(draft, root, project, machine=MACHINE).recipe


def test_a_double_click_starts_once(root, project, draft, started):
    results: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(request_start(draft, root, project, token="page", machine=MACHINE))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(started) == 1
    assert set(results) == set(started)
    assert len(results) == 4


def test_other_values_another_page_or_a_later_click_start_again(root, project, draft, started):
    request_start(draft, root, project, token="page", machine=MACHINE)
    request_start(replace(draft, values={**draft.values, "seed": 7}), root, project, token="page", machine=MACHINE)
    request_start(draft, root, project, token="other page", machine=MACHINE)
    for claim in root.temporary.glob("start-*"):
        os.utime(claim, (time.time() - 3600, time.time() - 3600))
    request_start(draft, root, project, token="page", machine=MACHINE)
    assert len(started) == 4


def test_a_refused_start_leaves_nothing_behind(root, project, draft, monkeypatch):
    def refuse(run: RunDir, *, resume_from: str = "") -> None:
        raise UserError("No room.", fix="wait.")

    monkeypatch.setattr(new_run.supervisor, "start_run", refuse)
    for _ in range(2):
        with pytest.raises(UserError, match="No room"):
            request_start(draft, root, project, token="page", machine=MACHINE)
    assert list_runs(root.runs) == []


def test_an_incomplete_draft_is_refused_with_everything_that_is_missing(root, project, started):
    with pytest.raises(UserError) as caught:
        request_start(initial(root, project), root, project, token="page", machine=MACHINE)
    assert len(caught.value.problems) == 2
    assert started == []


def test_a_data_set_on_a_hub_can_be_a_task_before_it_is_here(root, project, model):
    """Nothing is known of it yet: the page still says everything else, and refuses a path that means nothing."""
    text = "model_name_or_path: {}\ntasks:\n  - {{name: far, path: '{}'}}\n  - {{name: near, path: {}}}\n"
    near = project / "assets" / "samples" / "naming.jsonl"
    draft = load_yaml(text.format(model, "hf://org/name?config=python&split=test", near), root, project)
    view = look(draft, root, project, machine=MACHINE)
    assert view.can_start, view.problems
    assert "hf://org/name?config=python&split=test" in view.yaml
    wrong = load_yaml(text.format(model, "hf://no such name", near), root, project)
    (problem,) = look(wrong, root, project, machine=MACHINE).problems
    assert "no data set on a hub" in problem.problem and problem.field == "tasks.0.path"
