from __future__ import annotations

import numpy as np
import pytest
import torch

from tutelage import tokenize_prompt_and_output
from tutelage.data import Stops, encode_prompt, encode_response
from tutelage.data.chosen import choose_max_length
from tutelage.data.tokens import characters_of
from tutelage.errors import InputError

PROMPTS = ["Two and two?", "A longer question, with more words?"]
OUTPUTS = ["<think> 2 + 2 = 4. </think> <answer> 4 </answer>", "short"]


def test_shapes_shift_and_mask_are_the_specifications(tokenizer):
    batch = tokenize_prompt_and_output(PROMPTS, OUTPUTS, tokenizer)
    joined = [
        tokenizer.encode(p, add_special_tokens=False) + tokenizer.encode(o, add_special_tokens=False)
        for p, o in zip(PROMPTS, OUTPUTS)
    ]
    longest = max(map(len, joined))
    assert all(batch[key].shape == (2, longest - 1) for key in ("input_ids", "labels", "response_mask"))
    assert batch["response_mask"].dtype == torch.bool
    for row, ids in enumerate(joined):
        prompt = len(tokenizer.encode(PROMPTS[row], add_special_tokens=False))
        assert batch["input_ids"][row, : len(ids)].tolist() == ids[: longest - 1]
        assert batch["labels"][row, : len(ids) - 1].tolist() == ids[1:]
        assert batch["response_mask"][row].tolist() == [prompt <= index < len(ids) for index in range(1, longest)]


def test_the_masked_labels_are_exactly_the_response(tokenizer):
    batch = tokenize_prompt_and_output(PROMPTS, OUTPUTS, tokenizer)
    for row, output in enumerate(OUTPUTS):
        assert tokenizer.decode(batch["labels"][row][batch["response_mask"][row]].tolist()) == output


def test_an_end_token_is_supervised_although_it_is_the_padding_token(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    batch = tokenize_prompt_and_output(PROMPTS, [output + tokenizer.eos_token for output in OUTPUTS], tokenizer)
    for row in range(2):
        assert batch["labels"][row][batch["response_mask"][row]][-1] == tokenizer.eos_token_id


def test_max_length_cuts_the_tail_and_the_mask_with_it(tokenizer):
    whole = tokenize_prompt_and_output(PROMPTS, OUTPUTS, tokenizer)
    cut = tokenize_prompt_and_output(PROMPTS, OUTPUTS, tokenizer, max_length=9)
    for key in whole:
        assert cut[key].shape == (2, 8)
        assert torch.equal(cut[key], whole[key][:, :8])


def test_as_many_outputs_as_prompts_are_needed(tokenizer):
    with pytest.raises(ValueError, match="2 prompts and 1 outputs"):
        tokenize_prompt_and_output(PROMPTS, OUTPUTS[:1], tokenizer)


def test_a_start_token_comes_once_and_an_end_token_never(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.bos_token = "<|end|>"
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<|end|> $A <|end|>", special_tokens=[("<|end|>", 0)])
    assert tokenizer("x").input_ids == [0, *tokenizer.encode("x", add_special_tokens=False), 0]
    assert encode_prompt(tokenizer, "x") == [0, *tokenizer.encode("x", add_special_tokens=False)]
    assert encode_prompt(tokenizer, "<|end|>x") == encode_prompt(tokenizer, "x")
    assert encode_response(tokenizer, "x") == tokenizer.encode("x", add_special_tokens=False)


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        Stops.of(tokenizer)


def test_max_length_is_the_995th_permille():
    assert choose_max_length(np.arange(1, 1001)) == 995
    assert choose_max_length(np.array([7])) == 7
    lengths = np.array([10] * 199 + [1000])
    assert choose_max_length(lengths) == 10


class Bytes:
    """A tokenizer of bytes: characters beyond ASCII take several tokens."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


class Spaces:
    """A tokenizer whose first token loses its space, as those of Llama 2 do."""

    def decode(self, ids):
        return " ".join(f"w{number}" for number in ids)


@pytest.mark.parametrize("text", ["plain", "½ × 🙂 = x", ""])
def test_the_characters_of_tokens_add_up_to_the_text(text):
    ids = list(text.encode())
    counts = characters_of(Bytes(), ids, text)
    assert len(counts) == len(ids) and sum(counts) == len(text)
    assert characters_of(Bytes(), ids, text[:3])[: len(ids)] == [
        min(count, max(0, 3 - sum(counts[:n]))) for n, count in enumerate(counts)
    ]


def test_tokens_have_the_characters_that_they_have_among_others():
    assert characters_of(Spaces(), [1, 22, 3], "w1 w22 w3") == [2, 4, 3]
    assert characters_of(Spaces(), [1, 22, 3], "w1 w2") == [2, 3, 0]


def test_an_end_token_has_no_characters(tokenizer):
    text = "<think> 2 + 2 = 4. </think> <answer> 4 </answer>"
    counts = characters_of(tokenizer, [*encode_response(tokenizer, text), tokenizer.eos_token_id], text)
    assert sum(counts) == len(text) and counts[-1] == 0
