"""Runs take turns on devices: who may start, what is locked, what survives; on a CPU and on a faked driver."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from engine.contract.errors import UserError
from engine.contract.places import DataRoot, data_root
from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import RunDir, create_run_at, effective_state, request
from engine.launch import devices, queue, supervisor
from engine.launch.devices import Gpu, GpuProcess, Machine
from engine.launch.locks import acquire, devices_of, holder_of
from engine.launch.processes import descendants
from engine.launch.queue import Ticket, assign, busy_reasons, outlook, revive, waiting

PROJECT = Path(__file__).resolve().parents[2]
RECIPE = "model_name_or_path: m\ntasks: [{name: a, path: a.jsonl}]\nlaunch: {device: cpu}"


def ticket(run: str, order: float, **wants) -> Ticket:
    return Ticket(run=run, path=f"/{run}", order=order, **wants)


def test_first_come_first_served_and_a_large_run_does_not_starve():
    line = [ticket("large", 1, count=4), ticket("small", 2)]
    assert assign(line, ["g0", "g1", "g2"]) == {}  # three are kept for the large one, none is left for the small one
    assert assign(line, ["g0", "g1", "g2", "g3"]) == {"large": ("g0", "g1", "g2", "g3")}
    assert assign(line, ["g0", "g1", "g2", "g3", "g4"])["small"] == ("g4",)


def test_runs_that_want_other_devices_pass():
    line = [ticket("first", 1, chosen=("g0",)), ticket("second", 2, chosen=("g1",)), ticket("slow", 3, chosen=("cpu",))]
    assert assign(line, ["g1", "cpu"]) == {"second": ("g1",), "slow": ("cpu",)}


def test_a_run_for_gpus_never_takes_the_cpu():
    assert assign([ticket("any", 1)], ["cpu"]) == {}


def gpu(index: int, **more) -> Gpu:
    facts = {"name": "H", "total_bytes": 2**36, "used_bytes": 0, "utilization": 0, "temperature_c": 40, "power_w": 90}
    return Gpu(index=index, uuid=f"GPU-{os.getpid()}-{index}", bf16=True, **{**facts, **more})


def machine(*gpus: Gpu) -> Machine:
    return Machine(gpus=gpus, cpu_count=2, cpu_percent=0, ram_total=2**34, ram_used=0, cpu_bf16=True, gpu_note="")


def test_a_lock_is_for_the_whole_machine_and_goes_with_its_holder(tmp_path):
    one, two = (devices_of(machine(gpu(0)), DataRoot(tmp_path / name))[0] for name in ("one", "two"))
    held = acquire(one, "run a")
    assert held is not None and acquire(two, "run b") is None  # another data root, the same GPU
    assert holder_of(two) == "run a"
    os.close(held)
    assert holder_of(two) is None
    child = subprocess.run(
        [sys.executable, "-c", "from tests.engine.test_queue import *; acquire(devices_of(machine(gpu(0)), "
         "DataRoot(Path('/nowhere')))[0], 'run c'); os.kill(os.getpid(), 9)"],
        cwd=PROJECT,
    )  # fmt: skip
    assert child.returncode == -9 and holder_of(one) is None
    for path in one.lock_file.parent.glob(f"GPU-{os.getpid()}-*"):
        path.unlink()


def test_a_gpu_that_others_compute_on_is_waited_for_by_name(tmp_path):
    busy = gpu(0, processes=(GpuProcess(pid=7, name="python", user="alice", used_bytes=20 * 2**30),))
    calm = gpu(1, processes=(GpuProcess(pid=8, name="Xorg", user="root", used_bytes=2**28),))
    known = devices_of(machine(busy, calm), DataRoot(tmp_path))
    reasons = busy_reasons(known, machine(busy, calm))
    assert reasons == {busy.uuid: "GPU 0 is used by other programs: 20.0 GiB by python (alice, pid 7)"}


def test_gpus_of_the_recipe_are_checked(monkeypatch, tmp_path):
    monkeypatch.setattr(queue, "inventory", lambda: machine(gpu(0), gpu(1)))
    chosen = parse_recipe(RECIPE.replace("{device: cpu}", "{gpus: '1,0', num_processes: 2}"))
    assert queue.ticket_for(chosen, run="r", path=tmp_path, order=1).chosen == (gpu(1).uuid, gpu(0).uuid)
    with pytest.raises(UserError, match="There is no GPU 5"):
        queue.ticket_for(parse_recipe(RECIPE.replace("{device: cpu}", "{gpus: '5'}")), run="r", path=tmp_path, order=1)
    for wrong in ("{gpus: '0,0', num_processes: 2}", "{gpus: '0,1'}", "{gpus: all}"):
        with pytest.raises(UserError) as caught:
            parse_recipe(RECIPE.replace("{device: cpu}", wrong))
        assert caught.value.field == "launch.gpus"


class FakeDriver:
    """Two GPUs, the second cut into two slices; a program on the first."""

    def __init__(self, monkeypatch):
        def answer(name, value):
            monkeypatch.setattr(pynvml, name, value)

        answer("nvmlInit", lambda: None)
        answer("nvmlShutdown", lambda: None)
        answer("nvmlDeviceGetCount", lambda: 2)
        answer("nvmlDeviceGetHandleByIndex", lambda index: f"GPU-{index}")
        answer("nvmlDeviceGetUUID", lambda handle: handle)
        answer("nvmlDeviceGetName", lambda handle: "NVIDIA H200")
        answer("nvmlDeviceGetMemoryInfo", lambda handle: SimpleNamespace(total=100, used=10))
        answer("nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=50))
        answer("nvmlDeviceGetPowerUsage", self.refuse)
        answer("nvmlDeviceGetTemperature", lambda handle, kind: 60)
        answer("nvmlDeviceGetCudaComputeCapability", lambda handle: (9, 0))
        answer("nvmlDeviceGetMigMode", lambda handle: (int(handle == "GPU-1"), 0))
        answer("nvmlDeviceGetMaxMigDeviceCount", lambda handle: 7)
        answer("nvmlDeviceGetMigDeviceHandleByIndex", self.slice_of)
        program = SimpleNamespace(pid=os.getpid(), usedGpuMemory=9)
        answer("nvmlDeviceGetComputeRunningProcesses", lambda handle: [program] if handle == "GPU-0" else [])

    def refuse(self, *_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def slice_of(self, handle, index):
        if index > 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"MIG-{handle}-{index}"


def test_the_inventory_shows_slices_programs_and_what_the_driver_does_not_tell(monkeypatch):
    FakeDriver(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus, note = devices._read_gpus()
    assert [one.uuid for one in gpus] == ["GPU-0", "MIG-GPU-1-0", "MIG-GPU-1-1"] and note == ""
    assert [one.index for one in gpus] == [0, 1, 2] and gpus[0].power_w is None
    assert [(one.pid, one.used_bytes) for one in gpus[0].processes] == [(os.getpid(), 9)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-1-1")
    assert [one.uuid for one in devices._read_gpus()[0]] == ["MIG-GPU-1-1"]


FAKE = """
import sys
from engine.launch import supervisor
wait = "import os, sys, time\\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.05)"
supervisor.train_command = lambda recipe, run, **_: [sys.executable, "-c", wait, str(run.path / "done")]
sys.exit(supervisor.main())
"""


@pytest.fixture
def starts(monkeypatch, tmp_path):
    """Make `start_run` start real supervisors whose training ends when the file `done` appears in the run."""
    monkeypatch.setenv("MFT_STUDIO_HOME", str(tmp_path / "home"))
    plain = supervisor.start_detached
    monkeypatch.setattr(
        supervisor, "start_detached", lambda argv, log, **more: plain([argv[0], "-c", FAKE, *argv[3:]], log, **more)
    )
    made: list[RunDir] = []

    def start(name: str) -> RunDir:
        run = create_run_at(data_root().make().runs / name, parse_recipe(RECIPE))
        supervisor.start_run(run)
        made.append(run)
        return run

    yield start
    for run in made:
        (run.path / "done").touch()
    for run in made:
        until(lambda run=run: bool(run.last_attempt().ended_at) or effective_state(run) == "lost")


def until(true, timeout: float = 120.0) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def state(run: RunDir) -> tuple[str, bool]:
    """Return the state, and whether it has its device."""
    return effective_state(run), bool(run.last_attempt().devices)


def test_runs_take_turns_in_order_and_the_order_can_be_changed(starts):
    first = starts("first")
    until(lambda: state(first) == ("preparing", True))
    second, third, fourth = starts("second"), starts("third"), starts("fourth")
    until(lambda: len(waiting(data_root())) == 3)
    assert [state(run) for run in (second, third, fourth)] == [("queued", False)] * 3
    until(lambda: "the CPU is used by run first" in second.last_attempt().waiting)  # told a moment after the ticket
    assert "1 before it in the queue" in outlook_of(third)
    with pytest.raises(UserError, match="waits for its turn"):
        supervisor.start_run(second)

    request(fourth, "first")
    until(lambda: [one.run for one in waiting(data_root())] == ["fourth", "second", "third"])
    request(second, "cancel")
    until(lambda: effective_state(second) == "stopped")
    (first.path / "done").touch()
    until(lambda: state(fourth)[1])
    assert state(third) == ("queued", False) and fourth.last_attempt().devices == ("the CPU",)
    assert outlook(parse_recipe(RECIPE), data_root()) != ""


def outlook_of(run: RunDir) -> str:
    until(lambda: "before it" in run.last_attempt().waiting)
    return run.last_attempt().waiting


def test_a_run_that_lost_its_supervisor_keeps_its_place(starts):
    first = starts("first")
    until(lambda: state(first)[1])
    second, third = starts("second"), starts("third")
    until(lambda: len(waiting(data_root())) == 2)
    os.kill(second.last_attempt().supervisor["pid"], signal.SIGKILL)
    until(lambda: effective_state(second) == "lost")
    assert revive(data_root()) == ["second"] and revive(data_root()) == []
    until(lambda: effective_state(second) == "queued" and second.last_attempt().waiting.startswith("the CPU"))
    assert [one.run for one in waiting(data_root())] == ["second", "third"]
    (first.path / "done").touch()
    until(lambda: state(second)[1])
    assert not state(third)[1]


def test_a_killed_supervisor_keeps_the_device_while_its_training_lives(starts):
    first = starts("first")
    until(lambda: bool(descendants(first.last_attempt().supervisor["pid"])))
    os.kill(first.last_attempt().supervisor["pid"], signal.SIGKILL)
    second = starts("second")
    until(lambda: second.last_attempt().waiting.startswith("the CPU is used"))  # it has looked, and was refused
    assert state(second) == ("queued", False)
    (first.path / "done").touch()
    until(lambda: state(second)[1])


def test_a_broken_ticket_is_no_ticket(tmp_path):
    root = dataclasses.replace(DataRoot(tmp_path))
    root.waiting.mkdir()
    (root.waiting / "a.json").write_text("{")
    (root.waiting / "b.json").write_text('{"run": 1}')
    assert waiting(root) == []
