"""A model's tokenizer: as transformers loads it, and as a codec from the cache, which needs no torch.

folder -> tokenizer + chat template -> Codec -> cache/codecs/<key>.json -> Codec in milliseconds
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from engine.contract.errors import UserError
from engine.contract.files import replace_text
from engine.data.codec import Codec, choose_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "chat_template*",
    "*.tiktoken", "spiece.model", "sentencepiece*", "config.json",
)  # fmt: skip
"""What a tokenizer is made of, as glob patterns; config.json names its class."""


def load_tokenizer(
    folder: Path, tell: Callable[[str], None], *, chat_template: str = "auto"
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder and give it the chat template that is wanted.

    Args:
        folder: A local model folder.
        tell: Told where the template comes from, if not from the model.
        chat_template: See `data.chat_template` of the recipe.

    Raises:
        UserError: If the folder holds no tokenizer that transformers can read, or there is no such template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        problem = f"The tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}"
        raise UserError(problem, fix="choose a model with tokenizer.json.", field="model_name_or_path") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    own = tokenizer.chat_template
    tokenizer.chat_template = choose_template(chat_template, own if isinstance(own, str) else None)
    if chat_template not in ("auto", "model"):
        tell(f"Chat template: {chat_template}, as the recipe says.")
    elif not own:
        tell("Chat template: MFTCoder's role markers (the tokenizer brings none).")
    return tokenizer


def load_codec(folder: Path, cache: Path, *, chat_template: str = "auto") -> Codec:
    """Return the codec of a model folder, from the cache if its files are the same.

    Args:
        folder: A local folder with the tokenizer's files.
        cache: Where codecs are kept.
        chat_template: See `data.chat_template` of the recipe.

    Raises:
        UserError: If the tokenizer cannot be used, or there is no such template.
    """
    key = hashlib.sha256(f"1 {version('transformers')} {version('tokenizers')} {chat_template}".encode())
    if chat_template not in ("auto", "model", "mftcoder"):
        key.update(choose_template(chat_template, None).encode())
    for path in sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}):
        key.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    file = cache / f"{key.hexdigest()[:32]}.json"
    if (codec := Codec.read(file)) is not None:
        return codec
    codec = Codec.of(load_tokenizer(folder, lambda _: None, chat_template=chat_template))
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_text(file, codec.as_text())
    return codec
