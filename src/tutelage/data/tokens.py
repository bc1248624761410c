"""Text to token ids: prompt and response apart, ids joined, masks by position; and a look at what will be learnt."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tutelage.data.templates import encode_prompt, encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizedExample:
    """The ids of one row.

    Attributes:
        ends: whether the response is in full; else its tail, and with it the end token, was cut off.
        weight: what each of its response tokens counts in the loss.
    """

    source: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    ends: bool = True
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def characters_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> list[int]:
    """How many characters of a text each of its tokens brings.

    A token that is a part of a character brings none, and neither does a token beyond the end of the text.

    Args:
        text: what the ids decode to, or a beginning of it.
    """
    alone = {token: tokenizer.decode([token]) for token in set(ids)}
    pieces = [alone[token] for token in ids]
    if not "".join(pieces).startswith(text):  # some tokens read otherwise among others: each is decoded after the one before
        pieces, start, end = [], 0, 0
        for upto in range(1, len(ids) + 1):
            before, after = tokenizer.decode(list(ids[start:end])), tokenizer.decode(list(ids[start:upto]))
            complete = len(after) > len(before) and not after.endswith("\ufffd")
            pieces.append(after[len(before) :] if complete else "")
            start, end = (end, upto) if complete else (start, end)
    left, counts = len(text), []
    for piece in pieces:
        counts.append(min(len(piece), left))
        left -= counts[-1]
    return counts


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token; a character of several tokens stands with its last one."""
    text = tokenizer.decode(list(ids))
    ends = list(itertools.accumulate(characters_of(tokenizer, ids, text)))
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def tokenize_prompt_and_output(
    prompt_strs: list[str], output_strs: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> dict[str, torch.Tensor]:
    """Tokenize prompts and outputs separately, join them, and mark the response tokens among the labels.

    Args:
        prompt_strs, output_strs: the texts, one output for each prompt.
        max_length: rows are cut to so many tokens (the tail is lost) before shifting.

    Returns:
        ``input_ids`` and ``labels`` (int64) and ``response_mask`` (bool), each of shape (batch, longest − 1): the joined ids
        without their last token, without their first one, and whether a label is a response token. Padding is on the right.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(prompt_strs) != len(output_strs) or not prompt_strs:
        raise ValueError(
            f"{len(prompt_strs)} prompts and {len(output_strs)} outputs: as many of each are needed, and at least one"
        )
    pairs = [
        (encode_prompt(tokenizer, prompt), encode_response(tokenizer, output))
        for prompt, output in zip(prompt_strs, output_strs, strict=True)
    ]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return pad_and_shift(pairs, 0 if pad is None else int(pad), max_length)


def pad_and_shift(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, max_length: int | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of `tokenize_prompt_and_output` from (prompt ids, response ids). Masks come from positions, so pad may equal end."""
    merged = [[*prompt, *response][:max_length] for prompt, response in pairs]
    width = max(map(len, merged))
    ids = torch.full((len(pairs), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(pairs), width), dtype=torch.bool)
    for row, (sequence, (prompt, _)) in enumerate(zip(merged, pairs, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, len(prompt) : len(sequence)] = True
    return {
        "input_ids": ids[:, :-1].contiguous(),
        "labels": ids[:, 1:].contiguous(),
        "response_mask": mask[:, 1:].contiguous(),
    }
