"""`engine evaluate RUN --humaneval` with batches of 16 and of 1, beside a plain loop of `transformers.generate`.

    python benchmarks/humaneval.py RUN [--problems 16] [--max-new-tokens 128]

The base model of a run answers HumanEval's first problems, greedily, in float32: by the command, twice, and prompt by
prompt.  The command's seconds include running the programs in the sandbox, its CPU seconds all of it from its start.
It has the lowest priority, so the plain loop takes that too.  Every answer is compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))


def by_command(run: Path, batch_size: int, problems: int, max_new_tokens: int) -> dict[str, Any]:
    """Evaluate a copy of a run that nobody has evaluated; return the result."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, run.name)
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("eval", "checkpoints", "merged", "exports"))
        argv = [sys.executable, "-m", "engine", "evaluate", str(copy), "--tasks=none", "--checkpoints=base"]
        argv += ["--humaneval", f"--humaneval-limit={problems}", f"--max-new-tokens={max_new_tokens}"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*argv, f"--batch-size={batch_size}"], cwd=PROJECT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        (file,) = (copy / "eval").glob("base.humaneval.*.json")
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        result["cpu_s"] = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return result


def one_by_one(run: Path, problems: int, max_new_tokens: int) -> tuple[float, float, list[str]]:
    """Answer the same prompts by `transformers.generate`; return seconds, CPU seconds and answers."""
    import torch
    from transformers import AutoModelForCausalLM

    from engine.contract.models import pinned_recipe
    from engine.contract.places import data_root
    from engine.contract.rundir import RunDir
    from engine.data.codec import Codec
    from engine.evaluate.humaneval import HumanEval, humaneval_dataset
    from engine.model.sources import resolve_model
    from engine.model.tokenizer import load_tokenizer

    recipe = pinned_recipe(RunDir(run))
    folder = resolve_model(recipe.model_name_or_path, revision=recipe.model.revision, root=data_root())
    tokenizer = load_tokenizer(folder, lambda _: None, chat_template=recipe.data.chat_template)
    dataset = humaneval_dataset(HumanEval(limit=problems), Codec.of(tokenizer))
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    answers, started, cpu = [], time.perf_counter(), time.process_time()
    for prompt in dataset.prompts:
        given = torch.tensor([prompt.ids])
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        with torch.inference_mode():
            output = model.generate(given, attention_mask=torch.ones_like(given), **settings)
        answers.append(tokenizer.decode(output[0, len(prompt.ids) :], skip_special_tokens=True))
    return time.perf_counter() - started, time.process_time() - cpu, answers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run directory, or the id of a run in the data root")
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 1])
    arguments = parser.parse_args()
    from engine.export.merge_command import find_run
    from engine.launch.beside import step_back

    run, counts = find_run(arguments.run).path, (arguments.problems, arguments.max_new_tokens)
    step_back()
    results = {size: by_command(run, size, *counts) for size in arguments.batch_sizes}
    plain_seconds, plain_cpu, plain = one_by_one(run, *counts)
    for size, result in results.items():
        answers = [example["prediction"] for example in result["examples"]]
        passed = sum(result["scores"]["pass@1"]["values"])
        same = sum(a == b for a, b in zip(answers, plain, strict=True))
        seconds = result["made"]["seconds"]
        speed = f"{arguments.problems / seconds:.3f} problems/s, {plain_seconds / seconds:.2f}x the plain loop"
        print(f"batches of {size}: {speed}, {plain_cpu / result['cpu_s']:.2f}x by CPU time; {passed:.0f} passed;")
        print(f"  {same} of {len(plain)} answers are the plain loop's")
    print(f"plain loop: {arguments.problems / plain_seconds:.3f} problems/s, {plain_cpu:.1f} CPU s")


if __name__ == "__main__":
    main()
