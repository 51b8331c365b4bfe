"""The recipe's section `evaluate`: what `python -m engine evaluate` measures of the run's models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from engine.contract.eval_metrics import SCORERS
from engine.contract.recipe_base import Count, MisplacedValue, Section

TaskScorers = Annotated[str, StringConstraints(pattern=r"^[^\W_A-Z]([^\WA-Z]|[.-]){0,63}=[a-z_+]+$", max_length=256)]


class EvaluateSection(Section):
    """How the tuned models are compared with the base model. Nothing here changes the training."""

    scorers: tuple[str, ...] = ("exact_match", "edit_similarity", "chrf", "rouge_l", "python_syntax")
    """How answers are compared with the wanted ones: exact_match, edit_similarity, bleu, chrf, rouge_l, python_syntax,
    unit_tests (Python, by the `tests` of a record, in a sandbox), judge. Empty = only the loss."""
    task_scorers: tuple[TaskScorers, ...] = ()
    """Other scorers for single tasks: `sql=exact_match+edit_similarity`."""
    max_new_tokens: Count = Field(256, ge=1, le=32_768)
    """Longest answer, tokens."""
    num_examples: Count | None = Field(None, ge=1)
    """Held-out examples per task. Empty = those that the training evaluates on."""
    batch_size: Count = Field(16, ge=1, le=1024)
    """Answers that are generated together. It changes the time, not the answers."""
    retention: str | None = Field(None, max_length=4096)
    """Data that show what was forgotten: a file, a folder or a data set on a hub that the run is not trained on."""
    retention_answers: Literal["given", "base"] = "given"
    """What the retention data are compared with: the answers `given` in them, or those of the `base` model, which are
    made once."""
    judge_url: str | None = Field(None, max_length=2048, pattern=r"^https?://[^\s]+$")
    """Address of an OpenAI-compatible server whose model grades answers, up to and without `/chat/completions`. Its key
    is taken from the environment variable MFT_JUDGE_API_KEY."""
    judge_model: str = Field("", max_length=256)
    """Name of the model that grades."""

    @model_validator(mode="after")
    def _scorers_are_known(self) -> EvaluateSection:
        for where, names in (("scorers", self.scorers), *(("task_scorers", part) for part in self.by_task().values())):
            if unknown := [name for name in names if name not in SCORERS]:
                raise MisplacedValue(f"there is no scorer `{unknown[0]}`: use {', '.join(SCORERS)}", where)
            if "judge" in names and not (self.judge_url and self.judge_model):
                raise MisplacedValue("the scorer `judge` needs judge_url and judge_model", "judge_url")
        return self

    def by_task(self) -> dict[str, tuple[str, ...]]:
        """Return the scorers of the tasks that have their own."""
        pairs = (text.partition("=") for text in self.task_scorers)
        return {name: tuple(part for part in names.split("+") if part) for name, _, names in pairs}

    def scorers_of(self, task: str) -> tuple[str, ...]:
        """Return the scorers of a task."""
        return self.by_task().get(task, self.scorers)
