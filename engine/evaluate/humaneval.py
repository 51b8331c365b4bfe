"""HumanEval, and files of its form, as a benchmark of `engine.evaluate.evaluation`: prompts, programs, pass@k.

    problems -> prompt in one of three forms -> answers -> programs -> sandbox -> verdict of each -> pass@1 or pass@k

A program passes if `check(candidate)` returns, in a process that the program cannot reach (`engine.evaluate.trial`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.contract.eval_results import EvalExample, Scores
from engine.contract.records import Message
from engine.data.codec import MFTCODER_TEMPLATE, Codec
from engine.data.humaneval import Problem, load_humaneval, read_problems
from engine.data.tokenize import encode_prompt
from engine.evaluate.heldout import Dataset, Prompt, Scored
from engine.evaluate.programs import program_of
from engine.evaluate.sandbox import Limits, Sandbox
from engine.evaluate.trial import PASSED, trial_of
from engine.evaluate.verdicts import verdicts_of
from engine.generate.row import Decoding

NAME = "humaneval"
Form = Literal["auto", "plain", "mftcoder", "template"]
FORMS: tuple[Form, ...] = ("auto", "plain", "mftcoder", "template")
STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint")
"""Where a completion has left its function (Chen et al. 2021, arXiv:2107.03374)."""
QUESTION = (
    "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
    "```python\n{prompt}\n```"
)
"""What a chat model is asked, in the words of EvalPlus."""
LIMITS = Limits(cpu_s=10, wall_s=60.0)
KS = (1, 10, 100)
MAX_NEW_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanEval:
    """What is asked for."""

    form: Form = "auto"
    """plain: the prompt is continued as it is; mftcoder: within MFTCoder's role markers; template: as a question in the
    run's chat template. auto: mftcoder if the run was trained with those markers, else template."""
    samples: int = 1
    """Programs per problem; 1 = the greedy one."""
    temperature: float = 0.8
    """Of samples, with top_p 0.95."""
    limit: int | None = None
    """The first so many problems; None = all."""
    max_new_tokens: int = MAX_NEW_TOKENS
    file: Path | None = None
    """Problems of the same form instead."""


def humaneval_dataset(wanted: HumanEval, codec: Codec) -> Dataset:
    """Return the benchmark for a run's tokenizer and chat template.

    Raises:
        UserError: If programs cannot be locked in here, the file cannot be used, or the template refuses the question.
    """
    Sandbox()  # refuses now what would fail after hours of answering
    problems = (read_problems(wanted.file) if wanted.file else load_humaneval())[: wanted.limit]
    form = wanted.form
    if form == "auto":
        form = "mftcoder" if codec.chat_template == MFTCODER_TEMPLATE else "template"
    sampled = wanted.samples > 1
    decoding = Decoding(
        max_new_tokens=wanted.max_new_tokens,
        temperature=wanted.temperature if sampled else 0.0,
        top_p=0.95 if sampled else 1.0,
        stop=STOP if form == "plain" else (),
    )
    prompts = [
        Prompt(
            id=f"{problem.task_id}#{number}" if sampled else problem.task_id,
            ids=ids,
            text=problem.prompt,
            reference=problem.canonical_solution,
        )
        for problem in problems
        for ids in [_prompt_ids(problem, form, codec)]
        for number in range(wanted.samples)
    ]

    def score(examples: Sequence[EvalExample]) -> Scored:
        asked = [problem for problem in problems for _ in range(wanted.samples)]
        return judge(asked, examples, samples=wanted.samples, chat=form != "plain")

    name = wanted.file.name.partition(".")[0] if wanted.file else NAME
    kind = "pass-at-k" if sampled else "pass-at-1"
    settings: dict[str, object] = {"form": form, "problems": _digest(problems), "samples": wanted.samples}
    return Dataset(name=name, prompts=tuple(prompts), decoding=decoding, kind=kind, score=score, settings=settings)


def judge(problems: Sequence[Problem], examples: Sequence[EvalExample], *, samples: int, chat: bool) -> Scored:
    """Run the programs that answers make.

    Args:
        problems: Of each example; those of one problem follow each other.
        examples: The answers.
        samples: Answers per problem.
        chat: Whether they may hold prose and fences.

    Returns:
        The examples with their verdicts as notes, and pass@k; a problem's estimate stands at its first example.

    Raises:
        UserError: If programs cannot be locked in on this machine.
    """
    programs = [program_of(p, example.prediction, chat=chat) for p, example in zip(problems, examples, strict=True)]
    verdicts = run_programs(problems, programs)
    passed = [verdict == PASSED for verdict in verdicts]
    scores = {}
    for k in (k for k in KS if k <= samples):
        values: list[float | None] = [None] * len(passed)
        for start in range(0, len(passed), samples):
            values[start] = pass_at_k(samples, sum(passed[start : start + samples]), k)
        scores[f"pass@{k}" if samples == 1 else f"pass@{k} of {samples} samples"] = Scores.of(values)
    noted = [replace(e, notes={**e.notes, "program": v}) for e, v in zip(examples, verdicts, strict=True)]
    return noted, scores


def run_programs(problems: Sequence[Problem], programs: Sequence[str]) -> list[str]:
    """Return a verdict for each program."""
    trials = [
        trial_of(program, problem.test, prompt=problem.prompt, entry_point=problem.entry_point)
        for problem, program in zip(problems, programs, strict=True)
    ]
    return verdicts_of(trials, LIMITS)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate of pass@k: how likely k programs, drawn from n of which c pass, hold one that does.

    Args:
        n: Programs.
        c: Those that passed.
        k: Programs drawn, at most n.
    """
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def _prompt_ids(problem: Problem, form: Form, codec: Codec) -> list[int]:
    if form == "plain":
        return [*codec.prefix_ids, *codec.encode([problem.prompt], literal=True)[0]]
    if form == "mftcoder":
        codec, text = replace(codec, chat_template=MFTCODER_TEMPLATE), problem.prompt
    else:
        text = QUESTION.format(prompt=problem.prompt.strip())
    return encode_prompt(codec, [Message("user", text)])


def _digest(problems: Sequence[Problem]) -> str:
    parts: list[Any] = [(p.task_id, p.prompt, p.test, p.entry_point) for p in problems]
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
