"""Where a training step's time goes on a CPU, and what separates it from the matrix ceiling.

    python bench/profile_step.py --data train.jsonl [--rows 16] [--compiled]

Profiles one optimizer step of `train_cpu.py`'s work after warm-up, and sums the operators' own time by what they are for.
"""

from __future__ import annotations

import argparse
import time

from harness import tabulate, write

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm"),
    "attention: products": ("aten::bmm",),
    "attention: softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
    "casts and copies": ("aten::copy_", "aten::cat", "aten::_to_copy", "aten::clone"),
    "optimizer": ("aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::_foreach_norm"),
    "log-softmax of the head": ("aten::_log_softmax", "aten::exp", "aten::scatter_add_", "aten::neg_"),
}


def kind_of(name: str) -> str:
    if "CompiledFxGraph" in name:
        return "compiled element-wise code"
    return next((kind for kind, names in KINDS.items() if name in names), "element-wise and the rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="GSM8K's training rows as JSONL")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--budget", type=int, default=4096)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    from tutelage.machines.process import prepare_process

    prepare_process()
    import torch
    from train_cpu import WARMUP, rows_of

    from tutelage.model.load import load_policy
    from tutelage.model.optim import make_optimizer
    from tutelage.model.order import step_batches
    from tutelage.resources import matrix_rate, step_flops
    from tutelage.training.step import accumulate_gradients, update_weights

    arguments.steps = 1
    config, tokenizer, rows = rows_of(arguments)
    policy = load_policy(config.model, tokenizer)
    if arguments.compiled:
        policy.compile()
    policy.model.train()
    optimizer = make_optimizer(policy.model, config)

    def step(number: int) -> float:
        examples = rows[number * arguments.rows : (number + 1) * arguments.rows]
        batches = step_batches(examples, arguments.budget, arguments.rows)
        accumulate_gradients(policy, examples, batches, config, number)
        update_weights(policy, optimizer, config.train.lr)
        return step_flops(policy, *batches)

    for number in range(WARMUP + 1):
        step(number)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        started = time.monotonic()
        flops = step(WARMUP)
        seconds = time.monotonic() - started
    own: dict[str, float] = {}
    for event in profile.key_averages():
        own[kind_of(event.key)] = own.get(kind_of(event.key), 0.0) + event.self_cpu_time_total / 1e6
    whole = sum(own.values())
    table = [
        {"what": kind, "seconds": spent, "share": spent / whole} for kind, spent in sorted(own.items(), key=lambda item: -item[1])
    ]
    tabulate(table)
    rate = matrix_rate(policy.device)
    ceiling = flops / rate
    print(
        f"the step took {seconds:.2f} s; at the matrix rate of {rate / 1e9:.0f} GFLOP/s its operations would take {ceiling:.2f} s"
    )
    name = "profile_step_compiled" if arguments.compiled else "profile_step"
    write(name, {"arguments": vars(arguments), "seconds": seconds, "seconds_at_the_matrix_rate": ceiling, "by_kind": table})


if __name__ == "__main__":
    main()
