"""What becomes of a response: its fate, by the grader, by how it ended, and by whether training could read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.data import Example
from tutelage.evaluation.engine import Completion
from tutelage.evaluation.sample.form import Form
from tutelage.grading import Verdict, grade_responses
from tutelage.stats import mean

FATES = ("right", "duplicate", "wrong", "undecided", "malformed", "cut off")
"""What becomes of a response; each has one. A duplicate is right, and says what another right one of the same problem says."""
CUT_OFF = "it reached eval.max_new_tokens before it ended"


def judged(
    problems: Mapping[int, Example], answers: Mapping[int, Sequence[Completion]], form: Form, style: str
) -> list[dict[str, Any]]:
    """The line of each problem: what the model said to it, and what is to be thought of that, before duplicates are known.

    Args:
        problems: by index; `answers` has some of them.
        style: the grader, as `eval.reward`.
    """
    pairs = [(each.text, problems[index].reference) for index in answers for each in answers[index]]
    verdicts = iter(grade_responses(pairs, style))
    lines = []
    for index, completions in answers.items():
        faults = form.faults(form.prompt_of(problems[index]), completions)
        found = [_response(*each, next(verdicts)) for each in zip(completions, faults, strict=True)]
        lines.append({"problem": index, "responses": found})
    return lines


def _response(completion: Completion, fault: tuple[str, bool], verdict: Verdict) -> dict[str, Any]:
    fate, why = _fate(completion, fault[0], verdict)
    return {
        "response": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "fate": fate,
        "why": why,
        "trainable": fate != "cut off" and not fault[0],
        "ids_differ": fault[1],
        "log_prob": None if completion.log_probs is None else math.fsum(completion.log_probs),
        "token_entropy": None if completion.entropies is None else mean(list(completion.entropies)),
    }


def _fate(completion: Completion, fault: str, verdict: Verdict) -> tuple[str, str]:
    """(fate, why). A response that was cut off is not right, whatever it holds: its row would teach an end that the model never said."""
    if completion.finish_reason == "length":
        return "cut off", CUT_OFF
    if fault or verdict.layer == "format":
        return "malformed", fault or verdict.why
    why = f"{verdict.layer}: {verdict.why}".rstrip(": ")
    return ("undecided" if verdict.equal is None else "right" if verdict.equal else "wrong"), why
