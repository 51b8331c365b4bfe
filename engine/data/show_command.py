"""`python -m engine show FILE --model M`: the exact training text of the first examples, what is learned marked."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from engine.contract.places import data_root
from engine.contract.recipe import ColumnsSection

MAX_TOKENS = 1500
"""Tokens of an example that are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", required=True, help="hub id or folder of the model whose tokenizer is used")
    parser.add_argument("--columns", help="what the file's columns mean, as JSON")
    parser.add_argument("--chat-template", default="auto", help="see data.chat_template of a recipe")
    parser.add_argument("--assistant-turns", default="all", choices=["all", "last"])
    parser.add_argument("--limit", type=int, default=3, help="examples to show")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the examples: learned text in bold, or as JSON."""
    from engine.contract.taskfile import iter_examples
    from engine.data.codec import TemplateRefusal
    from engine.data.tokenize import encode_example
    from engine.model.sources import resolve_tokenizer
    from engine.model.tokenizer import load_codec

    root = data_root().make()
    columns = ColumnsSection.model_validate_json(arguments.columns) if arguments.columns else None
    codec = load_codec(
        resolve_tokenizer(arguments.model, root=root), root.codecs, chat_template=arguments.chat_template
    )
    told: list[dict[str, Any]] = []
    for example in itertools.islice(iter_examples(arguments.file, columns), arguments.limit):
        try:
            encoded = encode_example(codec, example, assistant_turns=arguments.assistant_turns)
        except TemplateRefusal as refusal:
            told.append({"line": example.line, "file": example.file, "refused": str(refusal)})
            continue
        ids, labels = list(encoded.input_ids), list(encoded.labels)
        pieces = codec.pieces_of(ids[:MAX_TOKENS])
        stretches = [
            [is_learned, [text for text, _ in group]]
            for is_learned, group in itertools.groupby(
                zip(pieces, (label >= 0 for label in labels)), key=lambda item: item[1]
            )
        ]
        shown = {"line": example.line, "file": example.file, "num_tokens": len(ids), "stretches": stretches}
        told.append(shown | {"num_supervised": encoded.num_supervised, "num_cut": max(0, len(ids) - MAX_TOKENS)})
    if arguments.json:
        print(json.dumps({"examples": told}))
    else:
        print("\n\n".join(_text(example) for example in told))
    return 0


def _text(example: dict[str, Any]) -> str:
    """Write an example for a terminal, learned text in bold; control characters are escaped."""
    if "refused" in example:
        return f"line {example['line']}: {example['refused']}"
    words = []
    for is_learned, tokens in example["stretches"]:
        text = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in "".join(tokens))
        words.append(f"\x1b[1m{text}\x1b[0m" if is_learned else text)
    head = f"line {example['line']}: {example['num_tokens']} tokens, {example['num_supervised']} learned"
    return head + "\n" + "".join(words)
