"""Training speed and memory on a CPU: ours beside TRL, our unpacked path and the specification's plain loop, on the same work.

    pip install -r bench/requirements.txt
    python bench/train_cpu.py --data train.jsonl [--rows 16] [--steps 4] [--rounds 3]

`train.jsonl` holds GSM8K's rows ({"question", "answer"}), asked in the r1_zero prompt. Every side trains SmolLM2-135M on the same
rows in the same order, the same rows in each optimizer step, with the same optimizer (fused AdamW), allocator and thread settings;
all but the specification's loop, which computes in float32, hold float32 weights and compute in bfloat16. Each side runs in a
process of its own, the sides alternate, and each round starts with another one; medians over all timed steps are compared. The
matrix rate is measured in each of our processes after its steps. Machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from harness import alternate, answer, peak_rss, tabulate, trl_steps, write

SIDES = (
    "ours", "ours, compiled", "ours, unpacked",
    "TRL, one batch", "TRL, four batches", "TRL, four batches, compiled", "specification's loop",
)  # fmt: skip
WARMUP = 2


def rows_of(arguments: argparse.Namespace) -> tuple[Any, Any, list[Any]]:
    """(configuration, tokenizer, tokenized rows): every side trains on these."""
    from tutelage.config import parse_config
    from tutelage.data import prepare
    from tutelage.model.load import load_tokenizer

    count = arguments.rows * (arguments.steps + WARMUP)
    config = parse_config(
        {
            "model": {"device": "cpu", "activation_checkpointing": "none", "compile": "off"},
            "data": {"train": arguments.data, "size": count, "filter": False, "max_length": 1024},
            "train": {"batch_size": arguments.rows, "grad_accum": 1},
        }
    )
    tokenizer = load_tokenizer("smollm2")
    return config, tokenizer, prepare(config, tokenizer).train


def ours(arguments: argparse.Namespace, packed: bool, compiled: bool) -> dict[str, Any]:
    from tutelage.model.load import load_policy
    from tutelage.model.optim import make_optimizer
    from tutelage.model.order import step_batches
    from tutelage.resources import matrix_rate, step_flops
    from tutelage.training.step import accumulate_gradients, update_weights

    config, tokenizer, rows = rows_of(arguments)
    policy = load_policy(config.model, tokenizer)
    policy.packs = packed
    if compiled:
        policy.compile()
    policy.model.train()
    optimizer = make_optimizer(policy.model, config)
    seconds, flops = [], []
    for start in range(0, len(rows), arguments.rows):
        started = time.monotonic()
        examples = rows[start : start + arguments.rows]
        batches = step_batches(examples, arguments.budget, 4, None if packed else 0)
        accumulate_gradients(policy, examples, batches, config, start)
        update_weights(policy, optimizer, config.train.lr)
        seconds.append(time.monotonic() - started)
        flops.append(step_flops(policy, *batches))
    peak = peak_rss()
    return {"seconds": seconds, "peak_gb": peak, "flops": flops, "matrix_rate": matrix_rate(policy.device)}


def trl(arguments: argparse.Namespace, batches: int, compiled: bool = False) -> dict[str, Any]:
    from tutelage.model.load import resolve

    config, tokenizer, rows = rows_of(arguments)
    seconds = trl_steps(
        resolve("smollm2"), tokenizer, rows, arguments.rows // batches, batches, use_cpu=True, gradient_checkpointing=False,
        max_length=1024, learning_rate=config.train.lr, max_grad_norm=config.train.clip_grad, torch_compile=compiled,
    )  # fmt: skip
    return {"seconds": seconds, "peak_gb": peak_rss()}


def specification(arguments: argparse.Namespace) -> dict[str, Any]:
    """float32, one row at a time with activation checkpointing, logits of every position: SPEC.md's loop as it is written."""
    import torch
    from transformers import AutoModelForCausalLM

    from tutelage import get_response_log_probs, sft_microbatch_train_step
    from tutelage.data.tokens import pad_and_shift
    from tutelage.model.load import resolve

    _, _, rows = rows_of(arguments)
    model = AutoModelForCausalLM.from_pretrained(resolve("smollm2"), dtype=torch.float32)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    seconds = []
    for start in range(0, len(rows), arguments.rows):
        started = time.monotonic()
        for row in rows[start : start + arguments.rows]:
            batch = pad_and_shift([(row.prompt_ids, row.response_ids)], 0)
            scored = get_response_log_probs(model, batch["input_ids"], batch["labels"], with_grad=True)
            sft_microbatch_train_step(scored["log_probs"], batch["response_mask"], arguments.rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.monotonic() - started)
    return {"seconds": seconds, "peak_gb": peak_rss()}


