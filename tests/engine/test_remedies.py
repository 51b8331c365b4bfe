"""What may be changed after a failure keeps the effective batch and the rules of the recipe."""

from __future__ import annotations

from typing import get_args

import pytest

from engine.contract.errors import FailureKind, UserError
from engine.contract.files import replace_json
from engine.contract.recipe_io import override
from engine.contract.remedies import MEANINGS, changed, remedies
from engine.launch.aftermath import classify
from engine.train.main import _explain
from tests.fake_runs import RECIPE, fake_run

BATCH, ACCUMULATION = "optim.per_device_train_batch_size", "optim.gradient_accumulation_steps"


@pytest.mark.parametrize(("batch", "accumulation", "smaller", "more"), [(4, 4, 2, 8), (3, 2, 1, 6), (6, 1, 3, 2)])
def test_a_smaller_batch_keeps_the_effective_one(batch, accumulation, smaller, more):
    recipe = override(RECIPE, [f"{BATCH}={batch}", f"{ACCUMULATION}={accumulation}"])
    first = remedies("out_of_memory", recipe)[0]
    assert first.changes == {BATCH: smaller, ACCUMULATION: more}
    assert f"{batch} → {smaller}" in first.text and f"{accumulation} → {more}" in first.text
    assert changed(recipe, first.changes).optim.per_device_train_batch_size == smaller


@pytest.mark.parametrize("kind", get_args(FailureKind))
@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_every_way_out_is_a_valid_recipe_that_differs_and_every_failure_has_a_meaning(kind, method):
    recipe = override(RECIPE, [f"method={method}", "model.dtype=float16", "launch.num_processes=2"])
    assert MEANINGS[kind]
    for way in remedies(kind, recipe):
        assert way.text and (way.page or changed(recipe, way.changes) != recipe)


def test_nothing_is_offered_that_is_done_already():
    settings = [f"{BATCH}=1", "model.gradient_checkpointing=true", "method=qlora", "data.max_length=256"]
    assert remedies("out_of_memory", override(RECIPE, settings)) == ()
    assert remedies("disk_full", override(RECIPE, ["record.save_total_limit=1"])) == ()


def test_not_a_number_lowers_the_rate():
    assert remedies("not_a_number", RECIPE)[0].changes == {"optim.learning_rate": 5e-5}  # 2e-4 / 4


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (OSError(28, "No space left on device"), "disk_full"),
        (RuntimeError("NCCL error: unhandled system error"), "communication"),
        (ValueError("surprise"), ""),
    ],
)
def test_exceptions_are_told_apart(error, kind):
    assert _explain(error).kind == kind


def test_the_kind_travels_from_a_rank_to_the_attempt(tmp_path):
    run = fake_run(tmp_path, "running")
    error = UserError("Model is gated.", fix="log in.", kind="gated")
    replace_json(run.errors / "rank-0.json", error.problems[0].as_json())
    end, problem = classify(run, 1, 1)
    assert (end, problem.kind, problem.fix) == ("failed", "gated", "log in.")
    replace_json(run.errors / "rank-0.json", {"problem": "no rows", "field": "tasks.0.path", "kind": "nonsense"})
    assert classify(run, 1, 1)[1].kind == ""
    replace_json(run.errors / "rank-0.json", {"problem": "no rows", "field": "tasks.0.path"})
    assert classify(run, 1, 1)[1].kind == "data"
