"""``tutelage check``: proves on a person's own model, tokenizer and data what the tests prove on ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from tutelage import console
from tutelage.check import computing, running, text
from tutelage.check.subject import Finding, Subject, make_subject
from tutelage.config import Config

Property = Callable[[Subject], Finding]

PROPERTIES: dict[str, Property] = {
    "token ids round-trip, and are validation's": text.ids,
    "every row teaches the end token": text.end_token,
    "the loss is on the response alone": text.mask,
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
COLOURS = {"proven": "green", "failed": "bold red", "not applicable": "dim"}


@dataclass(frozen=True)
class Result:
    """What became of one property: "proven", "failed" or "not applicable", with the figures."""

    name: str
    verdict: str
    figures: str


def check(config: Config) -> list[Result]:
    """Try every property on the configuration's model, tokenizer and data, on a few short rows where the model computes.

    Nothing is left on the disk, and no run directory is looked at.

    Raises:
        InputError: the configuration, the model or the data cannot be had.
    """
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="tutelage-check-") as scratch:
        subject = make_subject(config, Path(scratch))
        with console.progress("checking", len(PROPERTIES)) as advance:
            for name, try_it in PROPERTIES.items():
                results.append(_outcome(name, try_it, subject))
                advance(1, name)
    return results


def _outcome(name: str, try_it: Property, subject: Subject) -> Result:
    try:
        finding = try_it(subject)
    except Exception as error:  # whatever keeps a property from being shown is a failure of it
        reason = str(error).strip().splitlines() or [""]
        return Result(name, "failed", f"{type(error).__name__}: {reason[0]}")
    verdict = {True: "proven", False: "failed", None: "not applicable"}[finding.holds]
    return Result(name, verdict, finding.figures)


def show(results: Sequence[Result]) -> None:
    """Print the table and the verdict."""
    rows: list[tuple[Any, ...]] = [
        (result.name, Text(result.verdict, style=COLOURS[result.verdict]), result.figures) for result in results
    ]
    console.table("What was tried on this model and these data", ("property", "", "figures"), rows)
    failed = [result.name for result in results if result.verdict == "failed"]
    if failed:
        console.say(f"{len(failed)} of {len(results)} failed: {'; '.join(failed)}", style="bold red")
    else:
        proven = sum(result.verdict == "proven" for result in results)
        console.say(f"{proven} of {len(results)} proven, the others not applicable here", style="bold green")


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """What `--json` prints."""
    return {"failed": sum(result.verdict == "failed" for result in results), "properties": [asdict(result) for result in results]}
