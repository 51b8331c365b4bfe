"""The recipe: what it accepts, how it says no, and that it survives a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.recipe_io import dump_recipe, field_paths, load_recipe, override, parse_recipe

SMALL = "model_name_or_path: a/b\ntasks:\n  - {name: sql, path: sql.jsonl}\n"


def problems_of(text: str) -> dict[str, str]:
    """Parse a recipe that must be refused and return {field: problem + fix}."""
    with pytest.raises(UserError) as caught:
        parse_recipe(text)
    return {p.field: f"{p.problem} {p.fix}" for p in caught.value.problems}


def test_load_of_dump_is_the_same_recipe():
    recipe = parse_recipe(SMALL + "seed: 7\nname: Größe 数据\noptim: {learning_rate: 1e-4, max_steps: 3}\n")
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert parse_recipe(dump_recipe(recipe, all_fields=False)) == recipe


def test_yaml_reads_1e_4_as_text_and_the_recipe_as_a_number():
    assert parse_recipe(SMALL + "optim: {learning_rate: 1e-4}\n").optim.learning_rate == 0.0001


def test_a_misspelt_key_suggests_the_right_one():
    assert "did you mean `learning_rate`" in problems_of(SMALL + "optim: {learning_rat: 1}")["optim.learning_rat"]


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("learnig_rate", "`optim.learning_rate`"),
        ("max_length", "`data.max_length`"),
        ("hf_token", "secrets"),
        ("trust_remote_code", "never run"),
    ],
)
def test_a_key_in_the_wrong_place_is_led_to_the_right_one(key, fix):
    assert fix in problems_of(SMALL + f"{key}: 1")[key]


def test_all_problems_are_told_at_once():
    found = problems_of(
        "tasks: [{name: SQL, path: a}]\noptim: {max_steps: 0, min_lr: true}\ndata: {max_length: 5}\nmethod: magic"
    )
    assert {
        "model_name_or_path",
        "tasks.0.name",
        "optim.max_steps",
        "optim.min_lr",
        "data.max_length",
        "method",
    } <= set(found)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("", "at least 1"),
        ("[{name: a, path: x}, {name: a, path: y}]", "two tasks are called `a`"),
        ("[{name: a, path: x, weight: 0}]", "weight 0"),
        ("[{name: ../a, path: x}]", "no task name"),
    ],
)
def test_task_lists_that_cannot_train_are_refused(extra, words):
    assert words in " ".join(problems_of(f"model_name_or_path: m\ntasks: {extra or '[]'}").values())


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("数据-1", True),
        ("sql", True),
        ("数据\u200d", False),
        ("数 据", False),
        ("Sql", False),
        (".数据", False),
        ("/数据", False),
    ],
)
def test_task_names_are_of_any_script_but_plain(name, is_one):
    found = problems_of(f'method: none\nmodel_name_or_path: m\ntasks: [{{name: "{name}", path: x}}]')
    assert ("tasks.0.name" not in found) == is_one


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: 1\na: 2", "twice"),
        ("- 1\n- 2", "mapping"),
        ("a: [1, 2", "not valid YAML"),
        ("{? {a: 1} : 2}", "not"),
        ("a: 2020-99-99", "YAML cannot read"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("x: " + "[" * 5000, "nested too deeply"),
        ("schema_version: 9\n" + SMALL, "schema_version 9"),
        ("# " + "x" * 1_000_001, "larger than 1 MB"),
    ],
    ids=lambda value: value[:20],
)
def test_hostile_yaml_gets_a_sentence(text, words):
    assert words in " ".join(problems_of(text).values())


def test_set_overrides_nested_and_listed_fields():
    recipe = override(
        parse_recipe(SMALL), ["optim.max_steps=6", "tasks.0.weight=2.5", "lora.target_modules=[q_proj, v_proj]"]
    )
    assert (recipe.optim.max_steps, recipe.tasks[0].weight) == (6, 2.5)
    assert recipe.lora.target_modules == ("q_proj", "v_proj")


def test_set_names_every_mistake():
    with pytest.raises(UserError) as caught:
        override(parse_recipe(SMALL), ["optim.maxsteps=6", "nonsense", "tasks.5.weight=1"])
    assert [p.problem.split("`")[1] for p in caught.value.problems] == ["optim.maxsteps", "nonsense", "tasks.5.weight"]


def test_relative_paths_are_looked_up_beside_the_recipe(tmp_path: Path):
    (tmp_path / "recipes").mkdir()
    file = tmp_path / "recipes" / "r.yaml"
    file.write_text(SMALL.replace("sql.jsonl", "../data/sql.jsonl"))
    assert load_recipe(file).tasks[0].path == str(tmp_path / "data" / "sql.jsonl")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path, content):
    file = tmp_path / "r.yaml"
    if content:
        file.write_bytes(content)
    with pytest.raises(UserError, match="no recipe|not UTF-8"):
        load_recipe(file)


def test_every_field_has_help_for_people():
    from engine.contract.recipe import Recipe

    undocumented = []
    for path in field_paths():
        model, info = Recipe, None
        for part in path.split("."):
            if part.isdigit():
                continue
            info = model.model_fields[part]
            nested = [
                a for a in (info.annotation, *getattr(info.annotation, "__args__", ())) if hasattr(a, "model_fields")
            ]
            model = nested[0] if nested else model
        if info is None or not info.description:
            undocumented.append(path)
    assert undocumented == [] and len(field_paths()) > 30


def test_columns_of_a_task_are_read_set_and_written():
    recipe = parse_recipe(SMALL.replace("sql.jsonl}", "d, columns: {prompt: q, completion: a}}"))
    assert recipe.tasks[0].columns.named() == {"prompt": "q", "completion": "a"}
    assert parse_recipe(dump_recipe(recipe)) == recipe
    paths = ["tasks.0.columns.prompt=q", "tasks.0.columns.completion=a"]
    assert override(parse_recipe(SMALL), paths).tasks[0].columns == recipe.tasks[0].columns
    assert "tasks.0.columns.completion" in field_paths()


@pytest.mark.parametrize(
    ("columns", "field", "words"),
    [
        ("{prompt: q}", "tasks.0.columns.completion", "no `completion`"),
        ("{completion: q}", "tasks.0.columns.prompt", "no `prompt`"),
        ("{messages: m, text: t}", "tasks.0.columns.text", "`messages` and `text`"),
        ("{text: t, system: s}", "tasks.0.columns.system", "only stands beside"),
        ("{}", "tasks.0.columns", "empty"),
        ("{answer: a}", "tasks.0.columns.answer", "no setting"),
        ("{text: 5}", "tasks.0.columns.text", "string"),
    ],
)
def test_columns_that_do_not_go_together_name_the_field(columns, field, words):
    assert words in problems_of(SMALL.replace("sql.jsonl}", f"d, columns: {columns}}}"))[field]
