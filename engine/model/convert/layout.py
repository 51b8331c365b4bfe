"""What the tensors of an old checkpoint are called and how they are packed, as a table.

    name and tensor of the old file -> names and tensors of the native class

A layout is plain data: `{}` stands for the number of a layer.  What a rule does to a tensor it also does to one on the
meta device, so the shapes of the result are known, and checked, before a single weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from engine.contract.errors import Problem

NUMBER = re.compile(r"\.(\d+)\.")
BUFFERS = re.compile(r"(inv_freq|attn\.bias|masked_bias|attention\.bias)$")
"""What old releases stored besides weights; the native classes compute it."""

Split = Callable[[Tensor], Mapping[str, Tensor]]
"""Takes one tensor apart: name, with `{}`, -> part."""
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The table of one checkpoint."""

    names: Mapping[str, str]
    """Tensors that only change their name."""
    packed: Mapping[str, Split] = field(default_factory=dict)
    """Tensors that become several, or other ones."""

    def parts(self, name: str, value: Tensor) -> dict[str, Tensor] | None:
        """Return what becomes of a tensor: nothing for a buffer, None if the layout does not know it."""
        number = NUMBER.search(name)
        pattern = NUMBER.sub(".{}.", name, count=1)
        layer = number.group(1) if number else ""
        if pattern in self.packed:
            return {new.replace("{}", layer): part for new, part in self.packed[pattern](value).items()}
        if pattern in self.names:
            return {self.names[pattern].replace("{}", layer): value}
        return {} if BUFFERS.search(name) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """What an old checkpoint becomes."""

    model_type: str
    """A class that transformers has."""
    config: Mapping[str, Any]
    """Its configuration, without the ids of special tokens."""
    layout: Layout
    notes: tuple[str, ...] = ()
    """What the user should know: where the converted model differs."""


class Unsupported(Exception):
    """A checkpoint that cannot become a native one, with the reason and the way out."""

    def __init__(self, problem: str, fix: str) -> None:
        self.problem = Problem(problem=problem, fix=fix)
        super().__init__(problem)


def split_rows(*parts: tuple[str, int]) -> Split:
    """Return a rule that cuts a tensor along its first axis: (name, rows) in order."""

    def apply(value: Tensor) -> Mapping[str, Tensor]:
        if value.shape[0] != sum(size for _, size in parts):
            raise ValueError(f"{value.shape[0]} rows, {sum(size for _, size in parts)} are expected")
        pieces = value.split([size for _, size in parts])
        return {name: piece for (name, _), piece in zip(parts, pieces, strict=True)}

    return apply


LLAMA_NAMES = {
    name: name
    for name in (
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        *(f"model.layers.{{}}.self_attn.{part}_proj.{kind}" for part in "qkvo" for kind in ("weight", "bias")),
        *(f"model.layers.{{}}.mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
        "model.layers.{}.input_layernorm.weight",
        "model.layers.{}.post_attention_layernorm.weight",
    )
}
"""The names of a native llama, which some old families share."""
