"""What tests of `tutelage improve` share: a configuration for the tiny model, and a stand-in for sampling that has right answers."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tutelage.config import Config, Source, parse_config
from tutelage.data import arithmetic, plain
from tutelage.experiments import Improvement
from tutelage.runs.files import to_lines


def config_in(directory: Path, model: str, rows: int = 16, **changes: object) -> Config:
    """Rows of the built-in task and six problems to validate on; `changes` are ``section__key=value``."""
    train, validation = directory / "rows.jsonl", directory / "validation.jsonl"
    train.write_text(to_lines(arithmetic.rows("train", rows)), encoding="utf-8")
    validation.write_text(to_lines(arithmetic.rows("validation", 6)), encoding="utf-8")
    raw = {
        "model": {"id": model, "device": "cpu", "precision": "fp32"},
        "data": {"train": str(train), "validation": str(validation), "prompt": "plain"},
        "train": {"lr": 1e-3, "batch_size": 8, "grad_accum": 1, "num_steps": 2},
        "eval": {"every": 0, "examples": 6, "full": False, "max_new_tokens": 4, "backend": "native"},
        "run": {},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        raw[section][name] = value
    return parse_config(raw)


def problems_in(directory: Path, count: int = 12, skip: int = 40) -> Source:
    """Problems without solutions, in a file of their own: those of the built-in task after the first `skip`."""
    path = directory / "problems.jsonl"
    made = arithmetic.rows("train", skip + count)[skip:]
    asked = [row["messages"][0] for row in made]
    path.write_text(to_lines({"prompt": each["content"], "reference": each["info"]["reference_answer"]} for each in asked))
    return Source(path=str(path), prompt="plain")


def wished(problems: Source, **changes: object) -> Improvement:
    return Improvement(**{"problems": problems, "rounds": 2, **changes})


class Solver:
    """Stands in for `sample_problems`: the first `right` problems are solved, each twice, by solutions that differ from round to round.

    Attributes:
        asked: the model of each call that was not answered from what is there.
        fails: how many further calls raise KeyboardInterrupt, after they have begun.
    """

    def __init__(self, right: int = 4) -> None:
        self.right, self.asked, self.fails = right, [], 0
        self.prompts: set[str] = set()

    def __call__(self, problems, config, out, wanted, where="local", workers=2):
        summary = out.with_name(f"{out.stem}.summary.json")
        if summary.exists():
            return json.loads(summary.read_text())
        self.asked.append(Path(config.model.id).parent.name)
        self.prompts |= {plain(problem.prompt) for problem in problems}
        if self.fails:
            self.fails -= 1
            raise KeyboardInterrupt
        rows = [self._row(problem, sample, wanted.seed) for problem in problems[: self.right] for sample in (0, 1)]
        out.write_text(to_lines(rows))
        kept, count = len(rows), len(problems) * wanted.samples
        found = {
            "problems": len(problems), "samples": wanted.samples, "kept": kept, "fates": {"right": kept, "wrong": count - kept},
            "solved_at_least_once": self.right, "solved_share_ci95": [0.0, 1.0], "pass_at_k": {"1": {"estimate": 0.5, "low": 0.1, "high": 0.9}},
            "accuracy": kept / count, "accuracy_ci95": [0.0, 1.0], "avg_response_length": 20.0, "avg_token_entropy": 0.5, "seconds": 1.0,
            "out": str(out), "asked": asdict(wanted),
        }  # fmt: skip
        summary.write_text(json.dumps(found))
        return found

    @staticmethod
    def _row(problem, sample, seed):
        work = f"First we look at it, in way {sample} of {seed}."
        return {
            "prompt": plain(problem.prompt), "response": f"<think> {work} </think> <answer> {problem.reference} </answer>",
            "reference_answer": problem.reference, "provenance": {"verdict": "right", "seed": seed},
        }  # fmt: skip


def trained_rows(run: Path) -> Counter[str]:
    """How many rows of a run met which fate."""
    return Counter(json.loads((run / "data.json").read_text())["fates"])


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
