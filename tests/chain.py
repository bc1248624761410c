"""A model whose every next word is known: after "a" it says the base model's end token, "b", the end of turn, and then "c" for ever."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tiny import make_tiny_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OWN, TURN = "<|end|>", "<|im_end|>"


SAYS = ("a", "Ã", "©", "S", "T", "O", "P", "x", OWN)
"""Words for `make_chain_model`: after "a" it says "éSTOPx", whose first letter is two tokens, and its end."""
WORDS = ("a", OWN, "b", TURN, "c", "c")


def make_chain_model(directory: Path, template: str = CHATML, words: Sequence[str] = WORDS) -> str:
    """Write the model to a directory; its name. As base models do, its tokenizer ends with `OWN`, its chat template's turns with `TURN`.

    Args:
        words: tokens; after each the model says the next one.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    make_tiny_model(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", TURN]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, tie_word_embeddings=False, eos_token_id=0, pad_token_id=0, bos_token_id=None,
    ))  # fmt: skip
    chain = tokenizer.convert_tokens_to_ids(list(words))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)  # layers add nothing: a word alone decides which is next
        for channel, (word, following) in enumerate(pairwise(chain)):
            model.model.embed_tokens.weight[word, channel] = 1.0
            model.lm_head.weight[following, channel] = 1.0
    model.generation_config.eos_token_id = [0, tokenizer.convert_tokens_to_ids("b")]  # as in models that name several
    model.save_pretrained(directory)
    return str(directory)
