"""Exports: what is written loads elsewhere, differences are told in numbers, the broken is refused."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.contract.errors import UserError
from engine.contract.export_formats import FORMATS, export_bytes, merged_of, pick_group_size
from engine.contract.files import read_json
from engine.contract.model_facts import KNOWN_CONFIGS
from engine.contract.models import STARTER_MODEL
from engine.contract.places import DataRoot
from engine.contract.recipe_io import load_recipe, override
from engine.contract.rundir import create_run_at
from engine.contract.serving import snippets
from engine.data.codec import MFTCODER_TEMPLATE, Codec
from engine.export import card, llama_cpp
from engine.export import export as exporting
from engine.export.card import fenced, plain
from engine.export.export import export_run
from engine.export.ollama import modelfile, turns_of
from engine.export.parity import Answer, differences, refuse_broken
from engine.export.tools import plain_view, run_tool
from engine.model.sources import resolve_model
from engine.model.tiny_tokenizer import character_tokenizer
from engine.train.main import train
from tests.tiny_run import new_attempt

PROJECT = Path(__file__).resolve().parents[2]
HOSTILE = "x\n---\nlicense: mit\n# <img src=x onerror=alert(1)> | `a` ```\n[b](javascript:c)"


def quiet(*_):
    return None


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    changed = override(recipe, ["optim.max_steps=2"]).model_copy(update={"name": HOSTILE, "description": HOSTILE})
    run = create_run_at(tmp_path_factory.mktemp("export") / "run", changed)
    train(run, new_attempt(run))
    return run


def test_an_adapter_loads_with_peft_and_names_no_path_of_this_machine(trained, tmp_path):
    folder = export_run(trained, "latest", "adapter", "", root=DataRoot(tmp_path), progress=quiet)
    assert folder.parent == trained.adapters and not list(folder.glob("optimizer*"))
    base = AutoModelForCausalLM.from_pretrained(trained.recipe().model_name_or_path)
    PeftModel.from_pretrained(base, folder)
    for name in ("adapter_config.json", "README.md", "export.json"):
        assert str(tmp_path.parent) not in (folder / name).read_text()
    with pytest.raises(UserError, match="already"):
        export_run(trained, "latest", "adapter", "", root=DataRoot(tmp_path), progress=quiet)


def test_four_bit_is_made_of_a_merge_reloads_and_says_how_far_it_is(trained, tmp_path):
    folder = export_run(trained, "latest", "bnb-4bit", "Four bit!", root=DataRoot(tmp_path), progress=quiet)
    assert folder == trained.exports / "four-bit"
    told = read_json(folder / "export.json")
    merged = merged_of(trained, "step-000002")
    assert told["made_of"] == merged.name and not (merged / "export.json").exists()
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert ours.config.quantization_config.load_in_4bit
    ours = ours.dequantize().float()
    ids = torch.tensor([[1, 14, 15, 16, 2, 20]])
    with torch.no_grad():
        apart = (ours(ids).logits - theirs(ids).logits).abs().mean()
    assert 0 < apart < 1 and 0 < told["mean_logit_difference"] < 1
    assert 0 < told["relative_logit_difference"] < 0.8 and 0 <= told["same_greedy_share"] <= 1
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_a_broken_export_is_refused_and_leaves_nothing(trained, tmp_path, monkeypatch):
    def noise(merged, target, *_, **__):
        model = AutoModelForCausalLM.from_pretrained(merged)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        model.save_pretrained(target)
        return {}

    monkeypatch.setattr(exporting, "_make", noise)
    with pytest.raises(UserError, match="is broken"):
        export_run(trained, "latest", "bnb-4bit", "wrong", root=DataRoot(tmp_path), progress=quiet)
    assert not [path for path in trained.exports.glob("*") if "wrong" in path.name]


def test_what_cannot_be_loaded_here_is_not_called_the_same(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "round_weights", lambda *_: {"group_size": 32})
    monkeypatch.setattr(exporting, "require_auto_round", lambda: None)
    folder = export_run(trained, "latest", "gptq", "unloaded", root=DataRoot(tmp_path), progress=quiet)
    told = read_json(folder / "export.json")
    assert told["parity"].startswith("not compared") and "mean_logit_difference" not in told
    assert "not compared" in (folder / "README.md").read_text()


def test_differences_by_hand():
    ours, theirs = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 8.0])
    told = differences([Answer(ours, [1, 2, 3], [5.0, 0.5, 0.1])], [Answer(theirs, [1, 9, 4, 4], [0.0] * 4)])
    assert told["mean_logit_difference"] == 2.0 and told["max_logit_difference"] == 4.0
    # around their means: (-2, 0, 2) and (-3, -1, 4): differences 1, 1, 2 over a spread of 4/3
    assert told["relative_logit_difference"] == pytest.approx((4 / 3) / (4 / 3))
    assert told["same_greedy_tokens"] == "1 of 4" and told["same_greedy_share"] == 0.25
    assert told["changed_token_lead"] == 0.5  # of the 2 that became a 9; what follows answers another text
    shifted = differences([Answer(ours, [1], [0.1])], [Answer(ours + 5, [1], [0.1])])
    assert shifted["changed_token_lead"] == 0
    assert shifted["relative_logit_difference"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("lead", "words"),
    [(0.0, ""), (0.4, "led by 0.4 at most: ties within rounding"), (0.41, "led by 0.41 at most")],
)
def test_the_card_calls_a_changed_token_a_tie_up_to_twice_what_rounding_moves(lead, words):
    told = {"stored_mean_logit_difference": 0.05, "stored_max_logit_difference": 0.2}
    told |= {"stored_same_greedy_tokens": "30 of 32", "stored_changed_token_lead": lead}
    assert card._parity(told).splitlines()[0].endswith("30 of 32 greedy tokens equal")
    assert card._parity(told).partition("equal")[2].partition("first ")[2] == words


@pytest.mark.parametrize("value", [0.81, float("nan")])
def test_a_broken_model_is_one_beyond_the_limit(value):
    with pytest.raises(UserError, match="broken"):
        refuse_broken({"relative_logit_difference": value}, "GPTQ")


def test_group_sizes():
    assert pick_group_size({"a": (7, 256)}) == 128
    assert pick_group_size({"a": (7, 576), "b": (7, 1536)}) == 64
    with pytest.raises(UserError, match="a has 48"):
        pick_group_size({"a": (7, 48)})


def test_sizes_are_near_the_files_of_the_starter():
    """Megabytes that were measured: 269.1, 144.8 and 105.5 of GGUF, 114.6 of GPTQ."""
    config = KNOWN_CONFIGS["HuggingFaceTB/SmolLM2-135M-Instruct"]
    for key, size in {"gguf-bf16": 269.1, "gguf-q8_0": 144.8, "gguf-q4_k_m": 105.5, "gptq": 114.6}.items():
        assert export_bytes(config, FORMATS[key]) / 1e6 == pytest.approx(size, rel=0.2)


def test_the_card_cannot_be_broken_by_names(trained, tmp_path):
    folder = export_run(trained, "latest", "merged", "carded", root=DataRoot(tmp_path), progress=quiet)
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert "license" not in told and told["tags"] == ["mft-studio", "lora", "merged"]
    outside = body.split("```")[0]
    assert "<img" not in outside and "](javascript" not in outside and "\n# x \\-\\-\\- license: mit" in outside
    assert "| short | 16 | 1 |" in body and "| long |" in body  # 20 rows, 4 of them held out
    assert "tiny" in body and str(Path(trained.recipe().model_name_or_path).parent) not in text


def test_texts_are_escaped():
    assert plain("a|b\n<b>") == "a\\|b &lt;b\\>"
    assert fenced("a\n````\nb").startswith("`````\n") and fenced("a\n````\nb").endswith("\n`````")


def test_snippets_quote_what_they_name():
    folder = "/a b/it's;rm -rf"
    for key in FORMATS:
        found = {item["title"]: item["text"] for item in snippets(folder, key, "o/b")}
        assert repr(folder) in found["transformers"]
        compile(found["transformers"], "snippet", "exec")
        if "vLLM" in found:
            assert "'/a b/it'\"'\"'s;rm -rf'" in found["vLLM"]
    assert "--enable-lora" in {i["title"]: i["text"] for i in snippets(folder, "adapter", "o/b")}["vLLM"]


def codec_with(template: str) -> Codec:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = template
    return Codec.of(tokenizer)


CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe good<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_chat_template_becomes_ollamas():
    text = modelfile("m.gguf", codec_with(CHATML))
    assert text.startswith('FROM ./m.gguf\nTEMPLATE """{{ if ne (index .Messages 0).Role "system" }}<|im_start|>system')
    assert '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n' in text
    assert text.count("Be good") == 1 and '{{ end }}<|im_start|>assistant\n"""' in text
    assert turns_of(codec_with(MFTCODER_TEMPLATE)).around["user"] == ("<s>human\n", "\n")


