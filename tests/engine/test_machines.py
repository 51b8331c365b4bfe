"""Several machines: two on loopback are one process; one that dies is waited for and the run goes on."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engine.contract.errors import UserError
from engine.contract.recipe_io import override, parse_recipe
from engine.contract.rundir import create_run_at, effective_state
from engine.launch import command, node_command
from engine.train.main import train
from tests.engine.test_launch import living_processes, wait_for
from tests.tiny_run import new_attempt, train_losses

PROJECT = Path(__file__).resolve().parents[2]
TWO = """
model_name_or_path: a
tasks: [{name: t, path: t.jsonl}]
launch: {num_processes: 4, machines: [node-a, me@10.0.0.2], main_process_port: 23456, start_machines: ssh}
"""


def test_every_machine_gets_the_same_config_but_for_its_rank():
    first, second = (command.accelerate_config(parse_recipe(TWO), "cuda", machine=machine) for machine in (0, 1))
    assert first.pop("machine_rank") == 0 and second.pop("machine_rank") == 1
    assert first == second
    assert first["main_process_ip"] == "node-a" and first["num_processes"] == 4 and first["num_machines"] == 2
    assert parse_recipe(TWO).launch.processes_here == 2


@pytest.mark.parametrize(
    "wrong", ["-oProxyCommand=x", "a b", "a;b", "$(x)", "", "me@-x", "@host", "a/b", "host\\n-x", "-", "ME@x@y"]
)
def test_a_host_can_never_be_an_option_or_shell_text(wrong):
    with pytest.raises(UserError) as caught:
        parse_recipe(TWO.replace("me@10.0.0.2", f'"{wrong}"'))
    assert caught.value.field is not None and caught.value.field.startswith("launch.machines")


def test_processes_that_cannot_be_shared_are_refused():
    with pytest.raises(UserError, match="5 processes cannot be shared by 2 machines"):
        parse_recipe(TWO.replace("4", "5"))


def test_the_words_for_the_other_machine_survive_a_shell(recipe, tmp_path):
    run = create_run_at(tmp_path / "a 'run' $(touch pwned)", recipe)
    words = command.node_command(run, 1)
    line = command.display_command(words)
    assert shlex.split(line) == words
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, cwd=tmp_path)
    assert shown.stdout.splitlines() == words and not (tmp_path / "pwned").exists()


def test_a_machine_that_the_run_does_not_have_is_refused(recipe, tmp_path):
    from argparse import Namespace

    run = create_run_at(tmp_path / "run", recipe)
    with pytest.raises(UserError, match="has no machine 1: it runs on one machine"):
        node_command.run(Namespace(run=run.path, machine=1))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_of_the_other_machine(log: Path) -> psutil.Process | None:
    """Return the training process under the `node` command."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "engine" in words and "node" in words and str(log) in words:
            found = [child for child in process.children(recursive=True) if "engine.train.main" in child.cmdline()]
            return found[-1] if found else None
    return None


@pytest.mark.slow
def test_two_machines_are_one_process_also_when_one_of_them_dies(recipe, tmp_path, monkeypatch):
    """The other machine is started by an `ssh` that stays here; its process is killed once, and the run goes on."""
    from engine.launch.supervisor import start_run

    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plain = override(recipe, ["lora.lora_dropout=0", "optim.max_steps=40", "record.save_steps=5"])
    one = create_run_at(tmp_path / "one", plain)
    train(one, new_attempt(one))

    changes = ["launch.num_processes=2", "optim.gradient_accumulation_steps=1", "launch.max_restarts=1"]
    changes += ["launch.machines=[127.0.0.1, localhost]", f"launch.main_process_port={free_port()}"]
    run = create_run_at(tmp_path / "two", override(plain, [*changes, "launch.start_machines=ssh"]))
    start_run(run)
    wait_for(lambda: run.status().step > 6 or bool(run.last_attempt().ended_at), timeout=90, what="the first steps")
    other = rank_of_the_other_machine(run.path)
    assert other is not None, run.log_file.read_text()[-2000:]
    os.kill(other.pid, signal.SIGKILL)
    wait_for(lambda: run.last_attempt().number == 2, timeout=60, what="the second attempt")
    wait_for(lambda: bool(run.last_attempt().ended_at), timeout=90, what="the end")
    assert effective_state(run) == "finished", run.log_file.read_text()[-3000:]
    assert train_losses(run).keys() == train_losses(one).keys()
    for step, row in train_losses(run).items():  # sums in another order: at this learning rate it grows
        assert row == pytest.approx(train_losses(one)[step], rel=2e-5 if step <= 6 else 1e-2), step
    wait_for(lambda: not living_processes(run), timeout=25, what="the processes to go")
    assert sys.executable in (run.path / "attempts" / "002.json").read_text()
