"""A Modelfile for a GGUF: Ollama's template language is Go's, so the chat template is written anew and checked.

    chat template on placeholders -> what it prints around each role -> Go template -> same text on longer talks?

A template whose turns do not always look the same gets no TEMPLATE; Ollama then falls back on the one in the GGUF.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.data.codec import Codec, TemplateRefusal

HOLE = "\ue012"
"""Stands for a text; no template looks for it."""


@dataclass(frozen=True, slots=True)
class Turns:
    """What a chat template prints around each role."""

    default: str
    """In front of a talk without a system message."""
    around: dict[str, tuple[str, str]]
    """Role -> before and after its text."""
    asks: str
    """What makes the model answer."""

    def render(self, roles: list[str]) -> str:
        """Return a talk of these roles with holes for texts, as the Go template prints it."""
        turns = "".join(HOLE.join(self.around[role]) for role in roles)
        return ("" if roles[0] == "system" else self.default) + turns + self.asks

    def go(self) -> str:
        """Return the Go template."""
        system, user, answer = (
            f"{before}{{{{ .Content }}}}{after}"
            for before, after in (self.around[role] for role in ("system", "user", "assistant"))
        )
        start = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{self.default}{{{{ end }}}}' if self.default else ""
        choice = f'{{{{ if eq .Role "system" }}}}{system}{{{{ else if eq .Role "user" }}}}{user}'
        return f"{start}{{{{ range .Messages }}}}{choice}{{{{ else }}}}{answer}{{{{ end }}}}{{{{ end }}}}{self.asks}"


def turns_of(codec: Codec) -> Turns | None:
    """Return what a template prints around the roles, or None if that is not always the same."""

    def text(roles: str, *, asks: bool = False) -> str:
        names = {"s": "system", "u": "user", "a": "assistant"}
        messages = [{"role": names[letter], "content": HOLE} for letter in roles]
        bos = codec.variables.get("bos_token", "") if codec.prefix_ids else ""
        rendered = codec.render(messages, add_generation_prompt=asks)
        return rendered.removeprefix(bos) if bos else rendered  # the tokenizer puts it there itself

    try:
        system_end, user_end, answer_end = [text(roles).split(HOLE)[-1] for roles in ("s", "su", "sua")]
        parts = text("suau", asks=True).split(HOLE)
        alone = text("u", asks=True).split(HOLE)
    except (TemplateRefusal, IndexError):
        return None
    if len(parts) != 5 or len(alone) != 2 or not parts[1].startswith(system_end) or not parts[2].startswith(user_end):
        return None
    user = parts[1].removeprefix(system_end)
    around = {
        "system": (parts[0], system_end),
        "user": (user, user_end),
        "assistant": (parts[2].removeprefix(user_end), answer_end),
    }
    turns = Turns(alone[0].removesuffix(user), around, parts[4].removeprefix(user_end))
    names = {"s": "system", "u": "user", "a": "assistant"}
    try:
        same = all(
            text(roles, asks=True) == turns.render([names[letter] for letter in roles])
            for roles in ("u", "su", "uau", "suau", "uauauau", "suauau")
        )
    except TemplateRefusal:
        return None
    writable = not any(sign in turns.render(["user", "assistant", "system"]) for sign in ('"""', "{{", "}}"))
    return turns if same and writable else None


def modelfile(file: str, codec: Codec) -> str:
    """Return a Modelfile for a GGUF file beside it."""
    lines = [f"FROM ./{file}"]
    if turns := turns_of(codec):
        lines.append(f'TEMPLATE """{turns.go()}"""')
    stop = codec.variables.get("eos_token", "")
    if stop and '"' not in stop and "\n" not in stop:
        lines.append(f'PARAMETER stop "{stop}"')
    return "\n".join(lines) + "\n"
