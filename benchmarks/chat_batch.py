"""Base and tuned model side by side: one batch of two rows against one answer after the other.

    python benchmarks/chat_batch.py RUN [--tokens 64] [--rounds 3] [--precision "4 bit"]

Both ways generate greedy answers of the same length, in turns, from the same model, and their texts are compared.
The figures are ratios of the fastest rounds, in seconds on the clock and of the CPU.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.chat.answering import answer_all
from engine.chat.models import ChatModels
from engine.chat.prompts import chat_prompt
from engine.chat.question import Answer, Question
from engine.contract.records import Message
from engine.contract.speakers import PRECISIONS, base_of, speakers_of
from engine.export.merge_command import find_run

TEXT = "Write a Python function that returns the n-th Fibonacci number, with a docstring and type hints."


def timed(models: ChatModels, groups: list[list[Question]]) -> tuple[float, float, list[Answer]]:
    """Answer groups of questions one after the other; return seconds, CPU seconds and the answers."""
    started, worked, answers = time.perf_counter(), time.process_time(), []
    for questions in groups:
        answers += [answer for _, answer in answer_all(models, questions, lambda *_: None, threading.Event())]
    return time.perf_counter() - started, time.process_time() - worked, answers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run with a LoRA checkpoint")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    arguments = parser.parse_args()
    run = find_run(arguments.run)
    models = ChatModels(base_of(run, arguments.precision), lambda _: None)
    speakers = speakers_of(run)[:2]
    models.bring(speakers)
    models.stop_ids = lambda _: []  # type: ignore[method-assign]  # answers of the same length
    questions = [
        Question(
            speaker=speaker,
            prompt=chat_prompt(
                models.codec(speaker), [Message("user", TEXT)], context=None, max_new_tokens=arguments.tokens
            ),
        )
        for speaker in speakers
    ]
    ways = {"one batch": [questions], "one after the other": [[question] for question in questions]}
    timed(models, ways["one batch"])
    rounds: dict[str, list[tuple[float, float, list[Answer]]]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, groups in ways.items():
            rounds[way].append(timed(models, groups))
    texts = [[answer.text for answer in answers] for measured in rounds.values() for _, _, answers in measured]
    same = "the same" if texts[1:] == texts[:-1] else "NOT the same"
    print(f"{models.held_in}, {arguments.tokens} tokens each; the texts are {same}")
    best = {way: [min(item[kind] for item in measured) for kind in (0, 1)] for way, measured in rounds.items()}
    for way, (seconds, cpu) in best.items():
        print(f"{way:20} {seconds:6.2f} s   {cpu:6.2f} CPU s")
    batch, single = best.values()
    print(f"{'ratio':20} {batch[0] / single[0]:6.2f}     {batch[1] / single[1]:6.2f}")


if __name__ == "__main__":
    main()
