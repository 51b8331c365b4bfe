"""What a chat template prints around the messages, worked out once per sequence of roles.

    roles (user, assistant) -> template run on placeholders -> prompt and answer with holes -> filled per example

Running the template costs more than all the rest of encoding together, and for nearly every example it prints the same
around the same roles.  A shape is used only where that is sure: the template must not do anything with a message but
print it, strip it, or look for words in it, and the message must hold none of those words, begin and end without white
space, and call no tools.  Everything else goes through the template.  A sample of each chunk is compared with the
template itself (`engine.data.store`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import Environment, TemplateSyntaxError, nodes

from engine.contract.records import Message

HARMLESS_FILTERS = frozenset(
    {"trim", "tojson", "length", "count", "list", "string", "items", "selectattr", "rejectattr"}
)
HARMLESS_METHODS = frozenset({"strip", "lstrip", "rstrip", "startswith", "endswith", "split", "items", "get", "append"})
ROLES = frozenset({"role", "content", "system", "user", "assistant", "tool", "messages", "tools", "name"})
"""Compared with roles and used as keys, never looked for in a text."""
HARMLESS_FUNCTIONS = frozenset({"raise_exception", "namespace", "range", "dict"})
_OPEN, _CLOSE = "\ue010", "\ue011"
_HOLE = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


def words_looked_for(chat_template: str) -> tuple[str, ...] | None:
    """Return the strings a template may look for in a message, or None if it may do more than look.

    Args:
        chat_template: Jinja.
    """
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(chat_template)
    except TemplateSyntaxError:
        return None  # it uses more than plain Jinja
    for node in tree.find_all((nodes.Filter, nodes.Call, nodes.Test)):
        if isinstance(node, nodes.Filter) and node.name not in HARMLESS_FILTERS:
            return None
        if isinstance(node, nodes.Call) and not _is_harmless(node):
            return None
    for item in tree.find_all(nodes.Getitem):
        by_place = isinstance(item.arg, nodes.Slice) or (
            isinstance(item.arg, nodes.Const) and _is_number(item.arg.value)
        )
        if by_place and not _is_list(item.node):
            return None  # it may print a part of a text
    words = set[str]()
    for compare in tree.find_all(nodes.Compare):
        for expression in (compare.expr, *(operand.expr for operand in compare.ops)):
            words |= _texts(expression)
    for call in tree.find_all((nodes.Call, nodes.Test)):
        words |= {text for argument in call.args or () for text in _texts(argument)}
    return tuple(sorted(word for word in words - ROLES if word.strip()))


def _texts(expression: nodes.Node) -> set[str]:
    """Return the strings written in an expression."""
    consts = [expression] if isinstance(expression, nodes.Const) else expression.find_all(nodes.Const)
    return {const.value for const in consts if isinstance(const.value, str)}


def _is_harmless(call: nodes.Call) -> bool:
    if isinstance(call.node, nodes.Name):
        return call.node.name in HARMLESS_FUNCTIONS
    if not isinstance(call.node, nodes.Getattr) or call.node.attr not in HARMLESS_METHODS:
        return False
    # what is looked for must be a word of its own: `split("\n")` would cut nearly every message
    texts = [argument.value for argument in call.args if isinstance(argument, nodes.Const)]
    looks = call.node.attr in ("split", "startswith", "endswith")
    return not looks or (bool(texts) and all(isinstance(t, str) and len(t.strip()) > 1 for t in texts))


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(node: nodes.Node) -> bool:
    """Whether an expression is surely no text: the messages, or what `split` makes of one that holds no such word."""
    if isinstance(node, nodes.Call):
        return isinstance(node.node, nodes.Getattr) and node.node.attr == "split"
    return isinstance(node, nodes.Name) and "messages" in node.name


def can_fill(messages: Sequence[Message], words: Sequence[str]) -> bool:
    """Whether the shape of these roles says exactly what the template would print."""
    for message in messages:
        content = message.content
        if not content or content[0].isspace() or content[-1].isspace() or _is_more_than_text(message):
            return False
        for word in words:  # a plain loop: half the time of any()
            if word in content:
                return False
    return True


def _is_more_than_text(message: Message) -> bool:
    return bool(message.tool_calls or message.name)


def placeholders(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with a numbered hole in place of each text."""
    return [Message(message.role, f"{_OPEN}{number}{_CLOSE}") for number, message in enumerate(messages)]


def parts_of(text: str) -> tuple[str | int, ...]:
    """Split a rendered text with holes into strings and the numbers of messages."""
    return tuple(
        int(part) if number % 2 else part for number, part in enumerate(_HOLE.split(text)) if part or number % 2
    )


def fill(parts: Sequence[str | int], messages: Sequence[Message]) -> str:
    """Put the messages into their holes."""
    return "".join(part if isinstance(part, str) else messages[part].content for part in parts)
