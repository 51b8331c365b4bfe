"""lm-evaluation-harness, where it is installed: a task of one's own over a local file, into the table."""

from __future__ import annotations

import json

import pytest

from engine.__main__ import main as command_line
from engine.contract.eval_results import read_results
from engine.contract.rundir import create_run_at
from engine.evaluate.harness import read_samples
from engine.train.main import train
from tests.tiny_run import new_attempt

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list:
  - {{metric: acc}}
"""


def test_scores_of_documents_between_0_and_1_are_kept():
    sample = {"target": "a", "filtered_resps": ["x"], "arguments": {"gen_args_0": {"arg_0": "q"}}}
    found = {
        "samples": {
            "t": [
                {**sample, "doc_id": 0, "acc": 1.0, "bytes": 9, "loss": 0.5},
                {**sample, "doc_id": 1, "acc": False, "bytes": 9, "loss": 0.5},
                {**sample, "doc_id": 1, "acc": True, "filter": "second"},
            ],
            "u": [{**sample, "doc_id": 0, "em": 1}],
        },
        "higher_is_better": {"t": {"acc": True, "bytes": True, "loss": False}, "u": {"em": True}},
    }
    examples, scores = read_samples(found)
    assert [(example.id, example.prompt) for example in examples] == [("t:0", "q"), ("t:1", "q"), ("u:0", "q")]
    assert {name: (score.values, score.counts) for name, score in scores.items()} == {
        "acc": ((1.0, 0.0, 0.0), (1.0, 1.0, 0.0)),
        "em": ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)),
    }


def test_a_task_of_ones_own_goes_into_the_table(recipe, tmp_path, capsys):
    pytest.importorskip("lm_eval")
    run = create_run_at(tmp_path / "run", recipe)
    train(run, new_attempt(run))
    rows = [{"question": f"is {n} even", "answer": n % 2} for n in range(6)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tiny.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    words = ["evaluate", str(run.path), "--tasks", "none", "--checkpoints", "latest"]
    more = ["--lm-eval-path", str(tmp_path / "tasks")]
    assert command_line([*words, *more, "--lm-eval", "tiny_choice"]) == 0
    assert "| tiny_choice | acc | 6 |" in capsys.readouterr().out
    results = read_results(run.evaluations)
    assert [result.inputs.subject for result in results] == ["base", "step-000006"]
    assert set(results[0].scores["acc"].values) <= {0.0, 1.0}
    assert command_line([*words, *more, "--lm-eval", "absent_task"]) == 2
    assert "has no task `absent_task`" in capsys.readouterr().err
