"""What the documents tell people exists: commands parse, recipes are valid, paths and links lead somewhere.

Nothing is run here; `test_doc_commands.py` does.  A code block that no test understands is a failure.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from functools import cache

import pytest

import app
from engine.__main__ import COMMANDS, build_parser
from engine.contract.errors import UserError
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import field_paths, parse_values, recipe_from_values
from engine.contract.records import parse_record
from tests.documents import PROJECT, Block, Document, documents, engine_words

SHELL, PROSE = ("sh",), ("text",)
UNDERSTOOD = (*SHELL, *PROSE, "yaml", "python", "json")
ELSEWHERE = {
    ("git", "clone"): "the hub of the reader's choice",
    ("curl",): "speaks to a server that `test_doc_commands.py` and `tests/engine/test_serve.py` start",
    ("tensorboard", "--logdir"): "a program of its own that never ends",
    ("ollama",): "a program of its own",
    ("vllm", "serve"): "a program of its own, for GPUs",
    ("llama-server",): "a program of its own",
    ("hf", "auth", "login"): "asks for a token",
}
"""Commands of other programs that documents may show, by how they begin, and why no test runs them."""
BASE = {
    "model_name_or_path": "some/model",
    "tasks": [{"name": name, "path": f"{name}.jsonl"} for name in ("sql", "docs", "code")],
}
"""What a piece of a recipe is put into before it is checked."""
PATH = re.compile(r"(?:engine|studio|tests|docs|presets|scripts|benchmarks|assets)/[\w./*-]*|requirements[\w-]*\.txt")
DOCUMENTS = {document.name: document for document in documents()}
BLOCKS = {str(block): block for document in documents() for block in document.blocks()}


def blocks(*languages: str) -> dict[str, Block]:
    return {name: block for name, block in BLOCKS.items() if block.language in languages}


@cache
def parser() -> argparse.ArgumentParser:
    return build_parser()


def parses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Fail with the parser's own words if a command line of the engine is refused."""
    try:
        parser().parse_args(words)
    except SystemExit as end:
        assert not end.code, capsys.readouterr().err


def flags_of(command: str) -> set[str]:
    subcommands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {flag for action in subcommands.choices[command]._actions for flag in action.option_strings}


@cache
def known_fields() -> frozenset[str]:
    """Return every field and section of a recipe by its dotted name, those of tasks without a number."""
    parts = [re.sub(r"\.0\.", ".", path).split(".") for path in field_paths()]
    return frozenset(".".join(names[:count]) for names in parts for count in range(1, len(names) + 1))


def check_recipe(text: str) -> None:
    """Check a recipe, or a piece of one.

    Raises:
        UserError: If it is none.
    """
    values = parse_values(text)
    merged = {
        key: {**BASE.get(key, {}), **value} if isinstance(value, dict) else value for key, value in values.items()
    }
    recipe_from_values({**BASE, **merged})


def test_there_are_documents():
    assert {"README.md", "docs/from-mftcoder.md"} <= set(DOCUMENTS)
    assert len(blocks("sh")) > 5 and len(blocks("yaml")) > 1


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_is_of_a_kind_that_is_checked(name):
    assert BLOCKS[name].language in UNDERSTOOD


@pytest.mark.parametrize("name", blocks(*SHELL))
def test_every_command_can_be_typed(name, monkeypatch, capsys):
    """Engine and app by their own parsers, make by its targets, pip and scripts by their files, others by the table."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    seen = 0
    for words in BLOCKS[name].commands():
        seen += 1
        program = words[0].removeprefix(".venv/bin/")
        if (rest := engine_words(words)) is not None:
            parses(rest, capsys)
        elif program == "python" and words[1] == "app.py":
            monkeypatch.setattr(sys, "argv", words[1:])
            app.read_arguments()
        elif program == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert targets and all(re.search(rf"^{target}:", makefile, re.M) for target in targets), words
        elif program in ("pip", "pytest", "python", "sh") or words[1:3] == ["-m", "pytest"]:
            files = [word for word in words[1:] if PATH.fullmatch(word)]
            assert files and all((PROJECT / file).exists() for file in files), words
        else:
            assert any(tuple(words[: len(begin)]) == begin for begin in ELSEWHERE), f"no test knows {words}"
    assert seen


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_within_sentences_exist(name):
    """Their names and options; what is left out in a sentence is not asked for."""
    for code in DOCUMENTS[name].inline():
        if match := re.match(r"(?:\.venv/bin/)?(?:python -m )?engine ([a-z-]+)(.*)", code):
            assert match.group(1) in COMMANDS, code
            named = {word.partition("=")[0] for word in match.group(2).split() if word.startswith("--")}
            assert named <= flags_of(match.group(1)), code


@pytest.mark.parametrize("name", blocks("yaml"))
def test_every_recipe_is_valid(name):
    for fragment in BLOCKS[name].fragments():
        check_recipe(fragment)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_settings_within_sentences_exist(name):
    """`loss.focal`, `lora: {r: 8}` and `optim.max_steps: 6` are fields, and the value is one they take."""
    known = known_fields()
    for code in DOCUMENTS[name].inline():
        field, _, value = code.partition(": ")
        if re.fullmatch(rf"({'|'.join(Recipe.model_fields)})(\.[a-z_]+)+", field):
            assert field in known, code
        if not value or not re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", field):
            continue
        places = [path for path in known if path == field or path.endswith(f".{field}")]
        assert places, f"no field of a recipe is called {field}"
        problems = []
        for place in places:
            *sections, last = place.split(".")
            if sections[:1] == ["tasks"]:
                other = "{name: docs, path: docs.jsonl}"
                text = f"tasks: [{other}, {{name: sql, path: sql.jsonl, {'.'.join([*sections[1:], last])}: {value}}}]"
            else:
                text = "".join(f"{section}: {{" for section in sections) + f"{last}: {value}" + "}" * len(sections)
            try:
                check_recipe(text)
            except UserError as error:
                problems.append(str(error))
        assert len(problems) < len(places), (code, problems)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_example_records_are_read(name):
    records = [code for code in DOCUMENTS[name].inline() if code.startswith('{"')]
    records += [line for block in DOCUMENTS[name].blocks("json") for line in block.text.splitlines()]
    for number, record in enumerate(records, start=1):
        parse_record(json.loads(record), number)


@pytest.mark.parametrize("name", blocks("python"))
def test_every_program_is_python(name):
    ast.parse(BLOCKS[name].text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_and_link_leads_somewhere(name):
    document = DOCUMENTS[name]
    for code in document.inline():
        if match := PATH.match(code):
            assert list(PROJECT.glob(match.group().rstrip("/"))), code
    for link in document.links():
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (document.path.parent / target).resolve() if target else document.path
        assert file.is_relative_to(PROJECT) and file.exists(), link
        assert not anchor or anchor in Document(file).anchors(), link


def test_pictures_are_few_small_and_shown():
    pictures = list((PROJECT / "assets" / "screenshots").iterdir())
    assert 1 < len(pictures) <= 5 and all(picture.stat().st_size < 200_000 for picture in pictures)
    for name in ("README.md", "README.zh-CN.md"):
        assert {f"assets/screenshots/{picture.name}" for picture in pictures} <= set(DOCUMENTS[name].links())
