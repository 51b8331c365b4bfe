"""A tiny run evaluated from end to end: the trainer's numbers, kept results, answers, forgetting, the table."""

from __future__ import annotations

import csv
import json
import os
import shutil

import pytest

from engine.__main__ import main as command_line
from engine.contract.errors import UserError
from engine.contract.eval_matrix import build_matrix, columns_of, forgotten
from engine.contract.eval_results import EvalExample, EvalInputs, EvalResult, Scores, read_results
from engine.contract.metrics import task_key
from engine.contract.places import data_root
from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir, create_run_at
from engine.evaluate import turn
from engine.evaluate.evaluation import Wanted, evaluate_run
from engine.evaluate.models import choose_subjects
from engine.evaluate.sandbox import working_level
from engine.evaluate.scorers import exact_match
from engine.generate.generator import Generator
from engine.launch.devices import inventory
from engine.launch.jobs import JobStatus
from engine.launch.locks import acquire, devices_of, holder_of
from engine.train.main import train
from tests.tiny_run import new_attempt, write_task


def quiet(*_):
    return None


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> RunDir:
    run = create_run_at(tmp_path_factory.mktemp("evaluate") / "run", recipe)
    train(run, new_attempt(run))
    return run


@pytest.fixture
def run(trained, tmp_path) -> RunDir:
    shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    return RunDir(tmp_path / "run")


def evaluate(run: RunDir, *changes: str, subjects: str = "all", progress=quiet) -> None:
    recipe = override(run.recipe(), ["evaluate.max_new_tokens=8", *changes])
    wanted = Wanted(subjects=tuple(choose_subjects(run, subjects)), tasks=tuple(t.name for t in recipe.tasks))
    evaluate_run(run, recipe, wanted, root=data_root().make(), device="cpu", progress=progress)


def by_subject(run: RunDir, dataset: str, kind: str) -> dict[str, EvalResult]:
    found = [r for r in read_results(run.evaluations) if (r.inputs.dataset, r.inputs.kind) == (dataset, kind)]
    return {result.inputs.subject: result for result in found}


@pytest.mark.parametrize("method", ["lora", "full", "qlora"])
def test_losses_are_those_of_the_trainer(recipe, trained, tmp_path, method: str):
    run = trained
    if method != "lora":
        rate = "optim.learning_rate=1e-2" if method == "qlora" else "optim.learning_rate=1e-3"
        changed = override(recipe, [f"method={method}", rate])
        run = create_run_at(tmp_path / method, changed)
        train(run, new_attempt(run))
    evaluate(run, "evaluate.scorers=[]")
    rows = {row["step"]: row for row in run.metrics()[0] if "eval/loss" in row}
    for task in ("short", "long"):
        found = by_subject(run, task, "loss")
        assert list(found) == ["base", "step-000003", "step-000006"]
        for subject, step in zip(found, (0, 3, 6), strict=True):
            assert found[subject].scores["loss"].mean == pytest.approx(
                rows[step][task_key(task, "eval_loss")], rel=2e-6
            )


def test_what_is_there_is_kept_and_a_new_scorer_only_scores(run, monkeypatch):
    evaluate(run, "evaluate.scorers=[exact_match]", subjects="latest")
    before = {path.name: path.stat().st_mtime_ns for path in run.evaluations.glob("*.json")}
    assert len(before) == 8  # two models, two tasks, loss and answers
    monkeypatch.setattr(Generator, "answer", lambda *_, **__: pytest.fail("answers were made again"))
    evaluate(run, "evaluate.scorers=[exact_match]", subjects="latest")
    assert before == {path.name: path.stat().st_mtime_ns for path in run.evaluations.glob("*.json")}
    evaluate(run, "evaluate.scorers=[exact_match, chrf]", subjects="latest")
    for result in by_subject(run, "short", "answers").values():
        assert list(result.scores) == ["exact_match", "chrf"]
        by_hand = [exact_match(example.prediction, example.reference) for example in result.examples]
        assert list(result.scores["exact_match"].values) == by_hand
        assert all(e.reference.startswith("cba ") and e.prompt.startswith("abc ") for e in result.examples)


@pytest.mark.skipif(not working_level(), reason="programs cannot be locked in here")
def test_tests_of_records_judge_answers_that_are_there_already(run, tmp_path):
    rows = [
        {"prompt": "one", "completion": "x = 1", "tests": ["assert x == 1"]},
        {"prompt": "two", "completion": "x = 1", "tests": "assert x == 2"},
    ]
    path = tmp_path / "short.heldout.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for scorers in ("exact_match", "exact_match, unit_tests"):
        evaluate(run, f"tasks.0.eval_path={path}", f"evaluate.scorers=[{scorers}]", subjects="latest")
    found = by_subject(run, "short", "answers")["step-000006"]
    assert [example.reference for example in found.examples] == ["x = 1"] * 2
    told = {example.prompt: example.notes["unit_tests"] for example in found.examples}
    assert told["one"].startswith(("wrong", "error")) and told["two"].startswith("left out: the wanted answer")
    assert (sum(found.scores["unit_tests"].counts), found.scores["unit_tests"].mean) == (1, 0.0)
    path.write_text(path.read_text().replace("x == 2", "x == 1"))  # mended: measured anew
    evaluate(run, f"tasks.0.eval_path={path}", "evaluate.scorers=[unit_tests]", subjects="latest")
    assert sum(by_subject(run, "short", "answers")["step-000006"].scores["unit_tests"].counts) == 2