def test_the_first_token_is_kept_unless_the_tokenizer_adds_it():
    """SmolLM's bos_token begins every turn, and its tokenizer adds none."""
    codec = codec_with(CHATML)
    marked = replace(codec, variables={**codec.variables, "bos_token": "<|im_start|>"})
    assert turns_of(marked) == turns_of(codec)
    adds = replace(marked, prefix_ids=(1,), chat_template="<|im_start|>" + MFTCODER_TEMPLATE)
    assert turns_of(adds) == turns_of(codec_with(MFTCODER_TEMPLATE))


def test_a_template_that_treats_turns_differently_is_not_guessed():
    odd = "{% for m in messages %}{{ loop.index }}:{{ m['content'] }};{% endfor %}"
    assert turns_of(codec_with(odd)) is None and "TEMPLATE" not in modelfile("m.gguf", codec_with(odd))


def test_a_view_names_no_code(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"auto_map": {"AutoConfig": "a.B"}, "model_type": "llama"}')
    (tmp_path / "m" / "a.py").write_text("print()")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"x")
    with plain_view(tmp_path / "m", tmp_path) as view:
        assert {path.name for path in view.iterdir()} == {"config.json", "model.safetensors"}
        assert read_json(view / "config.json") == {"model_type": "llama"}
    assert not view.exists()


