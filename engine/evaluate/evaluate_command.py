"""`python -m engine evaluate RUN`: every model of a run on every task, compared with the base model."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.contract.errors import UserError
from engine.contract.eval_export import LEGEND, export
from engine.contract.eval_matrix import Column, build_matrix, columns_of, forgotten
from engine.contract.eval_results import read_results
from engine.contract.models import pinned_recipe
from engine.contract.places import data_root
from engine.contract.recipe import Recipe
from engine.contract.recipe_io import override
from engine.contract.rundir import RunDir
from engine.export.merge_command import find_run
from engine.launch.jobs import write_job

if TYPE_CHECKING:
    from engine.evaluate.evaluation import Benchmarks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run directory, or the id of a run in the data root")
    parser.add_argument("--tasks", default="all", help="names with commas, all (default) or none")
    parser.add_argument(
        "--checkpoints", default="all", help="all (default), best, latest, step-000060, merged/NAME; with commas"
    )
    parser.add_argument("--scorers", help="names with commas, instead of evaluate.scorers")
    parser.add_argument("--num-examples", type=int, help="held-out examples per task, instead of the training's")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer, tokens")
    parser.add_argument("--batch-size", type=int, help="answers that are generated together")
    parser.add_argument("--retention", help="data that show what was forgotten: a file, a folder or a hub path")
    parser.add_argument("--retention-answers", choices=("given", "base"), help="what they are compared with")
    parser.add_argument(
        "--humaneval", action="store_true", help="HumanEval: programs that pass their tests, in a sandbox"
    )
    parser.add_argument(
        "--humaneval-form",
        choices=("auto", "plain", "mftcoder", "template"),
        default="auto",
        help="how it is asked: a completion, MFTCoder's role markers, the run's chat template; auto = as trained",
    )
    parser.add_argument(
        "--humaneval-samples", type=_count, default=1, metavar="N", help="programs per problem, for pass@k"
    )
    parser.add_argument("--humaneval-temperature", type=_temperature, default=0.8, metavar="T", help="of samples")
    parser.add_argument("--humaneval-limit", type=_count, metavar="N", help="the first N problems")
    parser.add_argument("--humaneval-file", type=Path, metavar="JSONL", help="problems of the same form instead")
    parser.add_argument("--lm-eval", default="", metavar="TASKS", help="tasks of lm-evaluation-harness, with commas")
    parser.add_argument("--lm-eval-path", type=Path, metavar="FOLDER", help="task files of your own for it")
    parser.add_argument("--lm-eval-limit", type=int, metavar="N", help="documents per task of it")
    parser.add_argument("--set", action="append", default=[], metavar="evaluate.FIELD=VALUE", help="any other setting")
    parser.add_argument("--show", action="store_true", help="only print what was measured before")
    parser.add_argument("--against", default="", metavar="RUN", help="show the models of another run beside")
    parser.add_argument("--format", choices=("markdown", "csv", "json", "card"), default="markdown")
    parser.add_argument("--output", type=Path, help="write the table into a file")
    parser.add_argument("--status-file", type=Path, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Measure what is missing and print the table."""
    run_dir = find_run(arguments.run)
    if not arguments.show:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the page's Stop is Ctrl-C
        try:
            measure(run_dir, arguments)
        except KeyboardInterrupt:
            fix = "start it again: it goes on where it was."
            write_job(arguments.status_file, state="failed", phase="stopped", problem="Stopped.", fix=fix)
            raise
        except UserError as error:
            write_job(arguments.status_file, state="failed", phase="failed", problem=error.problem, fix=error.fix)
            raise
        except Exception as error:  # a job's last words, then the traceback
            problem = f"{type(error).__name__}: {str(error)[:300]}"
            write_job(arguments.status_file, state="failed", phase="failed", problem=problem, fix="read the log.")
            raise
        write_job(arguments.status_file, state="done", phase="done", fraction=1.0)
    show(run_dir, arguments)
    return 0


