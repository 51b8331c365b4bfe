"""Merging: the result answers like base plus adapter, for every method; a wrong one is refused and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.contract.places import DataRoot
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.export import merge as merging
from engine.export import stream
from engine.export.merge import merge_run
from engine.export.parity import Answer, compare
from engine.export.shards import ShardWriter
from engine.train.main import train
from tests.tiny_run import SHORT_SAMPLES, new_attempt

PROJECT = Path(__file__).resolve().parents[2]


def quiet(*_):
    return None


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    """Train a tiny run with a learning rate that moves the weights far."""
    run = create_run_at(tmp_path_factory.mktemp("merge") / "run", override(recipe, ["optim.max_steps=3"]))
    train(run, new_attempt(run))
    return run


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([[1, 14, 15, 16, 2, 20]])).logits


def test_merged_logits_are_those_of_base_plus_adapter(trained, tmp_path):
    folder = merge_run(trained, "latest", "My merge!", root=DataRoot(tmp_path), progress=quiet)
    assert folder == trained.merged / "my-merge"
    base = AutoModelForCausalLM.from_pretrained(trained.recipe().model_name_or_path, dtype=torch.float32)
    plain = logits_of(base)
    adapted = logits_of(PeftModel.from_pretrained(base, trained.checkpoint_dirs()[-1]))
    merged = logits_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5)
    assert (adapted - plain).abs().max() > 1e-2  # the adapter does something, so the line above says something
    assert AutoTokenizer.from_pretrained(folder).chat_template
    told = read_json(folder / "merge.json")
    assert told["checkpoint"] == "step-000003" and told["stored_mean_logit_difference"] < 1e-5


def test_a_name_is_never_overwritten(trained, tmp_path):
    merge_run(trained, "step-000003", "twice", root=DataRoot(tmp_path), progress=quiet)
    with pytest.raises(UserError, match="already"):
        merge_run(trained, "step-000003", "twice", root=DataRoot(tmp_path), progress=quiet)


def a_layer_forgotten(monkeypatch):
    monkeypatch.setattr(stream.LowRank, "merge", lambda self, weight: weight)


def noise_elsewhere(monkeypatch):
    write = ShardWriter.write

    def disturbed(self, name, value):
        write(self, name, torch.randn_like(value) if "embed_tokens" in name else value)

    monkeypatch.setattr(ShardWriter, "write", disturbed)


@pytest.mark.parametrize("harm", [a_layer_forgotten, noise_elsewhere])
def test_a_merge_that_does_not_answer_the_same_is_refused_and_leaves_nothing(trained, tmp_path, monkeypatch, harm):
    harm(monkeypatch)
    with pytest.raises(UserError, match="does not answer like"):
        merge_run(trained, "latest", "wrong", root=DataRoot(tmp_path), progress=quiet)
    assert not [path for path in trained.merged.iterdir() if "wrong" in path.name]


def test_where_the_model_has_no_room_its_layers_are_compared_alone(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(merging.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000, total=2**34))
    told = read_json(merge_run(trained, "latest", "small", root=DataRoot(tmp_path), progress=quiet) / "merge.json")
    assert told["layer_difference"] < 1e-5 and "answers were not" in told["parity"]
    assert "stored_mean_logit_difference" not in told


SHAPES = [
    ("lora", []),
    ("lora", ["lora.use_rslora=true"]),
    ("lora", ["lora.use_dora=true"]),
    ("qlora", []),
    ("qlora", ["lora.target_modules=[q_proj]"]),
]


@pytest.mark.parametrize(("method", "changes"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shard_by_shard_is_what_peft_merges_whole(recipe, tmp_path, method, changes, dtype):
    """A base of several shards; the weights themselves are compared."""
    base = AutoModelForCausalLM.from_pretrained(recipe.model_name_or_path)
    base.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    AutoTokenizer.from_pretrained(recipe.model_name_or_path).save_pretrained(tmp_path / "base")
    changes = [*changes, f"method={method}", f"model.dtype={dtype}", f"model_name_or_path={tmp_path / 'base'}"]
    changes += ["optim.max_steps=2", "lora.lora_dropout=0", SHORT_SAMPLES]
    run = create_run_at(tmp_path / "run", override(recipe, changes))
    train(run, new_attempt(run))
    folder = merge_run(run, "latest", "streamed", root=DataRoot(tmp_path), progress=quiet)
    assert len(list(folder.glob("*.safetensors"))) > 3
    whole = tmp_path / "whole"
    merging._merge_whole(run.recipe(), tmp_path / "base", run.checkpoint_dirs()[-1], whole, quiet)
    ours = AutoModelForCausalLM.from_pretrained(folder)
    theirs = AutoModelForCausalLM.from_pretrained(whole)
    assert ours.dtype == theirs.dtype == getattr(torch, dtype)
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        close = {"rtol": 0, "atol": 1e-5} if dtype == "float32" else {"rtol": 2**-7, "atol": 1e-4}
        torch.testing.assert_close(mine, other, **close)


def test_a_merge_takes_the_memory_of_a_shard(tmp_path):
    """A base of eight shards of 24 MiB in a process of its own: peak resident memory above what it had before."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.merge_peak", str(tmp_path)], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shard, peak, shards = map(int, done.stdout.split()[-3:])
    assert shards >= 8
    assert peak <= 1.3 * shard + 16 * 2**20, f"{peak / 2**20:.0f} MiB for shards of {shard / 2**20:.0f}"


def test_not_a_number_is_never_the_same():
    broken = Answer(torch.full((5,), float("nan")), [1], [0.0])
    with pytest.raises(UserError):
        compare([Answer(torch.zeros(5), [1], [0.0])], [broken], limit=1.0)


@pytest.mark.parametrize("method", ["qlora", "full"])
def test_other_methods(recipe, tmp_path, method):
    run = create_run_at(tmp_path / method, override(recipe, [f"method={method}", "optim.max_steps=2"]))
    train(run, new_attempt(run))
    folder = merge_run(run, "latest", "m", root=DataRoot(tmp_path), progress=quiet)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "merge.json"} <= names
    assert not names & {"optimizer.pt", "rng_state.pth", "trainer_state.json", "adapter_config.json"}
    assert "quantization_config" not in read_json(folder / "config.json")
    assert torch.isfinite(logits_of(AutoModelForCausalLM.from_pretrained(folder))).all()