def test_an_interrupted_evaluation_goes_on(run):
    def stop_after_two(phase: str, _: float | None) -> None:
        if "2 of" in phase:
            raise KeyboardInterrupt

    changes = ("evaluate.scorers=[chrf]", "evaluate.batch_size=1")
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, *changes, subjects="base", progress=stop_after_two)
    phases: list[str] = []
    evaluate(run, *changes, subjects="base", progress=lambda phase, _: phases.append(phase))
    assert "base: answering short, 3 of 4" in phases and "base: answering short, 2 of 4" not in phases
    assert not any("loss" in phase for phase in phases)


def test_merged_models_and_checkpoints_are_named(run):
    (run.merged / "mine").mkdir(parents=True)
    (run.merged / "mine" / "merge.json").write_text("{}")
    assert choose_subjects(run, "all") == ["base", "step-000003", "step-000006", "merged/mine"]
    assert choose_subjects(run, "best,latest") == ["base", "step-000006"]
    with pytest.raises(UserError, match="no checkpoint or merged model `step-9`"):
        choose_subjects(run, "step-9")


def test_the_base_models_own_answers_are_made_once_and_can_be_forgotten(run, tmp_path, monkeypatch):
    write_task(tmp_path / "kept.jsonl", 7, "old knowledge")
    changes = (
        f"evaluate.retention={tmp_path / 'kept.jsonl'}",
        "evaluate.retention_answers=base",
        "evaluate.scorers=[]",
    )
    evaluate(run, *changes)
    base = by_subject(run, "retention", "loss")["base"]
    assert len(base.examples) == 7
    kept = next((run.evaluations / ".retention").glob("*.jsonl"))
    made = kept.stat().st_mtime_ns
    monkeypatch.setattr(Generator, "answer", lambda *_, **__: pytest.fail("answers were made again"))
    evaluate(run, *changes)
    assert kept.stat().st_mtime_ns == made
    matrix = build_matrix(columns_of(read_results(run.evaluations)))
    # a random model's greedy answers are likeliest under itself: after six steps they are less so
    assert set(forgotten(matrix)) <= {"step-000003", "step-000006"} and "Loss" in forgotten(matrix)["step-000006"]


def result_of(subject: str, values: list[float], ids: str = "abcdef", **settings: object) -> EvalResult:
    inputs = EvalInputs(subject=subject, dataset="t", kind="answers", settings=settings)
    examples = tuple(EvalExample(id=name) for name in ids[: len(values)])
    return EvalResult(inputs=inputs, examples=examples, scores={"exact_match": Scores.of(values)})


def test_the_matrix_pairs_examples_by_name_and_only_what_can_be_compared():
    base = result_of("base", [0.0] * 6)
    tuned = result_of("step-000001", [1.0] * 5 + [0.0], ids="fedcba")
    other = result_of("step-000002", [1.0] * 6, max_new_tokens=9)
    row = build_matrix(columns_of([base, tuned, other])).rows[0]
    assert row.num_examples == 6 and row.cells[0].change is None
    assert row.cells[1].change.value == pytest.approx(5 / 6) and row.cells[1].verdict == "better"
    assert row.cells[2] is None


def command(run: RunDir, *more: str) -> int:
    return command_line(["evaluate", str(run.path), "--max-new-tokens", "8", *more])


def test_the_command_measures_tells_and_exports(run, tmp_path, capsys):
    status = tmp_path / "job.json"
    assert command(run, "--checkpoints", "best", "--scorers", "chrf", "--status-file", str(status)) == 0
    out = capsys.readouterr().out
    assert "| data | measure | n | base | step-000006 |" in out and "| short | chrF | 4 |" in out
    assert JobStatus.read(status).state == "done"
    assert command(run, "--show", "--format", "csv", "--output", str(tmp_path / "t.csv")) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert {(row["dataset"], row["model"]) for row in rows} == {
        (task, model) for task in ("short", "long") for model in ("base", "step-000006")
    }
    capsys.readouterr()
    assert command(run, "--show", "--format", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["columns"] == ["base", "step-000006"]
    assert command(run, "--show", "--format", "card") == 0
    assert capsys.readouterr().out.startswith("## Evaluation\n")
    assert command(run, "--show", "--against", str(run.path)) == 0
    assert "run: base | run: step-000006 | run: base" in capsys.readouterr().out


def test_wrong_words_are_refused_with_what_there_is(run, capsys):
    assert command(run, "--tasks", "absent") == 2
    assert command(run, "--scorers", "bleurt") == 2
    assert command(run, "--set", "optim.max_steps=3") == 2
    assert command(run, "--show") == 2
    said = capsys.readouterr().err
    for words in ("no task `absent`", "no scorer `bleurt`", "only evaluate.* can be set", "Nothing of run run"):
        assert words in said


def test_an_evaluation_waits_for_the_device_of_a_training_and_says_so(run, monkeypatch):
    root = data_root().make()
    cpu = devices_of(inventory(), root)[-1]
    held = acquire(cpu, "run other")
    assert held is not None
    told: list[str] = []

    def release(_: float) -> None:
        assert (root.waiting / f"evaluate-{run.id}.json").is_file()
        os.close(held)

    monkeypatch.setattr(turn.time, "sleep", release)
    with turn.turn_on_device(run, run.recipe(), root, told.append) as device:
        assert device == "cpu" and acquire(cpu, "another") is None
        assert holder_of(cpu) == f"the evaluation of run {run.id}"
    assert told == ["waiting: the CPU is used by run other."]
    assert not (root.waiting / f"evaluate-{run.id}.json").exists()
