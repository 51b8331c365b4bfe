"""Old models become native ones that compute the same, with the same tokens; what cannot is refused with a reason."""

from __future__ import annotations

import json
import pickle
import shutil
from types import SimpleNamespace

import pytest
import sentencepiece
import tiktoken
import torch
from safetensors.torch import load_file, save_file
from tiktoken.load import load_tiktoken_bpe
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.__main__ import main
from engine.contract.errors import UserError
from engine.contract.models import CONVERTIBLE, check_model_folder, find_local
from engine.contract.places import DataRoot
from engine.model import sources
from engine.model.convert.convert import convert_model
from engine.model.convert.old_families import OLD_FAMILIES
from engine.model.families import family_of, save_tiny_model
from studio.logic.model_choice import look_up
from tests.engine.old_families import FORWARD, save_old, save_sentencepiece, save_weights

SAME = 1e-4
TOKENS = torch.tensor([5, 17, 3, 250, 99, 1, 42, 7, 260, 12, 31, 8])


def logits_of(folder, tokens=TOKENS):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    with torch.no_grad():
        return model(tokens[None], use_cache=False).logits[0]


def difference(name, folder, weights):
    return float((logits_of(folder) - FORWARD[name](weights, TOKENS)).abs().max())


@pytest.mark.parametrize("name", FORWARD)
def test_a_converted_model_has_the_logits_of_the_old_one(name, tmp_path, record_property):
    weights = save_old(name, tmp_path / "old", shards=2)
    made = convert_model(tmp_path / "old", tmp_path / "new")
    found = difference(name, check_model_folder(made.folder), weights)
    record_property("max_logit_difference", found)
    assert found <= SAME
    assert FORWARD[name](weights, TOKENS).std() > 0.1, "the logits say something"


MISTAKES = [
    ("Qwen", "transformer.h.0.mlp.w1.weight", "transformer.h.0.mlp.w2.weight"),
    ("InternLM2", "model.layers.0.feed_forward.w1.weight", "model.layers.0.feed_forward.w3.weight"),
    ("Baichuan2-7B", "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"),
    ("Aquila2", "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"),
    ("ChatGLM3", "transformer.encoder.layers.0.input_layernorm.weight",
     "transformer.encoder.layers.0.post_attention_layernorm.weight"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "one", "other"), MISTAKES)
def test_two_matrices_that_are_swapped_would_be_seen(name, one, other, tmp_path):
    """Negative control: the comparison above fails for such a mistake by far."""
    weights = save_old(name, tmp_path / "old")
    made = convert_model(tmp_path / "old", tmp_path / "new")
    swapped = {**weights, one: weights[other], other: weights[one]}
    assert difference(name, made.folder, swapped) > 100 * SAME


def test_rows_in_another_order_and_a_head_left_as_it_is_would_be_seen(tmp_path):
    weights = save_old("InternLM2", tmp_path / "old")
    made = convert_model(tmp_path / "old", tmp_path / "new")
    key = "model.layers.0.attention.wqkv.weight"
    assert difference("InternLM2", made.folder, {**weights, key: weights[key].roll(8, 0)}) > 100 * SAME
    weights = save_old("Baichuan2-7B", tmp_path / "old2")
    made = convert_model(tmp_path / "old2", tmp_path / "new2")
    wrong = FORWARD["Baichuan-7B"](weights, TOKENS)
    assert (logits_of(made.folder) - wrong).abs().max() > 100 * SAME
    assert any("normalized" in note for note in made.notes)


def test_the_conversion_keeps_the_dtype_and_says_what_it_checked(tmp_path):
    weights = save_old("ChatGLM2", tmp_path / "old")
    save_weights({k: v.bfloat16() for k, v in weights.items()}, tmp_path / "old", kind="safetensors")
    made = convert_model(tmp_path / "old", tmp_path / "new")
    assert {value.dtype for value in load_file(made.folder / "model.safetensors").values()} == {torch.bfloat16}
    config = json.loads((made.folder / "config.json").read_text())
    assert (config["model_type"], config["dtype"]) == ("glm", "bfloat16") and "auto_map" not in config
    assert "compared with sentencepiece" in made.checks[1] and made.checks[0].startswith("25 tensors")
    assert made.num_weights == sum(v.numel() for k, v in weights.items() if "inv_freq" not in k)


