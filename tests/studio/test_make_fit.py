"""What would make a recipe fit: every offer is tried, keeps the effective batch where it says so, and is enough."""

from __future__ import annotations

import pytest

from engine.contract.fit import fit
from engine.contract.memory import GIB
from engine.contract.model_facts import KNOWN_CONFIGS
from studio.logic.make_fit import changed_recipe, changes_that_fit
from tests.engine.test_estimate import machine, recipe

CODELLAMA = KNOWN_CONFIGS["codellama/CodeLlama-7b-hf"]
ROWS = {"data": {"max_length": 4096}, "optim": {"per_device_train_batch_size": 8}}


def offers(values, *gib):
    here = machine(*gib)
    return here, changes_that_fit(values, here, lambda r: fit(r, here, CODELLAMA), lambda r: "about 9 h")


@pytest.mark.parametrize(
    ("method", "gib"), [("lora", [24]), ("lora", [80]), ("qlora", [24]), ("full", [80, 80, 80, 80]), ("full", [48])]
)
def test_every_offer_makes_it_fit_for_sure_and_says_what_it_needs_then(method, gib):
    values = recipe(method, **ROWS)
    assert not fit(values, machine(*gib), CODELLAMA).ok
    here, found = offers(values, *gib)
    for change in found:
        after = fit(changed_recipe(values, change.values), here, CODELLAMA)
        assert after.ok and not after.tight and change.text == f"{after.memory.text}, about 9 h"
        assert after.memory.high_bytes <= max(gib) * GIB and 1 <= len(change.labels) <= 2
    assert len(found) <= 4 and (found or method == "full")


def test_a_smaller_batch_keeps_the_effective_batch():
    """8 examples at once become 2 with 4 times the accumulation, or fewer."""
    values = recipe("qlora", data={"max_length": 1024}, optim={"per_device_train_batch_size": 8})
    _, found = offers(values, 24)
    after = changed_recipe(values, found[0].values).optim
    assert after.per_device_train_batch_size * after.gradient_accumulation_steps == 8
    was, now = 8, after.per_device_train_batch_size
    assert found[0].labels == (f"Batch {was} → {now}, accumulation 1 → {was // now}",)


def test_more_gpus_divide_the_accumulation():
    values = recipe("full", data={"max_length": 512}, optim={"gradient_accumulation_steps": 8})
    _, found = offers(values, 80, 80, 80, 80)
    change = next(change for change in found if any("GPUs" in label for label in change.labels))
    after = changed_recipe(values, change.values)
    processes = after.launch.num_processes
    assert processes in (2, 4) and after.optim.gradient_accumulation_steps == 8 // processes


def test_two_changes_only_where_one_is_not_enough_and_none_where_nothing_helps():
    _, one = offers(recipe("lora", **ROWS), 80)
    assert one and all(len(change.labels) == 1 for change in one)
    _, two = offers(recipe("lora", **ROWS), 24)
    assert two and all(len(change.labels) == 2 for change in two)
    assert offers(recipe("lora", **ROWS), 2)[1] == ()


def test_changes_that_do_not_go_together_are_not_offered():
    """DoRA with fused experts and the like: the schema decides; LoRA that adapts experts cannot become QLoRA."""
    values = recipe("lora", lora={"target_experts": True}, **ROWS)
    _, found = offers(values, 80)
    assert all(change.values.get("method") != "qlora" for change in found)
