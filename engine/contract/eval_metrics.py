"""Every measure of an evaluation: name, what people call it, which direction is good, how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measure."""

    name: str
    label: str
    better: Literal["lower", "higher"] = "higher"
    percent: bool = True
    """Whether it lies between 0 and 1 and is shown in percent."""
    help: str = ""


MEASURES: tuple[Measure, ...] = (
    Measure(name="loss", label="Loss", better="lower", percent=False, help="Held-out loss, nats per token."),
    Measure(name="perplexity", label="Perplexity", better="lower", percent=False, help="The exponential of the loss."),
    Measure(name="exact_match", label="Exact match", help="Answers equal to the wanted one, outer white space aside."),
    Measure(name="edit_similarity", label="Edit similarity", help="1 - Levenshtein distance / the longer length."),
    Measure(name="bleu", label="BLEU", help="Mean sentence BLEU of sacrebleu."),
    Measure(name="chrf", label="chrF", help="Mean sentence chrF of sacrebleu."),
    Measure(name="rouge_l", label="ROUGE-L", help="Mean F1 of rouge-score."),
    Measure(name="python_syntax", label="Python syntax", help="Answers that parse, where the wanted answer does."),
    Measure(name="unit_tests", label="Unit tests", help="Programs that pass the tests of their record, in a sandbox."),
    Measure(name="pass@1", label="pass@1", help="Problems whose greedy program passes its tests, in a sandbox."),
    Measure(name="judge", label="Judge", help="Mean grade of a language model."),
)
SCORERS = ("exact_match", "edit_similarity", "bleu", "chrf", "rouge_l", "python_syntax", "unit_tests", "judge")
"""Those that compare an answer with the wanted one."""


def measure_of(name: str) -> Measure:
    """Return the declaration of a measure; one that is not declared is a share, the more the better."""
    return next((one for one in MEASURES if one.name == name), Measure(name=name, label=name))
