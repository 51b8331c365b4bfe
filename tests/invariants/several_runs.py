"""Train several prepared runs one after the other, once per rank:

    torchrun -m tests.invariants.several_runs RUN RUN@step-000003 RUN! ...

@ = resume from that checkpoint; ! = its samples fail on every rank, within the model.

Starting two ranks costs ten seconds, a tiny run one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from engine.contract.rundir import RunDir
from engine.launch.processes import die_with_parent
from engine.train.main import leave, train
from engine.train.record import RunRecord
from engine.train.samples import Sampler

answer = Sampler._answer


def fail(*_: object) -> None:
    raise RuntimeError("out of memory, let us say")


def answer_and_fail(self: Sampler, *arguments: Any) -> str:
    layers = [module for name, module in self.model.named_modules() if name.endswith("layers.1")]
    hook = layers[-1].register_forward_pre_hook(fail)
    try:
        return answer(self, *arguments)
    finally:
        hook.remove()


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    for argument in sys.argv[1:]:
        path, _, resume_from = argument.partition("@")
        run = RunDir(Path(path.rstrip("!")))
        Sampler._answer = answer_and_fail if path.endswith("!") else answer  # type: ignore[method-assign]
        number = 2 if resume_from else 1
        train(run, RunRecord(run, attempt=number, rank=int(os.environ["RANK"])), resume_from=resume_from)
        # what accelerate and transformers keep of a strategy for the rest of a process, which has one run otherwise
        unset_hf_deepspeed_config()
        AcceleratorState._reset_state(True)
    leave(0)
