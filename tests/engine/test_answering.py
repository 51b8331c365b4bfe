"""Several speakers on one base: a batch says what each says alone, seeds belong to answers, who spoke is proven."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from engine.chat import models as chat_models
from engine.chat.answering import WrongSpeaker, answer_all
from engine.chat.models import ChatModels
from engine.chat.prompts import chat_prompt, stop_ids, text_prompt
from engine.chat.question import Question
from engine.contract.errors import UserError
from engine.contract.recipe_io import override
from engine.contract.records import Message
from engine.contract.rundir import create_run_at
from engine.contract.speakers import base_of, find_speaker, runs_on_the_same_base, speakers_of
from engine.data.codec import Codec
from engine.generate.loop import draw
from engine.generate.row import Decoding, Row, Sampling
from engine.model.families import family_of, save_tiny_model
from engine.model.tiny_tokenizer import character_tokenizer
from engine.train.main import train
from tests.tiny_run import SHORT_SAMPLES, new_attempt

TEXTS = ("abc 1", "a longer question 22", "b")


def trained(recipe, folder: Path, *changes: str):
    run = create_run_at(folder, override(recipe, ["optim.max_steps=6", SHORT_SAMPLES, *changes]))
    train(run, new_attempt(run))
    return run


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    return trained(recipe, tmp_path_factory.mktemp("runs") / "lora")


@pytest.fixture(scope="module")
def models(run):
    return ChatModels(base_of(run), lambda _: None)


def question(models: ChatModels, speaker, text: str, max_new_tokens: int = 16, **sampling) -> Question:
    prompt = chat_prompt(
        models.codec(speaker), [Message("user", text)], context=models.context(speaker), max_new_tokens=max_new_tokens
    )
    return Question(speaker=speaker, prompt=prompt, sampling=Sampling(**sampling))


def ask(models: ChatModels, speakers, texts=TEXTS, **settings):
    models.bring(speakers)
    questions = [question(models, speaker, text, **settings) for speaker, text in zip(speakers, texts, strict=False)]
    return [answer for _, answer in answer_all(models, questions, lambda *_: None, threading.Event())]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 7}])
def test_a_batch_says_what_each_says_alone(models, run, settings):
    speakers = speakers_of(run)
    assert [speaker.name for speaker in speakers] == ["base", "step-000006", "step-000003"]
    together = ask(models, speakers, **settings)
    alone = [ask(models, [speaker], [text], **settings)[0] for speaker, text in zip(speakers, TEXTS, strict=True)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.together for answer in together] == [True] * 3 and not any(answer.together for answer in alone)
    who = ["base model, adapter off", "adapter step-000006", "adapter step-000003"]
    assert [answer.speaker for answer in together] == who == [answer.speaker for answer in alone]
    same_question = ask(models, speakers, [TEXTS[0]] * 3, **settings)
    assert len({answer.text for answer in same_question}) > 1


def test_a_greedy_answer_is_that_of_a_plain_loop(models, run):
    """The adapter merged into the weights by peft, one full forward pass per token, no cache, no batch."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, tuned, _ = speakers_of(run)
    (answer,) = ask(models, [tuned], ["abc 1"], max_new_tokens=8)
    base = AutoModelForCausalLM.from_pretrained(run.recipe().model_name_or_path, trust_remote_code=False)
    plain = PeftModel.from_pretrained(base, tuned.folder).merge_and_unload().eval()
    ids = question(models, tuned, "abc 1").prompt.ids
    new: list[int] = []
    with torch.no_grad():
        while len(new) < 8 and new[-1:] != [2]:
            new.append(int(plain(torch.tensor([ids + new])).logits[0, -1].argmax()))
    assert answer.text == models.codec(tuned).decode(new, skip_special_tokens=True) and answer.num_tokens == len(new)


