"""A run's models on a run's held-out data: what is missing is measured, what is there is kept.

    for kind (loss, answers): for model: for data: file in eval/? -> no: measure -> write it

Losses come first, in the number format of the training; answers then in one that does not flip tokens between batches.
An interrupted evaluation goes on where it was: whole files are kept, and answers within one are in its journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.eval_matrix import RETENTION
from engine.contract.eval_results import BASE, EvalExample, EvalInputs, EvalResult, Scores
from engine.contract.hub_path import is_hub_path, parse_hub_path
from engine.contract.places import DataRoot
from engine.contract.recipe import Recipe
from engine.contract.records import Example
from engine.contract.rundir import RunDir
from engine.contract.taskfile import Message, write_messages
from engine.data.codec import Codec
from engine.data.hub import fetch_dataset, local_recipe
from engine.evaluate.harness import Harness, measure_harness
from engine.evaluate.heldout import Dataset, Scored, digest, heldout_datasets, retention_task
from engine.evaluate.judge import Judge
from engine.evaluate.loss import example_losses
from engine.evaluate.models import Models
from engine.evaluate.results import EvalStore, open_results
from engine.evaluate.scorers import SCORERS
from engine.evaluate.unit_tests import pass_tests
from engine.generate.generator import Generator
from engine.generate.row import Decoding, Generated
from engine.model.sources import resolve_model
from engine.model.tokenizer import load_tokenizer

Progress = Callable[[str, float | None], None]
Benchmarks = Callable[[Codec], Sequence[Dataset]]
"""Further data sets, prompts and scores of their own, for the run's tokenizer and chat template."""
ANSWER_COST = 10.0
"""How much longer answers take than losses, for the progress bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be measured."""

    subjects: tuple[str, ...]
    tasks: tuple[str, ...]
    """Names of tasks; the retention data are measured whenever the recipe has some."""


def evaluate_run(
    run: RunDir,
    recipe: Recipe,
    wanted: Wanted,
    *,
    root: DataRoot,
    device: str,
    progress: Progress,
    benchmarks: Benchmarks = lambda _: (),
    harness: Harness | None = None,
) -> None:
    """Measure what is wanted and not there yet.

    Args:
        run: The run.
        recipe: Its recipe; the section `evaluate` may have been changed.
        wanted: Models and tasks.
        root: Where models and caches lie.
        device: cuda or cpu; it must be ours.
        progress: Told what is being done.
        benchmarks: Adds data sets that are no tasks.
        harness: Tasks of lm-evaluation-harness, measured last.

    Raises:
        UserError: If something cannot be used, or another process evaluates this run.
    """
    with open_results(run) as store:
        evaluation = _Evaluation(run, recipe, wanted, store, root=root, device=device, progress=progress)
        evaluation.go(benchmarks)
        if harness is not None:
            models, tokenizer = evaluation.models, evaluation.tokenizer
            measure_harness(harness, store, models, tokenizer, wanted.subjects, progress)


