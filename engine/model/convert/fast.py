"""An old family's tokenizer in the fast format, written once and compared with the library that it was made for.

    tokenizer.json | qwen.tiktoken | tokenizer.model | vocab.json + merges.txt  ->  tokenizer.json

Token ids and texts must be those of tiktoken or sentencepiece on the probes below and on pieces of the vocabulary
itself, also after the new folder is loaded as a run loads it.  Otherwise the conversion is refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError
from engine.contract.files import read_json
from engine.model.convert.special_tokens import Special, baichuan_template, special_tokens

PROBES = (
    "Hello world", " leading", "trailing ", "two  three   many      blanks", "\ttab\n\nlines\r\n  indented",
    "def f(x):\n    return x ** 2  # square\n", "1234567890 3.14159 1e-4", "It's we'll THEY'RE", "philosophy of people",
    "中文分词，测试一下。", "日本語とかな 한국어 кириллица العربية", "naïve café ﬁne ① ½",
    "a😀b👩‍👩‍👧c", "x\u00a0y\u3000z",
    "https://example.org/?q=1&r=%20", "{}[]()<>!@#$%^&*_+-=|\\;:'\",./?`~", "\x00\x07", "",
)  # fmt: skip
SAMPLED = 400
"""Texts made of random pieces of the vocabulary, besides the probes."""
PIECES_EACH = 5

Ids = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A fast tokenizer and what it is compared with."""

    tokenizer: Any
    """`tokenizers.Tokenizer`"""
    reference: Ids | None
    """Ids of a text by the library the files are for; None where the files are the fast format's own."""
    decoded: Callable[[list[int]], str] | None
    """Text of ids by the library; None if every text must come back as it was."""
    made_from: str
    text_of: Callable[[int], str]


def convert_tokenizer(source: Path, target: Path, model_type: str) -> tuple[Any, Special, str]:
    """Write the tokenizer of `source` into `target`.

    Returns:
        The tokenizer as transformers loads it, its special tokens, and a sentence about the comparison.

    Raises:
        UserError: If the files have no fast form, or it would give other tokens.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    special = special_tokens(source, model_type)
    made = _make(source, special)
    if special.chat_template is None and model_type == "baichuan":
        generation = read_json(source / "generation_config.json")
        special.chat_template = baichuan_template(generation if isinstance(generation, dict) else {}, made.text_of)
    known = made.tokenizer.get_vocab()
    special.roles = {role: text for role, text in special.roles.items() if text in known}
    special.stops = tuple(text for text in special.stops if text in known)
    if "eos_token" not in special.roles:
        fix = "name the eos_token in its tokenizer_config.json; it must be in the vocabulary."
        raise UserError(f"The tokenizer of {source} has no token that ends a text.", fix=fix)
    _put_prefix(made.tokenizer, special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made.tokenizer, clean_up_tokenization_spaces=False, padding_side="left", **special.roles
    )
    if special.chat_template:
        fast.chat_template = special.chat_template
    fast.save_pretrained(target)
    loaded = AutoTokenizer.from_pretrained(target, trust_remote_code=False)
    return loaded, special, _compare(loaded, made, source)


def _make(source: Path, special: Special) -> Made:
    """Build the fast tokenizer from whatever files there are."""
    from tokenizers import Tokenizer

    if (source / "tokenizer.json").is_file():
        found = Tokenizer.from_file(str(source / "tokenizer.json"))
        special.prefix = ()  # the file says itself what comes before a text
        return Made(
            tokenizer=found,
            reference=None,
            decoded=lambda ids: found.decode(ids, skip_special_tokens=False),
            made_from="tokenizer.json",
            text_of=found.id_to_token,
        )
    if files := sorted(source.glob("*.tiktoken")):
        return _from_tiktoken(files[0], special)
    if (source / "tokenizer.model").is_file():
        return _from_sentencepiece(source / "tokenizer.model", special)
    if (source / "vocab.json").is_file() and (source / "merges.txt").is_file():
        return _from_pairs(source, special)
    raise UserError(
        f"{source} holds no tokenizer that has a fast form.",
        fix="put tokenizer.json, *.tiktoken, tokenizer.model, or vocab.json with merges.txt of the model into it.",
    )


def _needs(package: str, file: Path) -> UserError:
    fix = "pip install -r requirements-convert.txt"
    return UserError(f"{file.name} is read and checked with {package}, which is not installed.", fix=fix)


def _from_tiktoken(path: Path, special: Special) -> Made:
    """Qwen's byte pairs: their ranks are their ids, and the native qwen2 tokenizer splits text as Qwen did."""
    import unicodedata

    try:
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe
    except ImportError:
        raise _needs("tiktoken", path) from None
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import TikTokenConverter
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    try:
        ranks = load_tiktoken_bpe(str(path))
        old = tiktoken.Encoding(path.stem, pat_str=PRETOKENIZE_REGEX, mergeable_ranks=ranks, special_tokens={})
        vocabulary, merges = TikTokenConverter().extract_vocab_merges_from_model(str(path))
    except ValueError as error:
        raise UserError(f"{path} is no tiktoken file: {error}.", fix="download it again.") from None
    # from a file of their own, for the class wants its special tokens inside the vocabulary
    fast = Qwen2Tokenizer(vocab=vocabulary, merges=merges).backend_tokenizer
    fast = _without_added(fast)
    fast.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special.appended])
    return Made(
        tokenizer=fast,
        reference=lambda text: old.encode_ordinary(unicodedata.normalize("NFC", text)),
        decoded=old.decode,
        made_from=f"{path.name}, compared with tiktoken",
        text_of=fast.id_to_token,
    )


