"""Merging: the result answers like base plus adapter, for every method; a wrong one is refused and leaves nothing."""

from __future__ import annotations

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
from engine.export.merge import compare, merge_run
from engine.train.main import train
from tests.tiny_run import new_attempt


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


def test_a_merge_that_does_not_answer_the_same_is_refused_and_leaves_nothing(trained, tmp_path, monkeypatch):
    def forget(self, **_):
        base = self.unload()
        torch.nn.init.normal_(base.lm_head.weight, std=1.0)
        return base

    monkeypatch.setattr(merging.PeftModel, "merge_and_unload", forget, raising=False)
    with pytest.raises(UserError, match="does not answer like"):
        merge_run(trained, "latest", "wrong", root=DataRoot(tmp_path), progress=quiet)
    assert not [path for path in trained.merged.iterdir() if "wrong" in path.name]


def test_not_a_number_is_never_the_same():
    broken = (torch.full((5,), float("nan")), [1])
    with pytest.raises(UserError):
        compare([(torch.zeros(5), [1])], [broken], limit=1.0)


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
