"""``tutelage demo``: the whole job on two cores in five minutes, with the built-in task and the embedded model."""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.cli.command import Commands, Outcome, add_command, start

if TYPE_CHECKING:
    from tutelage.config import Config
    from tutelage.training import Result

TRAINING_ROWS = 560
VALIDATION_ROWS = 64
DIRECTORY = "tutelage-demo"


def add(commands: Commands) -> None:
    summary = "the whole job in about five minutes on two cores: filter, train, evaluate, report"
    add_command(commands, "demo", run, summary, prints_json=False)


def run(arguments: argparse.Namespace) -> Outcome:
    """Write data, filter, evaluate, train, evaluate, and show what changed."""
    start()
    from tutelage import console
    from tutelage.cli.filter import filter_file
    from tutelage.data import arithmetic
    from tutelage.report import show
    from tutelage.runs import to_lines, write_text
    from tutelage.training import fine_tune

    started = time.monotonic()
    directory = _free_directory()
    console.say("Tutelage demo", style="bold")
    console.say(
        f"This writes {TRAINING_ROWS} worked arithmetic problems (12 % of them wrong on purpose), filters out the wrong ones, lets\n"
        f"SmolLM2-135M-Instruct solve {VALIDATION_ROWS} other problems, trains it on the right ones and lets it try again,\n"
        f"{on_device()}.\n"
        f"Everything goes to {directory}/. Ctrl-C stops it and keeps what was measured.\n"
    )
    (directory / "data").mkdir(parents=True)
    train, validation = directory / "data" / "train.jsonl", directory / "data" / "validation.jsonl"
    write_text(train, to_lines(arithmetic.rows("train", TRAINING_ROWS)))
    write_text(validation, to_lines(arithmetic.rows("validation", VALIDATION_ROWS)))

    console.say("1. Filter: does each worked solution reach its reference answer?", style="bold")
    kept = filter_file(str(train), directory / "data" / "train.filtered.jsonl")
    console.say(f"{kept} of {TRAINING_ROWS} rows are kept.\n")

    console.say("2. Train, solving the validation problems before, during and after", style="bold")
    result = fine_tune(demo_config(directory))

    console.say("\n3. What changed", style="bold")
    show.before_after(result.evaluations[0], result.evaluations[-1])
    console.say(_solved(result))
    console.say(f"\nAll of it took {console.duration(time.monotonic() - started)}. {_what_next(directory, result.directory)}")
    return Outcome()


def on_device() -> str:
    """Where the demo computes, in words."""
    import torch

    from tutelage.model import choose_device

    device = choose_device("auto")
    if device.type == "cuda":
        return f"on this machine's {torch.cuda.get_device_name(device)}"
    return "on the CPU: about four minutes on two idle cores"


def demo_config(directory: Path) -> Config:
    """What the demo trains: every value that differs from the defaults."""
    from tutelage.config import parse_config

    data = {
        "train": str(directory / "data" / "train.filtered.jsonl"), "validation": str(directory / "data" / "validation.jsonl"),
        "prompt": "plain", "filter": False,  # done, and shown, in a step of its own
    }  # fmt: skip
    train = {
        "lr": 1.5e-4, "batch_size": 16, "grad_accum": 1, "num_epochs": 1, "schedule": "linear", "warmup_ratio": 0.1,
        "betas": (0.9, 0.99),
    }  # fmt: skip
    evaluation = {"every": 16, "examples": VALIDATION_ROWS, "max_new_tokens": 80, "backend": "native"}
    return parse_config(
        {"data": data, "train": train, "eval": evaluation, "run": {"dir": str(directory / "run"), "save_every": 0}}
    )


def _what_next(directory: Path, trained: Path) -> str:
    # the name if it is on the path, else where it lies: `make demo` does not activate its environment
    program = "tutelage" if shutil.which("tutelage") else os.path.relpath(sys.argv[0])
    return (
        f"Where everything lies:\n"
        f"  {trained}/report.html        the page to look at: curves, every response, the data (opens in any browser)\n"
        f"  {trained}/model/             the trained model: a Hugging Face directory\n"
        f"  {trained}/generations.jsonl  every response of every evaluation, graded\n"
        f"  {trained}/metrics.jsonl      loss, learning rate, speed, accuracy, step by step\n"
        f"  {directory}/data/{' ' * (len(str(trained)) - len(str(directory)))}              the data, and the fate of every row\n"
        "\nThree things to try next:\n"
        f'  {program} ask {trained} "Mia has 14 pens, finds 9 more and is given 5. How many pens does Mia have now?"\n'
        f"  {program} eval {trained} {directory / 'data' / 'validation.jsonl'} --eval.temperature 0.7\n"
        f"  {program} train --data.train YOUR_ROWS.jsonl --run.dir runs/mine     ({program} train --help lists every setting)"
    )


def _free_directory() -> Path:
    """The demo's directory; an earlier demo is left as it is."""
    names = itertools.chain([DIRECTORY], (f"{DIRECTORY}-{count}" for count in itertools.count(2)))
    return next(Path(name) for name in names if not Path(name).exists())


def _solved(result: Result) -> str:
    """One problem that the model used to fail and now solves."""
    from tutelage.runs import Reading

    records = Reading(result.directory).responses.lines
    before = {record["prompt"]: record for record in records if record["step"] == 0}
    for after in (record for record in records if record["step"] == result.steps):
        first = before[after["prompt"]]
        if after["answer_reward"] > 0 and not first["answer_reward"] > 0:
            return (
                f"\nA problem it used to fail:\n{after['prompt'].strip()}\n"
                f"  before: {' '.join(first['response'].split())[:240]}\n"
                f"  after:  {after['response'].strip()}\n"
                f"  reference: {after['ground_truth']}"
            )
    return "\nNo problem that failed before is solved now."
