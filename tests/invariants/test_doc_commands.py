"""What the documents tell people to type works: each shell block is run, line by line, in this process.

A tiny random model stands for the models they name, a trained run of six steps for `RUN`; the tables say what is put in
the place of what, what is not run, and which test does that instead.
"""

from __future__ import annotations

import io
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from engine.__main__ import main
from engine.contract.recipe_io import dump_recipe
from engine.contract.rundir import RunDir, create_run_at
from engine.train import train_command
from engine.train.main import train
from tests.documents import PROJECT, documents, engine_words
from tests.tiny_run import new_attempt, write_task

RUN_ID = "20260101-000000-tiny"
"""What `RUN` stands for."""
OTHER_ID = "20260101-000001-tiny"
"""What `OTHER` stands for."""
PLACEHOLDERS = {
    "RUN": RUN_ID,
    "OTHER": OTHER_ID,
    "RUN_FOLDER": f"home/runs/{RUN_ID}",
    "step-000060": "step-000003",
    "presets/starter.yaml": "recipe.yaml",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "./tiny",
}
ADDED = {"evaluate": ["--max-new-tokens", "4", "--num-examples", "2"], "chat": ["--max-new-tokens", "4"]}
"""Options that only make a command quick."""
NOT_HERE = {
    ("fetch",): "needs a hub: tests/engine/test_download.py, tests/test_starter.py",
    ("fetch-data",): "needs a hub: tests/engine/test_hub.py",
    ("push",): "needs a hub: tests/engine/test_push.py",
    ("convert",): "needs an old model: tests/engine/test_convert.py",
    ("serve",): "never ends: tests/engine/test_serve.py",
    ("node",): "needs several machines: tests/engine/test_machines.py",
    ("elastic",): "needs DLRover: tests/engine/test_elastic.py",
    ("families", "--check"): "minutes: tests/engine/test_families.py",
    ("doctor",): "tries the whole machine: tests/engine/test_doctor.py",
    ("runs", "--stop"): "the run must be alive: tests/engine/test_launch.py",
    ("queue", "--first"): "somebody must wait: tests/engine/test_queue.py",
    ("queue", "--cancel"): "somebody must wait: tests/engine/test_queue.py",
    ("train", "--resume"): "continues a run that was stopped: tests/engine/test_launch.py",
}
"""What is not run here, by its first words, and the test that runs it."""
NEEDS = {
    "--humaneval": "a sandbox and minutes: tests/engine/test_humaneval.py",
    "--lm-eval": "requirements-lm-eval.txt: tests/engine/test_harness.py",
    "--against": "tests/engine/test_evaluate.py",
    "gguf": "llama.cpp: tests/engine/test_export.py",
    "gptq": "requirements-export.txt: tests/engine/test_export.py",
    "awq": "requirements-export.txt: tests/engine/test_export.py",
    "hf://": "a hub: tests/engine/test_hub.py",
}
"""What is not run here wherever it stands in a command."""
NOT_INSTALLED = ("openai", "vllm")
"""Packages whose programs documents show, which nothing here needs."""
UNIQUE = {block.text: block for document in documents() for block in document.blocks("sh", "python")}
"""The blocks to run; what two documents show alike is run once."""
SHELL = {str(block): block for block in UNIQUE.values() if block.language == "sh"}
PROGRAMS = {str(block): block for block in UNIQUE.values() if block.language == "python"}


def test_elsewhere_is_a_test():
    for reason in [*NOT_HERE.values(), *NEEDS.values()]:
        named = re.findall(r"tests/[\w/]+\.py", reason)
        assert named and all((PROJECT / name).is_file() for name in named), reason


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of six steps, with checkpoints after the third and the last."""
    run = create_run_at(tmp_path_factory.mktemp("docs") / "run", recipe)
    train(run, new_attempt(run))
    return run


@pytest.fixture
def desk(trained: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a reader types: two runs in a data root, the files that documents name, no terminal."""
    home = tmp_path / "home"
    for name in (RUN_ID, OTHER_ID):
        shutil.copytree(trained.path, home / "runs" / name)
    (tmp_path / "assets").symlink_to(PROJECT / "assets")
    (tmp_path / "tiny").symlink_to(trained.recipe().model_name_or_path)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(trained.recipe()))
    for name in ("general", "sql", "code", "docs"):
        write_task(tmp_path / f"{name}.jsonl", 6, name)
        write_task(tmp_path / f"{name}.heldout.jsonl", 2, f"held out {name}")
    config = {"data_paths": "[sql.jsonl,code.jsonl]", "pretrained_model_path": "org/model", "peft_type": "lora"}
    (tmp_path / "train_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MFT_STUDIO_HOME", str(home))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return tmp_path


def filled(text: str) -> str:
    """Put what is there in the place of placeholders."""
    names = "|".join(re.escape(name) for name in PLACEHOLDERS)
    return re.sub(rf"(?<!\w)({names})(?!\w)", lambda match: PLACEHOLDERS[match.group()], text)


def reason_not_to_run(words: list[str]) -> str:
    """Return why a command is not run here; empty if it is."""
    begins = [why for begin, why in NOT_HERE.items() if tuple(words[: len(begin)]) == begin]
    return next(iter([*begins, *(why for part, why in NEEDS.items() if any(part in word for word in words))]), "")


@pytest.mark.parametrize("name", SHELL)
def test_every_command_of_the_engine_works(name: str, desk: Path, monkeypatch: pytest.MonkeyPatch):
    """`train` makes its run directory with the recipe it read; that runs train is the business of other tests."""
    started: list[RunDir] = []
    monkeypatch.setattr("engine.launch.supervisor.start_run", lambda run, **_: started.append(run))
    monkeypatch.setattr(train_command, "watch", lambda _: 0)
    for command in SHELL[name].commands():
        words = engine_words(command)
        if words is None or reason_not_to_run(words):
            continue
        started.clear()
        words = [filled(word) for word in words] + ADDED.get(words[0], [])
        if words == ["--help"]:
            continue
        assert main(words) == 0, words
        assert len(started) == (words[0] == "train"), words


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_runs(name: str, desk: Path):
    """Programs of other packages than ours are only read, by `test_doc_texts.py`."""
    text = PROGRAMS[name].text
    if stranger := next((package for package in NOT_INSTALLED if f"import {package}" in text), ""):
        pytest.skip(f"{stranger} does not come with the studio")
    (desk / "program.py").write_text(filled(text))
    runpy.run_path("program.py", run_name="__main__")
