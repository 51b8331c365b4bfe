"""README and presets tell the truth: the tree names every room, each preset loads, both languages of commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.contract.model_facts import known_config
from engine.contract.recipe_io import load_recipe, override
from engine.contract.rundir import create_run_at
from engine.model.families import family_of, save_tiny_model
from engine.train.checkpoint import verify_checkpoint
from engine.train.main import train
from tests.tiny_run import SHORT_SAMPLES, new_attempt

PROJECT = Path(__file__).resolve().parents[2]
PRESETS = sorted((PROJECT / "presets").glob("*.yaml"))


def test_the_tree_of_the_readme_names_every_file_and_nothing_else():
    block = re.search(r"```text\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.S)
    assert block, "README.md has no ```text tree"
    told, stack = set(), []
    for line in block.group(1).splitlines():
        match = re.match(r"( *)([\w./*-]+)  +\S", line) or re.match(r"( *)([\w./*-]+/)\s*$", line)
        if not match:
            continue
        depth = len(match.group(1)) // 2
        stack = [*stack[:depth], match.group(2)]
        told.add("".join(stack))
    files = {
        str(path.relative_to(PROJECT))
        for folder in ("engine", "studio", "scripts")
        for path in (PROJECT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert files - told == set(), "not in the README's tree"
    missing = {item for item in told if not item.endswith("/") and "*" not in item and not (PROJECT / item).exists()}
    assert missing == set(), "in the README's tree but not on disk"


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads_and_its_tasks_are_there(path: Path):
    recipe = load_recipe(path)
    assert recipe.description
    for task in recipe.tasks:
        assert Path(task.path).is_file() and Path(task.eval_path or "").is_file()


def test_there_are_presets():
    assert {"starter", "codellama-7b-qlora", "codellama-13b-qlora", "qwen2.5-coder-7b-qlora", "mixtral-8x7b-qlora"} <= {
        path.stem for path in PRESETS
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_runs_two_steps_on_a_tiny_model_of_its_own_architecture(path: Path, tmp_path):
    """Everything of the preset but the model, the place, and the size of the data, of a step and of a sample."""
    recipe = load_recipe(path)
    family = family_of(known_config(recipe.model_name_or_path)["model_type"])
    folder = save_tiny_model(family, tmp_path / "model")
    changes = [f"model_name_or_path={folder}", "launch.device=cpu", "launch.num_processes=1", "optim.max_steps=2"]
    changes += [f"tasks.{i}.max_samples=8" for i in range(len(recipe.tasks))]
    changes += ["optim.gradient_accumulation_steps=1", "data.max_length=512", "data.truncation=truncate"]
    changes += ["record.eval_steps=2", "record.save_steps=2", SHORT_SAMPLES]
    run = create_run_at(tmp_path / "run", override(recipe, changes))
    train(run, new_attempt(run))
    assert run.status().state == "finished" and run.status().step == 2
    assert verify_checkpoint(run.checkpoint_dirs()[-1]) == ""


def test_make_targets_named_in_the_readme_exist():
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`?make ([a-z-]+)", (PROJECT / "README.md").read_text(encoding="utf-8")))
    assert {"studio", "test"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in named)