class _Evaluation:
    def __init__(
        self,
        run: RunDir,
        recipe: Recipe,
        wanted: Wanted,
        store: EvalStore,
        *,
        root: DataRoot,
        device: str,
        progress: Progress,
    ) -> None:
        self.run, self.wanted, self.store, self.root, self.progress = run, wanted, store, root, progress
        progress("looking for the model", None)
        folder = resolve_model(recipe.model_name_or_path, revision=recipe.model.revision, root=root, progress=progress)
        self.recipe = local_recipe(recipe, root, lambda text, _: progress(text, None))
        self.section = self.recipe.evaluate
        self.tokenizer = load_tokenizer(folder, lambda _: None, chat_template=recipe.data.chat_template)
        self.codec = Codec.of(self.tokenizer)
        self.models = Models(run, self.recipe, folder, device, lambda text: progress(text, None))
        self.decoding = Decoding(max_new_tokens=self.section.max_new_tokens)
        self.device = device
        self.judge = Judge.of(self.section)
        self.total = self.done = 0.0

    def go(self, benchmarks: Benchmarks) -> None:
        """Measure everything."""
        datasets = [*self._heldout(), *benchmarks(self.codec)]
        jobs = [(kind, name, d) for kind in ("loss", "answers") for name in self.wanted.subjects for d in datasets]
        left = [job for job in jobs if self._is_missing(*job)]
        self.total = sum(_cost(kind, dataset) for kind, _, dataset in left)
        for kind, subject in dict.fromkeys((kind, subject) for kind, subject, _ in left):
            mine = [dataset for k, s, dataset in left if (k, s) == (kind, subject)]
            if kind == "loss":
                self._losses(subject, mine)
            else:
                self._answers(subject, mine)

    def _heldout(self) -> list[Dataset]:
        names = list(self.wanted.tasks)
        recipe = self.recipe
        if self.section.retention:
            if any(task.name == RETENTION for task in recipe.tasks):
                fix = "give the task another name in a new run."
                raise UserError(f"A task of this run is called `{RETENTION}`, as the retention data are.", fix=fix)
            recipe = recipe.model_copy(update={"tasks": (*recipe.tasks, retention_task(self._retention_file()))})
            names.append(RETENTION)
        return (
            heldout_datasets(recipe, self.codec, self.root.prepared, names=names, progress=self._tell) if names else []
        )

    def _tell(self, text: str, _: float) -> None:
        self.progress(text, None)

    def _retention_file(self) -> Path:
        """Return the retention data; with the base model's own answers, which are made once and kept."""
        path = str(self.section.retention)
        given = Path(path)
        if is_hub_path(path):
            given = fetch_dataset(parse_hub_path(path), self.root, self._tell)
        if self.section.retention_answers == "given":
            return given
        recipe = self.recipe.model_copy(update={"tasks": (retention_task(given),)})
        dataset = heldout_datasets(recipe, self.codec, self.root.prepared, names=[RETENTION], progress=self._tell)[0]
        inputs = self._inputs(BASE, replace(dataset, name="retention-base"), "answers")
        target = self.store.folder / ".retention" / f"{inputs.key}.jsonl"
        if not target.is_file():
            with self.models.open(BASE, precise=True) as model:
                answers = self._generate(model, inputs, dataset, "asking the base model the retention prompts")
            target.parent.mkdir(exist_ok=True)
            pairs = zip(dataset.prompts, answers, strict=True)
            turns = [(Message("user", p.text), Message("assistant", a.text)) for p, a in pairs if a.text.strip()]
            if not turns:
                fix = "use other prompts, or the answers given in the data."
                raise UserError("The base model answers none of the retention prompts.", fix=fix)
            temporary = target.with_suffix(".tmp")
            write_messages(temporary, [Example(pair, line + 1) for line, pair in enumerate(turns)])
            temporary.rename(target)
        return target

    def _is_missing(self, kind: str, subject: str, dataset: Dataset) -> bool:
        if not (dataset.rows if kind == "loss" else dataset.prompts and (dataset.score or dataset.scorers)):
            return False
        found = self.store.find(self._inputs(subject, dataset, kind))
        return found is None or bool(set(dataset.scorers) - set(found.scores) if kind == "answers" else ())

    def _inputs(self, subject: str, dataset: Dataset, kind: str) -> EvalInputs:
        data, weights = self.recipe.data, self.models.fingerprint(subject)
        if kind == "loss":
            settings: dict[str, Any] = {
                "max_length": data.max_length,
                "truncation": data.truncation,
                "assistant_turns": data.assistant_turns,
                "examples": digest(dataset.row_ids),
            }
            return EvalInputs(subject=subject, dataset=dataset.name, kind="loss", settings=settings, weights=weights)
        decoding = asdict(dataset.decoding or self.decoding)
        decoding["stop"] = list(decoding["stop"])  # as JSON gives it back
        settings = {**decoding, **dataset.settings, "examples": digest([prompt.id for prompt in dataset.prompts])}
        return EvalInputs(subject=subject, dataset=dataset.name, kind=dataset.kind, settings=settings, weights=weights)

    def _losses(self, subject: str, datasets: Sequence[Dataset]) -> None:
        batch_size = self.recipe.record.per_device_eval_batch_size
        padded = self.recipe.data.packing in ("padding", "length_grouped")
        with self.models.open(subject, precise=False) as model:
            for dataset in datasets:
                self.progress(f"{subject}: loss on {dataset.name}", self._share())
                started = time.monotonic()
                scores = example_losses(
                    model, dataset.rows, batch_size=batch_size, padded=padded, autocast=self.models.autocast
                )
                examples = tuple(EvalExample(id=name) for name in dataset.row_ids)
                self._save(subject, dataset, "loss", examples, {"loss": scores}, model, time.monotonic() - started)
                self.done += _cost("loss", dataset)

    def _answers(self, subject: str, datasets: Sequence[Dataset]) -> None:
        known = {d.name: self.store.find(self._inputs(subject, d, "answers")) for d in datasets}
        for dataset in datasets:  # answers that are there only lack a score
            if (found := known[dataset.name]) is not None:
                noted, scores = self._score(dataset, found.examples, leave=tuple(found.scores))
                self.store.save(replace(found, examples=tuple(noted), scores={**found.scores, **scores}))
        datasets = [dataset for dataset in datasets if known[dataset.name] is None]
        if not datasets:
            return
        with self.models.open(subject, precise=True) as model:
            for dataset in datasets:
                started = time.monotonic()
                inputs = self._inputs(subject, dataset, "answers")
                answers = self._generate(model, inputs, dataset, f"{subject}: answering {dataset.name}")
                examples = tuple(
                    EvalExample(
                        id=prompt.id,
                        prompt=prompt.text,
                        reference=prompt.reference,
                        prediction=answer.text,
                        num_tokens=answer.num_tokens,
                        end=answer.end,
                    )
                    for prompt, answer in zip(dataset.prompts, answers, strict=True)
                )
                self.progress(f"{subject}: scoring {dataset.name}", self._share())
                noted, scores = self._score(dataset, examples)
                self._save(subject, dataset, "answers", noted, scores, model, time.monotonic() - started)
                self.done += _cost("answers", dataset)

    def _generate(self, model: Any, inputs: EvalInputs, dataset: Dataset, phase: str) -> list[Generated]:
        ids = [prompt.id for prompt in dataset.prompts]
        before = self.store.answers_so_far(inputs, ids)
        count = len(before)

        def note(place: int, answer: Generated) -> None:
            nonlocal count
            count += 1
            self.store.note_answer(inputs, ids[place], answer)
            share = self._share(_cost("answers", dataset) * count / len(ids))
            self.progress(f"{phase}, {count} of {len(ids)}", share)

        self.progress(phase, self._share())
        generator = Generator(model, self.tokenizer, batch_size=self.section.batch_size)
        decoding = dataset.decoding or self.decoding
        return generator.answer([p.ids for p in dataset.prompts], decoding, done=before, on_done=note)

    def _score(self, dataset: Dataset, examples: Sequence[EvalExample], leave: Sequence[str] = ()) -> Scored:
        if dataset.score is not None:
            return dataset.score(examples)
        found = {}
        values: Sequence[float | None]
        for name in dataset.scorers:
            if name in leave:
                continue
            if name == "unit_tests":
                examples, values = pass_tests(examples, [prompt.tests for prompt in dataset.prompts])
            elif name == "judge":
                assert self.judge is not None  # the schema asks for its address
                values = [self.judge.grade(example) for example in examples]
            else:
                values = [SCORERS[name](example.prediction, example.reference) for example in examples]
            found[name] = Scores.of(values)
        return examples, found

    def _save(
        self,
        subject: str,
        dataset: Dataset,
        kind: str,
        examples: Sequence[EvalExample],
        scores: dict[str, Scores],
        model: Any,
        seconds: float,
    ) -> None:
        made = {
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "seconds": round(seconds, 1),
            "device": self.device,
            "dtype": str(model.dtype).removeprefix("torch."),
            "run": self.run.id,
        }
        inputs = self._inputs(subject, dataset, kind)
        self.store.save(EvalResult(inputs=inputs, examples=tuple(examples), scores=scores, made=made))

    def _share(self, extra: float = 0.0) -> float | None:
        return min(1.0, (self.done + extra) / self.total) if self.total else None


def _cost(kind: str, dataset: Dataset) -> float:
    return float(len(dataset.rows)) if kind == "loss" else ANSWER_COST * len(dataset.prompts)