def measure(run_dir: RunDir, arguments: argparse.Namespace) -> None:
    """Wait for a device of the run and measure."""
    from engine.evaluate.turn import turn_on_device

    def progress(phase: str, fraction: float | None) -> None:
        share = f" ({fraction:.0%})" if fraction is not None else ""
        print(f"  {phase}{share}", file=sys.stderr, flush=True)
        write_job(arguments.status_file, phase=phase, fraction=fraction)

    recipe = changed_recipe(pinned_recipe(run_dir), arguments)
    tasks = _tasks(recipe, arguments.tasks)
    root = data_root().make()
    with turn_on_device(run_dir, recipe, root, lambda text: progress(text, None)) as device:
        progress("loading the libraries", None)
        from engine.evaluate.evaluation import Wanted, evaluate_run
        from engine.evaluate.harness import harness_of
        from engine.evaluate.models import choose_subjects

        wanted = Wanted(subjects=tuple(choose_subjects(run_dir, arguments.checkpoints)), tasks=tasks)
        limit, size = arguments.lm_eval_limit, recipe.evaluate.batch_size
        harness = harness_of(arguments.lm_eval, arguments.lm_eval_path, limit, size)
        evaluate_run(
            run_dir,
            recipe,
            wanted,
            root=root,
            device=device,
            progress=progress,
            benchmarks=_benchmarks(arguments),
            harness=harness,
        )


def _benchmarks(arguments: argparse.Namespace) -> Benchmarks:
    """Return what a command line asks for besides the run's tasks."""
    from engine.evaluate.humaneval import MAX_NEW_TOKENS, HumanEval, humaneval_dataset

    file = arguments.humaneval_file
    if not (arguments.humaneval or file):
        return lambda _: ()
    wanted = HumanEval(
        form=arguments.humaneval_form,
        samples=arguments.humaneval_samples,
        temperature=arguments.humaneval_temperature,
        limit=arguments.humaneval_limit,
        max_new_tokens=arguments.max_new_tokens or MAX_NEW_TOKENS,
        file=file.expanduser().resolve() if file else None,
    )
    return lambda codec: [humaneval_dataset(wanted, codec)]


def changed_recipe(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """Return the run's recipe with what the command line changes of its section `evaluate`.

    Raises:
        UserError: If a value is refused, or another section would be changed.
    """
    if strangers := [text for text in arguments.set if not text.strip().startswith("evaluate.")]:
        fix = "a run is evaluated as it was trained; only evaluate.* can be set."
        raise UserError(f"`{strangers[0]}` cannot be set here.", fix=fix)
    values: dict[str, Any] = {
        "scorers": None if arguments.scorers is None else _names(arguments.scorers),
        "num_examples": arguments.num_examples,
        "max_new_tokens": arguments.max_new_tokens,
        "batch_size": arguments.batch_size,
        "retention": _absolute(arguments.retention),
        "retention_answers": arguments.retention_answers,
    }

    told = [f"evaluate.{name}={json.dumps(value)}" for name, value in values.items() if value is not None]
    return override(recipe, [*told, *arguments.set])


def show(run_dir: RunDir, arguments: argparse.Namespace) -> None:
    """Print the table, or write it into a file."""
    columns = columns_of(read_results(run_dir.evaluations))
    if arguments.against:
        other = find_run(arguments.against)
        named = [(run_dir, columns), (other, columns_of(read_results(other.evaluations)))]
        columns = [
            Column(label=f"{run.id}: {column.label}", results=column.results) for run, part in named for column in part
        ]
    if not columns:
        raise UserError(f"Nothing of run {run_dir.id} was measured yet.", fix="leave out --show.")
    matrix = build_matrix(columns)
    text = export(matrix, arguments.format, title=f"Run {run_dir.id}, {run_dir.recipe().display_name}.")
    if arguments.output:
        try:
            arguments.output.write_text(text, encoding="utf-8")
        except OSError as error:
            fix = "choose another file."
            raise UserError(f"{arguments.output} cannot be written: {error.strerror}.", fix=fix) from None
        print(arguments.output)
        return
    print(text, end="")
    if arguments.format == "markdown":
        print(LEGEND)
        for label, measures in forgotten(matrix).items():
            print(f"{label} forgot: worse than the base model on the retention data in {', '.join(measures)}.")


def _tasks(recipe: Recipe, wanted: str) -> tuple[str, ...]:
    known = [task.name for task in recipe.tasks]
    if wanted in ("all", "none"):
        return tuple(known) if wanted == "all" else ()
    chosen = _names(wanted)
    if strangers := [name for name in chosen if name not in known]:
        raise UserError(f"The run has no task `{strangers[0]}`.", fix=f"there are: {', '.join(known)}.")
    return tuple(name for name in known if name in chosen)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"`{text}` is no whole number from 1 to 1000")
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 5:
        raise argparse.ArgumentTypeError(f"`{text}` is no temperature above 0 and up to 5")
    return value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _absolute(path: str | None) -> str | None:
    return path if path is None or "://" in path else str(Path(path).expanduser().resolve())
