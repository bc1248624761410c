"""What a page shows of a run, gathered from its directory: plain values, ready for the template and for JSON."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tutelage.config import Config, describe, differences, known_keys, parse_overrides, shown, split_overrides
from tutelage.console import percent
from tutelage.grading import answer_of, reference_text
from tutelage.report import words
from tutelage.runs import DIGITS, LEVELS_PER_OCTAVE, Reading, damage, shown_accuracy

OUTCOMES = ("right", "wrong", "cut off", "malformed")
CERTIFIED = {
    "dtype": "precision", "tokens": "tokens", "mean_gap": "mean gap", "max_gap": "largest gap", "bound": "bound",
    "cached_mean_gap": "mean gap (prefix cache)", "step": "new weights", "sync_seconds": "sync (s)",
}  # fmt: skip
"""What is shown of a certificate, and by what name."""


def of_run(reading: Reading, price_per_hour: float | None) -> dict[str, Any]:
    """What the template of a run's page is filled with."""
    before, after = words.ends(reading)
    return {
        **_title(reading),
        "directory": str(reading.directory),
        "finished": reading.finished,
        "is_run": reading.config is not None,
        "headline": words.headline(reading),
        "verdict": words.verdict(reading),
        "before": before and shown_accuracy(before),
        "after": after and shown_accuracy(after),
        "problems": (after or before or {}).get("examples"),
        "cost": words.cost(reading, price_per_hour),
        "currency": reading.config.run.currency if reading.config else None,
        "course": words.course(reading),
        "warnings": words.warnings(reading),
        "evaluations": [words.evaluation_row(line) for line in reading.evaluations],
        "ledger": _ledger(reading),
        "data": reading.table("data.json"),
        "sources": words.source_rows(reading.table("data.json").get("sources", [])),
        "settings": _settings(reading.config) if reading.config else [],
        "changed": _changed_from_the_recipe(reading),
        "toml": reading.settings,
        "environment": environment(reading),
        "certificates": _certificates(reading),
        "commands": _commands_to_go_on(reading),
        "template": reading.template,
    }


def link(report: Path, page: Path) -> str | None:
    """How a page links to a report; None where there is none."""
    return quote(os.path.relpath(report, page.parent)) if report.is_file() else None


def _title(reading: Reading) -> dict[str, str]:
    """``subject``: which model, on which data; ``change``: its accuracy, before → after; ``title``: both in a line."""
    if reading.config is None:
        known = reading.evaluations[-1]
        model, data = shortly(known["model"]), shortly(known["data"])
    else:
        model, data = words.model_name(reading.config), data_name(reading.config.data.train)
    change = " → ".join(percent(each["accuracy"]) for each in words.ends(reading) if each)
    subject = f"{model} on {data}"
    return {"subject": subject, "change": change, "title": f"{subject}: {change}" if change else subject}


def data_name(train: Any) -> str:
    """What `data.train` names, shortly: one source, or the first of a list and how many more."""
    first, *more = train if isinstance(train, list | tuple) else [train]
    path = first.get("path", "") if isinstance(first, dict) else getattr(first, "path", first)
    return shortly(str(path)) + (f" and {len(more)} more" if more else "")


def shortly(name: str) -> str:
    """The last part of a path or of a hub name."""
    return name.rstrip("/").rpartition("/")[2] or name


def _commands_to_go_on(reading: Reading) -> list[dict[str, str]]:
    """What a reader may do next: ``what`` in words, and the command as ``text``."""
    found = [{"what": "To do it again", "text": _command(reading)}]
    if reading.trained:
        directory = str(reading.directory)
        found.append({"what": "To ask the model", "text": shlex.join(["tutelage", "ask", directory, "QUESTION"])})
        found.append({"what": "To see it beside another run", "text": shlex.join(["tutelage", "report", directory, "OTHER_RUN"])})
    return found


def _command(reading: Reading) -> str:
    """The command that does the same again."""
    if reading.config is None:
        known = reading.evaluations[-1]
        parts = ["eval", known["model"], known["data"], "--backend", known["backend"], "--out", "NEW_DIRECTORY"]
    else:
        ranks = reading.table("plan.json").get("ranks", 1)
        launch = ["--launch", str(ranks)] if ranks > 1 else []
        parts = ["train", str(reading.directory / "config.toml"), *launch, "--run.dir", "NEW_DIRECTORY"]
    return shlex.join(["tutelage", *parts])


def _ledger(reading: Reading) -> list[dict[str, Any]]:
    counts = reading.fates
    texts = reading.table("data.json").get("shown", [])
    return [
        {
            "fate": fate,
            "rows": count,
            "share": percent(count / counts.total()),
            "width": round(100 * count / counts.total(), 1),
            "samples": [row for row in texts if row["fate"] == fate],
        }
        for fate, count in counts.most_common()
    ]


def _settings(config: Config) -> list[dict[str, str]]:
    """The settings that differ from their defaults."""
    found = []
    for section, key, _, _, text in describe():
        value, default = (getattr(getattr(each, section), key) for each in (config, Config()))
        if value != default:
            found.append({"key": f"{section}.{key}", "value": shown(value), "default": shown(default), "text": text})
    return found


