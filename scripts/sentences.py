"""Every sentence that a page may show, as a key of the catalogue in studio/text.

    python scripts/sentences.py              all of them, one JSON string a line
    python scripts/sentences.py --missing    those without a Chinese translation

A sentence is a string of at least two words in our JavaScript, or in the Python of studio and engine unless it is for a
developer or a terminal (docstrings, logs, ValueError, arguments of commands); the help of every recipe field; and what
presets say.  Values become `{}`.  A single word, of the studio or the contract, is one that starts with a capital, or
that stands where only people read: the label of a component or a choice in Python, the text or label of an element in
JavaScript.  The browser test looks for the rest.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
FOR_DEVELOPERS = {
    "ValueError", "TypeError", "KeyError", "RuntimeError", "AssertionError", "NotImplementedError", "ArgumentParser",
    "add_argument", "add_parser", "compile", "filterwarnings", "print", "Event", "getLogger", "debug", "info",
    "warning", "exception", "error",
}  # fmt: skip
"""Functions whose words no page shows; `error` and `info` are those of loggers and argument parsers."""
CODE = re.compile(r"[<>=$\\|]|--|\w\(|^[.#\[]|[\w)] [.#]\w|;$|^[a-z-]+: [a-z]+;|^https?:")
TWO_WORDS = re.compile(
    r"[A-Za-z]{2,}[,;:.!?)`'’]* (\{\} |a )*[(`'‘]*[A-Za-z]{2,}|[A-Za-z]{3,}[,:]? \{\}|\{\} [A-Za-z]{3,}"
)
WORD = re.compile(r"[A-Z][a-z]{2,}(-[a-z]+)*[:.…?]?")
SMALL_WORD = re.compile(r"[a-z]{3,}(-[a-z]+)*[:.…?]?")
LABELS = {"label", "info", "placeholder", "title", "word", "verdict", "choices"}
"""Keywords of calls whose words are read by people."""
SHOWN_IN_SCRIPT = re.compile(
    r"""(?:\}, |(?:title|placeholder|"aria-label"|textContent)(?::| =) |\? | : )"([^"]+)"(?=[ ,);])"""
)
"""Text of an element, or an attribute that is read; a choice between two texts too."""


def is_sentence(text: str) -> bool:
    """Whether a string has words for people."""
    return bool(TWO_WORDS.search(text)) and not CODE.search(text.replace("{}", ""))


def python_words(file: Path) -> Iterator[str]:
    """Yield the single words of a Python file that people read."""
    for text in python_sentences(file):
        if WORD.fullmatch(text):
            yield text
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            if keyword.arg not in LABELS:
                continue
            pairs = [part.elts[0] for part in ast.walk(keyword.value) if isinstance(part, ast.Tuple) and part.elts]
            for said in [keyword.value, *pairs] if keyword.arg != "choices" else pairs:
                if isinstance(said, ast.Constant) and SMALL_WORD.fullmatch(str(said.value)):
                    yield str(said.value)


def script_words(text: str) -> Iterator[str]:
    """Yield the single words of a JavaScript text that people read."""
    yield from (said.strip() for said in script_sentences(text) if WORD.fullmatch(said.strip()))
    yield from (said for said in SHOWN_IN_SCRIPT.findall(text) if SMALL_WORD.fullmatch(said))


def python_sentences(file: Path) -> Iterator[str]:
    """Yield the sentences of a Python file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # docstrings of all kinds
            skipped.add(node.value)
        if isinstance(node, ast.Assert) and node.msg is not None:
            skipped |= set(ast.walk(node.msg))
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            of_gradio = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") == "gr"
            if name in FOR_DEVELOPERS and not of_gradio:
                skipped |= set(ast.walk(node))
        if isinstance(node, ast.JoinedStr):
            skipped |= {part for part in node.values if isinstance(part, ast.Constant)}
            skipped |= {spec for part in node.values if isinstance(part, ast.FormattedValue) and part.format_spec
                        for spec in ast.walk(part.format_spec)}  # fmt: skip
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)


def script_sentences(text: str) -> Iterator[str]:
    """Yield the string and template literals of a JavaScript text, those inside of templates too."""
    at = 0
    while at < len(text):
        if text.startswith("//", at):
            at = text.find("\n", at) % (len(text) + 1)
        elif text.startswith("/*", at):
            at = text.find("*/", at) + 2
        elif text[at] in "\"'":
            match = re.compile(r"(['\"])((?:\\.|(?!\1).)*)\1").match(text, at)
            assert match is not None, text[at : at + 60]
            yield match[2].replace('\\"', '"').replace("\\'", "'")
            at = match.end()
        elif text[at] == "/" and re.search(r"(?:[(,=:\[!&|?{};]|return)\s*$", text[max(0, at - 12) : at]):
            match = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n\[])+/[a-z]*").match(text, at)
            at = match.end() if match else at + 1
        elif text[at] == "`":
            found, at = _template(text, at + 1)
            yield from found
        else:
            at += 1


def _template(text: str, at: int) -> tuple[list[str], int]:
    """Return the sentences of a template literal that starts at `at`, and where it ends."""
    said, inner = "", []
    while text[at] != "`":
        if text[at] == "\\":
            said, at = said + text[at + 1], at + 2
        elif text.startswith("${", at):
            depth, start, at = 1, at + 2, at + 2
            while depth:
                if text[at] == "`":
                    _, at = _template(text, at + 1)
                    continue
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
            inner += script_sentences(text[start : at - 1])
            said += "{}"
        else:
            said, at = said + text[at], at + 1
    return [said, *inner], at + 1


def sentences() -> list[str]:
    """Return every sentence once, in the order of the files."""
    sys.path.insert(0, str(PROJECT))
    from studio.logic.form_fields import FIELDS

    found: list[str] = [field.help for field in FIELDS.values()]
    presets = sorted((PROJECT / "presets").glob("*.yaml"))
    found += [yaml.safe_load(preset.read_text(encoding="utf-8"))["description"] for preset in presets]
    words: list[str] = []
    for folder in ("studio", "engine"):
        for file in sorted((PROJECT / folder).rglob("*.py")):
            if not file.stem.endswith("_command") and file.stem != "__main__":
                found += python_sentences(file)
                words += python_words(file) if folder == "studio" or file.parent.name == "contract" else ()
    for file in sorted((PROJECT / "assets").glob("*.js")):
        found += script_sentences(file.read_text(encoding="utf-8"))
        words += script_words(file.read_text(encoding="utf-8"))
    for file in sorted((PROJECT / "assets").glob("*.html")):
        words += re.findall(r" data-text>([^<]+)<", file.read_text(encoding="utf-8"))
    plain = (" ".join(text.split()).lstrip("# ") for text in found)
    return list(dict.fromkeys([*(text for text in plain if is_sentence(text)), *words]))


def missing() -> list[str]:
    """Return the sentences that need a translation and have none."""
    from studio.language import TEXT, catalogue

    known = {*catalogue(), *json.loads((TEXT / "never_shown.json").read_text(encoding="utf-8"))}
    return [text for text in sentences() if text not in known]


def main() -> None:
    """Print them."""
    for text in missing() if "--missing" in sys.argv else sentences():
        print(json.dumps(text, ensure_ascii=False))


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    main()