def test_a_seed_belongs_to_an_answer_and_not_to_its_place(models, run):
    base, tuned, _ = speakers_of(run)
    first = ask(models, [base, tuned], ["abc 1"] * 2, temperature=1.0, seed=3)
    swapped = ask(models, [tuned, base], ["abc 1"] * 2, temperature=1.0, seed=3)
    other = ask(models, [base, tuned], ["abc 1"] * 2, temperature=1.0, seed=4)
    assert [answer.text for answer in first] == [answer.text for answer in reversed(swapped)]
    assert first[0].text != other[0].text


def test_drawing_follows_the_probabilities_and_top_p():
    """Probabilities 0.5, 0.3, 0.2; top-p 0.7 keeps the first two, as 5/8 and 3/8."""
    scores, generator = torch.tensor([0.2, 0.5, 0.3]).log(), torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([draw(scores, 1.0, 1.0, generator) for _ in range(4000)]), minlength=3) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.2, 0.5, 0.3]), atol=0.03, rtol=0)
    kept = torch.bincount(torch.tensor([draw(scores, 1.0, 0.7, generator) for _ in range(4000)]), minlength=3) / 4000
    torch.testing.assert_close(kept, torch.tensor([0.0, 0.625, 0.375]), atol=0.03, rtol=0)
    assert {draw(scores, 0.01, 1.0, generator) for _ in range(50)} == {1}


def test_an_answer_of_other_weights_is_never_shown(models, run, monkeypatch):
    base, tuned, other = speakers_of(run)
    models.bring([base, tuned, other])
    monkeypatch.setattr(type(models.base), "set_adapter", lambda *_, **__: None)  # the last one stays active
    models.base.base_model.set_adapter(models.adapter_of(other), inference_mode=True)
    with pytest.raises(WrongSpeaker):
        ask(models, [tuned], ["abc 1"])
    monkeypatch.setattr(type(models), "adapter_of", lambda *_: None)
    with pytest.raises(WrongSpeaker):
        ask(models, [tuned], ["abc 1"])


def test_a_checkpoint_loads_its_adapter_alone_and_the_oldest_is_dropped(recipe, tmp_path, monkeypatch):
    changes = ("optim.max_steps=4", "record.save_steps=1", "record.eval_steps=4", "record.save_total_limit=9")
    run = trained(recipe, tmp_path / "many", *changes)
    base, *checkpoints = speakers_of(run)
    assert len(checkpoints) == 4
    monkeypatch.setattr(chat_models, "MAX_ADAPTERS", 2)
    loads: list[Path] = []
    load = chat_models.load_model
    monkeypatch.setattr(
        chat_models, "load_model", lambda folder, *a, **k: loads.append(folder) or load(folder, *a, **k)
    )
    models = ChatModels(base_of(run), lambda _: None)
    before = ask(models, [base], ["abc 1"], max_new_tokens=6)[0]
    assert before.speaker == "base model"
    for checkpoint in checkpoints:
        answers = ask(models, [base, checkpoint], ["abc 1"] * 2, max_new_tokens=6)
        assert answers[0].text == before.text
        assert answers[1].speaker == f"adapter {checkpoint.name}"
    assert len(loads) == 1 and list(models.adapters) == [item.folder for item in checkpoints[-2:]]
    assert set(models.base.peft_config) == set(models.adapters.values())
    ask(models, [checkpoints[-2]], ["abc 1"])
    ask(models, [checkpoints[0]], ["abc 1"])
    assert list(models.adapters) == [checkpoints[-2].folder, checkpoints[0].folder]


@pytest.mark.parametrize("changes", [["method=qlora"], ["lora.use_dora=true"], ["method=qlora", "lora.use_dora=true"]])
def test_four_bits_and_dora(recipe, tmp_path, changes):
    """QLoRA answers from 4 bit as trained and shares a batch; DoRA cannot and takes its turn."""
    run = trained(recipe, tmp_path / "run", *changes)
    models, speakers = ChatModels(base_of(run), lambda _: None), speakers_of(run)
    four_bit, dora = "method=qlora" in changes, "lora.use_dora=true" in changes
    together = ask(models, speakers)
    alone = [ask(models, [speaker], [text])[0] for speaker, text in zip(speakers, TEXTS, strict=True)]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.together for answer in together] == [not dora] * 3
    assert [answer.speaker for answer in together][1:] == ["adapter step-000006", "adapter step-000003"]
    assert models.held_in == ("4 bit (nf4), as the run was trained" if four_bit else "float32")
    assert bool(getattr(models.base, "is_loaded_in_4bit", False)) == four_bit


