"""What `machine.prepare_process` buys: seconds of a training step with its allocator settings, and without.

    python bench/allocator.py [--rounds 3] [--steps 6]

Runs SmolLM2-135M on the built-in task in child processes that alternate between the two settings, and prints the median step of
each and their ratio. Machines are noisy: read the ratio, over several rounds, and not the seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time

from harness import alternate, answer, write

SIDES = ("kept", "returned")
WARMUP = 2


def child(side: str, steps: int) -> list[float]:
    """Seconds of each training step."""
    if side == "kept":
        from tutelage.machines.process import prepare_process

        prepare_process()
    from tutelage.config import parse_config
    from tutelage.data import prepare
    from tutelage.model.load import load_policy, load_tokenizer
    from tutelage.model.optim import make_optimizer
    from tutelage.model.order import step_batches, step_rows
    from tutelage.training.step import accumulate_gradients, update_weights

    config = parse_config({"model": {"device": "cpu"}, "data": {"prompt": "plain"}, "train": {"batch_size": 16, "grad_accum": 1}})
    tokenizer = load_tokenizer("smollm2")
    rows = prepare(config, tokenizer).train
    policy = load_policy(config.model, tokenizer)
    policy.model.train()
    optimizer = make_optimizer(policy.model, config)
    seconds = []
    for step in range(steps + WARMUP):
        examples = [rows[row] for row in step_rows(len(rows), 16, 0, step)]
        started = time.monotonic()
        accumulate_gradients(policy, examples, step_batches(examples, 4096, 16), config, step)
        update_weights(policy, optimizer, 1e-5)
        seconds.append(time.monotonic() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help=f"timed steps of each process, after {WARMUP} that are not")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        answer({"seconds": child(arguments.child, arguments.steps)})
        return
    measured = alternate(__file__, SIDES, arguments.rounds)
    medians = {side: statistics.median(second for run in measured[side] for second in run["seconds"][WARMUP:]) for side in SIDES}
    ratio = medians["returned"] / medians["kept"]
    print(
        f"freed memory kept:     median step {medians['kept']:.2f} s\nfreed memory returned: median step {medians['returned']:.2f} s"
    )
    print(f"ratio {ratio:.2f}")
    write("allocator", {"median_step_seconds": medians, "ratio_returned_to_kept": ratio})


if __name__ == "__main__":
    main()
