"""The form is the schema: every field once, defaults and help from it, values there and back."""

from __future__ import annotations

import pytest

from engine.contract.recipe import Recipe
from engine.contract.recipe_io import field_paths, recipe_from_values
from studio.forms import Widgets, element_id
from studio.logic.form_fields import FIELDS, changed, defaults, from_recipe, to_values
from studio.logic.new_run import ADVANCED_FIELDS, HEAD_FIELDS, MIX_FIELDS, SIMPLE_FIELDS

TASKS = [{"name": "a", "path": "a.jsonl"}]


def recipe(**values) -> Recipe:
    return recipe_from_values({"model_name_or_path": "m", "tasks": TASKS, **values})


def test_every_field_of_the_schema_is_on_the_page_exactly_once():
    places = [*SIMPLE_FIELDS, *HEAD_FIELDS, *MIX_FIELDS, *ADVANCED_FIELDS]
    schema = {path for path in field_paths() if path != "schema_version" and not path.startswith("tasks.")}
    assert set(places) == schema == set(FIELDS)
    assert len(places) == len(set(places))


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
