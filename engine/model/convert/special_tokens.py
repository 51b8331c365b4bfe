"""The special tokens of an old tokenizer: which there are, where they stand, what plays which part, the chat template.

tokenizer_config.json, special_tokens_map.json, added_tokens.json, generation_config.json -> Special
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.contract.files import read_json

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
DEFAULT_ROLES: dict[str, dict[str, str]] = {
    "qwen": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "baichuan": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"},
    "chatglm": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"},
    "aquila": {"eos_token": "</s>"},
    "internlm": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"},
    "internlm2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"},
}
"""What the families' own classes take where the files are silent."""
STARTS_WITH_BOS = frozenset({"baichuan", "internlm", "internlm2"})
"""Families whose classes put the first token unless `add_bos_token` says no."""
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
"""Behind the ranks of qwen.tiktoken, in this order."""
CHATGLM_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
"""Behind the pieces of ChatGLM2.  Its last two are called sop and eop: as text of a fast tokenizer these would be cut
out of "philosophy" and "people", so they have the names that GLM-4 gives them."""
CHATGLM3_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATGLM3 = (
    "{{ '[gMASK]<sop>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>\\n ' + message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n ' }}{% endif %}"
)
BAICHUAN2 = (
    "{%% for message in messages %%}{%% if message['role'] == 'system' %%}{{ message['content'] }}"
    "{%% elif message['role'] == 'user' %%}{{ '%s' + message['content'] }}"
    "{%% else %%}{{ '%s' + message['content'] + eos_token }}{%% endif %%}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '%s' }}{%% endif %%}"
)


@dataclass(slots=True, kw_only=True)
class Special:
    """The special tokens of one tokenizer."""

    roles: dict[str, str]
    """bos_token, eos_token, unk_token, pad_token -> text."""
    by_id: dict[int, str] = field(default_factory=dict)
    """Tokens whose place the files name."""
    appended: tuple[str, ...] = ()
    """Tokens that follow the vocabulary in this order."""
    prefix: tuple[str, ...] = ()
    """Tokens before every text."""
    stops: tuple[str, ...] = ()
    """Tokens that end an answer, besides eos_token."""
    chat_template: str | None = None


def special_tokens(folder: Path, model_type: str) -> Special:
    """Read what the files of a tokenizer say, and add what its own class knew."""
    config = _object(folder / "tokenizer_config.json")
    mapped = _object(folder / "special_tokens_map.json")
    roles = dict(DEFAULT_ROLES[model_type])
    for role in ROLES:
        if text := _text(config.get(role)) or _text(mapped.get(role)):
            roles[role] = text
    found = Special(roles=roles)
    found.by_id = {
        int(key): text for key, item in _dict(config, "added_tokens_decoder").items() if (text := _text(item))
    }
    found.by_id |= {int(key): text for text, key in _object(folder / "added_tokens.json").items()}
    template, file = config.get("chat_template"), folder / "chat_template.jinja"
    found.chat_template = template if isinstance(template, str) else None
    if file.is_file():
        found.chat_template = file.read_text(encoding="utf-8")
    if model_type in STARTS_WITH_BOS and config.get("add_bos_token", True) and "bos_token" in roles:
        found.prefix = (roles["bos_token"],)
    generation = _object(folder / "generation_config.json")
    if model_type == "qwen":
        found.appended = QWEN_TOKENS
        if generation.get("chat_format") == "chatml":
            found.chat_template, found.stops = found.chat_template or CHATML, ("<|im_end|>",)
    if model_type == "chatglm":
        text = "".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("tokenization_*.py")))
        found.appended, found.prefix, found.by_id = CHATGLM_TOKENS, ("[gMASK]", "<sop>"), {}
        if CHATGLM3_TOKENS[1] in text or CHATGLM3_TOKENS[1] in str(config):
            found.appended += CHATGLM3_TOKENS
            found.stops, found.chat_template = ("<|user|>", "<|observation|>"), found.chat_template or CHATGLM3
    return found


def baichuan_template(generation: Mapping[str, Any], text_of: Any) -> str | None:
    """Return the chat template of a Baichuan chat model, whose generation_config.json names the ids of its roles."""
    user, assistant = generation.get("user_token_id"), generation.get("assistant_token_id")
    if not isinstance(user, int) or not isinstance(assistant, int):
        return None
    return BAICHUAN2 % (text_of(user), text_of(assistant), text_of(assistant))


def _text(value: object) -> str:
    """Return the text of a token, given as text or as an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def _dict(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}
