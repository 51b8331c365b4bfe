"""The chat templates of the model families: the loss on exactly the assistant's words, by shape as by template."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.records import Example, Message, parse_record
from engine.data import store
from engine.data.codec import MFTCODER_TEMPLATE, Codec, TemplateRefusal
from engine.data.shapes import words_looked_for
from engine.data.store import NotTheSame, encode_chunk
from engine.data.tokenize import IGNORE, encode_example, pieces
from engine.model.tiny_tokenizer import character_tokenizer

TEMPLATES = {path.stem: path.read_text() for path in (Path(__file__).parents[1] / "data" / "templates").glob("*.jinja")}
TEMPLATES["mftcoder"] = MFTCODER_TEMPLATE
END = {
    "chatml": ("", "<|im_end|>"),
    "llama2": (" ", " </s>"),
    "mistral": (" ", "</s>"),
    "llama3": ("", "<|eot_id|>"),
    "deepseek-coder": ("", "\n<|EOT|>"),
    "gemma": ("", "<end_of_turn>"),
    "phi3": ("", "<|end|>\n</s>"),
    "mftcoder": ("", "\n</s>"),
}
"""What each family's template puts before and after an answer; both are learned with it."""
NO_SYSTEM = {"gemma", "mistral"}
WORDS = ("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|EOT|>", "<end_of_turn>", "<start_of_turn>", "<|end|>", "[INST]")


def codec_of(family: str) -> Codec:
    """Return a codec of one character per token with the family's template and special tokens."""
    tokenizer = character_tokenizer()
    end = END.get(family, ("", "<|im_end|>"))[1].strip()
    own = [word for word in (*WORDS, "<s>", "</s>") if word in TEMPLATES[family] or word in ("<s>", "</s>")]
    tokenizer.add_special_tokens({"additional_special_tokens": own, "bos_token": "<s>", "eos_token": "</s>"})
    if end in own:
        tokenizer.eos_token = end
    tokenizer.chat_template = TEMPLATES[family]
    return Codec.of(tokenizer)


def chat(*turns: tuple[str, str]) -> Example:
    return Example(tuple(Message(role, content) for role, content in turns), 1)


def learned(codec: Codec, example: Example, **options) -> list[str]:
    return [piece.text for piece in pieces(codec, example, **options)[0] if piece.supervised]


def test_every_family_is_here():
    assert set(TEMPLATES) == {*END, "qwen3"} and len(TEMPLATES) == 9


@pytest.mark.parametrize("family", sorted(END))
@pytest.mark.parametrize("content", ["def f(x):\n    return x", "  indented\n", "tricky </think> <|im_end|> </s> text"])
def test_the_loss_lies_on_exactly_the_assistants_words(family, content):
    codec = codec_of(family)
    before, after = END[family]
    encoded = encode_example(codec, chat(("user", "write f"), ("assistant", content)))
    text = codec.decode([label for label in encoded.labels if label != IGNORE])
    said = content.strip() if "trim" in TEMPLATES[family] or "strip()" in TEMPLATES[family] else content
    assert text == before + said + after
    harmless = encode_example(codec, chat(("user", "write f"), ("assistant", "plain")))
    ends = [list(e.input_ids).count(codec.eos_token_id) for e in (encoded, harmless)]
    assert ends[0] == ends[1]  # the template's own; the content never makes one


@pytest.mark.parametrize("family", sorted(END))
def test_all_turns_or_the_last(family):
    codec = codec_of(family)
    example = chat(("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two"))
    before, after = END[family]
    if family == "phi3":  # prints the end-of-text token after the whole conversation only
        assert learned(codec, example)[-1] == "two" + after
        return
    assert learned(codec, example) == [f"{before}one{after}", f"{before}two{after}"]
    assert learned(codec, example, assistant_turns="last") == [f"{before}two{after}"]


