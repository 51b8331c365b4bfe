"""The command line: `python -m engine COMMAND`.  Thin: each command lives beside what it does.

Heavy libraries are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys

from engine import __version__
from engine.contract.errors import UserError

COMMANDS = {
    "train": ("engine.train.train_command", "train a recipe: the same run that the studio starts"),
    "inspect": ("engine.contract.inspect_command", "check task files: every record used, or skipped with a reason"),
    "import-mftcoder": ("engine.contract.import_mftcoder_command", "turn a configuration of MFTCoder into a recipe"),
    "insight": ("engine.data.insight_command", "duplicates, overlaps and benchmark problems in task files; clean them"),
    "show": ("engine.data.show_command", "the exact training text of a file, with what is learned marked"),
    "prepare": ("engine.data.prepare_command", "encode a recipe's tasks into the cache and say what a run will see"),
    "measure": ("engine.data.measure_command", "measure each task of a recipe for the studio's preview"),
    "merge": ("engine.export.merge_command", "merge a run's adapter into its base model, with a parity check"),
    "combine": ("engine.export.combine_command", "several adapters of one base into one: sum, TIES, DARE"),
    "export": (
        "engine.export.export_command",
        "a checkpoint for other programs: adapter, merged, 4 bit, GPTQ, AWQ, GGUF",
    ),
    "evaluate": ("engine.evaluate.evaluate_command", "compare a run's models with the base model, task by task"),
    "push": ("engine.export.push_command", "an export to the Hugging Face hub"),
    "chat": ("engine.chat.chat_command", "talk to the base and the tuned model in the terminal"),
    "serve": ("engine.chat.serve_command", "an OpenAI-compatible endpoint for a run, on this machine only"),
    "fetch": ("engine.model.fetch_command", "bring a model to this machine"),
    "convert": ("engine.model.convert.convert_command", "rewrite an old model, or .bin weights, as a native one, once"),
    "fetch-data": ("engine.data.fetch_data_command", "bring a data set from a hub to this machine"),
    "families": ("engine.families_command", "the model families, and whether everything works with each"),
    "doctor": ("engine.doctor", "say what this machine can do, and why not"),
    "queue": ("engine.launch.queue_command", "who waits for which device; change the order"),
    "node": ("engine.launch.node_command", "take part in a run on several machines as another machine"),
    "elastic": ("engine.launch.elastic_command", "train a run under DLRover, in every pod of an elastic job"),
    "runs": ("engine.launch.runs_command", "list runs, or stop one"),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="python -m engine", description="The engine of MFT Studio.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_text) in COMMANDS.items():
        sub = commands.add_parser(name, help=help_text, description=help_text)
        importlib.import_module(module).add_arguments(sub)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run one command; returns the exit status."""
    arguments = build_parser().parse_args(argv)
    try:
        status = int(importlib.import_module(COMMANDS[arguments.command][0]).run(arguments))
        sys.stdout.flush()
        return status
    except UserError as error:
        for problem in error.problems:
            print(f"{arguments.command}: {problem.problem}", file=sys.stderr)
            if problem.fix:
                print(f"  -> {problem.fix}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return 141  # as the shell says of a program that SIGPIPE ended


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader is gone, as `head` is once it has enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
