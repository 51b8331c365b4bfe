"""The form is the schema: every field once, defaults and help from it, values there and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import dump_recipe, field_paths, recipe_from_values
from studio.forms import Widgets, element_id
from studio.logic.draft import load_yaml
from studio.logic.form_fields import FIELDS, YAML_ONLY, FormField, changed, defaults, from_recipe, to_values
from studio.logic.new_run import ADVANCED_FIELDS, HEAD_FIELDS, MIX_FIELDS, SIMPLE_FIELDS
from studio.logic.task_choice import EDITED, FROM_DATASETS

PROJECT = Path(__file__).resolve().parents[2]
TWO_TASKS = [{"name": "a", "path": "/a.jsonl"}, {"name": "b", "path": "/b.jsonl"}]
TASKS = [{"name": "a", "path": "a.jsonl"}]


def recipe(**values) -> Recipe:
    return recipe_from_values({"model_name_or_path": "m", "tasks": TASKS, **values})


def test_every_field_of_the_schema_is_on_the_page_exactly_once_or_said_to_be_in_the_yaml_only():
    places = [*SIMPLE_FIELDS, *HEAD_FIELDS, *MIX_FIELDS, *ADVANCED_FIELDS]
    schema = {path for path in field_paths() if not path.startswith("tasks.")}
    assert set(places) == set(FIELDS) and {*FIELDS, *YAML_ONLY} == schema
    assert len(places) == len(set(places)) and not YAML_ONLY & set(FIELDS)


def test_every_field_of_a_task_is_in_the_editor_or_comes_with_the_task():
    schema = {path.split(".")[2] for path in field_paths() if path.startswith("tasks.0.")}
    assert {*EDITED, *FROM_DATASETS} == schema and not set(EDITED) & set(FROM_DATASETS)
    editor = (PROJECT / "assets" / "task_editor.js").read_text()
    assert all(f'"{name}"' in editor for name in EDITED)


OTHER_TEXTS = {
    "name": "My run",
    "description": "Two lines:\n- `code`, <b>",
    "model_name_or_path": "org/model",
    "continue_from": "/runs/a/checkpoints/step-000001",
    "model.revision": "main",
    "data.chat_template": "mftcoder",
    "record.metric_for_best_model": "a",
    "evaluate.retention": "/data/general.jsonl",
    "evaluate.judge_url": "http://127.0.0.1:8000/v1",
    "evaluate.judge_model": "judge",
    "launch.gpus": "1",
    "launch.partition": "gpu",
    "launch.account": "lab",
    "lora.target_modules": ["q_proj", "v_proj"],
    "record.report_to": ["trackio", "wandb"],
    "evaluate.scorers": ["exact_match"],
    "evaluate.task_scorers": ["a=exact_match+chrf", "b=bleu"],
    "launch.machines": ["node1", "ada@node2"],
}
"""A valid value for every field that is words."""
EMPTIED = {"record.report_to": [], "evaluate.scorers": [], "data.max_eval_samples": None}
"""Fields where nothing is a value of its own, and not the default."""
NEEDS = {
    "weighting": {"weighting.warmup_steps": 3, "weighting.history_length": 5000},
    "launch.strategy": {"launch.num_processes": 2},
    "launch.cpu_offload": {"launch.num_processes": 2},
    "launch.machines": {"launch.num_processes": 2},
    "launch.num_machines": {"launch.scheduler": "slurm", "launch.num_processes": 6},
    "optim.min_lr": {"optim.learning_rate": 0.9},
}
"""What else must be set for a field or a section to take another value."""
NUMBERS = (3, 5, 0.5, 0.01, 1024, 2)


def other_values(field: FormField) -> list[object]:
    """Return values of a field that differ from its default: all choices, both ends of a flag, a number, some words."""
    default = [] if field.kind == "names" else field.default
    if field.kind == "flag":
        return [not default]
    if field.kind == "choice":
        return [choice for choice in field.choices if choice != default]
    if field.kind in ("number", "integer"):
        found = []
        for number in NUMBERS:
            try:
                nested(field.path, number)
            except UserError:
                continue
            found.append(number)
        assert found, field.path
        return [number for number in found if number != default][:2]
    return [OTHER_TEXTS[field.path]]


def nested(path: str, value: object) -> Recipe:
    """Return a recipe in which a field has a value, and those that it needs."""
    settings = {**NEEDS.get(path.split(".")[0], {}), **NEEDS.get(path, {}), path: value}
    values: dict = {"model_name_or_path": "m", "tasks": TWO_TASKS}
    for place, wanted in settings.items():
        *parents, last = place.split(".")
        inner = values
        for part in parents:
            inner = inner.setdefault(part, {})
        inner[last] = wanted
    return recipe_from_values(values)


CASES = [(field.path, value) for field in FIELDS.values() for value in other_values(field)] + [*EMPTIED.items()]


@pytest.mark.parametrize(("path", "value"), CASES)
def test_every_field_survives_the_way_through_form_and_yaml(path: str, value: object, tmp_path: Path):
    """recipe -> form -> the browser, where every number is a float -> form -> recipe -> YAML -> form."""
    wanted = nested(path, value)
    widgets = from_recipe(wanted)
    assert widgets[path] != FIELDS[path].default
    sent = {
        name: float(one) if isinstance(one, int) and not isinstance(one, bool) else one for name, one in widgets.items()
    }
    back = recipe_from_values({**to_values(json.loads(json.dumps(sent))), "tasks": TWO_TASKS})
    assert back == wanted
    again = load_yaml(dump_recipe(back, all_fields=False), DataRoot(tmp_path).make(), PROJECT)
    assert again.values == widgets


def test_every_field_has_the_help_of_its_docstring():
    assert all(field.help for field in FIELDS.values())
    assert FIELDS["lora.r"].help == "Rank of the adapter."


def test_an_untouched_form_says_nothing():
    assert to_values(defaults()) == {}


def test_values_survive_the_way_through_the_form():
    chosen = recipe(
        method="qlora",
        optim={"learning_rate": 1e-5, "max_steps": 7},
        lora={"target_modules": ["q_proj", "v_proj"]},
        model={"revision": "main", "gradient_checkpointing": True},
        data={"max_eval_samples": None},
    )
    assert recipe_from_values({**to_values(from_recipe(chosen)), "tasks": TASKS}) == chosen


def test_whole_numbers_of_a_browser_become_integers_and_others_stay_to_be_refused():
    assert to_values({"lora.r": 8.0}) == {"lora": {"r": 8}}
    assert to_values({"lora.r": 8.5}) == {"lora": {"r": 8.5}}
    assert to_values({"lora.r": None}) == {"lora": {"r": None}}


def test_an_emptied_optional_number_is_none():
    assert to_values({"data.max_eval_samples": None}) == {"data": {"max_eval_samples": None}}
    assert to_values({"optim.max_steps": None}) == {}


def test_changed_counts_what_differs_from_the_default():
    assert changed({**defaults(), "seed": 7, "lora.lora_alpha": 32}, ("seed", "lora.lora_alpha", "lora.r")) == 1


def test_widgets_carry_label_help_and_default_of_the_schema():
    form = Widgets()
    number, choice, flag = (
        form.add("optim.learning_rate"),
        form.add("model.dtype"),
        form.add("model.gradient_checkpointing"),
    )

    assert (number.value, number.info) == (2e-4, FIELDS["optim.learning_rate"].help)
    assert [value for _, value in choice.choices] == ["auto", "bfloat16", "float16", "float32"]
    assert flag.value is False
    assert form.read({number: 3.0, object(): 1}) == {"optim.learning_rate": 3.0}
    assert form.updates({"model.dtype": "auto", "elsewhere": 1}) == {choice: "auto"}
    assert element_id("optim.learning_rate") == "field-optim-learning_rate"


def test_a_path_outside_the_schema_is_our_own_mistake():
    with pytest.raises(KeyError):
        Widgets().add("optim.speed")


def test_every_section_of_the_schema_has_its_place_in_advanced():
    from studio.pages.new_run import SECTIONS

    assert {FIELDS[path].section for path in ADVANCED_FIELDS} <= set(SECTIONS)
