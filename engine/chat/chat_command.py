"""`python -m engine chat RUN`: ask the base and the tuned model in the terminal."""

from __future__ import annotations

import argparse
import threading

from engine.contract.errors import UserError
from engine.export.merge_command import find_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="run directory, or the id of a run in the data root")
    parser.add_argument("--checkpoint", default="", help="for example step-000060 (default: the newest)")
    parser.add_argument("--prompt", help="ask this once instead of reading questions")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)


def run(arguments: argparse.Namespace) -> int:
    """Answer one prompt or a conversation's worth of them."""
    run_dir = find_run(arguments.run)
    folders = {path.name: path for path in run_dir.checkpoint_dirs()}
    if not folders or (arguments.checkpoint and arguments.checkpoint not in folders):
        raise UserError(f"Run {run_dir.id} has no such checkpoint.", fix=f"there are: {', '.join(folders) or 'none'}.")
    folder = folders[arguments.checkpoint] if arguments.checkpoint else list(folders.values())[-1]
    from engine.chat.models import ChatModels
    from engine.contract.records import Message

    is_adapter = (folder / "adapter_config.json").is_file()
    model = run_dir.recipe().model_name_or_path
    models = ChatModels(model, str(folder) if is_adapter else None, None if is_adapter else str(folder), print)
    for question in [arguments.prompt] if arguments.prompt else iter(lambda: input("\nyou> "), ""):
        for side in ("base", "tuned"):
            print(f"\n{side}> ", end="", flush=True)
            answer = models.answer(
                side,
                [Message("user", question)],
                emit=lambda text: print(text, end="", flush=True),
                stop=threading.Event(),
                temperature=arguments.temperature,
                top_p=1.0,
                max_new_tokens=arguments.max_new_tokens,
                seed=0,
            )
            print(f"\n  ({answer.adapter}, {answer.num_tokens} tokens, {answer.seconds:.1f} s)")
    return 0
