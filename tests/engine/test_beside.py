"""A chat sits where no run computes, an evaluation stands behind every run; on a CPU and on a faked driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.contract.places import DataRoot
from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import create_run_at
from engine.evaluate.turn import turn_on_device
from engine.launch import beside
from engine.launch.beside import find_seat
from engine.launch.locks import acquire, devices_of
from tests.engine.test_queue import RECIPE, gpu, machine

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("gpus", "held", "visible", "reason"),
    [
        (0, [], None, ""),
        (0, ["the CPU"], None, "The CPU is used by run a: answers are slower."),
        (2, [], None, ""),
        (2, ["the CPU"], None, ""),
        (2, ["GPU 0"], 1, "GPU 0 is used by run a: answering on GPU 1."),
        (2, ["GPU 1"], 0, "GPU 1 is used by run a: answering on GPU 0."),
        (1, ["GPU 0"], "", "GPU 0 is used by run a: answering on the CPU, which is slower."),
    ],
)
def test_a_chat_sits_where_no_run_computes(tmp_path, monkeypatch, gpus, held, visible, reason):
    here = machine(*(gpu(index) for index in range(gpus)))
    monkeypatch.setattr(beside, "inventory", lambda: here)
    devices = devices_of(here, DataRoot(tmp_path).make())
    locks = [acquire(device, "run a") for device in devices if device.label in held]
    try:
        seat = find_seat(DataRoot(tmp_path))
    finally:
        for descriptor in locks:
            os.close(descriptor)
    assert len(locks) == len(held)
    assert seat.visible == (here.gpus[visible].uuid if isinstance(visible, int) else visible)
    assert seat.reason == reason


def test_a_chat_beside_a_training_has_less_of_the_processor_and_sees_no_taken_gpu(tmp_path):
    """In a process of its own, which keeps its priority to itself."""
    code = """
import os, sys
from tests.engine.test_beside import *
here = machine(gpu(0))
beside.inventory = lambda: here
root = DataRoot(Path(sys.argv[1])).make()
held = acquire(devices_of(here, root)[0], "run a")
print(beside.take_seat(root), os.nice(0), repr(os.environ["CUDA_VISIBLE_DEVICES"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "GPU 0 is used by run a: answering on the CPU, which is slower. 5 ''\n", done.stderr


def test_an_evaluation_stands_behind_every_run_once_it_has_its_device(tmp_path, monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(os, "setpriority", lambda which, who, priority: calls.append(priority))
    monkeypatch.setattr(beside, "NICE", 19)
    recipe = parse_recipe(RECIPE)
    with turn_on_device(create_run_at(tmp_path / "run", recipe), recipe, DataRoot(tmp_path).make(), print) as device:
        assert device == "cpu" and calls == [19]


@pytest.mark.parametrize("is_own", [True, False])
def test_a_session_of_its_own_steps_back_as_a_whole(is_own):
    """Linux weighs sessions before processes: a nice process of a session of its own would take half of a core."""
    told = Path("/proc/self/autogroup")
    if not told.exists():
        pytest.skip("this kernel does not group processes by session")
    code = "from engine.launch.beside import step_back; step_back(); print(open('/proc/self/autogroup').read())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True, start_new_session=is_own
    )
    assert ("nice 19" in result.stdout) == is_own
