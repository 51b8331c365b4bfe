"""The pen of an evaluation: whole files in `eval/`, and journals that an interrupted one goes on from.

eval/<name>.json              replaced as a whole (`engine.contract.eval_results` says what is in it)
eval/.journal/<name>.jsonl    answers as they come; gone once the file is there
eval/.lock                    held by the one process that evaluates this run
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.eval_results import EvalInputs, EvalResult
from engine.contract.files import append_json, read_rows, replace_json, truncate_torn_tail
from engine.contract.rundir import RunDir
from engine.contract.stored import restore
from engine.generate.row import Generated


class EvalStore:
    """The results of one run, for the one process that writes them; made by `open_results`."""

    def __init__(self, run: RunDir) -> None:
        self.folder = run.evaluations
        self._journals = self.folder / ".journal"

    def find(self, inputs: EvalInputs) -> EvalResult | None:
        """Return the result for exactly these inputs and weights, None if it is still to be made."""
        result = EvalResult.read(self.folder / inputs.file_name)
        return result if result is not None and result.inputs == inputs else None

    def save(self, result: EvalResult) -> Path:
        """Write a result and forget its journal; return the file."""
        path = self.folder / result.inputs.file_name
        replace_json(path, asdict(result))
        self._journal(result.inputs).unlink(missing_ok=True)
        return path

    def answers_so_far(self, inputs: EvalInputs, ids: Sequence[str]) -> dict[int, Generated]:
        """Return the answers that an interrupted evaluation with these inputs left, by the place of their example."""
        path = self._journal(inputs)
        truncate_torn_tail(path)
        place = {name: number for number, name in enumerate(ids)}
        found = {}
        for row in read_rows(path)[0]:
            answer = restore(Generated, row.get("answer"))
            if answer is not None and row.get("id") in place:
                found[place[row["id"]]] = answer
        return found

    def note_answer(self, inputs: EvalInputs, name: str, answer: Generated) -> None:
        """Keep an answer at once, so that an interruption costs nothing that was done."""
        self._journals.mkdir(exist_ok=True)
        append_json(self._journal(inputs), {"id": name, "answer": asdict(answer)})

    def _journal(self, inputs: EvalInputs) -> Path:
        weights = hashlib.sha256(inputs.weights.encode()).hexdigest()[:12]
        return self._journals / f"{inputs.file_name.removesuffix('.json')}.{weights}.jsonl"


@contextmanager
def open_results(run: RunDir) -> Iterator[EvalStore]:
    """Return the store of a run's results and keep others from writing there meanwhile.

    Raises:
        UserError: If another process evaluates this run, or the folder cannot be made.
    """
    store = EvalStore(run)
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
        lock = open(store.folder / ".lock", "w")
    except OSError as error:
        problem = f"The results cannot be written to {store.folder}: {error.strerror}."
        raise UserError(problem, fix="check the folder's rights and the disk.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"Run {run.id} is being evaluated already.", fix="wait until that is done.") from None
        yield store
