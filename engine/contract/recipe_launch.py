"""The recipe's section `launch`: devices, processes, strategy, machines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from engine.contract.recipe_base import Count, MisplacedValue, Section

SLURM_WORD = r"^[A-Za-z0-9_.,-]*$"
Host = Annotated[str, StringConstraints(pattern=r"^([a-z_][a-z0-9_-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*$", max_length=255)]
"""`node1`, `10.0.0.2` or `user@node1`: never an option of ssh."""


class LaunchSection(Section):
    """Where the run is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` = the GPUs if there are any, else the CPU."""
    num_processes: Count = Field(1, ge=1, le=1024)
    """Processes over all machines, one per GPU. On the CPU more than one is for tests only."""
    strategy: Literal["auto", "ddp", "fsdp2", "zero2", "zero3"] = "auto"
    """How several processes share the model: `ddp` = each holds all of it; `fsdp2`, `zero3` = each holds a part of
    everything; `zero2` = a part of gradients and optimizer. `auto` = the fastest that fits."""
    cpu_offload: bool = False
    """Keep what the strategy splits in the machine's memory instead of the GPU's: slow, but larger models fit. Not for
    `ddp`."""
    gpus: str = Field("", max_length=200, pattern=r"^(\d+( *, *\d+)*)?$")
    """Which GPUs, as `0,2`; the run waits until they are free. Empty = the first `num_processes` that are."""

    scheduler: Literal["local", "slurm"] = "local"
    """Who finds the devices: `local` = this studio, on this machine or on `machines`; `slurm` = the cluster's queue."""
    num_machines: Count = Field(1, ge=1, le=256)
    """For `slurm`: nodes of the job, each with `num_processes` divided by their number."""
    partition: str = Field("", max_length=100, pattern=SLURM_WORD)
    """For `slurm`: partitions to run in. Empty = the cluster's default."""
    account: str = Field("", max_length=100, pattern=SLURM_WORD)
    """For `slurm`: the account that is charged. Empty = yours."""
    time_limit_minutes: Count | None = Field(None, ge=1, le=100_000)
    """For `slurm`: time of a job. Two minutes before it ends the run saves, queues again and goes on. Empty = the
    partition's."""
    machines: tuple[Host, ...] = Field((), max_length=64)
    """Machines of the run by name or address, the one that starts it first; each has `num_processes` divided by their
    number. They need the same installation and a disk that they share. Empty = this machine alone."""
    start_machines: Literal["by_hand", "ssh"] = "by_hand"
    """How the other machines are started: `by_hand` shows a command for each; `ssh` runs it, without asking for a
    password."""
    main_process_port: Count = Field(29500, ge=1024, le=65535)
    """Port of the first machine over which they find each other."""
    max_restarts: Count = Field(0, ge=0, le=100)
    """How often a run that fails goes on from its last checkpoint by itself. Not after errors that would come again."""

    @model_validator(mode="after")
    def _one_process_per_gpu(self) -> LaunchSection:
        chosen = self.gpu_indices()
        if len(set(chosen)) < len(chosen):
            raise MisplacedValue(f"gpus names a GPU twice: {self.gpus}", "gpus")
        if self.scheduler == "slurm" and self.machines:
            raise MisplacedValue("Slurm chooses the machines: leave the list empty, say num_machines", "machines")
        if self.scheduler == "local" and self.num_machines > 1:
            raise MisplacedValue("num_machines is for Slurm: name the machines in `machines`", "num_machines")
        if self.num_processes % self.machine_count:
            problem = f"{self.num_processes} processes cannot be shared by {self.machine_count} machines"
            raise MisplacedValue(problem, "num_processes")
        if chosen and len(chosen) != self.processes_here:
            here = self.processes_here
            problem = f"gpus names {len(chosen)} GPU(s), num_processes puts {here} on a machine: make them equal"
            raise MisplacedValue(problem, "gpus")
        if self.cpu_offload and self.strategy == "ddp":
            raise MisplacedValue("ddp splits nothing that could be offloaded: choose fsdp2, zero2 or zero3", "strategy")
        if self.num_processes == 1 and (self.cpu_offload or self.strategy not in ("auto", "ddp")):
            name = "cpu_offload" if self.strategy in ("auto", "ddp") else "strategy"
            raise MisplacedValue(f"{name} needs num_processes of 2 or more", name)
        return self

    @property
    def machine_count(self) -> int:
        """Machines of the run."""
        return len(self.machines) or self.num_machines

    @property
    def processes_here(self) -> int:
        """Processes on one machine."""
        return self.num_processes // self.machine_count

    def gpu_indices(self) -> tuple[int, ...]:
        """Return `gpus` as numbers."""
        return tuple(int(part) for part in self.gpus.split(",") if part.strip())
