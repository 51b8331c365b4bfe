"""Batched greedy answers against `transformers.generate`, one prompt at a time: samples/s, ratio in one run.

    python benchmarks/evaluate.py [--problems 24] [--max-new-tokens 128] [--batch-size 16]

The starter model in float32 on the plain prompts of HumanEval, spread over all 164.  Both ways answer the same prompts
on the same threads; every answer is compared.  A token can flip where two are equally likely in float32, because sums
of another batch are rounded otherwise: how many answers differ is told, not hidden.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM

    from engine.contract.places import data_root
    from engine.data.humaneval import load_humaneval
    from engine.generate.generator import Generator
    from engine.generate.row import Decoding
    from engine.model.sources import resolve_model
    from engine.model.tokenizer import load_tokenizer

    folder = resolve_model(arguments.model, root=data_root())
    tokenizer = load_tokenizer(folder, lambda _: None)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    problems = load_humaneval()
    chosen = problems[:: max(1, len(problems) // arguments.problems)][: arguments.problems]
    prompts = [tokenizer(problem.prompt, add_special_tokens=False)["input_ids"] for problem in chosen]
    decoding = Decoding(max_new_tokens=arguments.max_new_tokens)

    def one_by_one() -> list[str]:
        answers = []
        for ids in prompts:
            given = torch.tensor([ids])
            with torch.inference_mode():
                output = model.generate(
                    given,
                    attention_mask=torch.ones_like(given),
                    max_new_tokens=arguments.max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            answers.append(tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True))
        return answers

    def batched() -> list[str]:
        generator = Generator(model, tokenizer, batch_size=arguments.batch_size)
        return [answer.text for answer in generator.answer(prompts, decoding)]

    Generator(model, tokenizer).answer(prompts[:1], Decoding(max_new_tokens=2))  # wakes the libraries up
    seconds, answers = {}, {}
    for name, way in (("batched", batched), ("one by one", one_by_one)):
        started, cpu = time.perf_counter(), time.process_time()
        answers[name] = way()
        seconds[name] = time.perf_counter() - started
        used = time.process_time() - cpu
        print(
            f"{name}: {len(prompts) / seconds[name]:.3f} samples/s ({seconds[name]:.1f} s, {used:.1f} CPU s)",
            flush=True,
        )
    same = sum(a == b for a, b in zip(answers["batched"], answers["one by one"], strict=True))
    ratio = seconds["one by one"] / seconds["batched"]
    print(f"{ratio:.2f}x the samples/s; {same} of {len(prompts)} answers are identical")


if __name__ == "__main__":
    main()
