"""Further places for the metrics of a run: TensorBoard event files, trackio, Weights & Biases.

    a row of metrics.jsonl -> the same row, with MFTCoder's tags for TensorBoard -> runs/<id>/tensorboard/

Fed by the pen of rank 0 with what it has just written, so there is no second truth.  What goes wrong in one of them is
told once; it never ends a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir

Tell = Callable[[str, str], None]
TASK_TAGS = {"loss": "{}_loss/train", "eval_loss": "{}_loss/valid", "weight": "{}_weight/train"}
TAGS = {"train/loss": "Loss/train", "eval/loss": "Loss/valid"}
NOT_METRICS = ("step", "time")


class Sink(Protocol):
    """A place that rows go to."""

    name: str

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Write what is left."""


class Sinks:
    """All of a run's further places; one that fails is told and left out from then on.

    Args:
        sinks: The places.
        tell: Writes an event: kind and text.
    """

    def __init__(self, sinks: Sequence[Sink] = (), tell: Tell = lambda *_: None) -> None:
        self._sinks, self._tell = list(sinks), tell

    def row(self, row: Mapping[str, Any]) -> None:
        """Pass a row of metrics on: its numbers, without what is none."""
        numbers = {key: value for key, value in row.items() if key not in NOT_METRICS and _is_number(value)}
        self._each(lambda sink: sink.row(int(row["step"]), numbers))

    def close(self) -> None:
        """Close all of them."""
        self._each(lambda sink: sink.close())

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as error:  # noqa: BLE001 - a service of others must not end a run
                self._sinks.remove(sink)
                self._tell("warning", f"Metrics no longer go to {sink.name}: {error}")


def open_sinks(run: RunDir, recipe: Recipe, tell: Tell) -> Sinks:
    """Return the places that the recipe names."""
    kinds: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: TensorBoard(run),
        "trackio": lambda: Trackio(run, recipe),
        "wandb": lambda: Wandb(run, recipe),
    }
    found: list[Sink] = []
    for name in recipe.record.report_to:
        try:
            found.append(kinds[name]())
        except Exception as error:  # noqa: BLE001 - a service of others must not end a run
            tell("warning", f"Metrics do not go to {name}: {error}")
    return Sinks(found, tell)


def tag_of(key: str) -> str:
    """Return the tag of a metric: MFTCoder's where it has one, else our own key."""
    parts = key.split("/")
    if parts[0] == "task" and len(parts) == 3 and parts[2] in TASK_TAGS:
        return TASK_TAGS[parts[2]].format(parts[1])
    return TAGS.get(key, key)


class TensorBoard:
    """Event files in the run's folder; a resumed run hides what the steps before it had written twice."""

    name = "TensorBoard"

    def __init__(self, run: RunDir) -> None:
        self._folder, self._writer = run.path / "tensorboard", None

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step, and the perplexity of an evaluation."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            again = self._folder.is_dir()
            self._writer = SummaryWriter(str(self._folder), purge_step=step if again else None)
        for key, value in values.items():
            self._writer.add_scalar(tag_of(key), value, step)
        if "eval/loss" in values:
            self._writer.add_scalar("Perplexity/valid", math.exp(min(values["eval/loss"], 700.0)), step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class Trackio:
    """A project of trackio, with the run under its own id."""

    name = "trackio"

    def __init__(self, run: RunDir, recipe: Recipe) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(project="mft-studio", name=run.id, resume="allow", config=recipe.model_dump(mode="json"))

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run there."""
        self._trackio.finish()


class Wandb:
    """A run of Weights & Biases under the run's own id."""

    name = "W&B"

    def __init__(self, run: RunDir, recipe: Recipe) -> None:
        import wandb

        self._run = wandb.init(
            project="mft-studio",
            id=run.id,
            name=recipe.display_name,
            resume="allow",
            dir=str(run.path / "logs"),
            config=recipe.model_dump(mode="json"),
        )

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the run there."""
        self._run.finish()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