def test_a_tool_that_fails_is_a_sentence(capfd):
    import sys

    with pytest.raises(UserError, match="ValueError: no such scheme"):
        run_tool([sys.executable, "-c", "raise ValueError('no such scheme')"], what="The tool")
    assert "Traceback" in capfd.readouterr().out  # in the log


def archive(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as package:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            package.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
            package.addfile(info)
    return path


def test_only_the_converter_is_unpacked(tmp_path):
    inside = str(llama_cpp.INSIDE)
    members = {
        f"{inside}/convert_hf_to_gguf.py": b"1",
        f"{inside}/gguf-py/gguf/a.py": b"2",
        f"{inside}/src/x.cpp": b"3",
    }
    llama_cpp.unpack(archive(tmp_path / "a.tar.gz", members, link=f"{inside}/conversion"), tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"convert_hf_to_gguf.py", "gguf-py/gguf/a.py"} and not (tmp_path / "out" / "conversion").exists()
    bad = archive(tmp_path / "b.tar.gz", {f"{inside}/conversion/../../../../../x.py": b"1"})
    with pytest.raises(UserError, match="not what it should be"):
        llama_cpp.unpack(bad, tmp_path / "other")
    assert not (tmp_path / "x.py").exists()


@pytest.fixture(scope="module")
def starter_run(tmp_path_factory):
    """Two steps of the starter's preset."""
    root = DataRoot(tmp_path_factory.mktemp("starter"))
    changes = ["optim.max_steps=2", "data.max_eval_samples=6", "record.eval_steps=2", "record.save_steps=2"]
    resolve_model(STARTER_MODEL, root=root)
    preset = load_recipe(PROJECT / "presets" / "starter.yaml")
    run = create_run_at(root.runs / "starter", override(preset, changes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFT_STUDIO_HOME", str(root.path))
        train(run, new_attempt(run))
    return run, root


@pytest.mark.slow
@pytest.mark.parametrize("key", ["gguf-bf16", "gguf-q8_0", "gguf-q4_k_m", "gptq", "awq"])
def test_the_starter_in_formats_that_need_packages(starter_run, key):
    """With llama.cpp's converter from PyPI and auto-round; the numbers are those of the README, with room to spare."""
    run, root = starter_run
    folder = export_run(run, "latest", key, "", root=root, progress=quiet)
    told = read_json(folder / "export.json")
    size = export_bytes(KNOWN_CONFIGS["HuggingFaceTB/SmolLM2-135M-Instruct"], FORMATS[key])
    assert sum(path.stat().st_size for path in folder.iterdir()) == pytest.approx(size, rel=0.2)
    if key == "gguf-bf16":
        assert told["mean_logit_difference"] < 1e-3 and told["same_greedy_share"] == 1.0
    elif key.startswith("gguf"):
        assert told["relative_logit_difference"] < (0.05 if "q8" in key else 0.5)
    else:
        assert told["group_size"] == 64 and told["parity"].startswith("not compared")
    assert key not in ("gguf-bf16", "gguf-q8_0") or "<|im_start|>user" in (folder / "Modelfile").read_text()
