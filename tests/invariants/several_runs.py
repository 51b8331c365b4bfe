"""Train several prepared runs one after the other, once per rank: `torchrun -m tests.invariants.several_runs RUN ...`.

Starting two ranks costs ten seconds, a tiny run one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from engine.contract.rundir import RunDir
from engine.launch.processes import die_with_parent
from engine.train.main import train
from engine.train.record import RunRecord

if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    for path in sys.argv[1:]:
        run = RunDir(Path(path))
        train(run, RunRecord(run, attempt=1, rank=int(os.environ["RANK"])))
