"""What is damaged or missing in a run directory, and what follows from it; what can be rebuilt is."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage import console
from tutelage.config import Config, load_config
from tutelage.data import Template
from tutelage.errors import InputError, RunError, first_line
from tutelage.runs.records import gaps, in_words, read_bytes

if TYPE_CHECKING:
    from tutelage.runs.reading import Reading

SECTIONS = ("model", "data", "train", "eval", "run")
"""The sections of every run's config.toml, in the order of the file."""
FOLLOWS = {
    "environment.json": "machine, versions and commands are not known",
    "data.json": "sizes and fates of the data are not known",
    "plan.json": "what the settings \"auto\" decided is not known",
    "result.json": "the last step that is logged counts as the last one",
    "template.json": "the prompts of a run that goes on are made again",
    "settings.toml": "the settings of the evaluation are not known",
    "identity.json": "nothing says whether the model is still the same",
}
"""What follows where a file is damaged or missing."""
UNREAD = "unread"
"""The fate, in the ledger, of columns and files that nothing reads; they are no rows."""
KEPT_TEMPLATE = "template.json"
"""The prompt template as it was rendered when the run began, with the chat template and its date."""


def configuration(path: Path) -> Config:
    """The configuration that a run has written. Raises InputError where it is damaged."""
    config = load_config(path)
    lacking = [section for section in SECTIONS if section not in config.model_fields_set]
    if lacking:
        raise InputError(
            f"{path} is damaged: the section [{lacking[0]}] is missing, so the settings of this run are not known; put the file back"
        )
    return config


def template(directory: Path) -> tuple[str, str]:
    """(the prompt template of a run, with ``{question}``, what is wrong with its file)."""
    found, kept = read_bytes(directory / "prompt.txt"), None
    text = "" if found is None else found.decode("utf-8", "replace").replace("\r\n", "\n")
    with contextlib.suppress(RunError, ValueError, RecursionError):
        kept = Template.from_json((read_bytes(directory / KEPT_TEMPLATE) or b"").decode("utf-8")).text
    if text == kept or (kept is None and text.count("{question}") == 1):
        return text, ""
    fault = "is not there" if found is None else "is damaged" if kept is None else f"is not the text of {KEPT_TEMPLATE}"
    if kept is None:
        return "{question}", f"{fault}; questions are compared with their prompts around them"
    return kept, f"{fault}; that of {KEPT_TEMPLATE} counts"


def faults(reading: Reading, until: int | None = None) -> list[str]:
    """A sentence on each thing that is damaged or missing in a run's directory.

    Args:
        until: the step that the run goes on from; lines of later ones do not count. None: what there is.
    """
    is_run = reading.config is not None
    found = [
        f"{name} is damaged: {fault}; {follows}."
        for name, follows in FOLLOWS.items()
        if name != KEPT_TEMPLATE
        and (fault := _settings_fault(reading.directory / name) if name == "settings.toml" else reading.fault_of(name))
    ]
    found += [f"{name} is not there; {FOLLOWS[name]}." for name in _expected(reading, until) if not (reading.directory / name).is_file()]
    if wrong := template(reading.directory)[1]:
        found.append(f"prompt.txt {wrong}.")
    found += in_words("metrics.jsonl", reading.metrics.faults, "the line is left out")
    found += in_words("generations.jsonl", reading.responses.faults, "the response is left out")
    found += in_words("ledger.jsonl", reading.ledger.faults, "the row is left out")
    if is_run:
        found += [*_lost_fates(reading), *_holes(reading, until)]
    return [*found, *_lost_responses(reading, until), *_told_before(reading, found)]


def say(sentences: Sequence[str], name: str | Path = "") -> None:
    """Print what is damaged."""
    for sentence in sentences:
        console.say(f"{name}: {sentence}" if name else sentence, style="yellow")


def _settings_fault(path: Path) -> str:
    try:
        if path.exists():
            configuration(path)
    except InputError as error:
        return first_line(error)
    return ""


def _expected(reading: Reading, until: int | None) -> list[str]:
    """The files that the directory must hold by now; runs of before have no plan and no record of their model."""
    if reading.config is None:
        return ["environment.json", "settings.toml"]
    planned = until or (reading.steps and reading.table("identity.json"))
    template_is_kept = [KEPT_TEMPLATE] if reading.table("identity.json") else []
    return ["environment.json", "data.json", *(["plan.json"] if planned else []), *template_is_kept]


def _lost_fates(reading: Reading) -> list[str]:
    rows, there = reading.fates.total(), sum(line["fate"] != UNREAD for line in reading.ledger.lines)
    if not reading.ledger.lines and not rows:
        return ["ledger.jsonl is empty or not there: nothing says what became of each row."]
    return [f"ledger.jsonl holds {there} of the {rows} rows: nothing says what became of each of the others."] if there < rows else []


def _holes(reading: Reading, until: int | None) -> list[str]:
    last = reading.last_step if until is None else until
    lost = gaps((line["step"] for line in reading.steps), last)
    if not lost:
        return []
    several = "s" if "–" in lost or "," in lost else ""
    return [f"metrics.jsonl lacks step{several} {lost}: the curves have a hole, and times and tokens are those of the other steps."]


def _lost_responses(reading: Reading, until: int | None) -> list[str]:
    found = []
    for line in reading.evaluations:
        asked: dict[str, Any] = line.get("full", line)
        wanted, there = asked["examples"] * asked.get("samples", 1), len(reading.generations[line["step"]])
        if there != wanted and (until is None or line["step"] <= until):
            at = f" of step {line['step']}" if reading.config is not None else ""
            follows = "comparisons go without the others" if there < wanted else "comparisons count some twice"
            found.append(f"generations.jsonl holds {there} responses{at}, where {wanted} were logged: {follows}.")
    return found


def _told_before(reading: Reading, found: Sequence[str]) -> list[str]:
    """What was found when the run went on, and cannot be seen any more."""
    told = [fault for line in reading.lines if line["kind"] == "damaged" for fault in line["faults"]]
    return [fault for fault in dict.fromkeys(told) if fault not in found]
