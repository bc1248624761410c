"""Special tokens of content are text, those of markup are tokens, and all else has the ids that it always has."""

from __future__ import annotations

import pickle
import random

import pytest
from chat_templates import SPECIALS, tokenizer_of
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tutelage.data import encode_prompt, encode_response, encode_texts, plain, protect, special_tokens
from tutelage.data.shapes.reader import BadRow
from tutelage.data.templates.marks import MARK, TAGS, protect_all, strip_end

LETTERS = "▁<>/|sabcdefghijklmnopqrtuvwxyz_+=?.[]INST0123456789"


def metaspace(scheme: str, rstrip: bool = False) -> PreTrainedTokenizerFast:
    """As sentencepiece: a space is a character of its own, and one is put before the text, or before each part of it."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{letter: index + 3 for index, letter in enumerate(dict.fromkeys(LETTERS))}}
    vocabulary |= {"▁a": 90, "he": 91}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a"), ("h", "e")], unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    bpe.decoder = decoders.Metaspace(prepend_scheme=scheme)
    end = AddedToken("</s>", special=True, rstrip=rstrip, normalized=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token=end, unk_token="<unk>")


def llama2() -> PreTrainedTokenizerFast:
    """As the first fast tokenizers of Llama 2: normalizers make the spaces, before each part of a text."""
    tokenizer = metaspace("always")
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


KINDS = {
    "byte level": lambda: tokenizer_of("qwen3"),
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "space behind the end": lambda: metaspace("first", rstrip=True),
    "llama 2": llama2,
}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_marks_have_the_ids_they_always_had(kind):
    tokenizer = KINDS[kind]()
    texts = ["the sum of a and b", "", "a <s> b </s> c", " a", "<|im_start|>user\nhe<|im_end|>\n"]
    assert encode_texts(tokenizer, texts) == [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert encode_texts(tokenizer, []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_of_content_is_text_and_those_beside_it_are_tokens(kind):
    tokenizer = KINDS[kind]()
    end, end_id = tokenizer.eos_token, tokenizer.eos_token_id
    content = protect(f"a {end} he", special_tokens(tokenizer))
    ids = encode_response(tokenizer, f"a he{end}{content}{end} a")
    assert ids.count(end_id) == 2
    middle = ids[ids.index(end_id) + 1 : len(ids) - 1 - ids[::-1].index(end_id)]
    assert tokenizer.decode(middle).strip() == plain(content)
    # what stands around the content has the ids that it has beside any other text
    other = tokenizer.encode(f"a he{end}a zzz he{end} a", add_special_tokens=False)
    assert ids[: ids.index(end_id) + 2] == other[: other.index(end_id) + 2]
    assert ids[-2:] == other[-2:]


@pytest.mark.parametrize("kind", KINDS)
def test_any_mixture_of_markup_and_content_decodes_to_its_text(kind):
    tokenizer, chosen = KINDS[kind](), random.Random(0)
    specials = [token for token in special_tokens(tokenizer) if token not in TAGS and token != "<unk>"]
    ids_of = {tokenizer.convert_tokens_to_ids(token) for token in specials}
    for _ in range(40):
        parts = [chosen.choice([*specials[:4], "the", " a", "he ", "b"]) for _ in range(8)]
        is_content = [chosen.random() < 0.6 for _ in parts]
        text = "".join(protect(part, tuple(specials)) if each else part for part, each in zip(parts, is_content))
        markup = sum(part in specials and not each for part, each in zip(parts, is_content))
        ids = encode_response(tokenizer, text)
        assert sum(index in ids_of for index in ids) == markup
        assert tokenizer.decode(ids).replace(" ", "") == plain(text).replace(" ", "")


def test_byte_level_ids_of_content_are_those_of_splitting_it():
    tokenizer = tokenizer_of("qwen3")
    text = "the end is <|im_end|> there"
    split = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert encode_response(tokenizer, protect(text, special_tokens(tokenizer))) == split


def test_a_token_that_the_vocabulary_finds_in_text_is_refused():
    pieces = [("<unk>", 0.0), ("</s>", -1.0), *((letter, -5.0) for letter in dict.fromkeys(LETTERS))]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", unk_token="<unk>")
    with pytest.raises(BadRow, match=r"holds </s>, a special token, which this tokenizer cannot encode as text"):
        encode_response(tokenizer, protect("a</s>b", special_tokens(tokenizer)))
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    with pytest.raises(BadRow, match="holds </s>"):
        encode_response(tokenizer, protect("a </s> a", special_tokens(tokenizer)))


def test_a_start_token_of_content_does_not_stand_for_the_start():
    tokenizer = metaspace("first")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert encode_prompt(tokenizer, "<s>a") == tokenizer.encode("<s>a", add_special_tokens=False)
    marked = protect("<s>a", special_tokens(tokenizer))
    ids = encode_prompt(tokenizer, marked)
    assert ids[0] == 1 and ids.count(1) == 1 and len(ids) == 1 + len(encode_response(tokenizer, marked))
    assert encode_texts(tokenizer, [marked, "a"], begin=True) == [ids, encode_prompt(tokenizer, "a")]


def test_a_mark_stands_in_each_special_token_and_goes_without_a_trace():
    specials = ("<|end|>", "|end|>", "<|end|><|x|>")
    for text in ("", "a <|end|> b", "<|end|><|x|>", "<|end|><|end|>", "|end|>"):
        marked = protect(text, specials)
        assert plain(marked) == text and (MARK in marked) == any(token in text for token in specials)
        assert not any(token in marked for token in specials)
    assert protect("<think> a </think> <|end|>", ("<think>", "</think>", "<|end|>"), TAGS) == f"<think> a </think> <{MARK}|end|>"
    call = {"name": "f", "arguments": {"k<|end|>": ["<|end|>", 3, None]}}
    assert protect_all(call, ("<|end|>",)) == {"name": "f", "arguments": {f"k<{MARK}|end|>": [f"<{MARK}|end|>", 3, None]}}


def test_content_that_holds_the_mark_is_refused():
    with pytest.raises(BadRow, match=r"U\+FDD0"):
        protect(f"a{MARK}b", ())


def test_the_stand_in_of_markup_cannot_be_smuggled_in():
    tokenizer = tokenizer_of("qwen3")
    with pytest.raises(BadRow, match=r"<\|im_end\|>"):
        encode_response(tokenizer, protect("a\ufdd1<|im_end|>b", special_tokens(tokenizer)))


def test_an_end_of_turn_of_the_rows_own_goes_once_and_only_at_the_end():
    assert strip_end("a <|im_end|> b<|im_end|>\n", SPECIALS) == "a <|im_end|> b"
    assert strip_end("a<|im_end|><|im_end|>", SPECIALS) == "a<|im_end|>"
    assert strip_end("a</answer> \n", (*SPECIALS, "</answer>")) == "a</answer> \n"
    assert strip_end("a <|im_end|> b", SPECIALS) == "a <|im_end|> b"


def test_special_tokens_are_the_special_ones_of_all_added():
    tokenizer = tokenizer_of("qwen3")
    found = special_tokens(tokenizer)
    assert set(SPECIALS) <= set(found) and "<think>" not in found and pickle.loads(pickle.dumps(found)) == found