def _changed_from_the_recipe(reading: Reading) -> list[tuple[str, str]]:
    """What the first command changed of its recipe; of a sweep's trial, what the sweep changed."""
    if reading.config is not None and (recipe := reading.directory.parent.parent / "sweep.json").is_file():
        lines = differences(damage.configuration(recipe.parent / "config.toml"), reading.config, {"run.dir"})
        return [(key, value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    command = next(iter(_commands(reading)), [])
    if command[1:2] != ["train"]:  # from Python, say
        return []
    settings = split_overrides(command[2:])[1]
    return [(key, value) for key, value in parse_overrides(settings) if key in known_keys()]


def _commands(reading: Reading) -> list[list[str]]:
    """The commands by which a run was begun, and went on, oldest first."""
    known = reading.table("environment.json")
    return [*known.get("earlier_commands", []), known["command"]] if known else []


def environment(reading: Reading) -> list[tuple[str, str]]:
    """Commands, machine, versions, and what ``auto`` decided."""
    known = reading.table("environment.json")
    if not known:
        return []
    machine, git = known["machine"], known.get("git")
    commands = [shlex.join(["tutelage", *command[1:]]) for command in _commands(reading)]
    memory = "" if machine["memory_gb"] is None else f", {machine['memory_gb'] * 1e9 / 2**30:.1f} GiB"
    rows = [
        ("command", commands[0]),
        *(("gone on by", command) for command in commands[1:]),
        ("machine", f"{machine['processor']}, {machine['cores']} cores{memory}; {machine['system']}"),
        ("GPUs", ", ".join(machine["gpus"]) or "none"),
        *([("attention within packs", known["kernel"])] if known.get("kernel") else []),
        ("Python", known["python"]),
        *known["packages"].items(),
    ]
    if git:
        rows.append(("commit", f"{git['commit']} ({git['branch']}), {len(git['changed_files'])} files changed"))
    return rows + [(f"decided: {key}", str(value)) for key, value in reading.table("plan.json").items()]


def _certificates(reading: Reading) -> list[dict[str, str]]:
    """How near vLLM was to the trainer at each hand-over of weights; that of a failed evaluation too. The cells of a table by column."""
    lines = reading.lines if reading.config is not None else reading.evaluations
    return [
        {"step": str(line["step"]), **_certified(certificate), "held": "no" if line["kind"] == "eval_failed" else "yes"}
        for line in lines
        for certificate in [line.get("certificate"), *line.get("certificates", [])]
        if certificate
    ]


def _certified(certificate: dict[str, Any]) -> dict[str, str]:
    def cell(name: str) -> str:
        value = certificate.get(name)  # a certificate of an earlier version has fewer entries
        return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    return {name: cell(key) for key, name in CERTIFIED.items()}


# ── generations ───────────────────────────────────────────────────────────────────────────────────────────────────────


def outcome_of(record: dict[str, Any]) -> int:
    """The index of a response's outcome in OUTCOMES: right, else why it is not."""
    if record["answer_reward"] > 0:
        return 0
    if record["finish_reason"] == "length":
        return 2
    return 1 if _is_well_formed(record) else 3


def _is_well_formed(record: dict[str, Any]) -> bool:
    return record["format_reward"] is not None and record["format_reward"] > 0


def generations(reading: Reading) -> dict[str, Any]:
    """Every problem with what was answered at each evaluation, as the page's script reads it.

    ``steps``: of the evaluations; ``labels``: their names; ``beside``: whether the chosen one stands beside the "first" or "all";
    ``problems``: as `problems_of`.
    """
    steps = reading.evaluated
    labels = [f"step {step}" for step in steps]
    return {"steps": steps, "labels": labels, "beside": "first", **problems_of([(reading, step) for step in steps])}


def problems_of(evaluations: Sequence[tuple[Reading, int]]) -> dict[str, Any]:
    """Every problem that one of some evaluations asked, and what a script needs to read them.

    ``problems``: each ``{q, r, a}``: question, reference, and for each evaluation its responses, or None if the problem was not asked
    there. A response is [text, outcome, answer, length, mean entropy, tokens (`encode_tokens`) or None].
    """
    problems: dict[Any, dict[str, Any]] = {}
    for index, (reading, step) in enumerate(evaluations):
        style = reading.config.eval.reward if reading.config is not None else None
        for question, records in reading.answers(step).items():
            asked = {"q": question[0], "r": reference_text(records[0]["ground_truth"]), "a": [None] * len(evaluations)}
            problems.setdefault(question, asked)["a"][index] = [_response(record, style) for record in records]
    return {"outcomes": OUTCOMES, "digits": DIGITS, "octave": LEVELS_PER_OCTAVE, "problems": list(problems.values())}


def _response(record: dict[str, Any], style: str | None) -> list[Any]:
    answer = answer_of(record["response"], style) if _is_well_formed(record) else ""
    entropy = record["token_entropy"]
    mean = None if entropy is None else round(entropy, 3)
    return [record["response"], outcome_of(record), answer, record["length"], mean, record["tokens"]]
