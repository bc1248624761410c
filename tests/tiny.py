"""A tiny random Llama with a byte-level tokenizer trained on the built-in task: real code paths in milliseconds."""

from __future__ import annotations

from pathlib import Path


def make_tiny_model(directory: Path, tied: bool = True, **sizes: int) -> str:
    """Write model and tokenizer to a directory; its name. `sizes` are those of LlamaConfig."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tutelage.data import arithmetic

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [message["content"] for row in arithmetic.rows("train", 90) for message in row["messages"]]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    tiny = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }  # fmt: skip
    config = LlamaConfig(
        num_key_value_heads=2, tie_word_embeddings=tied, eos_token_id=0, pad_token_id=0,
        bos_token_id=None, **{**tiny, **sizes},
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return str(directory)
