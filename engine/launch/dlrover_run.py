"""dlrover-run on a torch that is newer than it: `python -m engine.launch.dlrover_run ...` takes the same arguments.

DLRover 0.6.1 starts its master through a class of torch that wants one argument more since torch 2.10; and ranks that
are started anew would find the keys of the dead ones unless every round has a store of its own.
"""

from __future__ import annotations

import functools
import inspect
import os


def main() -> None:
    """Mend what has moved, then hand over."""
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    from dlrover.trainer.torch import elastic_run

    handler = elastic_run.SubprocessHandler
    if "numa_options" in inspect.signature(handler.__init__).parameters:
        elastic_run.SubprocessHandler = functools.partial(handler, numa_options=None)
    elastic_run.main()


if __name__ == "__main__":
    main()