def _without_added(fast: Any) -> Any:
    """Return a copy that has the same model and steps but no added tokens."""
    from tokenizers import Tokenizer

    plain = Tokenizer(fast.model)
    plain.normalizer, plain.pre_tokenizer, plain.decoder = fast.normalizer, fast.pre_tokenizer, fast.decoder
    return plain


def _from_sentencepiece(path: Path, special: Special) -> Made:
    try:
        import sentencepiece

        from engine.model.convert.spm import fast_tokenizer, read_pieces

        found = read_pieces(path)
    except ImportError:
        raise _needs("sentencepiece and protobuf", path) from None
    size = len(found.pieces)
    behind = sorted((i, text) for i, text in special.by_id.items() if i >= size)
    if [i for i, _ in behind] != list(range(size, size + len(behind))):
        problem = f"The added tokens of {path.parent} do not follow its {size} pieces without a gap."
        raise UserError(problem, fix="put the model's own added_tokens.json and tokenizer_config.json into it.")
    renamed = {i: text for i, text in special.by_id.items() if i < size and text != found.pieces[i].piece}
    appended = [text for _, text in behind] or list(special.appended)
    fast = fast_tokenizer(found, renamed, dict.fromkeys(appended, True))
    old = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return Made(
        tokenizer=fast,
        reference=old.encode,
        decoded=lambda ids: "" if old.unk_id() in ids else old.decode(ids),
        made_from=f"{path.name}, compared with sentencepiece",
        text_of=fast.id_to_token,
    )


def _from_pairs(source: Path, special: Special) -> Made:
    """GPT-2's format, which the fast library reads itself."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    try:
        fast = Tokenizer(BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt")))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more exact
        raise UserError(
            f"vocab.json and merges.txt of {source} cannot be read: {error}.", fix="download them."
        ) from None
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    texts = [text for _, text in sorted(special.by_id.items())]
    for text in dict.fromkeys([*texts, *special.roles.values()]):
        fast.add_special_tokens([AddedToken(text, normalized=False, special=True)])
    if wrong := [text for i, text in special.by_id.items() if fast.token_to_id(text) != i]:
        problem = f"The added token {wrong[0]} of {source} does not follow its vocabulary."
        raise UserError(problem, fix="put the model's own vocab.json and added_tokens.json into it.")
    return Made(
        tokenizer=fast, reference=None, decoded=None, made_from="vocab.json and merges.txt", text_of=fast.id_to_token
    )


def _put_prefix(fast: Any, special: Special) -> None:
    """Let every text begin with the family's first tokens."""
    from tokenizers.processors import TemplateProcessing

    ids = [(text, fast.token_to_id(text)) for text in special.prefix]
    if ids:
        one = [*special.prefix, "$A"]
        fast.post_processor = TemplateProcessing(single=one, pair=[*one, "$B"], special_tokens=ids)


def _compare(loaded: Any, made: Made, source: Path) -> str:
    """Refuse a tokenizer that gives other ids or another text than the reference, or does not give a text back."""

    def refuse(what: str) -> UserError:
        problem = f"The tokenizer of {source} has no exact fast form: {what}."
        return UserError(problem, fix="choose a model with tokenizer.json, and report this with the model's name.")

    texts = [*PROBES, *_sampled(made)]
    for text in texts:
        ids = loaded.encode(text, add_special_tokens=False)
        own = made.tokenizer.encode(text, add_special_tokens=False).ids
        wanted = made.reference(text) if made.reference else own
        if ids != wanted:
            at = next((i for i, pair in enumerate(zip(ids, wanted, strict=False)) if pair[0] != pair[1]), len(wanted))
            raise refuse(f"token {at + 1} of {text!r} would be {ids[at : at + 3]}, it is {wanted[at : at + 3]}")
        back = loaded.decode(ids)
        expected = made.decoded(ids) if made.decoded else text
        if expected and back != expected:
            raise refuse(f"{text!r} would come back as {back!r}, not {expected!r}")
    return f"tokenizer from {made.made_from} on {len(texts)} texts"


def _sampled(made: Made) -> Iterator[str]:
    """Yield texts that are made of pieces of the vocabulary, the same ones every time."""
    chance, size = random.Random(0), made.tokenizer.get_vocab_size(with_added_tokens=False)
    added = {token.content for token in made.tokenizer.get_added_tokens_decoder().values()}
    for _ in range(SAMPLED):
        ids = [chance.randrange(size) for _ in range(PIECES_EACH)]
        ids = [i for i in ids if made.tokenizer.id_to_token(i) not in added]
        text = made.tokenizer.decode(ids, skip_special_tokens=False)
        if not any(token in text for token in added):
            yield text
