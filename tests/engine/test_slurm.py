"""Slurm: what is submitted and refused; with a real slurmctld and two slurmd, a job that is sent back and goes on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from engine.contract.errors import UserError
from engine.contract.places import DataRoot
from engine.contract.recipe_io import override, parse_recipe
from engine.contract.rundir import create_run_at, effective_state, request
from engine.launch import slurm
from engine.launch.supervisor import start_run
from engine.train.main import train
from studio.logic.run import RunWatcher
from tests.engine.test_launch import living_processes, wait_for
from tests.tiny_run import new_attempt, train_losses

RECIPE = """
name: "Café; rm -rf $HOME"
model_name_or_path: a
tasks: [{name: t, path: t.jsonl}]
launch: {scheduler: slurm, num_processes: 8, num_machines: 2, partition: gpu, account: lab, time_limit_minutes: 90}
"""


def test_the_job_asks_for_what_the_recipe_says_and_nothing_of_it_reaches_a_shell(tmp_path):
    run = create_run_at(tmp_path / "a 50%'s run", parse_recipe(RECIPE))
    argv = slurm.submit_command(run, run.recipe())
    assert argv[:3] == ["sbatch", "--parsable", "--job-name=mft-cafe-rm--rf-home"]
    assert {"--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--requeue", "--signal=B:USR1@120"} <= set(argv)
    assert {"--partition=gpu", "--account=lab", "--time=90"} <= set(argv)
    assert f"--output={run.path}/logs/slurm.log".replace("%", "%%") in argv
    script = slurm.job_script(run).splitlines()
    assert script[0] == "#!/bin/sh" and script[1].startswith("exec env -C ") and script[1].endswith("50%'\"'\"'s run'")


@pytest.mark.parametrize(
    ("launch", "field"),
    [
        ("{scheduler: slurm, machines: [a, b], num_processes: 2}", "launch.machines"),
        ("{num_machines: 2, num_processes: 2}", "launch.num_machines"),
        ("{scheduler: slurm, num_machines: 2, num_processes: 3}", "launch.num_processes"),
        ("{scheduler: slurm, partition: 'gpu --wrap=x'}", "launch.partition"),
        ("{scheduler: slurm, account: '$(x)'}", "launch.account"),
    ],
)
def test_what_slurm_could_not_do_is_refused_at_the_field(launch, field):
    with pytest.raises(UserError) as caught:
        parse_recipe(RECIPE[: RECIPE.index("launch:")] + f"launch: {launch}")
    assert caught.value.field == field


def fake(monkeypatch, folder: Path, **answers: str) -> None:
    """Put commands of Slurm onto the path that answer so."""
    for name, script in answers.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin:/bin")
    monkeypatch.setattr(slurm, "ASK_EVERY_S", 0.0)


def test_a_job_waits_is_cancelled_or_dies_and_the_run_says_so(tmp_path, monkeypatch):
    root, bin_ = DataRoot(tmp_path / "home").make(), tmp_path / "bin"
    bin_.mkdir()
    fake(monkeypatch, bin_, sbatch="echo '4711;cluster'", squeue="echo 'PENDING|Priority'", scancel="exit 0")
    run = create_run_at(root.runs / "one", parse_recipe(RECIPE))
    start_run(run)
    seen = RunWatcher(root).look("one")
    assert seen["state"] == "queued" and seen["phase"] == "Waits: Slurm job 4711 waits: Priority."
    assert seen["actions"]["leave"] and not seen["actions"]["first"]
    with pytest.raises(UserError, match="waits for its turn"):
        start_run(run)
    request(run, "cancel")
    slurm.look(run)
    assert effective_state(run) == "stopped"

    start_run(run)
    fake(monkeypatch, bin_, squeue="echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    slurm.look(run)
    assert effective_state(run) == "queued"
    fake(monkeypatch, bin_, squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    slurm.look(run)
    assert effective_state(run) == "queued"  # it may not know so young a job yet
    monkeypatch.setattr(slurm, "NEWBORN_S", -1.0)
    slurm.look(run)
    assert effective_state(run) == "failed" and "job 4711 before it ran" in run.last_attempt().problem


def test_a_refusal_of_slurm_is_told_in_its_words_and_the_attempt_is_over(tmp_path, monkeypatch):
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    fake(monkeypatch, bin_, sbatch="echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    run = create_run_at(tmp_path / "run", parse_recipe(RECIPE))
    with pytest.raises(UserError, match="invalid partition specified: gpu"):
        start_run(run)
    assert effective_state(run) == "failed"
    (bin_ / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(bin_))
    with pytest.raises(UserError, match="Slurm is not on this machine"):
        start_run(run)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster of two nodes on this machine: munged, slurmctld and two slurmd."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))) or os.geteuid() != 0:
        pytest.skip("slurm-wlm is not here, or we are not root")
    folder = Path(f"/tmp/mft-slurm-{os.getpid()}")
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir(parents=True)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o600)
    ports = [free_port() for _ in range(3)]
    nodes = "".join(
        f"NodeName=n{i} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[i]} CPUs=1 RealMemory=1000\n"
        for i in (1, 2)
    )
    config = folder / "slurm.conf"
    config.write_text(
        f"""ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2
