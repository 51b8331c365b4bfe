"""A GGUF file as a model: the same logits, converted once, kept when the file is gone, refused in one sentence."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers.integrations.gguf.utils import is_gguf_arch_supported
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from engine.contract.errors import UserError
from engine.contract.gguf_file import ARCHITECTURES, header_of
from engine.contract.model_facts import count_parameters, read_config
from engine.contract.models import find_local, model_config
from engine.contract.places import DataRoot
from engine.contract.recipe_io import override
from engine.contract.rundir import create_run_at
from engine.export.card import licence_of, public_base
from engine.export.merge import merge_run
from engine.model.sources import resolve_model, resolve_tokenizer
from engine.model.tokenizer import load_codec
from engine.train.main import train
from studio.logic.model_choice import look_up, model_choices
from tests.tiny_gguf import TOKENS, gguf_llama, write_gguf
from tests.tiny_run import new_attempt

IDS = torch.tensor([[3, 40, 70, 259, 2, 100, 7]])


@pytest.fixture
def root(tmp_path) -> DataRoot:
    return DataRoot(tmp_path / "root").make()


def logits(model: LlamaForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize(("kind", "dtype", "apart"), [("F32", "float32", 1e-5), ("F16", "float16", 2e-3)])
def test_a_file_has_the_logits_of_its_model(root, tmp_path, kind, dtype, apart):
    """The rows of q and k lie in another order in the file: taken as they are, the logits would be far away."""
    model = gguf_llama()
    path = write_gguf(tmp_path / "m.gguf", model, kind=kind)
    assert find_local(str(path), root) is None
    folder = resolve_model(str(path), root=root)
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(again), logits(model), atol=apart, rtol=0)
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the <|im_end|>").input_ids
    assert [TOKENS[number] for number in ids] == ["the", "Ġ", "<|im_end|>"] and tokenizer.eos_token_id == 2


def test_eight_bits_become_the_numbers_that_they_stand_for(root, tmp_path):
    """Q8_0 holds blocks of 32 numbers as whole numbers times a half-precision scale: at most half a step away."""
    model = gguf_llama()
    folder = resolve_model(str(write_gguf(tmp_path / "m.gguf", model, kind="Q8_0")), root=root)
    wanted, held = (
        m.model.layers[0].mlp.up_proj.weight.float()
        for m in (model, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    )
    step = wanted.reshape(-1, 32).abs().amax(1, keepdim=True) / 127
    apart = (wanted - held).reshape(-1, 32).abs()
    assert (apart <= step * 0.5 + wanted.abs().reshape(-1, 32) * 2**-8).all() and apart.max() > 0


def test_a_file_is_converted_once_and_its_copy_outlives_it(root, tmp_path):
    path = write_gguf(tmp_path / "My Model.gguf", gguf_llama(), **{"general.license": "mit"})
    folder = resolve_model(str(path), root=root)
    source = json.loads((folder / "source.json").read_text())
    assert (source["hub"], source["path"], source["license"]) == ("gguf", str(path), "mit")
    assert folder.name.startswith("gguf--my-model-") and len(source["revision"]) == 40
    assert resolve_model(str(path), root=root) == folder == resolve_tokenizer(str(path), root=root)
    assert find_local(str(tmp_path), root) == folder, "the folder with the file is the file"
    assert str(path) in model_choices(root) and str(folder) not in model_choices(root)
    path.unlink()
    assert find_local(str(path), root) == folder == find_local(str(path), root, revision=source["revision"])


def test_a_look_before_a_run_takes_the_tokenizer_alone(root, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", gguf_llama())
    folder = resolve_tokenizer(str(path), root=root)
    assert resolve_tokenizer(str(path), root=root) == folder and find_local(str(path), root) is None
    before, after = (
        load_codec(place, root.codecs, chat_template="mftcoder")
        for place in (folder, resolve_model(str(path), root=root))
    )
    assert before.encode("the 12 apples") == after.encode("the 12 apples") != []
    assert before.fingerprint == after.fingerprint, "what is encoded for the look is what the run takes"


def test_a_file_that_changed_is_not_taken_for_what_a_run_was_begun_with(root, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", gguf_llama(0))
    first = resolve_model(str(path), root=root)
    revision = json.loads((first / "source.json").read_text())["revision"]
    write_gguf(path, gguf_llama(1))
    os.utime(path, (1, 1))
    assert find_local(str(path), root) is None and find_local(str(path), root, revision=revision) == first
    assert resolve_model(str(path), root=root) != first
    with pytest.raises(UserError, match="content has changed"):
        resolve_model(str(path), root=root, revision="f" * 40)
    (first / "source.json").unlink()  # as if the copy were gone
    with pytest.raises(UserError, match="content has changed"):
        find_local(str(path), root, revision=revision)


def test_the_header_says_the_shapes_that_the_copy_then_has(root, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", gguf_llama())
    told = look_up(str(path), None, root)
    assert not told.problems and "converted to safetensors" in told.notes[0]
    folder = resolve_model(str(path), root=root)
    assert count_parameters(header_of(path).config()) == count_parameters(read_config(folder))
    assert look_up(str(path), None, root).notes == () and model_config(str(path), root) == read_config(folder)
    assert look_up(str(tmp_path / "none.gguf"), None, root).problems[0].field == "model_name_or_path"


def test_positions_stretched_as_llama_3_does_are_found_again(root, tmp_path):
    """Only the factors are in the file; they are those of factor 8, low 1, high 4, 8192 positions (Llama 3.1)."""
    stretched = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    model = gguf_llama(rope_parameters=stretched)
    waves = 2 * np.pi * 500000.0 ** (np.arange(0, 16, 2) / 16)
    smooth = (8192 / waves - 1.0) / (4.0 - 1.0)
    middle = 1 / ((1 - smooth) / 8.0 + smooth)
    factors = np.where(waves < 8192 / 4.0, 1.0, np.where(waves > 8192, 8.0, middle)).astype(np.float32)
    path = write_gguf(tmp_path / "m.gguf", model, **{"rope_freqs.weight": factors})
    again = AutoModelForCausalLM.from_pretrained(resolve_model(str(path), root=root))
    assert {**again.config.rope_parameters} == stretched
    torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=0)
    odd = write_gguf(tmp_path / "odd.gguf", model, **{"rope_freqs.weight": factors * 1.5})
    with pytest.raises(UserError, match="not one of Llama 3's"):
        resolve_model(str(odd), root=root)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"architecture": "t5"}, "architecture t5"),
        ({"architecture": "clip"}, "architecture clip"),
        ({"general.type": "adapter"}, "adapter, not a whole model"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.rope.scaling.type": "yarn"}, "stretches its positions"),
        ({"pre": "poro-chat"}, "not known here: poro-chat"),
        ({"pre": ""}, "not known here: .none."),
        ({"blk.0.attn_q.bias": np.zeros(64, np.float32)}, "would drop from a llama: blk.0.attn_q.bias"),
    ],
)
def test_what_would_be_another_model_is_refused(root, tmp_path, more, words):
    path = write_gguf(tmp_path / "m.gguf", gguf_llama(), **more)
    with pytest.raises(UserError, match=words) as caught:
        resolve_model(str(path), root=root)
    assert caught.value.fix and caught.value.field == "model_name_or_path"
    assert not list(root.models.glob("*gguf--*-*/")), "nothing is left of the attempt"


def test_parts_and_folders_of_several_are_refused(root, tmp_path):
    write_gguf(tmp_path / "m-00001-of-00002.gguf", gguf_llama())
    with pytest.raises(UserError, match="one of 2 parts") as caught:
        find_local(str(tmp_path), root)
    assert "llama-gguf-split --merge" in caught.value.fix
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / "two" / name, gguf_llama())
    with pytest.raises(UserError, match="2 GGUF files: a.gguf, b.gguf"):
        find_local(str(tmp_path / "two"), root)


def test_a_missing_weight_and_a_cut_file_are_refused(root, tmp_path):
    model = gguf_llama()
    whole = write_gguf(tmp_path / "whole.gguf", model).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-4000])
    with pytest.raises(UserError, match="behind its end"):
        resolve_model(str(tmp_path / "cut.gguf"), root=root)
    del model.model.layers[1].mlp.up_proj
    with pytest.raises(UserError, match="1 weights are missing"):
        resolve_model(str(write_gguf(tmp_path / "less.gguf", model)), root=root)


def test_a_broken_header_is_a_sentence(root, tmp_path):
    """Cut anywhere, a byte turned anywhere, lengths of 2**60: refused or read, never anything else."""
    good = write_gguf(tmp_path / "good.gguf", gguf_llama()).read_bytes()
    end = header_of(tmp_path / "good.gguf").tensors[0].offset
    claims = struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    hostile = [b"GGUF" + claims + struct.pack("<IQ", kind, 2**60) for kind in (0, 8, 9, 77)]
    cuts = [good[:length] for length in range(0, end, 97)]
    turned = [good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :] for at in range(0, end, 53)]
    path, refused = tmp_path / "bad.gguf", 0
    for number, content in enumerate([*hostile, *cuts, *turned]):
        path.write_bytes(content)
        os.utime(path, (number, number))
        try:
            header_of(path)
        except UserError:
            refused += 1
    assert refused >= len(hostile) + len(cuts)


def test_the_architectures_are_those_that_transformers_reads():
    theirs = {name.replace("-", "_").replace("moe", "_moe") for name in ARCHITECTURES}
    for name, plain in zip(sorted(ARCHITECTURES), sorted(theirs), strict=True):
        assert is_gguf_arch_supported(name) or {name, plain} & set(GGUF_SUPPORTED_ARCHITECTURES), name
    assert not ARCHITECTURES & {"t5", "umt5", "t5encoder"}


def test_a_run_trains_on_a_gguf_file_and_is_merged_without_it(root, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("MFT_STUDIO_HOME", str(root.path))
    path = write_gguf(tmp_path / "Base.gguf", gguf_llama(), **{"general.license": "apache-2.0"})
    recipe = override(recipe, [f"model_name_or_path={path}", "optim.max_steps=2"])
    run = create_run_at(tmp_path / "run", recipe)
    train(run, new_attempt(run))
    event = next(event for event in run.events()[0] if event["kind"] == "model")
    (source,) = (json.loads(file.read_text()) for file in root.models.glob("gguf--*/source.json"))
    assert event["data"]["revision"] == source["revision"]
    path.unlink()
    merged = merge_run(run, "latest", "merged", root=root, progress=lambda *_: None)
    assert list(merged.glob("*.safetensors"))
    assert licence_of(recipe, root) == "apache-2.0" and public_base(recipe.model_name_or_path) == "Base.gguf"
