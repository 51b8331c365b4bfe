"""Recipe -> accelerate config file and argv.  Lists only: no user value ever reaches a shell.

One shape of config for every machine and strategy: FSDP2 and DeepSpeed are set up through the Trainer's arguments
(`engine.train.sharding`), because accelerate ignores parts of its own file for them.  Two traps of accelerate decide
the rest: `--cpu --num_processes 2` and `MULTI_CPU` silently start one process, so several CPU ranks are written as
MULTI_GPU + use_cpu.  Port 0 lets the system choose, so that two runs never collide.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from engine.contract.errors import UserError
from engine.contract.files import read_json, replace_json
from engine.contract.models import model_config
from engine.contract.places import data_root
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir
from engine.contract.strategy import Strategy, choose_strategy
from engine.launch.devices import Machine, inventory
from engine.launch.processes import PROJECT

MACHINES = "MFT_MACHINES"
"""Environment variable: the machines that a scheduler has given to the run, by address, with commas."""


def machines_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the machines of the run, the first one first; empty for this machine alone."""
    given = os.environ.get(MACHINES, "")
    return tuple(given.split(",")) if given else recipe.launch.machines


def resolve_device(recipe: Recipe, machine: Machine | None = None) -> str:
    """Return "cuda" or "cpu" for this recipe on this machine.

    Raises:
        UserError: If it asks for GPUs that are not there.
    """
    machine = machine or inventory()
    wanted, gpus = recipe.launch.device, len(machine.gpus)
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        return "cpu"
    if absent := [index for index in recipe.launch.gpu_indices() if index >= gpus]:
        known = (
            f"this machine has {', '.join(f'GPU {gpu.index}' for gpu in machine.gpus)}" if gpus else machine.gpu_note
        )
        fix = "choose from those that are there, or leave it empty."
        raise UserError(f"There is no GPU {absent[0]}: {known}.", fix=fix, field="launch.gpus")
    if recipe.launch.processes_here > gpus:
        reason = machine.gpu_note or f"This machine has {gpus} visible."
        raise UserError(
            f"The recipe asks for {recipe.launch.processes_here} GPU process(es). {reason}",
            fix="lower launch.num_processes, or set launch.device to cpu.",
            field="launch.num_processes",
        )
    return "cuda"


def accelerate_config(recipe: Recipe, device: str, *, machine: int = 0) -> dict[str, Any]:
    """Return the accelerate config of the run; precision is the Trainer's business, so it is off here.

    Args:
        recipe: The recipe.
        device: cuda or cpu.
        machine: Which of `launch.machines` it is for; 0 is the one that starts the run.
    """
    launch, processes, machines = recipe.launch, recipe.launch.num_processes, machines_of(recipe)
    if len(machines) > 1:
        first = machines[0].rpartition("@")[2]
        meeting = {"main_process_ip": first, "main_process_port": launch.main_process_port, "rdzv_backend": "static"}
    else:
        meeting = {"main_process_port": 0}
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if processes > 1 else "NO",
        "use_cpu": device == "cpu",
        "num_machines": max(1, len(machines)),
        "num_processes": processes,
        "machine_rank": machine,
        **meeting,
        "mixed_precision": "no",
        "dynamo_config": {"dynamo_backend": "NO"},
        "debug": False,
    }


def accelerate_text(recipe: Recipe, device: str, *, machine: int = 0) -> str:
    """Return the accelerate config file of the run, for one of its machines."""
    return yaml.safe_dump(accelerate_config(recipe, device, machine=machine), sort_keys=False)


def settle_strategy(run: RunDir, recipe: Recipe) -> Strategy:
    """Return how the run's processes share the model; chosen at its first start, the same ever after.

    A checkpoint holds the optimizer as its strategy splits it, so a run cannot change it on the way.
    """
    kept = Strategy.read(read_json(run.strategy_file))
    if kept is not None:
        return kept
    try:
        config = model_config(recipe.model_name_or_path, data_root(), revision=recipe.model.revision)
    except UserError:
        config = None  # the ranks will say what is wrong with the model
    chosen = choose_strategy(recipe, inventory(), config)
    replace_json(run.strategy_file, chosen.to_json())
    return chosen


def config_file(run: RunDir, machine: int) -> Path:
    """Return where the accelerate config of a machine lies."""
    return run.path / (f"accelerate-{machine}.yaml" if machine else "accelerate.yaml")


def write_accelerate_config(run: RunDir, recipe: Recipe, *, machine: int = 0) -> None:
    """Write the run's accelerate config file for one of its machines."""
    config_file(run, machine).write_text(accelerate_text(recipe, resolve_device(recipe), machine=machine))


def node_command(run: RunDir, machine: int) -> list[str]:
    """Return the argv that lets another machine take part in a run, see `engine.launch.node_command`."""
    home = f"MFT_STUDIO_HOME={data_root().path}"
    return [
        "env",
        "-C",
        str(PROJECT),
        home,
        sys.executable,
        "-m",
        "engine",
        "node",
        str(run.path),
        "--machine",
        str(machine),
    ]


def train_command(recipe: Recipe, run: RunDir, *, resume_from: str = "", machine: int = 0) -> list[str]:
    """Return the argv that trains a run: accelerate, then our main with paths that we made ourselves."""
    argv = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config_file(run, machine))]
    argv += ["-m", "engine.train.main", "--run", str(run.path)]
    return [*argv, "--resume-from", resume_from] if resume_from else argv


def cli_equivalent(recipe_file: str, output_dir: str) -> list[str]:
    """Return the argv of the same run in a terminal."""
    return ["python", "-m", "engine", "train", recipe_file, "--output-dir", output_dir]


def display_command(argv: list[str]) -> str:
    """Return an argv as one line that can be pasted into a shell."""
    return shlex.join(argv)