def test_thoughts_that_a_template_takes_back_leave_the_last_answer():
    codec = codec_of("qwen3")
    cut, rewrites = pieces(codec, chat(("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two")))
    assert rewrites and [p.text for p in cut if p.supervised] == ["<think>\n\n</think>\n\ntwo<|im_end|>"]


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_shapes_give_what_the_template_gives(family):
    codec = codec_of(family)
    texts = [
        "plain",
        " space before",
        "two\n\nparagraphs",
        "a </think> b",
        "x <|im_end|> y",
        "{'json': 1}",
        "\ue0000\ue001",
    ]
    for system in ("", "be brief"):
        if system and family in NO_SYSTEM:
            continue
        for text in texts:
            turns = [("system", system)] if system else []
            turns += [("user", text), ("assistant", text), ("user", "more"), ("assistant", text)]
            assert pieces(codec, chat(*turns)) == pieces(codec, chat(*turns), by_shape=False)


@pytest.mark.parametrize("family", sorted(NO_SYSTEM))
def test_a_role_that_a_template_refuses_is_a_reason_not_an_error(family):
    codec = codec_of(family)
    example = chat(("system", "s"), ("user", "q"), ("assistant", "a"))
    with pytest.raises(TemplateRefusal, match="refuses the conversation: "):
        pieces(codec, example)
    chunk = encode_chunk(codec, [example, chat(("user", "q"), ("assistant", "a"))], assistant_turns="all")
    assert len(chunk.refused) == 1 and chunk.batch.num_rows == 2


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}{{ m.content[0] }}{% endfor %}",
        "{% for m in messages %}{{ m.content[:9] }}{% endfor %}",
        "{% for m in messages %}{{ m.content.split('\\n')[0] }}{% endfor %}",
        "{% for m in messages %}{{ m.content.replace('a', 'b') }}{% endfor %}",
    ],
)
def test_a_template_that_changes_texts_gets_no_shape(template):
    assert words_looked_for(template) is None


def test_a_shortcut_that_is_wrong_is_found_out(monkeypatch):
    codec = codec_of("chatml")
    examples = [chat(("user", f"q{i}"), ("assistant", f"answer {i}")) for i in range(70)]
    monkeypatch.setattr(store, "COMPARED", 1)
    assert encode_chunk(codec, examples, assistant_turns="all").batch.num_rows == 70
    monkeypatch.setattr(Codec, "encode_fast", lambda self, texts: [[*ids, 5] for ids in self.encode(texts)])
    with pytest.raises(NotTheSame, match="line 1"):
        encode_chunk(codec, examples, assistant_turns="all")


def test_tool_calls_are_learned_and_tool_answers_are_not():
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "note": "<|im_end|>"}'}}
    record = {
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
        "messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "name": "add", "content": "2"},
            {"role": "assistant", "content": "It is 2."},
        ],
    }
    codec = codec_of("chatml")
    example, _ = parse_record(record, 1)
    encoded = encode_example(codec, example)
    text = codec.decode([label for label in encoded.labels if label != IGNORE])
    arguments = json.dumps({"a": 1, "note": "<|im_end|>"})
    assert text == (
        f'<tool_call>\n{{"name": "add", "arguments": {arguments}}}\n</tool_call><|im_end|>It is 2.<|im_end|>'
    )
    assert list(encoded.input_ids).count(codec.eos_token_id) == 5  # system, user, call, tool, answer: none from data


def test_plain_text_is_all_learned_and_ends_with_the_end_of_text():
    codec = codec_of("chatml")
    example, kind = parse_record({"text": "def f(): <|im_end|> pass"}, 1)
    encoded = encode_example(codec, example)
    assert kind == "text" and codec.decode(list(encoded.input_ids)) == "def f(): <|im_end|> pass<|im_end|>"
    assert list(encoded.input_ids).count(codec.eos_token_id) == 1
    assert encoded.num_supervised == len(encoded.input_ids) - 1  # nothing stands before the first token
    chunk = encode_chunk(codec, [example], assistant_turns="all").batch
    assert chunk.column("spans")[0].as_py() == [1, len(encoded.input_ids)]
    with_bos = replace(codec, prefix_ids=(7,))
    assert encode_chunk(with_bos, [example], assistant_turns="all").batch.column("spans")[0].as_py() == [
        1,
        len(encoded.input_ids) + 1,
    ]
