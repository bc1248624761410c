"""``tutelage init``: a few questions, a look at the data, and a configuration with a comment on each line; later, changes to it."""

from __future__ import annotations

import argparse
import shlex
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tutelage.cli.command import DATA, OVERRIDES, Commands, Outcome, add_command
from tutelage.cli.first_config import Answers, check_model, check_train, check_validation, commented, composed, flat, revised
from tutelage.cli.guess import FIELDS, UnknownColumns
from tutelage.errors import InputError

QUESTIONS = {
    "model": ("Which model? A directory, a hub name (NAME@REVISION pins it), or smollm2", "smollm2"),
    "train": ("Which training data? A file, a directory of shards, a hub name, or arithmetic", "arithmetic"),
    "validation": ("Which problems to validate on? A file, a directory, or a hub name, of problems with reference answers", ""),
    "dir": ("Where shall the run go?", "runs/first"),
}
"""Of each flag: the question that it answers, and what is meant by no answer."""
ALWAYS = ("model", "train", "dir")
"""Questions that any run needs an answer to. Validation problems are needed where training rows have no reference answers."""


def add(commands: Commands) -> None:
    summary = "a commented configuration, after a few questions and a look at the data"
    parser = add_command(
        commands, "init", run, summary, prints_json=False, takes_settings=True,
        description="Writes a commented configuration, after a few questions and a look at the data. Where the file is there already,"
        f" it is changed: comments and other settings stay. {OVERRIDES}",
    )  # fmt: skip
    parser.add_argument("--model", metavar="ID", help="a model directory, a hub name, or smollm2 (default: asks)")
    parser.add_argument("--train", metavar="DATA", help=f"{DATA} (default: asks)")
    parser.add_argument(
        "--validation", metavar="DATA", help="validation problems (default: a tenth of the training problems, or asks where it must)"
    )
    parser.add_argument("--dir", help="the run directory (default: asks)")
    parser.add_argument("--out", type=Path, default=Path("config.toml"), help="the file (default config.toml)")


def run(arguments: argparse.Namespace) -> Outcome:
    init(arguments.out, {name: getattr(arguments, name) for name in QUESTIONS}, arguments.overrides)
    return Outcome()


def init(out: Path, flags: dict[str, str | None], overrides: Sequence[str] = ()) -> Path:
    """Write a configuration to `out`, or change the one that is there.

    Args:
        flags: answers to `QUESTIONS`, by name; those that are None or left out are asked on the terminal.
        overrides: settings as on the command line, ``--section.key value``.

    Raises:
        InputError: an answer is missing and there is nobody to ask; the data cannot be read or understood; `out` is no configuration.
    """
    from tutelage import console
    from tutelage.runs import owned, write_text

    with owned(out, new=False, parents=True):
        before = _text_of(out)
        known = Answers.of(_parsed(before, out), flags, list(overrides), str(out) if before else "config")
        asks = sys.stdin.isatty()
        if asks:
            _ask_all(known, out, again=bool(before) and not known.said)
        else:
            _require_all(known)
        raw, looks, notes = composed(known)
        text = revised(before, raw, known) if before else commented(raw, [*map(str, looks), *notes])
        for line in (*map(str, looks), *notes):
            console.paragraph(line)
        _say_changes(before, text, out)
        if text != before:
            write_text(out, text)
    console.say(f"Next:\n  tutelage plan {out}   # what it needs, and how long it takes")
    console.say(f"  tutelage check {out}  # does it compute what it should?\n  tutelage train {out}")
    return out


def _text_of(out: Path) -> str:
    """The file's text; "" if there is none."""
    try:
        return out.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise InputError(f"--out {out}: cannot be read: {error}") from None


def _parsed(text: str, out: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"--out {out} is there and is no configuration: {error}; choose another --out") from None


def _say_changes(before: str, text: str, out: Path) -> None:
    from tutelage import console
    from tutelage.config import inline

    if not before:
        console.say(f"wrote {out}")
        return
    old, new = flat(tomllib.loads(before)), flat(tomllib.loads(text))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            was, now = (inline(values[name]) if name in values else "not set" for values in (old, new))
            console.paragraph(f"{out}: {name}: {was} → {now}")
    console.say(f"{out}: {'all else stays as it was' if text != before else 'nothing to change'}")


