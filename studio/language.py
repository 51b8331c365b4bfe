"""Chinese for every sentence of the studio and the engine: one catalogue, applied where a page shows a sentence.

    studio/text/zh/*.json: {"Run {} is starting.": "运行 {1} 正在启动。"} -> /studio/text/zh.json -> assets/language.js

The key is the English sentence as the code writes it, with `{}` for every value.  In the translation `{1}` is the
first value as it is, `{1t}` the same translated in its turn: a reason, a word of ours, never a name or data.
`scripts/sentences.py --missing` lists what has no translation yet; studio/text/never_shown.json what needs none: names,
numbers, commands, code, and what only programs that call the endpoint read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

TEXT = Path(__file__).parent / "text"
LANGUAGES = ("zh",)
"""Besides English."""
VALUE = re.compile(r"\{(\d?)(t?)\}")


def catalogue(language: str = "zh") -> dict[str, str]:
    """Return every sentence of a language by its English.

    Raises:
        ValueError: If a file of ours has a sentence twice, or a translation uses other values than its key.
    """
    found: dict[str, str] = {}
    for file in sorted((TEXT / language).glob("*.json")):
        for english, translated in json.loads(file.read_text(encoding="utf-8")).items():
            if english in found and found[english] != translated:
                raise ValueError(f"{file.name}: {english!r} has two translations")
            if not fits(english, translated):
                raise ValueError(f"{file.name}: {translated!r} does not use the values of {english!r}")
            found[english] = translated
    return found


def fits(english: str, translated: str) -> bool:
    """Whether a translation uses each value of its key, by number, and no other; an English plural (`row{}`) may go."""
    used = {number for number, _ in VALUE.findall(translated)}
    parts = english.split("{}")[:-1]
    known = {str(index + 1) for index in range(len(parts))}
    plurals = {str(index + 1) for index, part in enumerate(parts) if part[-1:].isalpha()}
    return known - plurals <= used <= known


def add_catalogues(app: FastAPI) -> None:
    """Add `/studio/text/<language>.json` to the application; read once, so that a broken file is known at the start."""
    known = {language: catalogue(language) for language in LANGUAGES}

    @app.get("/studio/text/{language}.json")
    def text(language: str) -> Response:
        return JSONResponse(known.get(language, {}), headers={"cache-control": "no-cache"})
