"""A sentencepiece model as a fast tokenizer.

    tokenizer.model -> pieces, scores, normalization -> BPE or Unigram of the tokenizers library

Before any text, and after each special token, sentencepiece's leading blank is put, as the families' own code did by
encoding the parts of a chat one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram

from engine.contract.errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Kinds of pieces in sentencepiece's file."""
UNIGRAM, PAIRS = 1, 2
"""Kinds of models."""
BLANK = "▁"


def read_pieces(path: Path) -> Any:
    """Return sentencepiece's description of a model, a `ModelProto`.

    Raises:
        UserError: If the file is none, or of a kind that has no fast form.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    found = sentencepiece_model_pb2.ModelProto()
    try:
        found.ParseFromString(path.read_bytes())
    except DecodeError:
        raise UserError(f"{path} is no sentencepiece model.", fix="download it again.") from None
    if found.trainer_spec.model_type not in (UNIGRAM, PAIRS):
        raise UserError(f"{path} is of words or characters, which has no fast form.", fix="choose another model.")
    return found


def fast_tokenizer(found: Any, renamed: Mapping[int, str], added: Mapping[str, bool]) -> Tokenizer:
    """Build the fast tokenizer.

    Args:
        found: What `read_pieces` returned.
        renamed: Id -> text of special tokens that took the place of a reserved piece.
        added: Tokens behind the last piece, in order, and whether each is special.
    """
    from transformers.convert_slow_tokenizer import generate_merges

    trainer = found.trainer_spec
    pieces = [(renamed.get(i, item.piece), item.score) for i, item in enumerate(found.pieces)]
    if trainer.model_type == PAIRS:
        vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
        skip = [piece for (piece, _), item in zip(pieces, found.pieces, strict=True) if item.type != NORMAL]
        tokenizer = Tokenizer(
            BPE(
                vocab=vocabulary,
                merges=generate_merges(vocabulary, dict(pieces), skip),
                unk_token=pieces[trainer.unk_id][0],
                fuse_unk=True,
                byte_fallback=trainer.byte_fallback,
            )
        )
    else:
        tokenizer = Tokenizer(Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback))
    tokenizer.normalizer = _normalizer(found.normalizer_spec)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(content=" ", left=1)] if found.normalizer_spec.add_dummy_prefix else []),
        ]
    )
    for i, item in enumerate(found.pieces):
        if i in renamed or item.type in (UNKNOWN, CONTROL, USER_DEFINED):
            special = i in renamed or item.type != USER_DEFINED
            tokenizer.add_tokens([AddedToken(pieces[i][0], normalized=False, special=special)])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=special) for text, special in added.items()])
    return tokenizer


def _normalizer(spec: Any) -> Any:
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(left=True, right=True), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(BLANK))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", BLANK)])