# --- tokenizers


def converted(tmp_path, name):
    save_old(name, tmp_path / "old")
    return AutoTokenizer.from_pretrained(convert_model(tmp_path / "old", tmp_path / "new").folder)


def test_qwen_has_the_ids_of_tiktoken_and_its_special_tokens_behind_them(tmp_path):
    fast = converted(tmp_path, "Qwen")
    ranks = load_tiktoken_bpe(str(tmp_path / "old" / "qwen.tiktoken"))
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
    pattern += r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    old = tiktoken.Encoding("q", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|im_start|>": 274})
    text = "<|im_start|>the self in the thea中文 'reserve  \n x1234"
    assert fast(text)["input_ids"] == old.encode(text, allowed_special="all")
    assert fast.decode(fast(text)["input_ids"]) == text
    assert fast.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>", "<|extra_204|>"]) == [273, 275, 480]
    said = fast.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
    assert said.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    )
    generation = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [275, 273] and generation["top_p"] == 0.5


def test_chatglm3_has_the_ids_of_sentencepiece_part_by_part(tmp_path):
    fast = converted(tmp_path, "ChatGLM3")
    old = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "old" / "tokenizer.model"))
    n = old.get_piece_size()
    assert fast("people of philosophy")["input_ids"] == [n + 1, n + 3, *old.encode("people of philosophy")]
    assert fast.convert_tokens_to_ids("<|user|>") == n + 6
    messages = [{"role": "user", "content": " two  words"}, {"role": "assistant", "content": "中文"}]
    ids = fast.apply_chat_template(messages, return_dict=False)
    by_hand = [n + 1, n + 3]  # [gMASK] sop, then each part encoded alone, as ChatGLM3's own code does
    for role, text in ((n + 6, " two  words"), (n + 7, "中文")):
        by_hand += [role, *old.encode("\n"), *old.encode(text)]
    assert ids == by_hand


def test_a_base_tokenizer_begins_as_its_class_did(tmp_path):
    fast = converted(tmp_path, "Baichuan-7B")
    old = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "old" / "tokenizer.model"))
    assert fast("def f(x):\n  y")["input_ids"] == [1, *old.encode("def f(x):\n  y")]
    assert fast.eos_token_id == 2


def test_internlm2s_special_tokens_take_the_place_of_reserved_pieces(tmp_path):
    old = tmp_path / "old"
    save_old("InternLM2", old)
    size = save_sentencepiece(old, user_defined_symbols=["[UNUSED_TOKEN_1]", "[UNUSED_TOKEN_2]"])
    place = sentencepiece.SentencePieceProcessor(model_file=str(old / "tokenizer.model")).piece_to_id(
        "[UNUSED_TOKEN_2]"
    )
    tokens = {str(place): {"content": "<|im_end|>", "special": True}}
    (old / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))
    fast = AutoTokenizer.from_pretrained(convert_model(old, tmp_path / "new").folder)
    assert fast.convert_tokens_to_ids("<|im_end|>") == place and len(fast) == size
    assert fast("a<|im_end|>")["input_ids"][-1] == place


def test_aquilas_pairs_come_back_as_they_were(tmp_path):
    fast = converted(tmp_path, "Aquila2")
    assert fast.decode(fast("tab\t中 people\n")["input_ids"]) == "tab\t中 people\n"
    assert fast.eos_token == "</s>" and fast.bos_token == "[CLS]"


