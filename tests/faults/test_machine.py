"""Faults of the machine and of timing: drivers, ports, two studios, many starts at once, logs without end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pynvml
import pytest

import app
from engine.contract.errors import UserError
from engine.contract.places import data_root
from engine.contract.recipe_io import parse_recipe
from engine.contract.rundir import RunDir, create_run_at, effective_state, request
from engine.launch import aftermath, devices, supervisor
from engine.launch.devices import Gpu, GpuProcess, Machine
from tests.engine.test_queue import RECIPE, starts, until  # noqa: F401

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_UNKNOWN,
    ],
)
@pytest.mark.parametrize("when", ["at the start", "in between"])
def test_a_driver_that_fails_is_a_sentence_and_the_cpu_stays(monkeypatch, code, when):
    def fail(*_):
        raise pynvml.NVMLError(code)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlInit", fail if when == "at the start" else lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", fail)
    machine = devices._read()
    assert machine.gpus == () and "driver" in machine.gpu_note and machine.cpu_count > 0


def gpu(index: int, *pids: int) -> Gpu:
    held = tuple(GpuProcess(pid=pid, name="python", user="me", used_bytes=2**30) for pid in pids)
    return Gpu(
        index=index, uuid=f"GPU-{index}", name="H200", total_bytes=2**40, used_bytes=2**30 * len(pids), utilization=0,
        temperature_c=1, power_w=1, bf16=True, processes=held,
    )  # fmt: skip


def machine(*gpus: Gpu) -> Machine:
    return Machine(gpus=gpus, cpu_count=2, cpu_percent=0, ram_total=1, ram_used=0, cpu_bf16=False, gpu_note="")


def test_memory_of_gpus_is_waited_for_and_what_stays_is_named(monkeypatch):
    seen = iter([machine(gpu(0, 7), gpu(1, 7))] * 2 + [machine(gpu(0), gpu(1, 7))] * 9)
    monkeypatch.setattr(aftermath, "inventory", lambda: next(seen))
    monkeypatch.setattr(aftermath.time, "sleep", lambda _: None)
    assert aftermath.memory_back(["GPU-0"], [7]) == "GPU 0 is free again, 0.0 GiB used"
    left = aftermath.memory_back(["GPU-1"], [7], patience_s=0.0)
    assert left == "1.0 GiB of GPU 1 (process 7) is still held 0 s after the end."
    assert aftermath.memory_back(["GPU-1"], [8]).startswith("GPU 1 is free again")  # a stranger's is not ours
    assert aftermath.memory_back([], [7]) == ""


def test_a_taken_port_is_passed_over_or_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as caught:
            app.choose_port("127.0.0.1", port)
        assert caught.value.code == 2
    assert app.choose_port("127.0.0.1", port) == port


def test_a_second_studio_on_a_data_root_is_refused_until_the_first_is_gone(tmp_path, capsys):
    code = "import app, sys, time; from pathlib import Path; app.hold_root(Path(sys.argv[1]), 7860); "
    code += "print(1, flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE)
    assert first.stdout is not None and first.stdout.readline()
    with pytest.raises(SystemExit) as caught:
        app.hold_root(tmp_path, 7861)
    assert caught.value.code == 2
    assert f"port 7860, process {first.pid}" in capsys.readouterr().err
    first.kill()
    first.wait()
    app.hold_root(tmp_path, 7861)


def test_many_starts_of_one_run_at_once_start_it_once(starts):  # noqa: F811
    run = create_run_at(data_root().make().runs / "one", parse_recipe(RECIPE))
    refused: list[UserError] = []

    def start() -> None:
        try:
            supervisor.start_run(run)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: bool(run.last_attempt().devices))
    assert [path.name for path in run.attempts.glob("*.json")] == ["001.json"]
    (run.path / "done").touch()
    until(lambda: bool(run.last_attempt().ended_at))


def test_leaving_the_queue_while_the_turn_comes_has_one_outcome(starts):  # noqa: F811
    for round_ in range(4):
        first, second = starts(f"first-{round_}"), starts(f"second-{round_}")
        until(lambda first=first: bool(first.last_attempt().devices))
        (first.path / "done").touch()
        time.sleep(0.3 * round_)
        request(second, "cancel")
        until(lambda second=second: bool(second.last_attempt().ended_at))
        assert effective_state(second) == "stopped"
        assert not (data_root().waiting / f"{second.id}.json").exists()


def test_a_flood_of_output_is_kept_to_its_end(tmp_path):
    log = tmp_path / "train.log"
    writer = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(writer, b"a" * 5000)
    supervisor.rotate_log(log, limit=4096)
    os.write(writer, b"the end\n")
    os.close(writer)
    assert log.read_bytes() == b"the end\n" and (tmp_path / "train.1.log").stat().st_size == 5000
    supervisor.rotate_log(tmp_path / "absent.log")


def test_a_recycled_pid_is_never_signalled():
    from engine.contract.rundir import ProcessId
    from engine.launch.processes import end_processes

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as decoy:
        real = ProcessId.of(decoy.pid)
        for stale in (
            ProcessId(pid=decoy.pid, started_at=real.started_at - 1000, boot_id=real.boot_id),
            ProcessId(pid=decoy.pid, started_at=real.started_at, boot_id="before the reboot"),
        ):
            end_processes([stale], grace_s=0.1)
            assert decoy.poll() is None
        end_processes([real], grace_s=5)
        decoy.wait(5)


def test_a_run_of_before_a_reboot_is_lost_and_can_go_on(tmp_path):
    from engine.contract.rundir import Attempt, ProcessId, claim_attempt

    run = create_run_at(tmp_path / "run", parse_recipe(RECIPE))
    me = ProcessId.of(os.getpid())
    before = {"pid": me.pid, "started_at": me.started_at, "boot_id": "another boot"}
    claim_attempt(run, Attempt(number=1, supervisor=before, started_at=1.0))
    assert effective_state(RunDir(run.path)) == "lost"
