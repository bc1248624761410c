"""What a page shows of a run, gathered from its directory: plain values, ready for the template and for JSON."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any

from tutelage.config import Config, describe, shown, to_toml
from tutelage.console import percent
from tutelage.grading import answer_of
from tutelage.overrides import parse_overrides, split_overrides
from tutelage.readings import Reading
from tutelage.report import words

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LEVELS_PER_OCTAVE = 12
OUTCOMES = ("right", "wrong", "cut off", "malformed")


def of_run(reading: Reading, price_per_hour: float | None) -> dict[str, Any]:
    """What the template of a run's page is filled with."""
    before, after = words.ends(reading.evaluations)
    config = reading.config
    return {
        "title": reading.directory.absolute().name,
        "finished": reading.finished,
        "headline": words.headline(reading),
        "verdict": words.verdict(reading),
        "before": before and words.accuracy(before),
        "after": after and words.accuracy(after),
        "problems": (after or before or {}).get("examples"),
        "cost": words.cost(reading, price_per_hour),
        "warnings": words.warnings(reading),
        "evaluations": [_row(line) for line in reading.evaluations],
        "ledger": _ledger(reading),
        "data": reading.table("data.json"),
        "settings": _settings(config) if config else [],
        "changed": _changed_on_the_command_line(reading),
        "toml": to_toml(config) if config else "",
        "environment": _environment(reading),
        "certificates": _certificates(reading.evaluations),
        "repeat": f"tutelage train {shlex.quote(str(reading.directory / 'config.toml'))} --run.dir NEW_DIRECTORY"
        if config
        else "",
        "template": reading.template,
    }


def _row(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "step": line["step"],
        "accuracy": words.accuracy(line),
        "full": f"{words.accuracy(line['full'])} of {line['full']['examples']}" if "full" in line else "",
        "problems": line["examples"],
        "well_formed": percent(line["format_rate"]),
        "cut_off": percent(line["cap_hit_rate"]),
        "length": f"{line['avg_response_length']:.1f}",
        "entropy": "–" if line["avg_token_entropy"] is None else f"{line['avg_token_entropy']:.3f}",
        "seconds": "adopted" if "adopted_from" in line else f"{line.get('seconds', 0):.0f}",
    }


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


def _settings(config: Config) -> list[dict[str, Any]]:
    """Every setting with its value, and whether that is the default."""
    defaults = Config()
    return [
        {
            "key": f"{section}.{key}",
            "value": shown(getattr(getattr(config, section), key)),
            "default": shown(getattr(getattr(defaults, section), key)),
            "changed": getattr(getattr(config, section), key) != getattr(getattr(defaults, section), key),
            "text": text,
        }
        for section, key, _, _, text in describe()
    ]


def _changed_on_the_command_line(reading: Reading) -> list[tuple[str, str]]:
    """What the command that started the run changed of its recipe."""
    command = reading.table("environment.json").get("command", [])
    return parse_overrides(split_overrides(command[1:])[1]) if command else []


def _environment(reading: Reading) -> list[tuple[str, str]]:
    known = reading.table("environment.json")
    if not known:
        return []
    machine, git = known["machine"], known.get("git")
    rows = [
        ("command", shlex.join(["tutelage", *known["command"][1:]])),
        ("machine", f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB; {machine['system']}"),
        ("GPUs", ", ".join(machine["gpus"]) or "none"),
        ("Python", known["python"]),
        *known["packages"].items(),
    ]
    if git:
        rows.append(("commit", f"{git['commit']} ({git['branch']}), {len(git['changed_files'])} files changed"))
    plan = reading.table("plan.json")
    return rows + [(f"decided: {key}", str(value)) for key, value in plan.items()]


def _certificates(evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"step": line["step"], **line["certificate"]} for line in evaluations if line.get("certificate")]


# ── generations ───────────────────────────────────────────────────────────────────────────────────────────────────────


def outcome_of(record: dict[str, Any]) -> int:
    """The place of a response's outcome in OUTCOMES: right, else why it is not."""
    if record["answer_reward"] > 0:
        return 0
    if record["finish_reason"] == "length":
        return 2
    return 1 if record["format_reward"] > 0 else 3


def generations(reading: Reading) -> dict[str, Any]:
    """Every problem with what was answered at each evaluation, as the page's script reads it.

    ``steps``: of the evaluations. ``problems``: each ``{q, r, a}``: question, reference, and for each of the steps its responses, or
    None if it was not asked then. A response is [text, outcome, answer, length, mean entropy, tokens], where tokens are three strings
    with a digit for each token: its characters, its entropy and its NLL (`digit_of`), or None.
    """
    steps = [line["step"] for line in reading.evaluations]
    problems: dict[Any, dict[str, Any]] = {}
    for place, step in enumerate(steps):
        for (text, number), records in reading.answers(step).items():
            problem = problems.setdefault((text, number), {"q": text, "r": records[0]["ground_truth"], "a": [None] * len(steps)})
            problem["a"][place] = [_response(record) for record in records]
    return {
        "steps": steps,
        "outcomes": OUTCOMES,
        "digits": DIGITS,
        "octave": LEVELS_PER_OCTAVE,
        "problems": list(problems.values()),
    }


def _response(record: dict[str, Any]) -> list[Any]:
    answer = answer_of(record["response"]) if record["format_reward"] > 0 else ""
    entropy = record["token_entropy"]
    return [
        record["response"],
        outcome_of(record),
        answer,
        record["length"],
        None if entropy is None else round(entropy, 3),
        _tokens(record.get("tokens")),
    ]


def _tokens(tokens: dict[str, list[float]] | None) -> list[str] | None:
    if tokens is None or any(count >= len(DIGITS) for count in tokens["characters"]):
        return None
    return [
        "".join(DIGITS[int(count)] for count in tokens["characters"]),
        "".join(map(digit_of, tokens["entropy"])),
        "".join(map(digit_of, tokens["nll"])),
    ]


def digit_of(nats: float) -> str:
    """A value in one of 62 digits, in equal steps of log2(1 + nats): 0.06 nats near zero, up to 33."""
    return DIGITS[min(len(DIGITS) - 1, round(LEVELS_PER_OCTAVE * math.log2(1 + max(0.0, nats))))]
