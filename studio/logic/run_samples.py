"""What the model of a run answered at each evaluation, read as it grows.

    look(run, 0) -> the first page of answers and the offset behind it      look(run, offset) -> what came since

Question and wanted answer are the same at every step, so a page holds them once.
"""

from __future__ import annotations

from typing import Any

from engine.contract.rundir import RunDir
from engine.contract.samples import read_samples, samples_file


def look(run: RunDir, offset: int) -> dict[str, Any]:
    """Return the samples after an offset, JSON-ready.

    Args:
        run: The run.
        offset: Bytes that the viewer has.

    Returns:
        `prompts`: [task, number, question, gold] of those that the page speaks of. `answers`: [step, task, number,
        output, num_tokens, end] in the order of the file, the later one counts. `offset`, `more` (there is another page
        now), `reset` (what the viewer had is gone) and `wanted`, the prompts of a task as the recipe asks for.
    """
    path = samples_file(run)
    size = path.stat().st_size if path.exists() else 0
    reset = not 0 <= offset <= size
    found, end, more = read_samples(run, 0 if reset else offset)
    prompts = {(one.task, one.prompt): [one.task, one.prompt, one.question, one.gold] for one in found}
    return {
        "prompts": list(prompts.values()),
        "answers": [[one.step, one.task, one.prompt, one.output, one.num_tokens, one.end] for one in found],
        "offset": end,
        "more": more,
        "reset": reset,
        "wanted": run.recipe().record.sample_prompts,
    }
