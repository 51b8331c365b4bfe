"""Make the three sample tasks in assets/samples from the Python standard library (PSF licence).

    stdlib source -> functions with a docstring -> one task each, by hash -> train and held-out files

text-to-code (docstring -> function, `messages`), comment-generation (function -> docstring, MFTCoder's `chat_rounds`)
and code-completion (first half -> rest, `messages`) are unequal in number and length: balancing has to matter.
Run:  python scripts/make_samples.py
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[1] / "assets" / "samples"
COUNTS = {"text-to-code": 560, "comment-generation": 200, "code-completion": 320}
"""Training examples wanted per task."""
HELD_OUT = 24
SKIPPED_FOLDERS = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip", "__pycache__"}
MAX_CODE, MAX_DOC = 700, 500
"""Characters: about 4 make a token, and a small model on a laptop should see whole functions."""


@dataclass(frozen=True)
class Function:
    """One documented function of the standard library."""

    signature: str
    docstring: str
    code: str
    """Source without the docstring, indented from column 0."""

    @property
    def key(self) -> str:
        """Hash of the code: the same function gives the same key on every machine."""
        return hashlib.sha256(self.code.encode()).hexdigest()


def stdlib_functions() -> list[Function]:
    """Return the distinct, short, documented functions of the standard library, in order of their hash."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for path in sorted(root.rglob("*.py")):
        if SKIPPED_FOLDERS & set(path.relative_to(root).parts):
            continue
        for function in functions_of(path):
            found.setdefault(function.key, function)
    return [found[key] for key in sorted(found)]


def functions_of(path: Path) -> Iterator[Function]:
    """Yield the usable functions of one file."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.decorator_list or len(node.body) < 2:
            continue
        docstring = ast.get_docstring(node)
        if not docstring or not docstring.isascii() or not 20 <= len(docstring) <= MAX_DOC or ">>>" in docstring:
            continue
        bare = ast.FunctionDef(**{**{f: getattr(node, f) for f in node._fields}, "body": node.body[1:]})
        code = ast.unparse(ast.fix_missing_locations(bare))
        lines = code.splitlines()
        if 4 <= len(lines) <= 26 and len(code) <= MAX_CODE and code.isascii():
            yield Function(lines[0].removeprefix("def ").removesuffix(":"), docstring.strip(), code)


def fenced(code: str) -> str:
    """Return code in a Markdown fence."""
    return f"```python\n{code}\n```"


def text_to_code(function: Function) -> list[tuple[str, str]]:
    """Docstring -> function."""
    ask = f"Write the Python function `{function.signature}`.\n\n{function.docstring}"
    return [("user", ask), ("assistant", fenced(function.code))]


def comment_generation(function: Function) -> list[tuple[str, str]]:
    """Function -> docstring."""
    ask = f"Write the docstring of this Python function.\n\n{fenced(function.code)}"
    return [
        ("system", "You document Python code."),
        ("user", ask),
        ("assistant", f'"""{function.docstring}"""'),
    ]


def code_completion(function: Function) -> list[tuple[str, str]]:
    """First half -> rest."""
    lines = function.code.splitlines()
    half = max(2, len(lines) // 2)
    ask = f"Complete this Python function.\n\n{fenced(chr(10).join(lines[:half]))}"
    return [("user", ask), ("assistant", fenced("\n".join(lines[half:])))]


MAKERS = {
    "text-to-code": text_to_code,
    "comment-generation": comment_generation,
    "code-completion": code_completion,
}


def as_row(task: str, turns: list[tuple[str, str]]) -> dict[str, object]:
    """Write turns in the task's format."""
    if task != "comment-generation":
        return {"messages": [{"role": role, "content": content} for role, content in turns]}
    names = {"system": "system", "user": "human", "assistant": "bot"}
    return {"chat_rounds": [{"role": names[role], "content": content} for role, content in turns]}


def make_tasks() -> dict[str, list[dict[str, object]]]:
    """Return the rows of all files by name; a function is in one file only."""
    pool = stdlib_functions()
    files: dict[str, list[dict[str, object]]] = {}
    position = 0
    for task, count in COUNTS.items():
        chosen = pool[position : position + count + HELD_OUT]
        position += count + HELD_OUT
        rows = [as_row(task, MAKERS[task](function)) for function in chosen]
        files[f"{task}.heldout.jsonl"], files[f"{task}.jsonl"] = rows[:HELD_OUT], rows[HELD_OUT:]
    return files


README = """# Sample tasks

Made by `scripts/make_samples.py` from the standard library of Python {version}: the functions and their docstrings are
copyright (c) Python Software Foundation, used and redistributed under the PSF License Agreement
(https://docs.python.org/3/license.html). Each function was reprinted without comments; nothing else was changed.

| file | form | examples | held out |
|---|---|--:|--:|
{table}
"""


def main() -> None:
    """Write the sample files and their README."""
    SAMPLES.mkdir(parents=True, exist_ok=True)
    files = make_tasks()
    for name, rows in files.items():
        (SAMPLES / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    forms = {task: "`chat_rounds`" if task == "comment-generation" else "`messages`" for task in COUNTS}
    table = "\n".join(f"| {t}.jsonl | {forms[t]} | {len(files[f'{t}.jsonl'])} | {HELD_OUT} |" for t in COUNTS)
    readme = README.format(version=platform.python_version(), table=table)
    (SAMPLES / "README.md").write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
