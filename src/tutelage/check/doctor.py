"""``tutelage check``: proves on a person's own model, tokenizer and data what the tests prove on ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.check import computing, running, text
from tutelage.check.subject import Finding, Subject, make_subject
from tutelage.config import Config
from tutelage.errors import first_line

PROPERTIES: dict[str, Callable[[Subject], Finding]] = {
    "token ids round-trip, and are validation's": text.ids,
    "every row teaches the end token": text.end_token,
    "the loss is on the response alone": text.mask,
    "nothing is validated on that is trained on": text.leak,
    "grader self-test": text.grader,
    "packed = unpacked": computing.packed,
    "fused = plain objective": computing.fused,
    "1×8 = 8×1": computing.splits,
    "two ranks = one": computing.ranks,
    "bfloat16 is near float32": computing.drift,
    "resumed = uninterrupted": running.resumed,
    "native = vLLM": running.engines,
    "generation stops at the end token": running.stops,
}


def check(config: Config) -> dict[str, Finding]:
    """What was found of every property, by its name, on the configuration's model, tokenizer and data.

    The model computes a few short rows. Nothing is left on the disk, and no run directory is looked at.

    Raises:
        InputError: the configuration, the model or the data cannot be had.
    """
    findings: dict[str, Finding] = {}
    with tempfile.TemporaryDirectory(prefix="tutelage-check-") as scratch:
        subject = make_subject(config, Path(scratch))
        with console.progress("checking", len(PROPERTIES)) as advance:
            for name, try_it in PROPERTIES.items():
                try:
                    findings[name] = try_it(subject)
                except Exception as error:  # whatever keeps a property from being shown is a failure of it
                    findings[name] = Finding(False, f"{type(error).__name__}: {first_line(error)}")
                advance(1, name)
    return findings


def show(findings: Mapping[str, Finding]) -> None:
    """Print the table and the verdict."""
    rows = [(name, found.verdict, found.figures) for name, found in findings.items()]
    console.table("What was tried on this model and these data", ("property", "", "figures"), rows)
    failed = [name for name, found in findings.items() if found.holds is False]
    if failed:
        console.say(f"{len(failed)} of {len(findings)} failed: {'; '.join(failed)}", style="bold red")
    else:
        proven = sum(found.holds is True for found in findings.values())
        others = "" if proven == len(findings) else ", the others not applicable here"
        console.say(f"{proven} of {len(findings)} proven{others}", style="bold green")


def as_json(findings: Mapping[str, Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    properties = [{"name": name, "verdict": found.verdict, "figures": found.figures} for name, found in findings.items()]
    return {"failed": sum(found.holds is False for found in findings.values()), "properties": properties}
