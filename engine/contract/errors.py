"""The one exception a user is meant to read.

    raise UserError(problem, fix=..., field=...)  ->  a card in the studio, two lines in the terminal, never a traceback

Everything else that is raised is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

FailureKind = Literal[
    "", "out_of_memory", "killed", "disk_full", "not_a_number", "gated", "communication", "data", "lost"
]
"""What sort of thing went wrong, as far as it decides what may help (`engine.contract.remedies`); empty = unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that a user can mend."""

    problem: str
    """What is wrong and where, one or two sentences, plain text."""
    fix: str = ""
    """What to do next, an imperative sentence without a capital; empty if the problem says it."""
    field: str = ""
    """Dotted recipe path of the value to change (`tasks.1.path`); empty if no field is to blame."""
    kind: FailureKind = ""

    def as_json(self) -> dict[str, str]:
        """Return the strings as a JSON-ready mapping."""
        return asdict(self)


class UserError(Exception):
    """Something the user can mend; carries one problem or all that were found together.

    Args:
        problem: What is wrong and where. Plain text, shown as it is.
        fix: What to do next.
        field: Dotted recipe path that is to blame.
        more: Further problems of the same file or recipe: report all of them at once.
        kind: What sort of failure it is.
    """

    def __init__(
        self, problem: str, fix: str = "", field: str = "", more: Sequence[Problem] = (), *, kind: FailureKind = ""
    ) -> None:
        self.problems: tuple[Problem, ...] = (Problem(problem=problem, fix=fix, field=field, kind=kind), *more)
        super().__init__(str(self))

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> UserError:
        """Build one error from problems collected earlier.

        Raises:
            ValueError: If `problems` is empty.
        """
        if not problems:
            raise ValueError("UserError.of needs at least one problem")
        first, *rest = problems
        return cls(first.problem, first.fix, first.field, rest, kind=first.kind)

    @property
    def problem(self) -> str:
        """The first problem."""
        return self.problems[0].problem

    @property
    def fix(self) -> str:
        """What mends the first problem."""
        return self.problems[0].fix

    @property
    def field(self) -> str:
        """The recipe path of the first problem."""
        return self.problems[0].field

    def __str__(self) -> str:
        return "\n".join(f"{p.problem}\n  -> {p.fix}" if p.fix else p.problem for p in self.problems)
