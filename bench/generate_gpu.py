"""An engine on the card that is trained on, beside training and in turns with it: its speed, its sync, its cost; under six minutes.

    python bench/generate_gpu.py [--vllm vllm-0.24.0-sm90.tar.xz] [--only "engine beside" "train beside"] [--model smollm2]

Both seats are measured by two parts. "engine": the engine and the policy continue the same prompts by the same number of tokens, and
in each round the policy's weights are synced and certified in bfloat16; in turns the engine also sleeps and wakes up. "train": a run
of the recipe `arithmetic` by the command line, evaluated by the engine; beside, training goes on meanwhile. "eval" is `tutelage
eval` of the trained model by the engine.

Each part is a process of its own with a time limit. It prints RESULT lines as they come, so that a run that is cut off leaves
figures. The results are in bench/results/generate_gpu.json, for "beside" and "in_turns": `vllm_over_native` (generation by the
training model over that by the engine, in seconds), `sync_seconds`, `sync_max_gap` (nats), `eval_share_of_training_time`; null is
what was not measured, and `left_out` says why.

`--vllm` unpacks a build of vLLM, which the parts then find. With TOY=1 all parts run on the CPU at a toy size, by vLLM where that is
installed, else by the fake engine; in turns needs a card. A toy's results are written as generate_gpu_toy.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generate import rounds, summed_up
from harness import answer, tabulate, write

HERE = Path(__file__).parent
SEATS = ("beside", "in_turns")
LIMITS = {"engine beside": 75.0, "train beside": 75.0, "engine in_turns": 75.0, "train in_turns": 75.0, "eval": 50.0}
"""Seconds that each part may take, 350 together. On a card an engine is reckoned to start in 20–40 s."""
KEYS = ("vllm_over_native", "sync_seconds", "sync_max_gap", "eval_share_of_training_time")
OF_VLLM = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_USE_V2_MODEL_RUNNER": "0"}


def lines_of(command: list[str], limit: float, log: Path) -> Iterator[str]:
    """What a process prints, line by line; it is ended after so many seconds. Raises SystemExit if it fails or is ended."""
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
    ended = threading.Event()

    def end() -> None:
        ended.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    try:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            last = line.strip() or last
            yield line
        code = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            end()
    if ended.is_set():
        raise SystemExit(f"not done after {limit:.0f} s, and ended")
    if code:
        raise SystemExit(f"exit code {code}: {(log.read_text().strip().splitlines() or [last])[-1][:300]}")


def told(part: str, found: dict[str, Any]) -> dict[str, Any]:
    """A result of a part, printed as it comes."""
    print("RESULT " + json.dumps({"part": part, **found}), flush=True)
    return found


def limit_of(part: str, arguments: argparse.Namespace) -> float:
    """Seconds that a part may take; a CPU is slow to begin."""
    return LIMITS[part] * (4 if arguments.toy else 1)


def engine(part: str, arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, __file__, *sys.argv[1:], "--backend", arguments.backend, "--child", part]
    found = []
    for line in lines_of(command, limit_of(part, arguments), folder / f"{part}.log"):
        if line.startswith("RESULT"):
            found.append(json.loads(line.removeprefix("RESULT")))
            yield summed_up(found)


def train(part: str, arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """What a run has logged, after each of its evaluations."""
    from tutelage.runs import Reading

    steps, examples, tokens = (4, 4, 4) if arguments.toy else (40, 64, 80)
    run, seat = folder / part.replace(" ", "-"), part.partition(" ")[2]
    settings = {
        "model.id": arguments.model, "model.precision": "bf16-mixed", "model.compile": "off", "data.filter": "false",
        "eval.backend": arguments.backend, "eval.in_turns": "on" if seat == "in_turns" else "off",
        "eval.mode": "sync" if seat == "in_turns" else "async", "eval.every": steps // 2, "eval.examples": examples,
        "eval.max_new_tokens": tokens, "eval.gpu_memory_utilization": 0.3, "train.num_steps": steps, "run.dir": run,
        **({"model.device": "cpu", "train.batch_size": 2} if arguments.toy else {}),
    }  # fmt: skip
    command = [sys.executable, "-m", "tutelage", "train", str(HERE.parent / "recipes" / "arithmetic.toml")]
    command += [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    for line in lines_of(command, limit_of(part, arguments), folder / f"{part}.log"):
        if line.startswith("step "):  # an evaluation is in
            yield logged(Reading(run))
    yield logged(Reading(run)) | {"finished": Reading(run).trained}


def logged(reading: Any) -> dict[str, Any]:
    """The cost of a run's evaluations so far, and their certificates."""
    certificates = [line["certificate"] for line in reading.lines if "certificate" in line]
    return {
        "eval_share_of_training_time": reading.evaluation_cost["share"], "evaluation_cost": reading.evaluation_cost,
        "evaluated": reading.evaluated, "certificates": [[proof["mean_gap"], proof["max_gap"], proof["holds"]] for proof in certificates],
        "failures": [line["reason"] for line in reading.lines if line["kind"] in ("eval_failed", "engine_failed")],
    }  # fmt: skip


