"""Where a response ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutelage.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Stops:
    """Where a response ends: one object for labels, evaluation, generation_config and export."""

    end_token_id: int
    strings: tuple[str, ...] = ("</answer>",)

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase) -> Stops:
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} has no end token, so the model could never learn to stop:"
                " set eos_token in its tokenizer_config.json"
            )
        return Stops(int(tokenizer.eos_token_id))
