"""Batched answers: the same as one by one, resumable, ended where they should."""

from __future__ import annotations

import functools

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

from engine.generate.generator import Generator
from engine.generate.loop import draw
from engine.generate.row import Decoding, Generated, Row
from engine.model.families import family_of, tiny_model
from engine.model.tiny_tokenizer import character_tokenizer

PROMPTS = [list(range(3, 3 + length)) for length in (7, 2, 31, 9, 1, 80)]


def generator(kind: str = "llama", batch_size: int = 4) -> Generator:
    family = family_of(kind)
    assert family is not None
    model = tiny_model(family).eval()
    if not family.experts:  # in float64 no rounding flips a token; grouped products of experts have none
        model = model.double()
    return Generator(model, character_tokenizer(), batch_size=batch_size)


def byte_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({"</s>": 0, **{letter: place + 1 for place, letter in enumerate(letters)}}, []))
    core.decoder = decoders.ByteLevel()
    return core


def one_by_one(maker: Generator, ids: list[int], decoding: Decoding) -> str:
    """The reference: transformers' own loop, one prompt, no padding."""
    with torch.inference_mode():
        output = maker.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
            max_new_tokens=decoding.max_new_tokens, pad_token_id=2,
        )[0, len(ids) :]  # fmt: skip
    return maker.tokenizer.decode(output, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_bigcode", "falcon", "qwen3_moe", "deepseek_v3"])
def test_batches_answer_like_transformers_one_by_one(kind: str):
    maker, decoding = generator(kind), Decoding(max_new_tokens=80)  # beyond Gemma's window of 64
    answers = maker.answer(PROMPTS, decoding)
    assert [answer.text for answer in answers] == [one_by_one(maker, ids, decoding) for ids in PROMPTS]


def test_rows_that_end_early_leave_the_batch_and_the_others_go_on():
    maker, decoding = generator(batch_size=6), Decoding(max_new_tokens=40)
    alone = [one_by_one(maker, ids, decoding) for ids in PROMPTS]
    stop = alone[2][5:7]  # ends that row after a few tokens, perhaps others later
    answers = maker.answer(PROMPTS, Decoding(max_new_tokens=40, stop=(stop, "not there at all")))
    assert [answer.text for answer in answers] == [text.split(stop)[0] for text in alone]
    assert answers[2].end == "stop text" and answers[2].num_tokens <= 7
    assert {answer.end for answer in answers} > {"stop text"}


@pytest.mark.parametrize("kind", ["falcon_h1", "mamba"])
def test_states_that_are_no_keys_and_values_answer_the_same(kind: str):
    """Rows of a hybrid cannot leave the batch, and Mamba's forward takes no such cache."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 128, "eos_token_id": 2, "pad_token_id": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    mamba = {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes, **(heads | mamba if kind == "falcon_h1" else {"state_size": 8}))
    maker = Generator(AutoModelForCausalLM.from_config(config).eval().double(), character_tokenizer(), batch_size=6)
    alone = [one_by_one(maker, ids, Decoding(max_new_tokens=20)) for ids in PROMPTS]
    stop = alone[2][5:7]
    answers = maker.answer(PROMPTS, Decoding(max_new_tokens=20, stop=(stop,)))
    assert [answer.text for answer in answers] == [text.split(stop)[0] for text in alone]
    assert {answer.end for answer in answers} > {"stop text"}


@pytest.mark.parametrize("stop", [(), ("not there",)])
def test_text_in_pieces_is_the_text_as_a_whole(stop: tuple[str, ...]):
    """Bytes that are no characters at all, cut anywhere."""
    tokenizer = byte_tokenizer()
    for seed in range(20):
        drawn = torch.randint(1, 257, (40,), generator=torch.Generator().manual_seed(seed)).tolist()
        heard: list[str] = []
        row = Row([5], Decoding(max_new_tokens=40, stop=stop), decode=tokenizer.decode, ends=[], emit=heard.append)
        for token in drawn:
            row.add(token)
        assert row.end == "length limit" and "".join(heard) == row.text == tokenizer.decode(drawn)


def test_the_end_of_turn_ends_an_answer():
    maker = generator()
    first = maker.answer(PROMPTS[:1], Decoding(max_new_tokens=1))[0]
    maker.ends |= {maker.tokenizer.encode(first.text)[0]}
    again = maker.answer(PROMPTS[:1], Decoding(max_new_tokens=9))[0]
    assert again == Generated(text="", num_tokens=1, end="end of turn")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_sampled_answers_do_not_depend_on_the_batch(batch_size: int):
    decoding = Decoding(max_new_tokens=20, temperature=1.0, top_p=0.9, seed=5)
    together = generator(batch_size=6).answer([PROMPTS[0]] * 6, decoding)
    assert generator(batch_size=batch_size).answer([PROMPTS[0]] * 6, decoding) == together
    assert len({answer.text for answer in together}) > 1  # each place draws for itself


def test_sampling_draws_from_the_likeliest_tokens_that_have_top_p_together():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    random = torch.Generator().manual_seed(0)
    drawn = [draw(logits, 1.0, 0.7, random) for _ in range(4000)]
    assert set(drawn) == {0, 1}  # 0.5 is below 0.7, 0.8 is not
    assert abs(drawn.count(0) / 4000 - 0.5 / 0.8) < 0.03  # four standard errors
    cold = [draw(logits, 0.1, 1.0, random) for _ in range(100)]
    assert cold.count(0) > 90


def test_known_answers_are_not_made_again():
    maker, decoding = generator(batch_size=2), Decoding(max_new_tokens=5)
    whole = maker.answer(PROMPTS, decoding)
    told: dict[int, Generated] = {}
    known = {0: Generated(text="kept", num_tokens=1, end="stop text"), 3: whole[3]}
    again = maker.answer(PROMPTS, decoding, done=known, on_done=told.__setitem__)
    assert again == [known[0], *whole[1:]]
    assert sorted(told) == [1, 2, 4, 5]


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch):
    maker, decoding = generator(batch_size=6), Decoding(max_new_tokens=5)
    expected, sizes = maker.answer(PROMPTS, decoding), []
    plain = maker.model.forward

    @functools.wraps(plain)
    def small(input_ids, **rest):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError
        return plain(input_ids, **rest)

    monkeypatch.setattr(maker.model, "forward", small)
    assert maker.answer(PROMPTS, decoding) == expected
    assert sizes[:3] == [6, 3, 1]
