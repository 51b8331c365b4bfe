"""Files of results: whole, found again by their inputs, gone on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.eval_results import EvalExample, EvalInputs, EvalResult, Scores, read_results
from engine.contract.rundir import RunDir
from engine.evaluate.results import open_results
from engine.generate.row import Generated

INPUTS = EvalInputs(subject="merged/a", dataset="sql", kind="answers", settings={"max_new_tokens": 9}, weights="w1")


def result(inputs: EvalInputs = INPUTS) -> EvalResult:
    examples = (EvalExample(id="x", prompt="p", prediction="<b>"), EvalExample(id="y"))
    return EvalResult(inputs=inputs, examples=examples, scores={"exact_match": Scores.of([1.0, None])})


def test_a_measure_is_the_sum_of_values_over_the_sum_of_counts():
    assert Scores(values=(6.0, 20.0), counts=(3.0, 5.0)).mean == 26 / 8
    assert Scores.of([1.0, None, 0.0, 0.0]).mean == 1 / 3
    assert Scores.of([None]).mean is None


def test_a_result_is_found_by_all_of_its_inputs(tmp_path: Path):
    with open_results(RunDir(tmp_path)) as store:
        store.save(result())
        assert store.find(INPUTS) == result()
        assert store.find(replace(INPUTS, settings={"max_new_tokens": 8})) is None
        assert store.find(replace(INPUTS, weights="w2")) is None
    assert read_results(tmp_path / "eval") == [result()]


def test_subjects_share_the_key_of_what_can_be_compared():
    assert replace(INPUTS, subject="base", weights="").key == INPUTS.key != replace(INPUTS, dataset="b").key


def test_an_interrupted_evaluation_goes_on_from_its_answers(tmp_path: Path):
    answer = Generated(text="caf\u00e9 \ud83d", num_tokens=3, end="length limit")
    with open_results(RunDir(tmp_path)) as store:
        store.note_answer(INPUTS, "y", replace(answer, text="ok"))
        journal = next((tmp_path / "eval" / ".journal").iterdir())
        with open(journal, "ab") as file:
            file.write(b'{"id": "x", "answer": {"text": "tor')
    with open_results(RunDir(tmp_path)) as store:
        assert store.answers_so_far(INPUTS, ["x", "y"]) == {1: replace(answer, text="ok")}
        assert store.answers_so_far(replace(INPUTS, weights="other"), ["x", "y"]) == {}
        store.save(result())
        assert store.answers_so_far(INPUTS, ["x", "y"]) == {}


def test_one_process_writes(tmp_path: Path):
    with open_results(RunDir(tmp_path)):
        with pytest.raises(UserError, match="being evaluated already"), open_results(RunDir(tmp_path)):
            pass


def test_broken_files_are_no_results(tmp_path: Path):
    folder = tmp_path / "eval"
    with open_results(RunDir(tmp_path)) as store:
        good = store.save(result())
    (folder / "torn.json").write_text(good.read_text()[:50])
    (folder / "short.json").write_text(good.read_text().replace('"values": [', '"values": [1,'))
    assert read_results(folder) == [result()]