def _require_all(known: Answers) -> None:
    """Check all answers where nobody can be asked. Raises InputError that names every missing flag at once."""
    missing = [name for name in ALWAYS if not known.values.get(name)]
    if known.values.get("model"):
        check_model(known)
    reason = ""
    if known.values.get("train"):
        rows = check_train(known)
        if not known.values.get("validation") and rows is not None and not rows.references:
            missing.insert(len(missing) - ("dir" in missing), "validation")
            reason = f" (no row of {known.values['train']} has a reference answer, so none can be held out)"
    if not missing:
        check_validation(known)
        return
    flags = [f"--{name}" for name in missing]
    named = " and ".join(filter(None, [", ".join(flags[:-1]), flags[-1]]))
    lines = []
    for name in missing:
        question, default = QUESTIONS[name]
        because, usual = reason if name == "validation" else "", f" (for instance {default})" if default else ""
        lines.append(f"  --{name:<10}  {question}{because}{usual}")
    raise InputError(f"there is no terminal to ask on: give {named}\n" + "\n".join(lines))


def _ask_all(known: Answers, out: Path, again: bool) -> None:
    """Ask for what is missing, and check each answer at once; what is wrong is asked again, and nothing that was answered is lost.

    Args:
        again: ask for what is known, too, with the answer of before as the one that is meant by no answer.
    """
    from tutelage import console

    try:
        _settle("model", known, again, check_model)
        rows = _settle("train", known, again, check_train)
        if known.values.get("validation") or (rows is not None and not rows.references):
            if not known.values.get("validation"):
                console.paragraph(f"No row of {known.values['train']} has a reference answer, so none can be held out to validate on.")
            _settle("validation", known, again and bool(known.values.get("validation")), check_validation)
        _settle("dir", known, again, lambda _: None)
    except (KeyboardInterrupt, InputError):
        given = " ".join(f"--{name} {shlex.quote(value)}" for name, value in known.values.items() if value)
        if given:
            columns = " ".join(
                f"--{setting}.columns.{field} {shlex.quote(name)}"
                for setting, named in (("data", known.columns), ("data.validation", known.validation_columns))
                for field, name in (named or {}).items()
            )
            console.say(f"\nTo go on from here: tutelage init {given} {columns}{' ' if columns else ''}--out {shlex.quote(str(out))}")
        raise


def _settle(name: str, known: Answers, again: bool, check: Callable[[Answers], Any]) -> Any:
    """What the check of an answer finds, which is asked until it passes."""
    from tutelage import console

    ask = again or not known.values.get(name)
    while True:
        if ask:
            known.answer(name, _ask(name, known.values.get(name) or QUESTIONS[name][1]))
        try:
            return check(known)
        except UnknownColumns as unknown:
            console.paragraph(unknown.question.partition("\n")[0])
            known.name_columns(name, _ask_columns(unknown, name))
            ask = False
        except InputError as error:
            console.paragraph(str(error))
            known.forget(name)
            ask = True


def _ask(name: str, default: str) -> str:
    from tutelage import console

    console.paragraph(QUESTIONS[name][0])
    while not (answer := _typed(f"  {name}{f' [{default}]' if default else ''}: ", name) or default):
        console.paragraph("There is no answer that is usual here; write one, or stop with Ctrl-C.")
    return answer


def _ask_columns(unknown: UnknownColumns, of: str) -> dict[str, str]:
    """The columns that are meant: one of the ways to mean them, or each by its name."""
    from tutelage import console
    from tutelage.config import inline

    if len(unknown.options) > 1:
        for number, (words, columns) in enumerate(unknown.options, 1):
            console.paragraph(f"  {number}  {words}: {inline(columns)}", indent="     ")
        while not (answer := _typed("  which [1]: ", of) or "1").isdecimal() or not 0 < int(answer) <= len(unknown.options):
            console.say(f"Write a number from 1 to {len(unknown.options)}.")
        return unknown.options[int(answer) - 1][1]
    fields = [field for field in FIELDS if not (of == "validation" and field == "response")]
    columns = {field: _ask_column(field, unknown.likely.get(field, ""), of) for field in fields}
    return {field: column for field, column in columns.items() if column}


def _ask_column(field: str, likely: str, of: str) -> str:
    from tutelage import console

    may_lack = of == "train" and field == "reference"
    console.paragraph(f"Which column holds the {FIELDS[field]}?{' (nothing, if none does)' if may_lack and not likely else ''}")
    while not (answer := _typed(f"  {field}{f' [{likely}]' if likely else ''}: ", of) or likely) and not may_lack:
        console.paragraph("A column is needed here; stop with Ctrl-C.")
    return answer


def _typed(prompt: str, name: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        raise InputError(f"there is nobody to ask: give --{name}") from None
