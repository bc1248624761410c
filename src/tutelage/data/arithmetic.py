"""The built-in task: word problems with worked solutions, some of them wrong on purpose.

Nine kinds, two or three steps each. A problem is its kind, its numbers and its wording; which numbers belong to validation
is decided by a hash of (kind, numbers), so no validation problem shares its numbers with a training problem of its kind,
whatever the seeds and sizes.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

NAMES = (
    "Ava", "Ben", "Chloe", "Dan", "Ella", "Finn", "Grace", "Hugo", "Iris", "Jack", "Lena", "Max", "Nora", "Omar", "Rosa", "Sam",
)  # fmt: skip
THINGS = ("apples", "books", "cards", "coins", "marbles", "pens", "shells", "stamps", "stickers", "sweets")
VALIDATION_SHARE = 5  # one in five number combinations is kept for validation


@dataclass(frozen=True)
class Problem:
    """`steps` are equations in words; the last one ends in the answer."""

    kind: str
    numbers: tuple[int, ...]
    question: str
    steps: tuple[str, ...]
    answer: int


def solution(problem: Problem, answer: int | None = None) -> str:
    """The worked solution in the think/answer form; with another `answer`, one whose last step slipped to it."""
    steps = list(problem.steps)
    if answer is None:
        answer = problem.answer
    else:
        head, _, tail = steps[-1].rpartition(str(problem.answer))
        steps[-1] = f"{head}{answer}{tail}"
    return f"<think> {' '.join(steps)} </think> <answer> {answer} </answer>"


def _sums(r: random.Random) -> Problem:
    a, b, c = r.randint(3, 20), r.randint(2, 10), r.randint(2, 9)
    name, thing = r.choice(NAMES), r.choice(THINGS)
    wordings = (
        f"{name} has {a} {thing}, finds {b} more and is given {c}. How many {thing} does {name} have now?",
        f"There were {a} {thing} in a box. {name} put in {b}, and later {c} more. How many {thing} are in the box now?",
    )
    steps = (f"{a} + {b} = {a + b}.", f"{a + b} + {c} = {a + b + c}.")
    return Problem("sums", (a, b, c), r.choice(wordings), steps, a + b + c)


def _products(r: random.Random) -> Problem:
    a, b, c = r.randint(2, 6), r.randint(2, 9), r.randint(1, 10)
    name, thing = r.choice(NAMES), r.choice(THINGS)
    wordings = (
        f"{name} fills {a} bags with {b} {thing} each and has {c} {thing} left over. How many {thing} are there in all?",
        f"There are {a} rows of {b} {thing}, and {c} more on the floor. How many {thing} are there?",
    )
    return Problem("products", (a, b, c), r.choice(wordings), _times_plus(a, b, c), a * b + c)


def _times_plus(a: int, b: int, c: int) -> tuple[str, str]:
    return f"{a} * {b} = {a * b}.", f"{a * b} + {c} = {a * b + c}."


def _shares(r: random.Random) -> Problem:
    people, each, extra = r.randint(2, 6), r.randint(2, 9), r.randint(1, 9)
    total, thing = people * each, r.choice(THINGS)
    wordings = (
        f"{people} friends share {total} {thing} equally. One of them, {r.choice(NAMES)}, already had {extra}."
        f" How many {thing} does that friend have now?",
        f"{total} {thing} are split equally among {people} children. One child finds {extra} more."
        f" How many {thing} does that child have?",
    )
    steps = (f"{total} / {people} = {each}.", f"{each} + {extra} = {each + extra}.")
    return Problem("shares", (people, each, extra), r.choice(wordings), steps, each + extra)


def _rates(r: random.Random) -> Problem:
    speed, hours, more = r.randint(1, 6) * 10, r.randint(2, 5), r.randint(1, 9)
    wordings = (
        f"A train goes {speed} km each hour for {hours} hours and then {more} km more. How many km does it go?",
        f"{r.choice(NAMES)} drives at {speed} km per hour for {hours} hours, then walks {more} km. How many km is the whole trip?",
    )
    return Problem("rates", (speed, hours, more), r.choice(wordings), _times_plus(speed, hours, more), speed * hours + more)


def _money(r: random.Random) -> Problem:
    count, price, fare = r.randint(2, 6), r.randint(2, 9), r.randint(1, 9)
    name, thing = r.choice(NAMES), r.choice(THINGS)
    wordings = (
        f"{name} buys {count} {thing} at ${price} each and pays ${fare} for the bus. How many dollars does {name} spend?",
        f"{count} {thing} at ${price} each are sent for a fee of ${fare}. How many dollars does {name} pay?",
    )
    return Problem("money", (count, price, fare), r.choice(wordings), _times_plus(count, price, fare), count * price + fare)


def _time(r: random.Random) -> Problem:
    hours, minutes, pause = r.randint(2, 4), r.randint(1, 5) * 10, r.randint(1, 9)
    wordings = (
        f"A film runs {hours} hours and {minutes} minutes, with a break of {pause} minutes. How many minutes is that in all?",
        f"{r.choice(NAMES)} works {hours} hours and {minutes} minutes, then rests {pause} minutes. How many minutes pass?",
    )
    full = hours * 60
    steps = (
        f"{hours} * 60 = {full}.",
        f"{full} + {minutes} = {full + minutes}.",
        f"{full + minutes} + {pause} = {full + minutes + pause}.",
    )
    return Problem("time", (hours, minutes, pause), r.choice(wordings), steps, full + minutes + pause)


def _fractions(r: random.Random) -> Problem:
    part, unit = r.choice((2, 3, 4, 5)), r.randint(2, 9)
    total, name, thing = part * unit, r.choice(NAMES), r.choice(THINGS)
    wordings = (
        f"{name} has {total} {thing} and gives away 1/{part} of them. How many {thing} does {name} keep?",
        f"1/{part} of the {total} {thing} in a shop are sold. How many {thing} remain?",
    )
    steps = (f"{total} / {part} = {unit}.", f"{total} - {unit} = {total - unit}.")
    return Problem("fractions", (total, part), r.choice(wordings), steps, total - unit)


def _comparisons(r: random.Random) -> Problem:
    few, times = r.randint(2, 10), r.randint(2, 5)
    (first, second), thing = r.sample(NAMES, 2), r.choice(THINGS)
    many = few * times
    if r.random() < 0.5:
        question = f"{first} has {few} {thing}. {second} has {times} times as many. How many more {thing} does {second} have than {first}?"
        last, answer = f"{many} - {few} = {many - few}.", many - few
    else:
        question = (
            f"{second} has {times} times as many {thing} as {first}, who has {few}. How many {thing} do they have together?"
        )
        last, answer = f"{many} + {few} = {many + few}.", many + few
    return Problem("comparisons", (few, times), question, (f"{few} * {times} = {many}.", last), answer)


def _percents(r: random.Random) -> Problem:
    percent, price = r.choice((10, 20, 50)), r.randint(1, 10) * 10
    name, extra = r.choice(NAMES), price * percent // 100
    wordings = (
        f"{name}'s meal costs ${price}, and {name} adds a tip of {percent}%. How many dollars is that in all?",
        f"A ticket for ${price} becomes {percent}% dearer. How many dollars must {name} pay now?",
    )
    steps = (f"{percent}% of {price} is {extra}.", f"{price} + {extra} = {price + extra}.")
    return Problem("percents", (price, percent), r.choice(wordings), steps, price + extra)


KINDS: tuple[Callable[[random.Random], Problem], ...] = (
    _sums, _products, _shares, _rates, _money, _time, _fractions, _comparisons, _percents,
)  # fmt: skip


def problems(split: Literal["train", "validation"], seed: int = 0) -> Iterator[Problem]:
    """An endless seeded stream of distinct questions of one split; the kinds take turns.

    A kind whose questions are used up drops out (each kind has thousands of wordings), and the stream ends with the last.
    """
    r = random.Random(f"{split}-{seed}")
    seen: set[str] = set()
    kinds = list(KINDS)
    while kinds:
        for kind in list(kinds):
            for _ in range(10_000):
                problem = kind(r)
                held_out = zlib.crc32(f"{problem.kind}{problem.numbers}".encode()) % VALIDATION_SHARE == 0
                if held_out == (split == "validation") and problem.question not in seen:
                    seen.add(problem.question)
                    yield problem
                    break
            else:
                kinds.remove(kind)


def rows(split: Literal["train", "validation"], count: int, seed: int = 0, wrong_share: float = 0.12) -> list[dict[str, Any]]:
    """`count` rows in the specification's message format.

    Of the training rows, exactly ``round(count × wrong_share)`` have a last step that slipped, and so a wrong answer;
    ``planted_error`` says which. Validation solutions are always right.
    """
    r = random.Random(f"errors-{split}-{seed}")
    wrong = set(r.sample(range(count), round(count * wrong_share))) if split == "train" else set()
    made = []
    for index, problem in zip(range(count), problems(split, seed), strict=False):
        slipped = max(0, problem.answer + r.choice((-10, -3, -2, -1, 1, 2, 3, 10)))
        slipped = slipped if slipped != problem.answer else problem.answer + 1
        user = {
            "role": "user",
            "content": problem.question,
            "info": {"reference_answer": str(problem.answer), "kind": problem.kind},
        }
        assistant = {"role": "assistant", "content": solution(problem, slipped if index in wrong else None)}
        made.append({"messages": [user, assistant], "planted_error": index in wrong})
    if len(made) < count:
        raise ValueError(f"the built-in task has {len(made)} distinct {split} problems for seed {seed}; {count} were asked for")
    return made