def test_a_tokenizer_that_would_give_other_ids_is_refused(tmp_path, monkeypatch):
    from engine.model.convert import spm

    save_old("InternLM", tmp_path / "old")
    real = spm.fast_tokenizer

    def broken(*arguments):
        found = real(*arguments)
        found.normalizer = None
        return found

    monkeypatch.setattr(spm, "fast_tokenizer", broken)
    with pytest.raises(UserError, match="no exact fast form: token 1 of 'Hello world' would be"):
        convert_model(tmp_path / "old", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"], "nothing half-made stays"


# --- pickled weights of native families


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("model_type", ["llama", "mixtral"])
def test_pickled_weights_become_safetensors(model_type, shards, tmp_path):
    folder = save_tiny_model(family_of(model_type), tmp_path / "old")
    weights, before = load_file(folder / "model.safetensors"), logits_of(folder, TOKENS % 100)
    (folder / "model.safetensors").unlink()
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_weights({**weights, **buffers}, folder, kind="bin", shards=shards)
    with pytest.raises(UserError, match="only pickled weights") as caught:
        check_model_folder(folder)
    assert caught.value.fix == f"convert it once: python -m engine convert {folder} NEW_FOLDER"
    convert_model(folder, tmp_path / "new")
    assert torch.equal(logits_of(tmp_path / "new", TOKENS % 100), before)
    assert AutoTokenizer.from_pretrained(tmp_path / "new")("ab")["input_ids"] == [13, 14]


def test_an_old_family_may_be_pickled_too_also_in_the_oldest_format(tmp_path):
    weights = save_old("Qwen", tmp_path / "old", kind="bin", shards=2)
    first = tmp_path / "old" / "pytorch_model-00001-of-00002.bin"
    torch.save(torch.load(first, weights_only=True), first, _use_new_zipfile_serialization=False)
    convert_model(tmp_path / "old", tmp_path / "new")
    assert difference("Qwen", tmp_path / "new", weights) <= SAME


class Trap:
    def __reduce__(self):
        return print, ("this code ran",)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_with_code_is_refused_and_not_run(how, tmp_path, capsys):
    folder = save_tiny_model(family_of("llama"), tmp_path / "old")
    (folder / "model.safetensors").unlink()
    if how == "torch":
        torch.save({"a": Trap()}, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(UserError, match="pickles more than tensors"):
        convert_model(folder, tmp_path / "new")
    assert "this code ran" not in capsys.readouterr().out and not (tmp_path / "new").exists()


# --- refusals


REFUSED = [
    ("Baichuan-7B", {}, {"modeling_baichuan.py": "def get_alibi_mask"}, "Baichuan 13B: its positions"),
    ("Baichuan-7B", {}, {"modeling_baichuan.py": ""}, "normalized .Baichuan2. cannot be told"),
    ("ChatGLM2", {"rope_ratio": 16}, {}, "rope_ratio 16 means one thing"),
    ("ChatGLM2", {"position_encoding_2d": True}, {}, "first ChatGLM"),
    ("ChatGLM2", {"padded_vocab_size": 151552}, {}, "GLM-4"),
    ("ChatGLM2", {"quantization_bit": 4}, {}, "quantized"),
    ("ChatGLM2", {"pre_seq_len": 128}, {}, "P-tuning"),
    ("Qwen", {"visual": {"layers": 1}}, {}, "sees or hears"),
    ("Qwen", {"no_bias": False}, {}, "biases"),
    ("Qwen", {"intermediate_size": 2 * 49}, {}, "w1.*|mlp.*is .*is expected"),
    ("Aquila2", {"num_hidden_layers": 3}, {}, "model.layers.2.* is missing; .* and 6 more"),
    ("Aquila2", {"num_hidden_layers": 1}, {}, "is left over"),
    ("InternLM2", {"num_key_value_heads": 1}, {}, "wqkv.weight in .* has another shape"),
    ("InternLM2", {"hidden_act": "gelu"}, {}, "activation"),
    ("Aquila2", {"model_type": "somebody_v9"}, {}, "does not know"),
    ("Aquila2", {"model_type": "llama"}, {}, "needs no conversion"),
    ("Aquila2", {"intermediate_size": None}, {}, "garbles|does not describe"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "files", "words"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_has_no_exact_native_form_is_refused_before_anything_is_written(name, changes, files, words, tmp_path):
    save_old(name, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "old" / "config.json").write_text(json.dumps({**config, **changes}))
    for file, text in files.items():
        (tmp_path / "old" / file).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        convert_model(tmp_path / "old", tmp_path / "new")
    assert caught.value.problems[-1].fix
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_strange_tensor_a_missing_shard_and_a_taken_target_are_named(tmp_path, capsys):
    weights = save_old("Qwen", tmp_path / "old")
    save_file({**weights, "visual.proj": torch.ones(2)}, tmp_path / "old" / "model.safetensors")
    assert main(["convert", str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    assert "visual.proj in model.safetensors is no tensor of this family" in capsys.readouterr().err
    save_old("Qwen", tmp_path / "two", shards=2)
    (tmp_path / "two" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model-00002-of-00002.safetensors"):
        convert_model(tmp_path / "two", tmp_path / "new")
    with pytest.raises(UserError, match="exists already"):
        convert_model(tmp_path / "two", tmp_path / "old")
    assert main(["convert", str(tmp_path / "old")]) == 2
    assert "A target folder is needed" in capsys.readouterr().err


def test_a_full_disk_and_a_missing_library_are_told_first(tmp_path, monkeypatch):
    save_old("Baichuan-7B", tmp_path / "old")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    with pytest.raises(UserError, match="sentencepiece and protobuf, which is not installed") as caught:
        convert_model(tmp_path / "old", tmp_path / "new")
    assert caught.value.fix == "pip install -r requirements-convert.txt"
    monkeypatch.setattr("engine.contract.places.free_bytes", lambda path: 0)
    with pytest.raises(UserError, match="GiB are free"):
        convert_model(tmp_path / "old", tmp_path / "new")


# --- the way to it


def test_the_refusal_of_an_old_family_names_the_command(tmp_path):
    assert set(CONVERTIBLE) == set(OLD_FAMILIES)
    folder = tmp_path / "my model"
    save_old("Qwen", folder)
    with pytest.raises(UserError, match="is a Qwen 1, which needs its own Python code") as caught:
        find_local(str(folder), DataRoot(tmp_path))
    assert caught.value.fix == f"convert it once: python -m engine convert '{folder}' NEW_FOLDER"


def test_a_model_of_the_hub_is_refused_before_its_download_and_found_under_its_name_after(
    tmp_path, monkeypatch, capsys
):
    """The hub is played by a folder; the names asked of it are those a conversion reads."""
    original, asked = tmp_path / "hub", []
    save_old("CodeGeeX2", original, kind="bin", shards=2)

    class Info:
        sha, config = "abc", {"model_type": "chatglm"}
        siblings = [
            SimpleNamespace(rfilename=p.name, size=p.stat().st_size, lfs=None, blob_id=None) for p in original.iterdir()
        ]

    def download(files, folder, **_):
        asked.append({file.name for file in files})
        shutil.copytree(original, folder)
        (folder / "source.json").write_text("{}")

    monkeypatch.setenv("MFT_STUDIO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Info)
    monkeypatch.setattr(sources, "download", download)
    monkeypatch.setattr("engine.contract.models._in_hub_cache", lambda *_: None)
    root = DataRoot(tmp_path / "home")
    with pytest.raises(UserError, match="is a ChatGLM or CodeGeeX2") as caught:
        sources.resolve_model("zai-org/codegeex2-6b", root=root)
    assert caught.value.fix == "convert it once: python -m engine convert zai-org/codegeex2-6b" and asked == []
    assert main(["convert", "zai-org/codegeex2-6b"]) == 0
    assert "use it as: zai-org/codegeex2-6b" in capsys.readouterr().out
    assert {path.name for path in original.glob("*.bin")} | {"tokenizer.model", "config.json"} <= asked[0]
    found = sources.resolve_model("zai-org/codegeex2-6b", root=root)
    assert json.loads((found / "config.json").read_text())["model_type"] == "glm"


def test_new_run_names_the_command_for_a_folder_and_for_the_model_of_the_preset(tmp_path):
    save_old("InternLM2", tmp_path / "old")
    for name, fix in ((str(tmp_path / "old"), f"{tmp_path / 'old'} NEW_FOLDER"), ("zai-org/codegeex2-6b",) * 2):
        (problem,) = look_up(name, None, DataRoot(tmp_path / "home")).problems
        assert "its own Python code" in problem.problem and problem.field == "model_name_or_path"
        assert problem.fix == f"convert it once: python -m engine convert {fix}"
