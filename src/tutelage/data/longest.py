"""Texts that cannot fit: of a sequence that is longer than any that is trained on, the start alone is tokenized.

That is exact, for it only decides what is left out anyway: a tokenizer that loses no character needs at least
``characters / characters of its longest token`` tokens for a text. Of other tokenizers nothing is known, and all is tokenized.
"""

from __future__ import annotations

import functools
import json
from typing import Any

from tutelage.config import DataConfig

SHORTEST_LIMIT, WIDER = 1024, 4
"""Limits are 1,024 tokens, and so many times more: stores of rows are shared by all `data.max_length` below the same limit."""
COMPOSED = 4
"""Characters that NFC makes one of, at most."""
KEEPS_ALL = {"ByteLevel", "Digits", "Metaspace", "Prepend"}
"""Steps before the model that lose no character, whatever their arguments."""


def limit_of(data: DataConfig, tokenizer: Any) -> int | None:
    """Tokens that no sequence may have which is trained on, `data.max_length` or some more; None: that is not known.

    A tail that is cut off leaves the start of a row, whose tokens depend on how the row goes on.
    """
    if data.max_length is None or data.truncate != "drop" or characters_per_token(tokenizer) is None:
        return None
    limit = SHORTEST_LIMIT
    while limit < data.max_length:
        limit *= WIDER
    return limit


def characters_per_token(tokenizer: Any) -> int | None:
    """Characters of a text that a token stands for, at most; None: it may be any number."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else _characters_per_token(backend.to_str())


@functools.lru_cache(maxsize=4)
def _characters_per_token(described: str) -> int | None:
    parts = json.loads(described)
    model = parts["model"]
    if model["type"] != "BPE" or parts["truncation"] is not None:  # others have a token for what they do not know, of any length
        return None
    before = [*_steps(parts["normalizer"]), *_steps(parts["pre_tokenizer"])]
    if not all(_keeps_all(step) for step in before):
        return None
    if any(token["lstrip"] or token["rstrip"] for token in parts["added_tokens"]):  # it takes the white space beside it
        return None
    if not _knows_every_byte(model, any(step["type"] == "ByteLevel" for step in before)):
        return None
    longest = max(len(token) for token in [*model["vocab"], *(token["content"] for token in parts["added_tokens"])])
    return longest * (COMPOSED if any(step["type"] == "NFC" for step in before) else 1)


def _knows_every_byte(model: dict[str, Any], byte_level: bool) -> bool:
    """Whether the model has a token for each byte, so that none of them is skipped, or becomes part of an unknown token."""
    from tokenizers.pre_tokenizers import ByteLevel

    names = ByteLevel.alphabet() if byte_level else [f"<0x{byte:02X}>" for byte in range(256)] if model.get("byte_fallback") else [""]
    return all(name in model["vocab"] for name in names)


def _steps(step: Any) -> list[dict[str, Any]]:
    """A normalizer, or a pre-tokenizer, as the steps that it is made of."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [each for part in step.get("normalizers", step.get("pretokenizers")) for each in _steps(part)]
    return [step]


def _keeps_all(step: dict[str, Any]) -> bool:
    kind = step["type"]
    if kind in ("Split", "Punctuation"):
        return str(step["behavior"]) != "Removed"
    if kind == "Replace":
        pattern = step["pattern"].get("String")
        return pattern is not None and len(step["content"]) >= len(pattern)
    return kind in KEEPS_ALL or kind == "NFC"
