"""The memory ladder: tokens per second and peak after each setting that makes training smaller, beside what was predicted.

    python bench/memory_ladder.py --shape 8b [--length 2048] [--seconds 20]     # on a card: 1.5b, 3b or 8b
    python bench/memory_ladder.py                                               # a toy on a CPU, by resident memory

torchtune publishes such a ladder for Llama-3.1-8B; each rung keeps the settings of those above it. Weights are random, rows are alike.
Each rung has a process of its own. A rung that does not fit is told and has no figures. On a CPU bytes are what the process grew by,
and tokens per second say little.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from harness import alternate, answer, tabulate, write

LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8, "rope_theta": 500_000.0, "max_position_embeddings": 131_072}
SHAPES: dict[str, dict[str, Any]] = {
    "toy": {
        "vocab_size": 8000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "1.5b": {
        "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "max_position_embeddings": 131_072, "tie_word_embeddings": True,
    },
    "3b": {
        **LLAMA, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "tie_word_embeddings": True,
    },
    "8b": {
        **LLAMA, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
"""Llama's shapes by name; "1.5b" has the numbers of Qwen2.5-Math-1.5B."""
RUNGS: dict[str, dict[str, Any]] = {
    "all kept": {"model.activation_checkpointing": "none", "model.tile": 0},
    "full checkpointing": {"model.activation_checkpointing": "full"},
    "tiles": {"model.tile": 128},
    "bf16-sr": {"model.precision": "bf16-sr"},
    "adamw-8bit": {"train.optimizer": "adamw-8bit"},
    "in_backward": {"train.update": "in_backward"},
    "optimizer_offload": {"train.optimizer_offload": True},
    "activation_offload": {"model.activation_offload": True},
}
"""What each rung adds."""
ON_A_CARD = {"activation_offload", "optimizer_offload"}
"""Rungs that move what a CPU has in the same memory anyway."""


def rungs(device: str) -> list[str]:
    """Those that this version has, on a kind of device."""
    from tutelage.config import Config

    def has(name: str) -> bool:
        section, _, key = name.partition(".")
        return key in type(getattr(Config(), section)).model_fields

    return [rung for rung, settings in RUNGS.items() if all(map(has, settings)) and (device != "cpu" or rung not in ON_A_CARD)]


def save_model(folder: str, shape: str, device: str) -> None:
    """Write random bfloat16 weights, and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = {"<end>": 0} | {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    letters = Tokenizer(models.BPE(alphabet, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], eos_token_id=0, pad_token_id=0, bos_token_id=None)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def resident(what: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[what].split()[0])


def child(rung: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Real steps with the settings of the rung and of those above it."""
    from tutelage.advice.measure import measured
    from tutelage.model import load_tokenizer
    from tutelage.resources import Estimator, device_here

    warm, folder = Path(arguments.folder, "toy"), Path(arguments.folder, arguments.shape)
    tokenizer = load_tokenizer(str(folder))
    config, prepared = prepared_for(str(folder), rung, arguments)
    estimator = Estimator(tokenizer, device_here(config.model))
    needs = estimator.given(config, prepared)
    if arguments.device == "cpu":  # libraries and threads are there then
        small, few = prepared_for(str(warm), rung, argparse.Namespace(**{**vars(arguments), "length": 64}))
        measured(small, few, tokenizer, estimator.given(small, few), seconds=0.0)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    trial = measured(config, prepared, tokenizer, needs, arguments.seconds)
    peak = trial.peak_bytes if trial.peak_bytes is not None else resident("VmHWM") - before
    return {
        "seconds": [trial.seconds], "tokens_per_second": trial.tokens_per_second, "steps": trial.steps, "peak": peak,
        "predicted": sum(needs.training.values()), "predicted_tokens_per_second": needs.tokens_per_second, "tile": needs.tile,
    }  # fmt: skip


def prepared_for(folder: str, rung: str, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """(configuration, rows): steps of two packs of one row."""
    import numpy as np

    from tutelage.config import parse_config, replaced
    from tutelage.data import Example, Prepared, Template, TokenizedExample

    names, length = list(RUNGS), arguments.length
    above = [name for name in names[: names.index(rung) + 1] if name in arguments.has]
    settings = {name: value for each in above for name, value in RUNGS[each].items()}
    train = {"batch_size": 1, "grad_accum": 2, "num_steps": 100}
    raw = {"model": {"id": folder, "device": arguments.device, "compile": "off"}, "train": train}

    def ids(start: int, count: int) -> tuple[int, ...]:
        return tuple(1 + (start + index) % 250 for index in range(count))

    rows = [TokenizedExample(str(n), ids(n, length // 5), ids(7 * n, length - length // 5)) for n in range(8)]
    prepared = Prepared(
        train=rows, validation=[Example("", "", "", "problem")], ledger=None, lengths=np.full(len(rows), length), max_length=length,
        max_length_was_chosen=False, template=Template(), panel=1, longest_prompt=length // 5,
    )  # fmt: skip
    return replaced(parse_config(raw), settings), prepared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="toy")
    parser.add_argument("--device", default="", help="cpu or cuda (default: cpu for the toy, else cuda)")
    parser.add_argument("--length", type=int, help="tokens of a row, and of a pack (default: 512 for the toy, else 2,048)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of real steps, for each rung")
    parser.add_argument("--only", nargs="+", help="rungs")
    parser.add_argument("--folder", default="", help="where the models lie, or are written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.device = arguments.device or ("cpu" if arguments.shape == "toy" else "cuda")
    arguments.length = arguments.length or (512 if arguments.shape == "toy" else 2048)
    arguments.has = rungs(arguments.device)
    arguments.folder = arguments.folder or os.environ.get("LADDER_FOLDER", "")
    if arguments.child:
        answer(child(arguments.child, arguments))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LADDER_FOLDER"] = arguments.folder or folder
        for shape in {"toy", arguments.shape}:
            if not Path(os.environ["LADDER_FOLDER"], shape, "config.json").is_file():
                save_model(str(Path(os.environ["LADDER_FOLDER"], shape)), shape, "cpu" if shape == "toy" else arguments.device)
        if (
            arguments.device == "cpu"
        ):  # freed memory goes back to the system at once; no copies of matrices for AMX, which are no tensors
            os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "ONEDNN_MAX_CPU_ISA": "AVX2"}
        measured = alternate(__file__, [rung for rung in arguments.has if rung in (arguments.only or arguments.has)], 1)
    rows = [
        {
            "rung": rung, "peak_gb": of["peak"] / 1e9, "predicted_gb": of["predicted"] / 1e9, "off": of["predicted"] / of["peak"] - 1,
            "tokens_per_second": of["tokens_per_second"], "predicted_tokens_per_second": of["predicted_tokens_per_second"],
        }
        for rung, (of,) in measured.items()
    ]  # fmt: skip
    tabulate(rows)
    write("memory_ladder", {"shape": arguments.shape, "length": arguments.length, "device": arguments.device, "rungs": rows})
    print(json.dumps({"rungs": len(rows), "largest_gap": max((abs(row["off"]) for row in rows), default=None)}))


if __name__ == "__main__":
    main()
