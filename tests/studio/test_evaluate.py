"""The Evaluate page's values: cells with sign and word, what was forgotten, samples, the job."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.eval_results import EvalExample, EvalInputs, EvalResult, Scores
from engine.contract.files import replace_json
from engine.contract.places import DataRoot
from engine.contract.rundir import ProcessId, RunDir
from engine.launch.jobs import JobStatus
from studio.logic import evaluate
from studio.logic.run import RunWatcher
from tests.fake_runs import fake_run

TEXT = "<img src=x onerror=alert(1)> ${1}"


def write_result(run: RunDir, subject: str, dataset: str, name: str, values: list[float]) -> None:
    """Write a result of one measure; the counts are 1."""
    run.evaluations.mkdir(exist_ok=True)
    kind = "loss" if name == "loss" else "answers"
    inputs = EvalInputs(subject=subject, dataset=dataset, kind=kind)
    examples = tuple(
        EvalExample(
            id=str(n), prompt=f"{TEXT} {n}", reference="gold", prediction=f"{subject} says {TEXT}", end="end of turn"
        )
        for n in range(len(values))
    )
    result = EvalResult(inputs=inputs, examples=examples, scores={name: Scores.of(values)})
    replace_json(run.evaluations / inputs.file_name, asdict(result))


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path).make()


@pytest.fixture
def run(root: DataRoot) -> RunDir:
    run = fake_run(root.runs, "finished")
    write_result(run, "base", "sql", "exact_match", [0.0] * 8)
    write_result(run, "step-000010", "sql", "exact_match", [1.0] * 7 + [0.0])
    write_result(run, "base", "retention", "loss", [1.0 + n / 10 for n in range(8)])
    write_result(run, "step-000010", "retention", "loss", [1.5 + n / 10 for n in range(8)])
    return run


def test_cells_have_a_value_a_sign_and_a_word(root, run):
    found = evaluate.look(root, run.id)
    assert found["columns"] == ["base", "step-000010"]
    better, loss, _ = found["rows"]
    assert (better["dataset"], better["measure"], better["num_examples"]) == ("sql", "Exact match", 8)
    assert better["cells"][0]["value"] == "0.0" and "word" not in better["cells"][0]
    assert (better["cells"][1]["value"], better["cells"][1]["sign"], better["cells"][1]["tone"]) == (
        "87.5",
        "+",
        "good",
    )
    forgot = loss["cells"][1]
    assert (forgot["sign"], forgot["word"], forgot["tone"]) == ("−", "forgotten", "bad")
    assert forgot["value"] == "1.850" and forgot["change"] == "[+0.500, +0.500]"  # every example by 0.5


def test_the_run_page_says_what_was_forgotten(root, run):
    sentence = "step-000010 forgot something: it is worse than the base model on the retention data (Loss, Perplexity)."
    assert evaluate.look(root, run.id)["forgot"] == [sentence]
    assert RunWatcher(root).look(run.id)["forgot"] == [sentence]
    write_result(run, "step-000010", "retention", "loss", [1.0 + n / 10 for n in range(8)])
    assert evaluate.forgetting(run) == []


def test_models_of_another_run_stand_beside_and_are_compared_with_this_base(root, run):
    other = fake_run(root.runs, "stopped")
    write_result(other, "base", "sql", "exact_match", [1.0] * 8)
    write_result(other, "step-000010", "sql", "exact_match", [1.0] * 8)
    found = evaluate.look(root, run.id, other.id)
    assert found["columns"] == ["base", "step-000010", f"{other.id}: step-000010"]
    assert found["rows"][0]["cells"][2]["word"] == "better"


def test_samples_are_texts_side_by_side(root, run):
    found = evaluate.samples(root, run.id, "sql", "answers")
    assert found["columns"] == ["base", "step-000010"] and len(found["examples"]) == 8
    first = found["examples"][0]
    assert first["prompt"] == f"{TEXT} 0" and first["answers"][1]["text"] == f"step-000010 says {TEXT}"
    assert first["answers"][1]["scores"] == [["Exact match", "100.0"]]
    assert evaluate.samples(root, run.id, "absent", "answers")["examples"] == []


def test_what_cannot_be_shown_says_why(root, run):
    assert "Train one first" in evaluate.look(root, "")["empty"]
    assert "There is no run" in evaluate.look(root, "absent")["empty"]
    assert evaluate.look(root, "../x")["empty"]
    assert evaluate.look(root, fake_run(root.runs, "running").id)["rows"] == []


def test_the_command_holds_what_the_form_says_and_no_option_of_a_stranger(run):
    asked = evaluate.Asked(
        checkpoints=("step-000010",),
        tasks=("sql",),
        scorers=(),
        num_examples=3,
        retention="--set",
        own_answers=True,
        harness="arc_easy",
        humaneval=True,
    )
    assert evaluate.command(run, asked) == [
        str(run.path), "--checkpoints=step-000010", "--tasks=sql", "--scorers=", "--num-examples=3",
        "--retention=--set", "--retention-answers=base", "--lm-eval=arc_easy", "--humaneval",
    ]  # fmt: skip


def test_published_results_stand_beside_a_measured_humaneval_and_are_marked(root, run):
    assert evaluate.look(root, run.id)["published"] is None
    write_result(run, "base", "humaneval", "pass@1", [1.0, 0.0, 1.0, 0.0])
    write_result(run, "step-000010", "humaneval", "pass@1", [1.0, 1.0, 1.0, 0.0])
    found = evaluate.look(root, run.id)["published"]
    rows = [(row["model"], row["value"], row["published"]) for row in found["rows"]]
    assert found["num_examples"] == 4 and "08ab5ee" in found["source"] and len(rows) == 18
    best, mine, next_one = rows[:3]
    assert (best, next_one) == (("CodeFuse-DeepSeek-33B", "78.7", True), ("CodeFuse-CodeLlama-34B", "74.4", True))
    assert mine == ("step-000010", "75.0", False)
    assert ("base", "50.0", False) in rows and rows[-1] == ("QWen-14B", "32.3", True)


def test_every_state_of_the_job_is_told(root, run):
    file = run.evaluations / ".job.json"
    states = {}
    for phase, state in (("answering", "running"), ("failed", "failed"), ("stopped", "failed"), ("done", "done")):
        process = asdict(ProcessId.of(os.getpid()))
        replace_json(file, asdict(JobStatus(state=state, phase=phase, process=process)))
        states[phase] = evaluate.look(root, run.id)["job"]["state"]
    assert states == {"answering": "running", "failed": "failed", "stopped": "stopped", "done": "done"}
    assert len(evaluate.look(root, run.id)["rows"]) == 3  # the job's file is no result


def test_stop_signals_exactly_the_recorded_process(root, run, monkeypatch):
    with pytest.raises(UserError, match="under way"):
        evaluate.request_stop(root, run.id)
    process = asdict(ProcessId.of(os.getpid()))
    replace_json(run.evaluations / ".job.json", asdict(JobStatus(phase="x", process=process)))
    sent = []
    monkeypatch.setattr(evaluate, "send_signal", lambda who, what: sent.append((who.pid, what)) or True)
    assert "goes on from there" in evaluate.request_stop(root, run.id)
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_an_evaluation_is_started_once_and_not_without_a_checkpoint(root, run, monkeypatch):
    started = []
    monkeypatch.setattr(evaluate, "start_job", lambda *given: started.append(given))
    evaluate.request_evaluation(root, run.id, evaluate.Asked())
    status, argv, log = started[0]
    assert argv[1:4] == ["-m", "engine", "evaluate"] and argv[-1] == f"--status-file={status}"
    assert log == run.path / "logs" / "evaluate.log"
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate.request_evaluation(root, fake_run(root.runs, "queued").id, evaluate.Asked())


def test_the_table_is_exported_in_every_format(root, run):
    assert json.loads(evaluate.table(root, run.id, "json"))["columns"] == ["base", "step-000010"]
    assert evaluate.table(root, run.id, "csv").splitlines()[0].startswith("dataset,measure,num_examples,model,value")
    assert "| sql | Exact match | 8 | 0.0 [0.0 to 0.0] | 87.5 + " in evaluate.table(root, run.id, "markdown")
    assert evaluate.table(root, run.id, "card").startswith("## Evaluation")
