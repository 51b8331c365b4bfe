"""Answers to problems of HumanEval's form -> whole programs: the code without the prose, completed by the prompt.

the rest of a function                -> prompt + rest
a fenced block, or code within prose  -> imports and helpers of the prompt + the code's definitions
"""

from __future__ import annotations

import ast
import re
import warnings

from engine.data.humaneval import Problem
from engine.evaluate.scorers import MAX_PARSED, code_blocks, parses

STARTS = re.compile(r"(?:import|from|def|class|async def)\b|@")
MOST_LINES = 300
"""Of code within prose."""
INDENT = "    "


def program_of(problem: Problem, answer: str, *, chat: bool) -> str:
    """Return the program that an answer makes.

    Args:
        problem: What was asked.
        answer: What the model said.
        chat: Whether it may talk and begin anew; else it continues the prompt, letter by letter.
    """
    if not chat:
        return problem.prompt + answer
    defines = re.compile(rf"^(?:async\s+)?def\s+{re.escape(problem.entry_point)}\s*\(", re.MULTILINE)
    blocks = code_blocks(answer)
    code = next((b for b in blocks if defines.search(b)), blocks[0] if blocks else answer)
    if not defines.search(code):
        return _completed(problem.prompt, code)
    code = code if parses(code) else _without_prose(code, defines)
    signature = defines.search(problem.prompt)
    before = problem.prompt[: signature.start()] if signature else ""
    return f"{before.rstrip()}\n\n{_definitions(code)}\n"


def _completed(prompt: str, body: str) -> str:
    """Return prompt and body; chat answers like to lose the indentation, all of it or the first line's."""
    body = body.strip("\n").rstrip()
    if not body or body[0].isspace():
        return f"{prompt}{body}\n"
    everywhere = "\n".join(f"{INDENT}{line}" if line.strip() else "" for line in body.split("\n"))
    tries = [f"{prompt}{form}\n" for form in (everywhere, INDENT + body)]
    return next((program for program in tries if parses(program)), tries[0])


def _without_prose(text: str, defines: re.Pattern[str]) -> str:
    """Return the longest run of lines around the definition that is Python, the definition's own to the end if none."""
    lines = text.split("\n")[:MOST_LINES]
    at = next((number for number, line in enumerate(lines) if defines.match(line)), 0)
    starts = [number for number in range(at + 1) if STARTS.match(lines[number])]
    for start in starts[-8:]:
        for end in range(len(lines), at + 1, -1):
            if lines[end - 1].strip() and parses(code := "\n".join(lines[start:end])):
                return code
    return "\n".join(lines[at:])


def _definitions(code: str) -> str:
    """Return code without calls, asserts and main blocks at its top: examples of use, which may wait for input."""
    if not parses(code):
        return code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(code[:MAX_PARSED])
    tree.body = [node for node in tree.body if not isinstance(node, (ast.Expr, ast.Assert)) and not _is_main(node)]
    return ast.unparse(tree)


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
