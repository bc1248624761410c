"""A tiny random Llama with a byte-level tokenizer trained on the built-in task: real code paths in milliseconds."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest

from tutelage import arithmetic
from tutelage.runlog import to_lines


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny")
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
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=0, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def tokenizer(tiny_model: str):
    from tutelage.model import load_tokenizer

    return load_tokenizer(tiny_model)


@pytest.fixture
def model(tiny_model: str):
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """48 rows of the built-in task, six of them wrong."""
    path = tmp_path / "train.jsonl"
    path.write_text(to_lines(arithmetic.rows("train", 48)), encoding="utf-8")
    return path


@pytest.fixture
def make_config(tiny_model: str, data_file: Path, tmp_path: Path):
    """A configuration for the tiny model; keyword arguments are ``section__key=value``."""
    from tutelage.config import parse_config

    def make(**changes):
        raw = {
            "model": {"id": tiny_model, "device": "cpu", "precision": "fp32"},
            "data": {"train": str(data_file), "prompt": "plain", "test_size": 0.2},
            "train": {"lr": 1e-3, "batch_size": 4, "grad_accum": 2, "num_steps": 4},
            "eval": {"every": 2, "examples": 4, "full": False, "max_new_tokens": 8, "backend": "native"},
            "parallel": {},
            "run": {"dir": str(tmp_path / "run")},
        }
        for key, value in changes.items():
            section, name = key.split("__")
            raw[section][name] = value
        return parse_config(raw)

    return make


@pytest.fixture(autouse=True)
def verdicts_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test grades for itself: the verdicts of earlier runs stay where they are."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("tutelage.data.cache_directory", lambda: directory)
    return directory


@pytest.fixture(scope="session")
def untied_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with a head of its own."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("untied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(directory)
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(tiny_model)
    config.tie_word_embeddings = False
    LlamaForCausalLM(config).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def ranks():
    """Two ranks of a job, for the tests that want some."""
    from ranks import Ranks

    both = Ranks()
    yield both
    both.close()


@pytest.fixture(autouse=True)
def bfloat16_even_where_it_is_slow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models compute in bfloat16 on every CPU, so that its paths are tested; the embedded one as a person's would."""
    if "tiny_model" in request.fixturenames:
        monkeypatch.setattr("tutelage.model.has_bfloat16", lambda device: True)