def evaluate(part: str, arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """`tutelage eval` of the model that a run beside, or else in turns, has left."""
    run = next((run for run in (folder / "train-beside", folder / "train-in_turns") if (run / "result.json").is_file()), None)
    if run is None:
        raise SystemExit("no run has finished, whose model could be evaluated")
    command = [sys.executable, "-m", "tutelage", "eval", str(run), "arithmetic", "--split", "test", "--out", str(folder / "eval")]
    settings = {"eval.backend": arguments.backend, "eval.examples": 4 if arguments.toy else 256, "eval.gpu_memory_utilization": 0.5}
    command += [f"--{key}={value}" for key, value in settings.items()]
    for _ in lines_of(command, limit_of(part, arguments), folder / f"{part}.log"):
        pass
    summary = json.loads((folder / "eval" / "summary.json").read_text())
    yield {key: summary[key] for key in ("examples", "accuracy", "avg_token_entropy", "entropy", "certificates")}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The last result of each part, and why parts are missing."""
    parts: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    ways = {"engine": engine, "train": train, "eval": evaluate}
    for part in arguments.only:
        if part.endswith("in_turns") and arguments.toy:
            left_out[part] = "an engine sleeps on a card alone: in turns is not available on a CPU"
            told(part, {"left_out": left_out[part]})
            continue
        begun = time.monotonic()
        try:
            for found in ways[part.partition(" ")[0]](part, arguments, folder):
                parts[part] = told(part, found)
        except SystemExit as stop:
            left_out[part] = str(stop)
            told(part, {"failed": str(stop)})
        print(f"{part}: {time.monotonic() - begun:.0f} s", flush=True)
    return {"parts": parts, "left_out": left_out}


def figures(parts: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """What is compared, for each seat; None where not measured."""
    kinds = {key: "train" if key == "eval_share_of_training_time" else "engine" for key in KEYS}
    return {key: {seat: parts.get(f"{kind} {seat}", {}).get(key) for seat in SEATS} for key, kind in kinds.items()}


def child(arguments: argparse.Namespace) -> None:
    """The part "engine", in a process of its own."""
    from tutelage.machines.process import prepare_process

    prepare_process()
    count, tokens, repeats = (4, 8, 2) if arguments.toy else (128, 128, 3)
    asked = argparse.Namespace(
        model=arguments.model, backend=arguments.backend, device="cpu" if arguments.toy else "cuda", prompts=count, tokens=tokens,
        rounds=repeats, sleep=arguments.child.endswith("in_turns"),
    )  # fmt: skip
    for found in rounds(asked):
        answer(found)
        sys.stdout.flush()


def unpacked(archive: Path, folder: Path) -> None:
    """Let the processes of all parts find the vLLM in an archive, behind what is installed."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="tar")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(folder))))
    sys.path.append(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(LIMITS), default=list(LIMITS), help="the parts to measure")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--vllm", type=Path, help="an archive of a vLLM that is not installed")
    parser.add_argument("--backend", help='the engine (default: "vllm"; with TOY=1, "fake" where vLLM cannot run)')
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.toy = os.environ.get("TOY", "") not in ("", "0")
    if arguments.child:
        child(arguments)
        return
    os.environ.update({name: value for name, value in OF_VLLM.items() if name not in os.environ})
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if arguments.vllm is not None:
            unpacked(arguments.vllm, folder / "vllm")
        import torch

        from tutelage.evaluation import registry

        if not arguments.toy and not torch.cuda.is_available():
            raise SystemExit("no CUDA card here: with TOY=1 the parts run on a CPU, at a toy size")
        reason = registry.reason("vllm", "cpu" if arguments.toy else "cuda")
        if arguments.backend is None:
            arguments.backend = "fake" if reason and arguments.toy else "vllm"
        if arguments.backend == "vllm" and reason:
            raise SystemExit(f"{reason}; --vllm names an archive of it")
        result = measure(arguments, folder)
    compared = figures(result["parts"])
    tabulate([{"": key, **{seat: "–" if value is None else value for seat, value in of.items()}} for key, of in compared.items()])
    write("generate_gpu_toy" if arguments.toy else "generate_gpu", {**compared, "backend": arguments.backend, **result})


if __name__ == "__main__":
    main()
