"""Train several prepared runs one after the other, once per rank:

    torchrun -m tests.invariants.several_runs RUN RUN@step-000003 ...        @ = resume from that checkpoint

Starting two ranks costs ten seconds, a tiny run one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from accelerate.state import AcceleratorState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from engine.contract.rundir import RunDir
from engine.launch.processes import die_with_parent
from engine.train.main import leave, train
from engine.train.record import RunRecord

if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    for argument in sys.argv[1:]:
        path, _, resume_from = argument.partition("@")
        run = RunDir(Path(path))
        number = 2 if resume_from else 1
        train(run, RunRecord(run, attempt=number, rank=int(os.environ["RANK"])), resume_from=resume_from)
        # what accelerate and transformers keep of a strategy for the rest of a process, which has one run otherwise
        unset_hf_deepspeed_config()
        AcceleratorState._reset_state(True)
    leave(0)
