"""What past runs say of the next: peaks in their range, throughput, and that nothing strange is believed."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace

import pytest

from engine.contract import cost as cost_module
from engine.contract.cost import Cost, corrected, measured_speed, past_costs
from engine.contract.memory import MemoryEstimate
from engine.contract.recipe import Recipe
from engine.contract.rundir import create_run
from engine.data.preview import TaskFacts, micro_batch_tokens
from engine.train.main import train
from tests.tiny_run import new_attempt, tiny_recipe

MEMORY = MemoryEstimate(ranges=(("weights", 100, 100), ("activations", 0, 1000)))
LIKE = Cost(method="lora", parameters=100)


def took(peak: int, **changes) -> Cost:
    return replace(LIKE, low_bytes=100, high_bytes=1100, peak_bytes=peak, **changes)


def test_a_range_is_narrowed_around_the_place_of_past_peaks_and_known_parts_stay():
    """Peaks of 300, 400 and 400 lie at 0.2, 0.3 and 0.3 of 100 to 1100: from 0 to 0.6 now."""
    found = corrected(MEMORY, LIKE, [took(300), took(400), took(400)])
    assert dict(found.parts)["weights"] == 100
    assert (found.low_bytes, found.high_bytes, found.num_past_runs) == (100, 700, 3)


def test_places_far_outside_are_believed_up_to_a_bound():
    """A peak at 100 times the range counts as 2: from 1.7 to 2.3."""
    found = corrected(MEMORY, LIKE, [took(100_100)])
    assert (found.low_bytes, found.high_bytes) == (1800, 2400)


def test_only_comparable_runs_count_and_only_the_newest_five():
    other = [took(1100, method="full"), took(1100, gradient_checkpointing=True), took(1100, device="GeForce")]
    assert corrected(MEMORY, LIKE, other) is MEMORY
    many = corrected(MEMORY, LIKE, [*other, *(took(600) for _ in range(5)), took(1100), took(1100)])
    assert (many.low_bytes, many.high_bytes, many.num_past_runs) == (300, 900, 5)


def test_throughput_comes_from_models_of_a_similar_size():
    past = [took(1, operations_per_second=s, parameters=p) for s, p in ((5.0, 100), (7.0, 400), (9.0, 25), (99.0, 900))]
    assert measured_speed(LIKE, past) == 7.0
    assert measured_speed(replace(LIKE, num_processes=2), past) is None


def test_only_runs_that_ended_well_are_read_and_each_status_once(tmp_path, monkeypatch):
    def write(name: str, **values) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "status.json").write_text(json.dumps({"state": "finished", "step": 9, **values}))

    write("1", cost=asdict(took(300)))
    write("2", cost=asdict(took(400)), state="failed")
    write("3", cost=asdict(took(400)), step=1)
    write("4", cost={"peak_bytes": "much"})
    write("5")
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "status.json").write_text("{torn")
    assert [cost.peak_bytes for cost in past_costs(tmp_path)] == [300]
    monkeypatch.setattr(cost_module, "read_json", lambda path: pytest.fail(f"{path} was read again"))
    assert len(past_costs(tmp_path)) == 1
    monkeypatch.undo()
    write("1", cost=asdict(took(500)))
    os.utime(tmp_path / "1" / "status.json", ns=(time.time_ns(), time.time_ns() + 5))
    assert past_costs(tmp_path)[0].peak_bytes == 500
    (tmp_path / "1" / "status.json").unlink()
    assert past_costs(tmp_path) == ()


def facts(lengths: tuple[int, ...], counts: tuple[int, ...], **more) -> TaskFacts:
    rows, tokens = sum(counts), sum(n * c for n, c in zip(lengths, counts, strict=True))
    zero = dict.fromkeys(("num_skipped", "num_refused", "num_heldout", "num_too_long", "num_unsupervised"), 0)
    return TaskFacts(
        name="a", num_records=rows, num_rows=rows, num_tokens=tokens, num_supervised_tokens=tokens, lengths=lengths,
        counts=counts, **{**zero, **more},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("packing", "expected"), [("padding_free", (120, 220)), ("padding", (120, 300)), ("bfd", (480, 600))]
)
def test_the_largest_micro_batch_follows_from_the_lengths(packing, expected):
    """Six rows of 20 and two of 100, three per batch: 3 * 40 on average, 100 + 100 + 20 at most, 3 * 100 padded.

    Packs: 320 tokens in two of 200, so 3 * 160 on average and 3 * 200 at most.
    """
    recipe = Recipe.model_validate(
        {
            "model_name_or_path": "m", "tasks": [{"name": "a", "path": "a"}],
            "data": {"packing": packing, "max_length": 200}, "optim": {"per_device_train_batch_size": 3},
        }
    )  # fmt: skip
    assert micro_batch_tokens(recipe, [facts((20, 100), (6, 2), num_packs=2)]) == expected


def test_a_run_writes_what_it_was_estimated_at_and_what_it_took(tmp_path, monkeypatch):
    monkeypatch.setenv("MFT_STUDIO_HOME", str(tmp_path / "home"))
    run = create_run(tmp_path / "home" / "runs", tiny_recipe(tmp_path))
    train(run, new_attempt(run))
    cost = run.status().cost
    assert cost is not None and cost.method == "lora" and cost.device == "cpu"
    assert 0 < cost.low_bytes < cost.high_bytes and cost.peak_bytes > 10**8 and cost.operations_per_second > 0
    assert past_costs(run.path.parent) == (cost,)
    told = [event["text"] for event in run.events()[0] if event["kind"] == "estimate"]
    assert "expected for each process" in told[0] and "measured" in told[1]
