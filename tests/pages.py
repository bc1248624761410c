"""Run directories as training and sweeps leave them, made up: for the page, and for comparisons."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tutelage.config import parse_config, to_toml
from tutelage.report import page as report
from tutelage.runs.files import to_lines
from tutelage.stats import clustered_interval

EVIL = '<script>window.evil = 1</script><img src=x onerror="window.evil = 2">'


VOCABULARY = [
    f"{a}{b}{c}" for a in ("st", "fr", "ap", "num", "th") for b in "aeiou" for c in ("n", "rt", "ce", "ble", "ng", "17", "d")
]


def record(step: int, problem: int, right: bool, text: str, **more) -> dict:
    """A response as an evaluation logs it."""
    tokens, draw = text.split(" "), random.Random(f"{step} {problem}")
    counts = [len(token) + (index < len(tokens) - 1) for index, token in enumerate(tokens)]
    return {
        "step": step, "prompt": f"Question: what is {problem} + {problem}?\n", "sample": 0, "response": text, "ground_truth": str(2 * problem),
        "reward": float(right), "format_reward": 1.0, "answer_reward": float(right), "vote": 0 if right else 1, "length": len(tokens),
        "token_entropy": 0.5, "finish_reason": "stop",
        "tokens": {"characters": counts, "entropy": [0.1 * index if len(tokens) < 20 else round(draw.expovariate(1), 3) for index in range(len(tokens))], "nll": [0.2 if len(tokens) < 20 else round(draw.expovariate(1), 3) for _ in tokens]}, **more,
    }  # fmt: skip


def evaluation(step: int, records: list[dict], **more) -> dict:
    right = [int(each["answer_reward"]) for each in records]
    return {
        "kind": "eval", "step": step, "examples": len(records), "samples": 1, "accuracy": sum(right) / len(right),
        "accuracy_ci95": list(clustered_interval(right, 1)), "format_rate": 0.9, "no_answer_rate": 0.1, "cap_hit_rate": 0.1,
        "avg_response_length": 9.0, "avg_response_length_correct": 9.0, "avg_response_length_incorrect": None,
        "avg_token_entropy": 0.5, "entropy": "exact", "seconds": 2.0, "training_seconds": 2.0, "logged_at_step": step, **more,
    }  # fmt: skip


def line(kind: str, step: int, **more) -> dict:
    """A line of metrics that holds what one of its kind must, and times only where they are given."""
    needed = {
        "train": {"loss": 1.0, "grad_norm": 1.0, "seconds": 0.0, "response_tokens": 1},
        "eval_failed": {"reason": "it hung"},
        "eval": {key: value for key, value in evaluation(step, [record(step, 0, True, "a")]).items() if "seconds" not in key},
    }
    return {**needed.get(kind, {}), "kind": kind, "step": step, **more}


def make_run(
    directory: Path, problems: int = 8, steps: tuple[int, ...] = (0, 10, 20), words_each: int = 6, finished: bool = True, **more
) -> Path:
    """A run directory as training leaves it: each evaluation solves more; problem 1 is lost again, and one response is a script."""
    directory.mkdir(parents=True)
    draw = random.Random(0)
    records, lines = [], []
    for index, step in enumerate(steps):
        of_step = []
        for problem in range(problems):
            right = problem < problems * index / len(steps) and not (problem == 1 and index == len(steps) - 1)
            filler = " ".join(draw.choice(VOCABULARY) for _ in range(words_each))
            answer = 2 * problem if right else 999
            text = f"<think> {filler} </think> <answer> {answer} </answer>"
            extra = {}
            if problem == 3 and step == steps[-1]:
                text, extra = EVIL, {"format_reward": 0.0, "answer_reward": 0.0, "vote": None, "tokens": None}
            if problem == 4 and step == 0:
                extra = {"finish_reason": "length", "format_reward": 0.0}
            of_step.append(record(step, problem, right and not extra, text, **extra))
        records += of_step
        lines.append(evaluation(step, of_step, **more))
    for step in range(1, steps[-1] + 1):
        lines.append(
            {"kind": "train", "step": step, "loss": 2 / step, "nll": 2 / step, "lr": 1e-4 / step, "grad_norm": 1.0, "response_tokens": 100,
             "weights_changed": 1.0, "seconds": 0.5, "tokens_per_second": 400.0, "memory_gb": 1.5, "epoch": step / 10}
        )  # fmt: skip
    config = parse_config(
        {"data": {"train": "rows.jsonl", "prompt": "plain"}, "train": {"lr": 1e-3}, "run": {"dir": str(directory)}}
    )
    (directory / "config.toml").write_text(to_toml(config))
    (directory / "prompt.txt").write_text("Question: {question}\n")
    (directory / "metrics.jsonl").write_text(to_lines(sorted(lines, key=lambda line: line["step"])))
    (directory / "generations.jsonl").write_text(to_lines(records))
    fates = [
        {"source": f"rows.jsonl:{n}", "fate": "kept" if n % 4 else "wrong answer", "why": "" if n % 4 else "exact: 3 ≠ 4"}
        for n in range(40)
    ]
    (directory / "ledger.jsonl").write_text(to_lines(fates))
    data = {
        "sha256": "x", "rows": 30, "tokens": 3000, "response_tokens": 2000, "problems": problems, "panel": problems, "max_length": 90,
        "max_length_was_chosen": True, "lengths": [[60, 5], [70, 20], [90, 5]],
        "example": {"source": "rows.jsonl:1", "prompt_tokens": 2, "tokens": ["Question", ":", " <b>", " 4", "<|end|>"]},
        "shown": [{"fate": "wrong answer", "source": "rows.jsonl:0", "why": "exact", "prompt": "Q", "response": "<i>bad</i>", "reference": "4"}],
    }  # fmt: skip
    (directory / "data.json").write_text(json.dumps(data))
    environment = {
        "command": ["tutelage", "train", "recipe.toml", "--train.lr", "1e-3"], "python": "3.11", "packages": {"torch": "2.13.0"}, "git": None,
        "machine": {"processor": "a CPU", "cores": 2, "memory_gb": 24, "system": "Linux", "gpus": [], "torch_threads": 2},
    }  # fmt: skip
    (directory / "environment.json").write_text(json.dumps(environment))
    if finished:
        (directory / "result.json").write_text(json.dumps({"steps": steps[-1]}))
    return directory


def make_sweep(directory: Path) -> Path:
    """A sweep of two kinds and two seeds, of which one trial has failed."""
    points, trials = [], []
    for kind in ("raw", "filtered", "control"):
        for seed in (42, 43):
            name = f"{'filtered' if kind == 'filtered' else 'raw'}-8-seed{seed}"
            points.append(
                {"trial": name, "kind": kind, "size": 8, "rows": 8, "seed": seed, "steps": 20, "tokens": 900, "varied": {}}
            )
            if name not in trials and name != "filtered-8-seed43":
                trials.append(name)
                make_run(directory / "trials" / name)
    make_run(directory / "baseline" / "abc", steps=(0,))
    state = {
        "design": {"sizes": [8], "kinds": ["raw", "filtered", "control"], "seeds": 2, "vary": [], "equal": "epochs", "lrs": []},
        "price_per_hour": 3.0, "points": points, "baselines": dict.fromkeys(trials, "baseline/abc"),
        "sessions": [{"started": 0.0, "seconds": 60.0, "finished": trials, "failed": {"filtered-8-seed43": "out of memory"}}],
    }  # fmt: skip
    (directory / "sweep.json").write_text(json.dumps(state))
    (directory / "config.toml").write_text(to_toml(parse_config({})))
    for name in trials:
        report.write(directory / "trials" / name)
    return directory
