"""Training speed and memory on one CUDA card, for the shape of Qwen2.5-Math-1.5B: ours beside TRL, with and without Liger.

    pip install -r bench/requirements.txt [liger-kernel flash-attn]
    python bench/train_gpu.py [--lengths 512 2048 4096] [--rounds 2] [--cap 24]

Random weights of that shape (its configuration is below) on rows of random ids, a third of them prompt, all of which share the
r1_zero template's length as a prefix. All sides compute in bfloat16; "mixed" sides hold float32 masters, as TRL does from a
float32 model; "sr" is bfloat16 weights with stochastic rounding. "checkpointed" sides compute activations again, the others keep
them, so that like stands beside like; a side that does not fit is told as failed. Sides alternate, each in a process of its own.
The share of the peak (MFU) counts 6 operations per weight and token of the rows' own tokens, against the matrix rate measured in
our processes. Last, full fine-tuning with rows of the greatest length runs in a process that may take `--cap` GB of the card.

`--toy` runs every side on a CPU in seconds at a toy shape: that is what the tests do.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from typing import Any

from harness import alternate, answer, peak_rss, tabulate, trl_steps, write

QWEN = dict(
    vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
    max_position_embeddings=4096, rope_theta=10_000.0, rms_norm_eps=1e-6, tie_word_embeddings=True, use_sliding_window=False,
)  # fmt: skip
TOY = QWEN | dict(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
TEMPLATE = 90
WARMUP = 3
SIDES = (
    "ours, mixed", "ours, mixed, compiled", "ours, mixed, checkpointed", "ours, mixed, unpacked", "ours, sr",
    "TRL", "TRL, checkpointed", "TRL + Liger", "TRL + Liger, checkpointed",
)  # fmt: skip


def rows_of(length: int, count: int, vocabulary: int) -> list[Any]:
    """Rows of `length` random ids that share a template; the first third is prompt."""
    from tutelage.data.tokens import TokenizedExample

    draw = random.Random(0)
    shared = [draw.randrange(vocabulary) for _ in range(min(TEMPLATE, length // 4))]
    rows = []
    for number in range(count):
        ids = [*shared, *(draw.randrange(vocabulary) for _ in range(length - len(shared)))]
        rows.append(TokenizedExample(str(number), tuple(ids[: length // 3]), tuple(ids[length // 3 :])))
    return rows


def save_model(folder: str, toy: bool) -> None:
    """A model of that shape with random weights, and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    alphabet = {"<end>": 0} | {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    letters = Tokenizer(models.BPE(alphabet, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**(TOY if toy else QWEN), eos_token_id=0, pad_token_id=0, bos_token_id=None)).save_pretrained(
        folder
    )


def ours(arguments: argparse.Namespace, folder: str, length: int, side: str) -> dict[str, Any]:
    import torch

    from tutelage.config import parse_config
    from tutelage.model.load import load_policy, load_tokenizer
    from tutelage.model.optim import make_optimizer
    from tutelage.model.order import step_batches
    from tutelage.model.policy import RECOMPUTATIONS
    from tutelage.resources import HEADROOM, Load, activation_bytes, free_memory, matrix_rate, state_to_come
    from tutelage.training.step import accumulate_gradients, update_weights

    capped, together = "capped" in side, 1 if "capped" in side else arguments.rows_in_memory
    budget = together * length
    model = {
        "id": folder,
        "device": "cpu" if arguments.toy else "cuda",
        "precision": "bf16-sr" if "sr" in side else "bf16-mixed",
    }
    config = parse_config({"model": model, "train": {"batch_size": together}})
    policy = load_policy(config.model, load_tokenizer(folder))
    optimizer = make_optimizer(policy.model, config)
    kinds = RECOMPUTATIONS if capped else ("full",) if "checkpointed" in side else ("none",)
    free = HEADROOM * free_memory(policy.device) - state_to_come(policy, config)
    fitting = (kind for kind in kinds if activation_bytes(policy, Load(budget, budget), kind) <= free)
    policy.recompute(next(fitting, kinds[-1]))
    if "compiled" in side:
        policy.compile()
    policy.model.train()
    rows = rows_of(length, arguments.rows * (arguments.steps + WARMUP), policy.head.weight.shape[0])
    seconds = []
    for at in range(0, len(rows), arguments.rows):
        started = time.monotonic()
        examples = rows[at : at + arguments.rows]
        pad_id = None if policy.packs and "unpacked" not in side else policy.pad_token_id
        batches = step_batches(examples, budget, together, pad_id)
        accumulate_gradients(policy, examples, batches, config, at)
        update_weights(policy, optimizer, config.train.lr)
        if not arguments.toy:
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
    weights = sum(weight.numel() for weight in policy.model.parameters())
    return {"seconds": seconds, "peak_gb": peak(arguments), "weights": weights, "matrix_rate": matrix_rate(policy.device)}


def trl(arguments: argparse.Namespace, folder: str, length: int, side: str) -> dict[str, Any]:
    from tutelage.model.load import load_tokenizer

    liger, together = "Liger" in side, arguments.rows_in_memory
    rows = rows_of(length, arguments.rows * (arguments.steps + WARMUP), (TOY if arguments.toy else QWEN)["vocab_size"])
    seconds = trl_steps(
        folder, load_tokenizer(folder), rows, together, arguments.rows // together, use_cpu=arguments.toy, max_length=length,
        gradient_checkpointing="checkpointed" in side, loss_type="nll" if liger else "chunked_nll", use_liger_kernel=liger,
    )  # fmt: skip
    return {"seconds": seconds, "peak_gb": peak(arguments)}


def peak(arguments: argparse.Namespace) -> float:
    """GB: of the card, or of this process at toy size."""
    import torch

    return peak_rss() if arguments.toy else torch.cuda.max_memory_reserved() / 1e9


def child(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    side, _, length = arguments.child.rpartition(" at ")
    capped = side.endswith("capped")
    if capped and not arguments.toy:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, arguments.cap * 1e9 / whole))
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, arguments.toy)
        if side.startswith("TRL"):
            return trl(arguments, folder, int(length), side)
        return ours(arguments, folder, int(length), side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 4096])
    parser.add_argument("--rows", type=int, default=16, help="rows in one optimizer step")
    parser.add_argument("--rows-in-memory", type=int, default=4, help="rows that one micro-batch holds")
    parser.add_argument("--steps", type=int, default=4, help=f"timed steps of each process, after {WARMUP} that are not")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cap", type=float, default=24.0, help="GB of the card that the last run may take")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--toy", action="store_true", help="on a CPU, at a toy shape")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        answer(child(arguments))
        return
    import torch

    if not (arguments.toy or torch.cuda.is_available()):
        raise SystemExit("no CUDA card here: --toy runs the same sides on a CPU, at a toy shape")
    longest = max(arguments.lengths)
    sides = [f"{side} at {length}" for length in arguments.lengths for side in arguments.sides]
    measured = alternate(__file__, [*sides, f"ours, sr, capped at {longest}"], arguments.rounds)
    report(arguments, measured)


def report(arguments: argparse.Namespace, measured: dict[str, list[dict[str, Any]]]) -> None:
    mine = [run for runs in measured.values() for run in runs if "matrix_rate" in run]
    rate = statistics.median(run["matrix_rate"] for run in mine)
    table = []
    for name, runs in measured.items():
        side, _, length = name.rpartition(" at ")
        seconds = statistics.median(second for run in runs for second in run["seconds"][WARMUP:])
        tokens = arguments.rows * int(length) / seconds
        row = {"side": side, "length": int(length), "tokens_per_second": tokens, "mfu": 6 * mine[0]["weights"] * tokens / rate}
        table.append(row | {"peak_gb": max(run["peak_gb"] for run in runs)})
    for row in table:
        peers = [r["tokens_per_second"] for r in table if r["side"].startswith("TRL") and r["length"] == row["length"]]
        row["ratio_vs_trl_best"] = row["tokens_per_second"] / max(peers) if peers else None
    tabulate(table)
    name = "train_gpu_toy" if arguments.toy else "train_gpu"
    write(name, {"arguments": vars(arguments), "matrix_tflops": rate / 1e12, "sides": table})


if __name__ == "__main__":
    main()
