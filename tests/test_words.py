"""Looking words up gives the ids that the tokenizer gives."""

from __future__ import annotations

import random

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tutelage.data.templates.words import PROOF, Words

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|\s?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT_OSS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = "A conversation. The user asks a question, and the assistant thinks about it.\nUser: What is 17 + 4? And then, what of the rest? "


def byte_level(pattern: str | None, **options) -> PreTrainedTokenizerFast:
    """A byte-level BPE with some merges, so that ids of letters depend on their neighbours."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for a in "aeiotnĠ" for b in "aeiotn0123"]
    vocabulary = {token: index for index, token in enumerate([*letters, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=options.get("add_prefix_space", False), use_regex=pattern is None)
    steps = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, level]) if steps else level
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", additional_special_tokens=["<think>"])


def texts(count: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    letters = " \n\t\r'sdtmlvreation0123456ABCXYZ.,;:!?()[]{}\\$^_-+=/\"<>|@#%&*~`"
    made = ["".join(chosen.choices(letters, k=chosen.randrange(80))) for _ in range(count)]
    return [*made, *(text[:20] + chosen.choice(["é", "√2", "“", "<think>", "<|end|>", "\x1c", "\x85"]) + text[20:] for text in made[:200])]


@pytest.mark.parametrize("pattern", [None, QWEN, LLAMA, GPT_OSS], ids=["gpt2", "qwen", "llama", "gpt-oss"])
def test_looked_up_words_are_the_tokenizers_ids(pattern):
    tokenizer = byte_level(pattern)
    words = Words(tokenizer)
    assert words.cut is not None, "this tokenizer is one whose words are looked up"
    for some in (texts(1500, 1), [TEMPLATE + text for text in texts(1500, 2)], ["a", "a b"], ["same"] * 3, [""]):
        assert words.encode(some) == tokenizer(some, add_special_tokens=False).input_ids


def test_other_tokenizers_encode_by_themselves():
    for tokenizer in (byte_level(None, add_prefix_space=True), byte_level(r"(a)|\p{L}+|."), byte_level(r"\p{Han}+|.")):
        words = Words(tokenizer)
        assert words.cut is None
        assert words.encode(["It is 4.", ""]) == tokenizer(["It is 4.", ""], add_special_tokens=False).input_ids


def test_a_wrong_look_up_does_not_go_unseen():
    words = Words(byte_level(QWEN))
    some = ["one two"] * (2 * PROOF)
    words.encode(some)
    words.known[" two"] = (1, 2, 3)
    with pytest.raises(AssertionError, match="one two"):
        words.encode(some)