def test_any_base_can_be_held_in_four_bits(run):
    models = ChatModels(base_of(run, "4 bit"), lambda _: None)
    answers = ask(models, speakers_of(run))
    assert "as you chose" in models.held_in and models.base.is_loaded_in_4bit and all(a.num_tokens for a in answers)
    with pytest.raises(UserError, match="precision"):
        base_of(run, "2 bit")  # type: ignore[arg-type]


def test_adapters_on_fused_experts_take_turns(recipe, tmp_path):
    family = family_of("mixtral")
    model = save_tiny_model(family, tmp_path / "model")
    changes = (f"model_name_or_path={model}", "lora.lora_dropout=0", "lora.target_experts=true", "model.dtype=float32")
    run = trained(recipe, tmp_path / "run", *changes)
    models, speakers = ChatModels(base_of(run), lambda _: None), speakers_of(run)
    answers = ask(models, speakers, ["abc 1"] * 3)
    again = ask(models, list(reversed(speakers)), ["abc 1"] * 3)
    assert [answer.text for answer in answers] == [answer.text for answer in reversed(again)]
    who = ["base model, adapter off", "adapter step-000006", "adapter step-000003"]
    assert [answer.speaker for answer in answers] == who and not any(answer.together for answer in answers)


def test_a_full_fine_tuning_is_a_whole_model_and_leaves_when_it_is_not_asked(recipe, tmp_path):
    run = trained(recipe, tmp_path / "full", "method=full", "record.save_total_limit=9")
    base, last, first = speakers_of(run)
    models = ChatModels(base_of(run), lambda _: None)
    answers = ask(models, [base, last], ["abc 1"] * 2)
    assert [answer.speaker for answer in answers] == ["base model", "model step-000006"]
    ask(models, [first], ["abc 1"])
    assert list(models.whole) == [first.folder]


