"""``tutelage init``: three questions, a look at the data, and a configuration with a comment on each line."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from tutelage.cli.command import DATA, Commands, Outcome, add_command
from tutelage.errors import InputError

SMALL = {"lr": 1e-4, "batch_size": 8, "grad_accum": 2, "num_epochs": 1}
"""What the embedded model of 135M learns well with."""
USUAL = {"lr": 2e-5, "batch_size": 4, "grad_accum": 4, "num_epochs": 2}
LOOKED_AT = 200
"""Rows that are looked at."""
QUESTIONS = {
    "model": ("Which model? A directory, a hub name (name@revision pins it), or smollm2", "smollm2"),
    "train": ("Which training data? A file, a directory of shards, a hub name, or arithmetic", "arithmetic"),
    "dir": ("Where shall the run go?", "runs/first"),
}


def add(commands: Commands) -> None:
    summary = "a commented configuration, after three questions and a look at the data"
    parser = add_command(commands, "init", run, summary, prints_json=False)
    parser.add_argument("--model", metavar="ID", help="a model directory, a hub name, or smollm2 (default: asks)")
    parser.add_argument("--train", metavar="DATA", help=f"{DATA} (default: asks)")
    parser.add_argument("--validation", metavar="DATA", help="validation problems (default: a tenth of the training rows)")
    parser.add_argument("--dir", help="the run directory (default: asks)")
    parser.add_argument("--out", type=Path, default=Path("config.toml"), help="the new file (default config.toml)")


def run(arguments: argparse.Namespace) -> Outcome:
    init(arguments.out, {name: getattr(arguments, name) for name in QUESTIONS}, arguments.validation)
    return Outcome()


def init(out: Path, answers: dict[str, str | None], validation: str | None = None) -> Path:
    """Write a configuration to `out`.

    Args:
        answers: to `QUESTIONS`, by name; those that are None are asked on the terminal.

    Raises:
        InputError: `out` exists; an answer is missing and there is nobody to ask; the data cannot be read or understood.
    """
    from tutelage.runs import owned

    with owned(out, parents=True):
        return _init(out, answers, validation)


def _init(out: Path, answers: dict[str, str | None], validation: str | None) -> Path:
    from tutelage import console
    from tutelage.config import parse_config
    from tutelage.runs import write_text

    known = {name: answer if answer is not None else _ask(name) for name, answer in answers.items()}
    data, reward, note = _look_at(known["train"], validation, is_instruct(known["model"]))
    model = Path(known["model"])
    if "/" in known["model"] and model.is_dir() and not (model / "config.json").is_file():
        raise InputError(f"--model {model}: no model there (a Hugging Face model directory holds config.json)")
    small = known["model"] == "smollm2"
    raw: dict[str, dict[str, Any]] = {
        "model": {"id": known["model"]},
        "data": {"prompt": reward, "filter": True, **data},
        "train": SMALL if small else USUAL,
        "eval": {"every": 30 if small else 100, "max_new_tokens": 256 if small else 1024, "reward": reward},
        "run": {"dir": known["dir"]},
    }
    parse_config(raw)
    write_text(out, _commented(raw, note))
    console.say(f"{known['train']}: {note}")
    console.say(
        f"wrote {out}. What it will take: tutelage plan {out}; is all as it should be: tutelage check {out}; go: tutelage train {out}"
    )
    return out


def _ask(name: str) -> str:
    question, default = QUESTIONS[name]
    nobody = InputError(f"there is no terminal to ask on: give --{name} ({question.lower()}; {default} for the default)")
    if not sys.stdin.isatty():
        raise nobody
    try:
        return input(f"{question} [{default}]: ").strip() or default
    except EOFError:
        raise nobody from None


def is_instruct(model: str) -> bool:
    """Whether a model answers chats: by its name, else by the chat template in its directory. Qwen's base models have one, too."""
    name = Path(model.partition("@")[0]).name.lower()
    words = set(re.split(r"[-_.]", name))
    if words & {"instruct", "chat", "it", "thinking", "sft", "dpo"} or name == "smollm2":
        return True
    if words & {"base", "pt"} or name.startswith("qwen2"):
        return False
    if (Path(model) / "chat_template.jinja").is_file():
        return True
    tokenizer = Path(model) / "tokenizer_config.json"
    return name.startswith("qwen3") or (tokenizer.is_file() and '"chat_template"' in tokenizer.read_text(encoding="utf-8"))


def _look_at(train: str, validation: str | None, instruct: bool) -> tuple[dict[str, Any], str, str]:
    """(settings of [data], the grader, both in words) after a look at the rows."""
    from tutelage.cli.guess import guess, require_problems
    from tutelage.data import read_rows

    data: dict[str, Any] = {"train": train} if validation is None else {"train": train, "validation": validation}
    reward, note = "r1_zero", "arithmetic is built in"
    if train != "arithmetic":
        found = guess(read_rows(train)[:LOOKED_AT], train, instruct)
        if not found.references and validation is None:
            raise InputError(
                f"{train}: no row has a reference answer, so none can be held out: give --validation with problems that have"
            )
        data, reward, note = data | found.settings, found.reward, found.note
    if validation not in (None, "arithmetic"):
        require_problems(read_rows(str(validation))[:LOOKED_AT], str(validation), data.get("columns", {}))
    return data, reward, note


def _commented(raw: dict[str, dict[str, Any]], note: str) -> str:
    """TOML whose every line has what the setting means above it."""
    import tomli_w

    from tutelage.config import describe

    meaning = {(section, key): text for section, key, _, _, text in describe()}
    lines = ["# Written by tutelage init. Every other setting has a default: tutelage train --help", f"# The data: {note}"]
    for section, values in raw.items():
        lines += ["", f"[{section}]"]
        for key, value in sorted(values.items(), key=lambda item: isinstance(item[1], dict)):  # tables stand at a section's end
            comment = [f"# {line}" for line in meaning[section, key].splitlines()]
            if isinstance(value, dict):
                lines += ["", *comment, f"[{section}.{key}]", tomli_w.dumps(value).rstrip()]
            else:
                lines += [*comment, tomli_w.dumps({key: value}).rstrip()]
    return "\n".join(lines) + "\n"
