"""Scorers: (prediction, reference) -> a number from 0 to 1, None where it does not apply.

A new one is a function in `SCORERS` and a line in `engine.contract.eval_metrics`.  They see texts as they were
generated and written; only `python_syntax` and `exact_match` look at the code inside a chat answer's fence.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from rapidfuzz.distance import Levenshtein

Scorer = Callable[[str, str], float | None]
MAX_PARSED = 100_000
"""Longest program that is parsed, characters."""
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def code_of(text: str) -> str:
    """Return the first fenced block of a chat answer, the whole text if it has none."""
    blocks = code_blocks(text)
    return blocks[0] if blocks else text


def code_blocks(text: str) -> list[str]:
    """Return the fenced blocks of a chat answer; one that was cut off counts."""
    return [str(block) for block in _FENCE.findall(text)]


def exact_match(prediction: str, reference: str) -> float | None:
    """Return 1 if both are the same but for outer white space, white space at line ends and a fence around code."""
    return float(_trimmed(code_of(prediction)) == _trimmed(code_of(reference)))


def edit_similarity(prediction: str, reference: str) -> float | None:
    """Return 1 - Levenshtein distance / length of the longer one, in characters."""
    return float(Levenshtein.normalized_similarity(_trimmed(prediction), _trimmed(reference)))


def bleu(prediction: str, reference: str) -> float | None:
    """Return sentence BLEU with the effective order, so that answers of few words have one."""
    return float(_bleu().sentence_score(prediction, [reference]).score) / 100 if reference.strip() else None


def chrf(prediction: str, reference: str) -> float | None:
    """Return sentence chrF."""
    return float(_chrf().sentence_score(prediction, [reference]).score) / 100 if reference.strip() else None


def rouge_l(prediction: str, reference: str) -> float | None:
    """Return the F1 of ROUGE-L; None where the reference has no word that it counts."""
    if not re.search(r"[a-z0-9]", reference.lower()):
        return None
    return float(_rouge().score(reference, prediction)["rougeL"].fmeasure)


def python_syntax(prediction: str, reference: str) -> float | None:
    """Return whether the answer is valid Python; None where the wanted answer is none. Nothing is run."""
    return float(parses(code_of(prediction))) if parses(code_of(reference)) else None


def parses(code: str) -> bool:
    """Return whether a text is a Python program of at least one statement."""
    if len(code) > MAX_PARSED:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(ast.parse(code).body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the parser makes of hostile texts
            return False


SCORERS: dict[str, Scorer] = {
    "exact_match": exact_match,
    "edit_similarity": edit_similarity,
    "bleu": bleu,
    "chrf": chrf,
    "rouge_l": rouge_l,
    "python_syntax": python_syntax,
}


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)
