"""What unknown columns may mean: a guess to be shown to people, never applied by itself.

the first records -> by name (`problem`, `solution`) -> by content (exactly two columns of text) -> Columns | None
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.contract.records import TURN_KEYS, Columns

GUESS_FROM = 50
"""Records a guess is made from."""
PROMPT_NAMES = (
    *("prompt", "question", "instruction", "instruct", "query", "problem", "question_text", "problem_statement"),
    *("src", "source", "input", "docstring", "func_documentation_string", "intent", "nl", "user", "human", "request"),
    *(
        "utterance",
        "task",
        "description",
        "context",
        "article",
        "document",
        "问题",
        "提问",
        "题目",
        "指令",
        "提示",
        "输入",
    ),
)
"""Names of what the user says; the earlier one wins."""
COMPLETION_NAMES = (
    *("completion", "response", "answer", "solution", "best_answer", "output", "tgt", "target", "code"),
    *("func_code_string", "canonical_solution", "generated_solution", "assistant", "reply", "snippet", "program"),
    *("sql", "translation", "summary", "highlights", "label", "回答", "答案", "解答", "回复", "输出"),
)
"""Names of what the model shall answer; the earlier one wins."""
SYSTEM_NAMES = ("system", "system_prompt", "system_message", "系统提示", "系统")
TURNS_NAMES = ("messages", "conversation", "conversations", "dialog", "dialogue", "turns", "chat", "对话")
TEXT_NAMES = ("text", "content", "body", "document", "code", "raw_content", "文本", "正文", "内容")
"""Names of plain text, where it is the only column of text."""
_NO_TEXT_NAMES = re.compile(r"(.*_)?(id|uid|uuid|guid|url|uri|hash|sha|sha256|md5|date|time|timestamp|path|index|idx)")
_NO_TEXT = re.compile(r"[\d\s.,:+-]+|[0-9a-f-]{8,}|https?://\S+", re.I)


def guess_columns(records: Sequence[Any]) -> Columns | None:
    """Guess which column means what.

    Args:
        records: Parsed records, at most the first `GUESS_FROM` are looked at; what is no object is left out.

    Returns:
        A mapping for `parse_record`, or None if several would be as good.
    """
    rows = [record for record in records[:GUESS_FROM] if isinstance(record, Mapping) and record]
    names = [name for name in (rows[0] if rows else {}) if isinstance(name, str) and 0 < len(name) <= 256]
    plain = {name: re.sub(r"[\W_]+", "_", name.lower()).strip("_") for name in names}
    turns = [name for name in names if _holds_turns(rows, name)]
    texts = [name for name in names if _holds_text(rows, name, plain[name])]
    if turns:
        known = [name for name in turns if plain[name] in TURNS_NAMES]
        best = known if len(turns) > 1 else turns
        return Columns(messages=best[0]) if len(best) == 1 else None
    system = next((name for name in texts if plain[name] in SYSTEM_NAMES), None)
    texts = [name for name in texts if name != system]
    if len(texts) == 1:
        return Columns(text=texts[0]) if plain[texts[0]] in TEXT_NAMES and not system else None
    pair = _pair_by_name(texts, plain)
    if pair is None and len(texts) == 2:
        pair = (texts[0], texts[1])
    return Columns(prompt=pair[0], completion=pair[1], system=system) if pair else None


def outline(record: Any) -> Any:
    """Return a small copy of a record that is enough to guess from, so that fifty huge ones are not kept."""
    if not isinstance(record, Mapping):
        return None
    small: dict[Any, Any] = {}
    for key in list(record)[:64]:
        value = record[key]
        if isinstance(value, str):
            small[key] = value[:200]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            small[key] = [{name: "" for name in list(value[0])[:16]}]
        else:
            small[key] = None
    return small


def _pair_by_name(texts: Sequence[str], plain: Mapping[str, str]) -> tuple[str, str] | None:
    """Find both sides by name, or one by name if only one other column of text is left."""
    by_plain = {plain[name]: name for name in reversed(texts)}
    prompt = next((by_plain[name] for name in PROMPT_NAMES if name in by_plain), None)
    completion = next((by_plain[name] for name in COMPLETION_NAMES if name in by_plain), None)
    if prompt and completion:
        return prompt, completion
    known = prompt or completion
    others = [name for name in texts if name != known]
    side = PROMPT_NAMES if prompt else COMPLETION_NAMES
    if known is None or len(others) != 1 or plain[others[0]] in side:  # two of a kind: the names do not say
        return None
    return (known, others[0]) if prompt else (others[0], known)


def _holds_text(rows: Sequence[Mapping[str, Any]], name: str, plain: str) -> bool:
    """Whether a column holds text for people in nearly all rows: no numbers, dates, hashes or addresses."""
    if _NO_TEXT_NAMES.fullmatch(plain):
        return False
    values = [row.get(name) for row in rows]
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    wrong = any(value is not None and not isinstance(value, str) for value in values)
    if wrong or len(texts) * 10 < len(rows) * 8:
        return False
    # the answer to a problem may well be a number
    return plain in PROMPT_NAMES + COMPLETION_NAMES or not all(_NO_TEXT.fullmatch(text) for text in texts)


def _holds_turns(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    def is_turns(value: Any) -> bool:
        first = value[0] if isinstance(value, list) and value else None
        return isinstance(first, Mapping) and any(role in first and text in first for role, text in TURN_KEYS)

    return all(is_turns(row.get(name)) for row in rows)