MpiDefault=none
ReturnToService=2
{nodes}PartitionName=main Nodes=ALL Default=YES State=UP
"""
    )
    monkeypatch.setenv("SLURM_CONF", str(config))
    monkeypatch.setattr(slurm, "ASK_EVERY_S", 0.5)
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={folder}/key", f"--socket={folder}/munge.socket",
         f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/seed"],
        ["slurmctld", "-D", "-c", "-f", str(config)],
        ["slurmd", "-D", "-N", "n1", "-f", str(config)],
        ["slurmd", "-D", "-N", "n2", "-f", str(config)],
    ]  # fmt: skip
    running = []
    for argv in daemons:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        running.append(subprocess.Popen(argv, **quiet))
        time.sleep(1.0)

    def idle() -> bool:
        done = subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], capture_output=True, text=True)
        return done.stdout.strip() == "2"

    wait_for(idle, timeout=30, what="two idle nodes")
    yield
    subprocess.run(["scancel", "--user=root"], capture_output=True)
    for process in reversed(running):
        process.send_signal(signal.SIGTERM)
    for process in running:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_job_on_two_nodes_is_sent_back_goes_on_and_is_the_run_of_one_process(recipe, tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plain = override(recipe, ["lora.lora_dropout=0", "optim.max_steps=120", "record.save_steps=40"])
    one = create_run_at(tmp_path / "one", plain)
    train(one, new_attempt(one))

    changes = ["launch.scheduler=slurm", "launch.num_machines=2", "launch.num_processes=2"]
    changes += [f"launch.main_process_port={free_port()}", "optim.gradient_accumulation_steps=1"]
    root = DataRoot(tmp_path / "home").make()
    run = create_run_at(root.runs / "two", override(plain, changes))
    start_run(run)
    watcher = RunWatcher(root)

    def is_at(state: str, step: int = 0) -> bool:
        seen = watcher.look("two")
        assert seen["state"] != "failed", (seen["problem"], (run.path / "logs" / "slurm.log").read_text()[-2000:])
        return seen["state"] == state and seen["step"] >= step

    wait_for(lambda: is_at("running", 20), timeout=90, what="the first steps")
    first = run.last_attempt()
    assert "n[1-2]" in first.devices[0]
    subprocess.run(["scancel", "--signal=USR1", "--batch", first.job], check=True)
    wait_for(lambda: is_at("queued"), timeout=30, what="the job to be queued again")
    assert '"stopped"' in (run.attempts / "001.json").read_text() and run.last_attempt().number == 2
    assert run.checkpoint_dirs()[-1].name == f"step-{run.status().step:06d}"
    now = ["scontrol", "update", f"JobId={first.job}", "StartTime=now"]  # else Slurm lets it wait two minutes

    def leaves_the_queue() -> bool:
        subprocess.run(now, capture_output=True)
        time.sleep(1.0)
        return not is_at("queued")

    wait_for(leaves_the_queue, timeout=60, what="the job to run again")
    wait_for(lambda: is_at("finished"), timeout=120, what="the end")
    assert run.last_attempt().number == 2 and run.last_attempt().job == first.job
    assert train_losses(run).keys() == train_losses(one).keys()
    for step in range(1, 7):
        assert train_losses(run)[step] == pytest.approx(train_losses(one)[step], rel=2e-5), step
    wait_for(lambda: not living_processes(run), timeout=20, what="the processes to go")