def child(arguments: argparse.Namespace) -> None:
    from tutelage.machines.process import prepare_process

    prepare_process()  # every side gets our allocator and thread settings
    run = {
        "ours": lambda: ours(arguments, packed=True, compiled=False),
        "ours, compiled": lambda: ours(arguments, packed=True, compiled=True),
        "ours, unpacked": lambda: ours(arguments, packed=False, compiled=False),
        "TRL, one batch": lambda: trl(arguments, 1),
        "TRL, four batches": lambda: trl(arguments, 4),
        "TRL, four batches, compiled": lambda: trl(arguments, 4, compiled=True),
        "specification's loop": lambda: specification(arguments),
    }
    answer(run[arguments.child]())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="GSM8K's training rows as JSONL")
    parser.add_argument("--rows", type=int, default=16, help="rows in one optimizer step (a multiple of 4)")
    parser.add_argument("--steps", type=int, default=4, help=f"timed steps of each process, after {WARMUP} that are not")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=4096, help="our packs' largest size in tokens")
    usual = [
        side for side in SIDES if side != "TRL, four batches, compiled"
    ]  # which compiles each padded shape anew: minutes a step
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=usual)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    report(arguments, alternate(__file__, arguments.sides, arguments.rounds))


def report(arguments: argparse.Namespace, measured: dict[str, list[dict[str, Any]]]) -> None:
    _, _, rows = rows_of(arguments)
    tokens = [sum(map(len, rows[at : at + arguments.rows])) for at in range(0, len(rows), arguments.rows)]
    table = {}
    for side, runs in measured.items():
        rates = [t / s for run in runs for t, s in list(zip(tokens, run["seconds"], strict=True))[WARMUP:]]
        table[side] = {
            "side": side,
            "tokens_per_second": statistics.median(rates),
            "slowest": min(rates),
            "fastest": max(rates),
            "peak_gb": statistics.median(run["peak_gb"] for run in runs),
        }
    result: dict[str, Any] = {"arguments": vars(arguments), "sides": list(table.values())}
    fast = [side for side in ("ours", "ours, compiled") if side in table]
    peers = [side for side in table if side.startswith("TRL")]
    if fast:
        mine = max(fast, key=lambda side: table[side]["tokens_per_second"])
        runs = measured[mine]
        reached = [f / s for run in runs for f, s in list(zip(run["flops"], run["seconds"], strict=True))[WARMUP:]]
        result |= {"best_of_ours": mine, "matrix_gflops": statistics.median(run["matrix_rate"] for run in runs) / 1e9}
        result["share_of_matmul_rate"] = statistics.median(reached) / 1e9 / result["matrix_gflops"]
        if peers:
            best = max(peers, key=lambda side: table[side]["tokens_per_second"])
            result["trl_best"] = best
            result["ratio_vs_trl_best"] = table[mine]["tokens_per_second"] / table[best]["tokens_per_second"]
            result["peak_memory_ratio_vs_trl_best"] = table[mine]["peak_gb"] / table[best]["peak_gb"]
        if "specification's loop" in table:
            loop = table["specification's loop"]["tokens_per_second"]
            result["ratio_vs_spec_loop"] = table[mine]["tokens_per_second"] / loop
    tabulate(list(table.values()))
    for key in ("ratio_vs_trl_best", "ratio_vs_spec_loop", "share_of_matmul_rate", "peak_memory_ratio_vs_trl_best"):
        if key in result:
            print(f"{key}: {result[key]:.2f}")
    write("train_cpu", result)


if __name__ == "__main__":
    main()
