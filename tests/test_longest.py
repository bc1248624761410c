"""Texts that cannot fit are tokenized in part, where that is proven; every fate and every row that is kept stays the same."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from tutelage.config import parse_config
from tutelage.data import arithmetic, prepare
from tutelage.data.longest import characters_per_token, limit_of
from tutelage.data.templates import encode_texts


def with_long_rows(path, tail: str = "") -> None:
    """Forty rows; of three the response, and of one the prompt, has some 400,000 characters; two of them have equal starts."""
    rows = copy.deepcopy(list(arithmetic.rows("train", 40)))
    words = "some words and 12 numbers. " * 15_000
    for index, end in ((3, "a"), (9, "b"), (12, "a")):
        rows[index]["messages"][0]["content"] = rows[3]["messages"][0]["content"]
        rows[index]["messages"][-1]["content"] = f"{words}{end}"
    rows[20]["messages"][0]["content"] = words + rows[20]["messages"][0]["content"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepared(path, model, tokenizer, limited: bool, monkeypatch, **data):
    with monkeypatch.context() as patch:
        encoded = []
        original = encode_texts

        def counted(tokenizer, texts, begin=False):
            encoded.extend(map(len, texts))
            return original(tokenizer, texts, begin)

        patch.setattr("tutelage.data.recipe.encode_texts", counted)
        patch.setattr("tutelage.data.store.over_cores", lambda function, jobs, shared: (function(shared, job) for job in jobs))
        if not limited:
            patch.setattr("tutelage.data.pool.limit_of", lambda *_: None)
        settings = {"train": str(path), "prompt": "plain", "test_size": 0.2, "filter": False, "max_length": 120, **data}
        return prepare(parse_config({"model": {"id": model}, "data": settings}), tokenizer), encoded


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_long_rows_are_tokenized_in_part_and_every_fate_stays_the_same(
    tmp_path, tiny_model, tokenizer, monkeypatch, duplicates
):
    path = tmp_path / "rows.jsonl"
    with_long_rows(path)
    cut, encoded = prepared(path, tiny_model, tokenizer, True, monkeypatch, duplicates=duplicates)
    full, before = prepared(path, tiny_model, tokenizer, False, monkeypatch, duplicates=duplicates)
    assert max(encoded) == 1025 * characters_per_token(tokenizer) < 50_000 and max(before) > 400_000
    assert [fate.fate for fate in cut.ledger] == [fate.fate for fate in full.ledger] and cut.ledger.counts()["too long"] >= 2
    assert np.array_equal(cut.hashes, full.hashes) and list(cut.train) == list(full.train)
    whys = [fate.why for fate in cut.ledger if fate.fate == "too long"]
    assert all(why.startswith("at least ") and why.endswith(", max_length is 120") for why in whys)
    again, encoded = prepared(path, tiny_model, tokenizer, True, monkeypatch, duplicates=duplicates)
    assert not encoded and again.fingerprint() == full.fingerprint(), "the store of all tokens serves as well"


def test_nothing_is_cut_where_the_tokens_of_a_long_row_count(tiny_model, tokenizer):
    """Its tail is cut off, or the lengths decide `data.max_length`."""
    data = parse_config({"data": {"max_length": 600}}).data
    assert limit_of(data, tokenizer) == 1024
    assert limit_of(data.model_copy(update={"max_length": 1025}), tokenizer) == 4096
    assert limit_of(data.model_copy(update={"truncate": "tail"}), tokenizer) is None
    assert limit_of(data.model_copy(update={"max_length": None}), tokenizer) is None


def test_no_token_stands_for_more_characters_than_the_bound(tokenizer):
    """Random texts, the longest tokens in a row, and characters that NFC composes: as many tokens as the bound says, at least."""
    longest = max(tokenizer.get_vocab(), key=len)
    drawn = random.Random(0)
    texts = ["".join(chr(drawn.choice([32, 97, 0x301, 0x1112, 0x1161, 0x11AB, 0x4E00, 0x1F600, 10])) for _ in range(500)) for _ in range(20)]
    texts += [tokenizer.convert_tokens_to_string([longest] * 50), "a" * 500, " " * 500, "\u03b1\u0313\u0300\u0345" * 100]
    for normalizer in (None, normalizers.NFC(), normalizers.Sequence([normalizers.NFC()])):
        tokenizer.backend_tokenizer.normalizer = normalizer
        bound = characters_per_token(tokenizer)
        assert bound == len(longest) * (1 if normalizer is None else 4)
        for text in texts:
            assert len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids) * bound >= len(text)


def spoilt(change):
    def spoil(tokenizer):
        change(tokenizer.backend_tokenizer)
        return tokenizer

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        spoilt(lambda backend: setattr(backend, "normalizer", normalizers.Strip())),
        spoilt(lambda backend: setattr(backend, "normalizer", normalizers.Replace("ab", "a"))),
        spoilt(lambda backend: setattr(backend, "normalizer", normalizers.Sequence([normalizers.NFKC()]))),
        spoilt(lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Whitespace())),
        spoilt(lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.Split(" ", "removed"))),
        spoilt(lambda backend: backend.enable_truncation(10)),
        spoilt(lambda backend: backend.add_tokens([AddedToken("<wide>", rstrip=True)])),
        spoilt(lambda backend: setattr(backend, "model", models.WordLevel({"a": 0, "?": 1}, unk_token="?"))),
        spoilt(lambda backend: setattr(backend, "model", models.BPE({"a": 0, "b": 1}, []))),
    ],
)
def test_of_a_tokenizer_that_may_lose_characters_nothing_is_known(tokenizer, spoil):
    assert characters_per_token(tokenizer) is not None
    assert characters_per_token(spoil(tokenizer)) is None


def test_a_chat_models_tokenizer_is_known_from_its_description():
    """Llama's: spaces become "▁", bytes are tokens."""
    from types import SimpleNamespace

    described = {
        "model": {"type": "BPE", "byte_fallback": True, "vocab": {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁▁▁▁▁▁▁▁▁▁": 256}},
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None, "added_tokens": [], "truncation": None,
    }  # fmt: skip
    known = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=lambda: json.dumps(described)))
    assert characters_per_token(known) == 10
    assert characters_per_token(SimpleNamespace()) is None
