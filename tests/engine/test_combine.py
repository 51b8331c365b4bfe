"""Combined adapters: what was written is the sum where it must be, and only what belongs together is combined."""

from __future__ import annotations

import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from engine.contract.combinations import COMBINATIONS
from engine.contract.errors import UserError
from engine.contract.files import append_json, read_json
from engine.contract.places import DataRoot
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.contract.speakers import find_speaker, speakers_of
from engine.export.combine import Part, _foreign, combine_adapters, skeleton
from engine.export.combine_command import parse_weights
from engine.export.merge import merge_run
from engine.train.main import train
from tests.fake_runs import fake_run
from tests.tiny_model import save_tiny_model
from tests.tiny_run import new_attempt


def quiet(*_):
    return None


@pytest.fixture(scope="module")
def make(recipe, tmp_path_factory):
    """Train a run with changes."""
    folder = tmp_path_factory.mktemp("combine")

    def run(name, *changes):
        made = create_run_at(folder / name, override(recipe, ["optim.max_steps=2", "lora.lora_dropout=0", *changes]))
        train(made, new_attempt(made))
        return made

    return run


@pytest.fixture(scope="module")
def a(make):
    return make("a", "lora.use_rslora=true")


@pytest.fixture(scope="module")
def b(make):
    return make("b", "seed=5", "lora.lora_alpha=6")


def combine(runs, weights, method, tmp_path, name="", **more):
    more = {"density": 0.5, "seed": 0} | more
    sources = [(run, "latest") for run in runs]
    return combine_adapters(sources, weights, method, name, root=DataRoot(tmp_path), progress=quiet, **more)


def updates(folder, scale):
    """B A of every layer, straight from the file."""
    tensors = load_file(folder / "adapter_model.safetensors")
    names = {key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")}
    return {name: scale * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"] for name in names}


def test_cat_is_the_weighted_sum_also_with_other_scales(a, b, tmp_path):
    """Scales by hand: rsLoRA 32 / sqrt(4), plain 6 / 4; the result has alpha = r."""
    folder = combine([a, b], [0.25, -2.0], "cat", tmp_path, "sum")
    assert folder == a.adapters / "sum"
    ours = updates(a.checkpoint_dirs()[-1], a.recipe().lora.lora_alpha / 4**0.5)
    theirs = updates(b.checkpoint_dirs()[-1], 6 / 4)
    config = read_json(folder / "adapter_config.json")
    assert config["r"] == config["lora_alpha"] == 8 and not config["use_rslora"]
    for name, found in updates(folder, 1.0).items():
        torch.testing.assert_close(found, 0.25 * ours[name] - 2.0 * theirs[name], rtol=0, atol=1e-6)
    told = read_json(folder / "export.json")
    assert told["difference_from_sum"] < 1e-5 and [part["weight"] for part in told["parts"]] == [0.25, -2.0]


def test_it_speaks_merges_and_loads_with_peft(a, b, tmp_path):
    folder = combine([a, b], [0.5, 0.5], "cat", tmp_path, "used")
    assert "adapters/used" in {speaker.name for speaker in speakers_of(a)}
    assert find_speaker(a, "adapters/used").kind == "adapter"
    merged = merge_run(a, "adapters/used", "of-both", root=DataRoot(tmp_path), progress=quiet)
    assert read_json(merged / "merge.json")["checkpoint"] == "adapters/used"
    ids = torch.tensor([[1, 14, 15, 16, 2, 20]])
    base = AutoModelForCausalLM.from_pretrained(a.recipe().model_name_or_path)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, folder).eval()(ids).logits
        torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(merged)(ids).logits, adapted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", [method for method in COMBINATIONS if method != "cat"])
def test_every_method_writes_an_adapter_and_says_how_far_it_is(b, make, tmp_path, method):
    other = b.path.parent / "c"
    c = make("c", "seed=9", "lora.lora_alpha=6") if not other.exists() else type(b)(other)
    folder = combine([b, c], [0.5, 0.5], method, tmp_path, method)
    told = read_json(folder / "export.json")
    assert 0 < told["difference_from_sum"] < 5 and told["combined"] == method
    again = combine([b, c], [0.5, 0.5], method, tmp_path, f"{method}-again")
    one, two = (load_file(path / "adapter_model.safetensors") for path in (folder, again))
    assert all(torch.equal(one[name], two[name]) for name in one)  # DARE too: its seed is told


def test_what_does_not_belong_together_is_refused_all_at_once(a, b, make, tmp_path):
    save_tiny_model(tmp_path / "other", seed=3)
    other = make("other", f"model_name_or_path={tmp_path / 'other'}", "lora.r=2")
    with pytest.raises(UserError) as caught:
        combine([a, other], [1, 1], "ties", tmp_path)
    said = [problem.problem for problem in caught.value.problems]
    assert (
        len(said) == 2
        and " is an adapter of other, " in said[0]
        and said[0].endswith(" of tiny.")
        and "same rank" in said[1]
    )
    with pytest.raises(UserError, match="Two different") as caught:
        combine([a, a], [1, 1], "nonsense", tmp_path, density=0)
    assert len(caught.value.problems) == 3
    dora = make("dora", "lora.use_dora=true")
    with pytest.raises(UserError, match="DoRA"):
        combine([a, dora], [1, 1], "cat", tmp_path)
    assert not list(a.adapters.glob(".tmp-*"))


def test_a_skeleton_takes_no_memory(a):
    model = skeleton(save_tiny_model(a.path.parent / "shape"))
    assert all(weight.untyped_storage().nbytes() <= 4 for weight in model.parameters())
    shutil.rmtree(a.path.parent / "shape")


def test_weights_are_read():
    assert parse_weights("", 4) == [0.25] * 4 and parse_weights("1, -2", 2) == [1.0, -2.0]
    with pytest.raises(UserError):
        parse_weights("one", 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "foreign"), [("a" * 40, "a" * 40, 0), ("a" * 40, "b" * 40, 1), ("a" * 40, None, 0)]
)
def test_adapters_of_two_commits_of_a_base_are_not_combined(tmp_path, ours, theirs, foreign):
    """A commit that a run did not note down cannot be compared."""
    parts = []
    for number, commit in enumerate((ours, theirs)):
        run = fake_run(tmp_path / str(number), "finished")
        if commit:
            append_json(run.events_file, {"step": 0, "kind": "model", "text": "", "data": {"revision": commit}})
        parts.append(Part(run, tmp_path, 1.0))
    assert len(_foreign(*parts)) == foreign
