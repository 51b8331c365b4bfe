"""What a speaker is asked, and what it answered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.chat.prompts import Prompt
from engine.contract.errors import UserError
from engine.contract.speakers import Speaker
from engine.generate.row import Decoding, Row, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt for a speaker."""

    speaker: Speaker
    prompt: Prompt
    sampling: Sampling = Sampling()

    @property
    def decoding(self) -> Decoding:
        """How it is answered: as sampling says, within what the prompt leaves."""
        return Decoding(**asdict(self.sampling), max_new_tokens=self.prompt.max_new_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One finished answer."""

    text: str
    num_tokens: int
    prompt_tokens: int
    seconds: float
    speaker: str
    """Who spoke, read from the model: "base model, adapter off" or "adapter step-000060"."""
    stop_reason: str
    """end of turn, stop text, length limit, stopped."""
    notes: tuple[str, ...] = ()
    """What was changed about the question, in sentences."""
    together: bool = False
    """Whether it was computed in one batch with another."""


def answer_of(row: Row, question: Question, speaker: str, *, together: bool) -> Answer:
    """Return what a row that has ended says to a question."""
    return Answer(
        text=row.text,
        num_tokens=len(row.ids),
        prompt_tokens=len(row.prompt),
        seconds=row.seconds,
        speaker=speaker,
        stop_reason=row.generated().end,
        notes=question.prompt.notes,
        together=together,
    )


def read_sampling(values: dict[str, Any]) -> Sampling:
    """Check sampling settings that came from outside.

    Raises:
        UserError: With all that is wrong.
    """
    temperature, top_p, seed = values.get("temperature", 0.0), values.get("top_p", 1.0), values.get("seed", 0)
    wrong = []
    if not isinstance(temperature, (int, float)) or not 0 <= temperature <= 2:
        wrong.append("the temperature is between 0 and 2")
    if not isinstance(top_p, (int, float)) or not 0 < top_p <= 1:
        wrong.append("top-p is above 0 and at most 1")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        wrong.append("the seed is a whole number from 0 on")
    if wrong:
        raise UserError(f"These settings cannot be used: {'; '.join(wrong)}.", fix="change them.")
    return Sampling(temperature=float(temperature), top_p=float(top_p), seed=seed, stop=tuple(values.get("stop") or ()))
