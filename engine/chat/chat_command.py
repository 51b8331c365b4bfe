"""`python -m engine chat RUN`: ask the base and the tuned model, or two checkpoints, in the terminal."""

from __future__ import annotations

import argparse
import threading

from engine.contract.errors import UserError
from engine.contract.places import data_root
from engine.contract.speakers import BASE, PRECISIONS, base_of, find_speaker, newest, speakers_of
from engine.export.merge_command import find_run
from engine.launch.beside import take_seat


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run directory, or the id of a run in the data root")
    parser.add_argument("--checkpoint", default="", help="for example step-000060 (default: the newest)")
    parser.add_argument("--against", default=BASE, help="what it is compared with (default: base)")
    parser.add_argument("--prompt", help="ask this once instead of reading questions")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="how the base model is held")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    """Answer one prompt, or questions until an empty line; each stands for itself."""
    run_dir = find_run(arguments.run)
    speakers = speakers_of(run_dir)
    tuned = find_speaker(run_dir, arguments.checkpoint) if arguments.checkpoint else newest(speakers)
    if tuned is None:
        raise UserError(f"Run {run_dir.id} has no checkpoint yet.", fix="wait for its first one.")
    sides = [find_speaker(run_dir, arguments.against), tuned]
    if reason := take_seat(data_root().make()):
        print(f"  {reason}", flush=True)
    from engine.chat.answering import answer_all
    from engine.chat.models import ChatModels
    from engine.chat.prompts import chat_prompt
    from engine.chat.question import Question, read_sampling
    from engine.contract.records import Message

    sampling = read_sampling({"temperature": arguments.temperature, "top_p": arguments.top_p, "seed": arguments.seed})
    models = ChatModels(base_of(run_dir, arguments.precision), lambda text: print(f"  {text}", flush=True))
    models.bring(sides)
    for question in [arguments.prompt] if arguments.prompt else iter(_read_question, ""):
        questions = [
            Question(
                speaker=side,
                sampling=sampling,
                prompt=chat_prompt(
                    models.codec(side),
                    [Message("user", question)],
                    context=models.context(side),
                    max_new_tokens=arguments.max_new_tokens,
                ),
            )
            for side in sides
        ]
        print(f"\n{sides[0].name}> ", end="", flush=True)
        for row, answer in answer_all(models, questions, _print_first, threading.Event()):
            text = "" if row == 0 else f"\n{sides[row].name}> {answer.text}"
            print(f"{text}\n  ({answer.speaker}, {answer.num_tokens} tokens, {answer.seconds:.1f} s)", flush=True)
    return 0


def _print_first(row: int, text: str) -> None:
    """Print the first answer as it grows; the other one follows when it is finished."""
    if row == 0:
        print(text, end="", flush=True)


def _read_question() -> str:
    try:
        return input("\nyou> ")
    except EOFError:
        return ""
