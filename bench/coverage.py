"""How often 95 % intervals hold the truth: accuracies by question, differences of two models, means over seeds.

    python bench/coverage.py [--draws 10000]      # minutes on one core, no model

Each draw is an evaluation of questions whose chances to be solved have a beta distribution, with `samples` answers to each. The
two parameters of the distribution sum to `spread`: at 0.5 nearly all questions are always solved or never, at 2 and an accuracy
of one half all chances are equally likely. The interval's own function is called on each draw.

`one_accuracy`: `clustered_interval`. `two_models`: `compare` of two models whose chances are the same for half of the questions and
drawn apart for the others. The true difference is zero; `told` is how often one is told all the same. `seeds`: `crossed_interval`
of several models, whose skills spread by some 3 points.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.special
from harness import tabulate, write

from tutelage.stats import clustered_interval, compare, crossed_interval

ACCURACIES = (0.1, 0.3, 0.5, 0.7, 0.9)
SAMPLES = (1, 4, 16)
SPREADS = (0.5, 2.0)
QUESTIONS = (30, 100, 500)


def quick() -> None:
    """Student's distribution by SciPy, which equals ours (tests/test_stats.py) and takes microseconds."""
    from tutelage.stats import intervals, paired

    def quantile(probability: float, freedom: float) -> float:
        return float(scipy.special.stdtrit(freedom, probability))

    intervals.student_quantile = paired.student_quantile = quantile
    paired.student_beyond = lambda value, freedom: float(scipy.special.stdtr(freedom, -value))


def chances(random: np.random.Generator, accuracy: float, spread: float, shape: tuple[int, ...]) -> np.ndarray:
    return random.beta(accuracy * spread, (1 - accuracy) * spread, shape)


def share_held(intervals: Iterable[tuple[float, float]], truth: float) -> float:
    """The share of intervals that hold the truth. A rounding error at an end counts as held."""
    return float(np.mean([low - 1e-12 <= truth <= high + 1e-12 for low, high in intervals]))


def one_accuracy(random: np.random.Generator, draws: int, questions: int, samples: int, accuracy: float, spread: float) -> float:
    right = random.binomial(samples, chances(random, accuracy, spread, (draws, questions)))
    return share_held((clustered_interval(counts, samples) for counts in right.tolist()), accuracy)


def two_models(
    random: np.random.Generator, draws: int, questions: int, samples: int, accuracy: float, spread: float
) -> tuple[float, float]:
    """(the share of intervals that hold zero, the share of draws in which a difference is told)."""
    first, other = (chances(random, accuracy, spread, (draws, questions)) for _ in range(2))
    second = np.where(random.random((draws, questions)) < 0.5, first, other)
    sides = [(random.binomial(samples, each) / samples)[..., None].tolist() for each in (first, second)]
    found = [compare(a, b) for a, b in zip(*sides, strict=True)]
    return share_held(((each.low, each.high) for each in found), 0.0), float(np.mean([each.significant for each in found]))


def over_seeds(random: np.random.Generator, draws: int, questions: int, seeds: int) -> float:
    """Models whose skill, in logits, spreads by 0.2 around questions whose difficulty spreads by 2: a truth of one half."""
    difficulty = 2 * random.normal(size=(draws, questions, 1))
    skill = 0.2 * random.normal(size=(draws, 1, seeds))
    right = random.random((draws, questions, seeds)) < scipy.special.expit(skill - difficulty)
    return share_held((crossed_interval(scores) for scores in right.astype(float).tolist()), 0.5)


def measured(draws: int, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found: dict[str, Any] = {"draws": draws, "one_accuracy": [], "two_models": [], "seeds": []}
    for questions in QUESTIONS:
        for samples in SAMPLES:
            for spread in SPREADS:
                for accuracy in ACCURACIES:
                    setting = {"questions": questions, "samples": samples, "spread": spread, "accuracy": accuracy}
                    held = one_accuracy(random, draws, **setting)
                    found["one_accuracy"].append(setting | {"held": held})
        for samples in SAMPLES:
            for accuracy in (0.1, 0.5):
                setting = {"questions": questions, "samples": samples, "spread": 0.5, "accuracy": accuracy}
                held, told = two_models(random, draws // 5, **setting)
                found["two_models"].append(setting | {"held": held, "told": told})
        for seeds in (1, 3, 5):
            found["seeds"].append(
                {"questions": questions, "seeds": seeds, "held": over_seeds(random, draws // 5, questions, seeds)}
            )
        print(f"{questions} questions: done", flush=True)
    return found


def ranges(rows: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """The lowest and the highest share, in percent, by questions and one more key."""
    keys = sorted({(row["questions"], row[by]) for row in rows})
    groups = {key: [row for row in rows if (row["questions"], row[by]) == key] for key in keys}
    return [
        {"questions": questions, by: value}
        | {name: f"{100 * min(row[name] for row in those):.1f}–{100 * max(row[name] for row in those):.1f} %"
           for name in ("held", "told") if name in those[0]}
        for (questions, value), those in groups.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=10_000)
    draws = parser.parse_args().draws
    quick()
    started = time.monotonic()
    found = measured(draws)
    found["seconds"] = round(time.monotonic() - started, 1)
    for name, by in (("one_accuracy", "samples"), ("two_models", "samples"), ("seeds", "seeds")):
        print(name)
        tabulate(ranges(found[name], by))
    write("coverage", found)


if __name__ == "__main__":
    main()
