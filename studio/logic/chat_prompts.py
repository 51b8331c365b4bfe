"""Examples of a run's tasks as questions with a known answer, and the page's snippets for one's own code.

run -> tasks with a held-out file -> the first prompts of each, with the answer that the data have
"""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass
from pathlib import Path

from engine.contract.errors import UserError
from engine.contract.hub_path import on_disk
from engine.contract.loopback import SERVE_PORT
from engine.contract.places import DataRoot
from engine.contract.rundir import open_run
from engine.contract.taskfile import Example, iter_examples

PROMPTS_PER_TASK = 20
NO_HELD_OUT = "No task of this run has a held-out file."
OWN = "write a question of your own."


@dataclass(frozen=True, slots=True)
class Prompt:
    """A held-out example to try."""

    task: str
    text: str
    system: str
    gold: str
    """The answer of the data."""


def tasks(root: DataRoot, run_id: str) -> list[str]:
    """Return the tasks of a run that have held-out examples, in the order of the recipe."""
    if not run_id:
        return []
    return [task.name for task in open_run(root.runs, run_id).recipe().tasks if task.eval_path]


def prompts(root: DataRoot, run_id: str, task: str) -> list[Prompt]:
    """Return some held-out examples of a task that begin with a question.

    Raises:
        UserError: If there is none; the problem is ours word for word, no name or path in it: the page draws markup.
    """
    tasks_of_run = open_run(root.runs, run_id).recipe().tasks if run_id else ()
    found = next((item for item in tasks_of_run if item.name == task), None)
    if found is None or not found.eval_path:
        raise UserError(NO_HELD_OUT, fix=OWN)
    path = on_disk(found.eval_path, root)
    if path is None or not path.exists():
        raise UserError("The held-out file of this task is no longer where the recipe says.", fix=OWN)
    try:
        examples = iter_examples(path, found.columns)
        asked = (example for example in examples if any(message.role == "user" for message in example.messages))
        items = [_prompt(task, example) for example in itertools.islice(asked, PROMPTS_PER_TASK)]
    except UserError as error:
        raise UserError("The held-out file of this task cannot be read.", fix=error.problem) from None
    if not items:
        raise UserError("No held-out example of this task has a question.", fix=OWN)
    return items


def labels(items: list[Prompt]) -> list[tuple[str, int]]:
    """Return (label, index) for a list of prompts: their first words."""
    return [(" ".join(item.text.split())[:80], index) for index, item in enumerate(items)]


def code(project: Path, run_id: str, model: str) -> dict[str, str]:
    """Return the snippets that use a run from one's own code: value of the island.

    Args:
        project: The checkout, where the command runs.
        run_id: The run, empty for none.
        model: Name of the speaker, as the endpoint calls it.
    """
    if not run_id:
        return {}
    other, _, model = model.rpartition(":")  # a speaker of another run is served by that run
    run_id = other or run_id
    url = f"http://127.0.0.1:{SERVE_PORT}/v1"
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    curl = [
        f"curl {url}/chat/completions",
        '  -H "Authorization: Bearer $MFT_TOKEN"',
        '  -H "Content-Type: application/json"',
        f"  -d {shlex.quote(body)}",
    ]
    python = [
        "import os",
        "from openai import OpenAI",
        "",
        f'client = OpenAI(base_url="{url}", api_key=os.environ["MFT_TOKEN"])',
        "answer = client.chat.completions.create(",
        f'    model="{model}",',
        '    messages=[{"role": "user", "content": "Hello"}],',
        ")",
        "print(answer.choices[0].message.content)",
    ]
    return {
        "command": f"cd {shlex.quote(str(project))} && .venv/bin/python -m engine serve {shlex.quote(run_id)}",
        "curl": " \\\n".join(curl),
        "python": "\n".join(python),
    }


def _prompt(task: str, example: Example) -> Prompt:
    """Take the first question of an example; the answer that follows it is the gold answer."""
    at = next(index for index, message in enumerate(example.messages) if message.role == "user")
    system = next((m.content for m in example.messages[:at] if m.role == "system"), "")
    gold = next((m.content for m in example.messages[at:] if m.role == "assistant"), "")
    return Prompt(task, example.messages[at].content, system, gold)
