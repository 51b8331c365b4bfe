"""One of two ranks that answer together, for `test_lockstep`:  RANK FOLDER -> FOLDER/RANK.json, what it saw."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from itertools import count
from pathlib import Path

import torch
import torch.distributed as dist

from engine.contract.errors import UserError
from engine.train import lockstep
from tests.engine.test_training_samples import sampler
from tests.tiny_model import tiny_llama


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    lockstep.ERROR_TIMEOUT = timedelta(seconds=2)
    together = lockstep.Lockstep()
    model = tiny_llama()
    forwards = count()
    model.register_forward_pre_hook(lambda *_: next(forwards) and None)
    seen: dict[str, object] = {"first": together.from_first(f"of rank {rank}")}

    def ask(name: str, **more: object) -> None:
        before = next(forwards)
        taker, notes = sampler(model, lockstep=together, **more)
        taker.take(1)
        answers = [[one.output, one.num_tokens, one.end] for one in notes.samples]
        seen[name] = {"forwards": next(forwards) - before, "answers": answers, "events": notes.events}

    ask("alike")
    if rank == 1:
        torch.manual_seed(9)
        for weights in model.parameters():
            torch.nn.init.normal_(weights)
    ask("other weights")
    ask("rank 1 is in a hurry", is_urgent=lambda: rank == 1)
    asked = count(1)
    ask("rank 0 is in a hurry", is_urgent=lambda: rank == 0 and next(asked) > 3)
    if rank == 1:
        model.register_forward_pre_hook(lambda *_: fail())
    try:
        ask("rank 1 fails")
    except UserError as error:
        seen["rank 1 fails"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(seen))


def fail() -> None:
    raise RuntimeError("out of memory, let us say")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
