"""Generation by the training model itself: its loop with a growing cache beside steps of fixed shapes, captured as CUDA graphs.

    python bench/captured.py [--model smollm2] [--prompts 64] [--tokens 80] [--rounds 2] [--device cuda]

All sides greedily continue the same prompts by the same number of tokens, in one process, in turns; each round starts with another
side, and medians are compared. "growing" is the loop for any model; "fixed shapes" computes each step of the other kind kernel by
kernel; "captured" replays it, and is there on a CUDA device alone: without one its figures are null. "first call" holds the captures
of an evaluation's first batch, "later calls" are what its other batches take.
The texts of fixed shapes are compared with those of the growing cache in float32. In bfloat16 two tokens are often equally likely,
and which of them is larger depends on the order of a sum: that share of equal texts is told, too.

`--toy` does all of that in seconds, on few tokens: with it a test runs this file.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from harness import tabulate, write


def prompts_of(tokenizer: Any, count: int) -> list[list[int]]:
    from tutelage.data import arithmetic

    rows = arithmetic.rows("train", count)
    return [tokenizer.encode(f"{row['messages'][0]['content']}\n") for row in rows]


def ways(device: str) -> dict[str, Any]:
    """What `native.generating` takes for each side."""
    from tutelage.evaluation.engine.decoding import Growing
    from tutelage.evaluation.engine.static import Static

    def fixed_shapes(*parts: Any) -> Static:
        return Static(*parts, capture=lambda step: step)

    return {"growing": Growing, "fixed shapes": fixed_shapes} | ({"captured": Static} if device == "cuda" else {})


def timed_sides(policy: Any, prompts: list[list[int]], sampling: Any, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of each side: seconds of (first call, later call) in each round; what it said."""
    import torch

    from tutelage.evaluation.engine import native

    def timed(continued: Any) -> tuple[Any, float]:
        begun = time.monotonic()
        completions = continued(prompts)
        if policy.device.type == "cuda":
            torch.cuda.synchronize()
        return completions, time.monotonic() - begun

    seconds: dict[str, list[tuple[float, float]]] = {}
    said: dict[str, Any] = {}
    sides = ways(policy.device.type)
    with policy.computing(with_head=True):
        native.generate(policy.model, policy.tokenizer, prompts[:2], sampling)  # libraries set themselves up
        for number in range(rounds):
            turn = number % len(sides)
            for side in [*sides, *sides][turn : turn + len(sides)]:
                with native.generating(policy.model, policy.tokenizer, sampling, sides[side]) as continued:
                    said[side], first = timed(continued)
                    later = first if side == "growing" else timed(continued)[1]  # the growing loop captures nothing
                seconds.setdefault(side, []).append((first, later))
                print(f"{policy.precision}, round {number + 1}, {side}: {first:.2f} s, then {later:.2f} s", flush=True)
    return seconds, said


def equal_share(said: dict[str, Any], side: str) -> float | None:
    if side not in said:
        return None
    pairs = list(zip(said["growing"], said[side], strict=True))
    return round(sum(a.text == b.text for a, b in pairs) / len(pairs), 3)


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from tutelage.config import ModelConfig
    from tutelage.evaluation.engine.contract import Sampling
    from tutelage.model.load import load_policy, load_tokenizer

    tokenizer = load_tokenizer(arguments.model)
    prompts = prompts_of(tokenizer, arguments.prompts)
    # no side may end early: all make the same number of tokens
    sampling = Sampling(arguments.tokens, temperature=0, stop=(), min_new_tokens=arguments.tokens)
    rates: dict[str, dict[str, float | None]] = {"first call": {}, "later calls": {}}
    result: dict[str, Any] = {"device": arguments.device, "prompts": arguments.prompts, "tokens_each": arguments.tokens}
    for precision in ("bf16-mixed", "fp32"):
        policy = load_policy(
            ModelConfig(id=arguments.model, device=arguments.device, precision=precision), tokenizer, to_train=False
        )
        rounds = 1 if precision == "fp32" else arguments.rounds  # in float32, texts count
        seconds, said = timed_sides(policy, prompts, sampling, rounds)
        share = {side: equal_share(said, side) for side in ("fixed shapes", "captured")}
        if precision == "fp32":
            result["equal_texts_float32"] = share
            continue
        result |= {"precision": policy.precision, "equal_texts": share}
        made = arguments.prompts * arguments.tokens
        for index, name in enumerate(rates):
            for side in ("growing", "fixed shapes", "captured"):
                runs = [run[index] for run in seconds.get(side, [])]
                rates[name][side] = round(made / statistics.median(runs), 1) if runs else None
        if arguments.device == "cuda":
            result["peak_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return result | {"tokens_per_second": rates, **ratios(rates)}


def ratios(rates: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """Over the growing loop; None where a side was not measured."""

    def ratio(name: str, side: str) -> float | None:
        ours, theirs = rates[name][side], rates[name]["growing"]
        return round(ours / theirs, 2) if ours and theirs else None

    return {
        "captured_over_growing_first_call": ratio("first call", "captured"),
        "captured_over_growing": ratio("later calls", "captured"),
        "fixed_shapes_over_growing": ratio("later calls", "fixed shapes"),
    }


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in (("prompts", 64), ("tokens", 80), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--toy", action="store_true", help="few prompts and tokens")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA card here: leave --device out, and only what needs none is measured")
    if arguments.toy:
        arguments.prompts, arguments.tokens, arguments.rounds = 4, 12, 1
    result = measured(arguments)
    tabulate([{"": name, **by_side} for name, by_side in result["tokens_per_second"].items()])
    write("captured_toy" if arguments.toy else "captured", result)


if __name__ == "__main__":
    main()