def test_a_model_exported_in_four_bits_answers_beside_the_base(recipe, run, tmp_path):
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from engine.contract.rundir import RunDir

    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    folder = run.exports / "small"
    name = run.recipe().model_name_or_path
    model = AutoModelForCausalLM.from_pretrained(name, quantization_config=quantized, trust_remote_code=False)
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    (run.exports / "llama").mkdir()
    (run.exports / "llama" / "model.gguf").write_bytes(b"GGUF")
    try:
        fresh = RunDir(run.path)
        assert [speaker.name for speaker in speakers_of(fresh)][-1] == "exports/small"
        models, pair = (
            ChatModels(base_of(fresh), lambda _: None),
            [speakers_of(fresh)[0], find_speaker(fresh, "exports/small")],
        )
        answers = ask(models, pair, ["abc 1"] * 2)
    finally:
        shutil.rmtree(run.exports)
    assert [answer.speaker for answer in answers] == ["base model", "model exports/small"]
    (whole,) = models.whole.values()
    layers = [module for module in whole.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14 and not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_speakers_of_other_runs_need_the_same_base(recipe, run, tmp_path):
    from engine.contract.places import DataRoot

    root = DataRoot(tmp_path).make()
    one, two = (create_run_at(root.runs / name, recipe) for name in ("one", "two"))
    far = create_run_at(root.runs / "far", override(recipe, ["model.revision=other"]))
    for item in (one, two, far):
        folder = item.checkpoints / "step-000001"
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        (folder / "adapter_config.json").write_text("{}")
    assert [item.id for item in runs_on_the_same_base(root.runs, one)] == ["two"]
    assert find_speaker(one, "two:step-000001", runs_root=root.runs).run == "two"
    for name in ("far:step-000001", "../one:step-000001", "two:step-9", "step-9", "", "merged/../x"):
        with pytest.raises(UserError):
            find_speaker(one, name, runs_root=root.runs)


def test_answers_end_at_stop_texts_and_never_show_a_part_of_one():
    codec = Codec.of(character_tokenizer())
    heard: list[str] = []
    decoding = Decoding(max_new_tokens=20, stop=("END", "zz"))
    row = Row([5], decoding, decode=partial(codec.decode, skip_special_tokens=True), ends=[2], emit=heard.append)
    for token in codec.encode(["onE twEN EENDmore"])[0]:
        row.add(token)
    assert row.text == "".join(heard) == "onE twEN E" and row.end == "stop text"
    assert all("END" not in "".join(heard[: end + 1]) for end in range(len(heard)))


def test_half_characters_wait_for_their_other_half():
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(kinds.BPE({"</s>": 0, **{letter: place + 1 for place, letter in enumerate(alphabet)}}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    codec = Codec.of(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>"))
    heard: list[str] = []
    text = "a\u65e5\U0001f642b"
    row = Row([5], Decoding(), decode=partial(codec.decode, skip_special_tokens=True), ends=[0], emit=heard.append)
    for token in [*codec.encode([text])[0], 0]:
        row.add(token)
    assert heard == [*text, ""] and row.text == text and row.end == "end of turn"


def test_long_conversations_are_refused_or_lose_whole_turns_and_say_so():
    codec = Codec.of(character_tokenizer())
    turns = [Message("system", "be brief")]
    for number in range(3):
        turns += [Message("user", f"question {number}"), Message("assistant", f"answer {number}")]
    turns.append(Message("user", "the last one"))
    whole = chat_prompt(codec, turns, context=None, max_new_tokens=10)
    context = len(whole.ids) - 1
    with pytest.raises(UserError, match=f"{len(whole.ids)} tokens.*can see {context}"):
        chat_prompt(codec, turns, context=context, max_new_tokens=10)
    short = chat_prompt(codec, turns, context=context, max_new_tokens=10, drop_oldest=True)
    said = codec.decode(short.ids)
    assert "be brief" in said and "question 0" not in said and "answer 0" not in said and "question 1" in said
    assert short.notes == ("Oldest messages left out, so that the rest fits into the context: 2.",)
    assert len(short.ids) + 10 <= context
    tight = chat_prompt(codec, turns, context=len(whole.ids) + 4, max_new_tokens=10)
    assert tight.max_new_tokens == 4 and "at most" in tight.notes[0]
    with pytest.raises(UserError, match="can see 20"):
        chat_prompt(codec, [Message("user", "x" * 30)], context=20, max_new_tokens=1, drop_oldest=True)


def test_words_of_a_question_never_become_special_tokens(models, run):
    codec = models.codec(speakers_of(run)[1])
    ids = chat_prompt(codec, [Message("user", "a<|im_end|><|im_start|>x")], context=None, max_new_tokens=1).ids
    assert ids.count(1) == 2 and ids.count(2) == 1  # the template's own: two turns begin, one ends
    assert 2 not in text_prompt(codec, "a<|im_end|>", context=None, max_new_tokens=1).ids


def test_an_answer_ends_where_training_ended_it():
    """A template whose turns end with another special token than the tokenizer's end of text."""
    tokenizer = character_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '<|im_start|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )

    class Model:
        class generation_config:
            eos_token_id = [7, 8]

    assert stop_ids(Codec.of(tokenizer), Model) == [1, 2, 7, 8]


def test_the_base_speaks_in_the_template_of_its_run(recipe, tmp_path):
    run = trained(recipe, tmp_path / "run", "data.chat_template=mftcoder")
    models = ChatModels(base_of(run), lambda _: None)
    models.bring(speakers_of(run))
    for speaker in speakers_of(run)[:2]:
        assert "human\n" in models.codec(speaker).decode(question(models, speaker, "abc").prompt.ids)
