"""What the GPU bench trains: a model of random weights, and four kinds of rows of random ids.

- ``equal``: rows of one length that share nothing but a template.
- ``real``: lengths as those of reasoning traces, log-normal; the same template.
- ``shared``: four solutions of each problem, whose prompt is as long as a solution.
- ``shared_8``: eight solutions of each problem, whose prompt is twice as long as a solution.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

QWEN = dict(
    vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
    max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=True, use_sliding_window=False,
)  # fmt: skip
"""The shape of Qwen2.5-Math-1.5B."""
TOY = QWEN | dict(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        length: tokens of a row, but of ``real`` ones.
        template: tokens that all rows begin with.
        rows: of an optimizer step; of ``real`` rows three times as many.
        together: rows of `length` that go through the model at once.
        median, shortest, longest: tokens of ``real`` rows.
        capped: tokens of the rows that are trained under a memory cap.
        warmup, steps: optimizer steps of a turn that are not timed, and that are.
    """

    length: int = 2048
    template: int = 90
    rows: int = 16
    together: int = 4
    median: int = 700
    shortest: int = 160
    longest: int = 4096
    capped: int = 4096
    warmup: int = 3
    steps: int = 4

    @property
    def budget(self) -> int:
        """Tokens that go through the model at once."""
        return self.together * self.length

    def rows_of(self, kind: str) -> int:
        """Rows of an optimizer step."""
        return {"real": 3 * self.rows, "capped": 4}.get(kind, self.rows)


SIZES = {
    False: Size(),
    True: Size(length=48, template=6, rows=8, together=2, median=30, shortest=12, longest=96, capped=64, warmup=1, steps=2),
}
"""The size by whether all is a toy."""
GROUPS = {"shared": (4, 1), "shared_8": (8, 2)}
"""By kind: solutions of a problem, and how many times as long as a solution its prompt is."""


def rows_of(kind: str, size: Size, vocabulary: int, steps: int) -> list[Any]:
    """The rows of so many optimizer steps, step by step. Rows of one problem stand side by side."""
    from tutelage.data import TokenizedExample

    draw = random.Random(0)
    solutions, times = GROUPS.get(kind, (1, 0))

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, vocabulary) for _ in range(count))

    template, rows, prompt = ids(size.template), [], ()
    for index in range(steps * size.rows_of(kind)):
        length = length_of(kind, size, draw)
        # a fifth of what follows the template is prompt; of a problem with several solutions, its share
        before = length * times // (times + 1) if times else size.template + (length - size.template) // 5
        if index % solutions == 0:
            prompt = (*template, *ids(before - size.template))
        rows.append(TokenizedExample(str(index), prompt, ids(length - before)))
    return rows


def length_of(kind: str, size: Size, draw: random.Random) -> int:
    """Tokens of a row."""
    if kind == "capped":
        return size.capped
    if kind != "real":
        return size.length
    return max(size.shortest, min(size.longest, round(size.median * draw.lognormvariate(0, 0.75))))


def save_model(folder: str, toy: bool) -> int:
    """Write a model with random bfloat16 weights, made on the card, and a tokenizer of bytes; how many weights it has."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    alphabet = {"<end>": 0} | {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    letters = Tokenizer(models.BPE(alphabet, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(**(TOY if toy else QWEN), eos_token_id=0, pad_token_id=0, bos_token_id=None)
    with torch.device("cpu" if toy else "cuda"):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())
