"""The catalogue of translations, and the sentences that it is made for."""

from __future__ import annotations

import json

import pytest

from scripts.sentences import is_sentence, missing, python_sentences, python_words, script_sentences, script_words
from studio import language
from studio.language import catalogue, fits


def test_every_translation_uses_the_values_of_its_sentence():
    found = catalogue()
    assert len(found) > 10 and all(any(ord(sign) > 0x2E80 for sign in text) for text in found.values())


def test_no_sentence_is_without_a_translation():
    assert missing() == []


@pytest.mark.parametrize(
    ("english", "translated", "right"),
    [
        ("Step {} of {}", "共 {2} 步，第 {1} 步", True),
        ("Step {} of {}", "第 {1} 步", False),
        ("Stop", "停止 {1}", False),
        ("It failed: {}", "失败：{1t}", True),
        ("{} row{} skipped", "跳过 {1} 行", True),
        ("{} row{} skipped", "跳过若干行", False),
    ],
)
def test_values_are_counted(english, translated, right):
    assert fits(english, translated) is right


def test_a_sentence_with_two_translations_is_refused(tmp_path, monkeypatch):
    (tmp_path / "zh").mkdir()
    for name, text in (("a", "停止"), ("b", "中止")):
        (tmp_path / "zh" / f"{name}.json").write_text(json.dumps({"Stop": text}))
    monkeypatch.setattr(language, "TEXT", tmp_path)
    with pytest.raises(ValueError, match="two translations"):
        catalogue()


def test_sentences_are_found_in_python(tmp_path):
    file = tmp_path / "page.py"
    file.write_text(
        '"""A docstring is no sentence."""\n'
        'raise UserError(f"{name} cannot be read: {why}.", fix="choose another file.")\n'
        'logger.info("only for a log")\n'
        'raise ValueError("for a developer")\n'
        'width = f"{x:10} wide"\n'
        'gr.Textbox(label="Two words", info="Said below it.")\n'
    )
    found = {text for text in python_sentences(file) if is_sentence(text)}
    assert found == {"{} cannot be read: {}.", "choose another file.", "Two words", "Said below it.", "{} wide"}


def test_sentences_are_found_in_javascript():
    script = """// not this one
    h("p.card.empty", {}, "No run yet. ", `Step ${count(run.step)} of ${run.ok ? "all of them" : `${n} in sum`}`);
    const words = /a "quoted" form/g, path = "M3 5c6 0 6 7 11 7"; /* nor "this here" */ say('one more');"""
    found = [text.strip() for text in script_sentences(script) if is_sentence(text)]
    assert found == ["No run yet.", "Step {} of {}", "all of them", "{} in sum", "one more"]


def test_single_words_are_found_where_people_read_them(tmp_path):
    file = tmp_path / "page.py"
    file.write_text(
        'kind, state = "lora", "Failed"\n'
        'gr.Dropdown([("none", "")], label="method", choices=[("natural", "n"), ("Equal", "e")])\n'
        'gr.Textbox(placeholder="sql", elem_id="name")\n'
    )
    assert sorted(python_words(file)) == ["Equal", "Failed", "method", "natural", "sql"]
    script = """h("p.note", { title: "later", role: "status" }, "soon", done ? "ready" : "Waiting"); go("x");"""
    assert sorted(script_words(script)) == ["Waiting", "later", "ready", "soon"]
