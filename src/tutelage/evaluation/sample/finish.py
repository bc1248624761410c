"""The files of a sampling that is over: rows, responses and fates, written problem by problem from the answers on the disk."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tutelage import console
from tutelage.data import Example
from tutelage.evaluation.grade import as_json
from tutelage.evaluation.sample.answers import Answers
from tutelage.evaluation.sample.choose import chosen, duplicates
from tutelage.evaluation.sample.task import Task
from tutelage.evaluation.sample.totals import Totals
from tutelage.runs import to_lines, writing


class Finished(NamedTuple):
    """What is written in the end: the rows, every response, and the fate of each."""

    rows: Path
    samples: Path
    ledger: Path


def finish(task: Task, answers: Answers, files: Finished) -> dict[str, Any]:
    """Write the files, each in full or not at all, and sum them up. The responses to one problem are held at a time."""
    totals = Totals(task.wanted.samples)
    with contextlib.ExitStack() as stack, console.progress("choosing and writing rows", len(task.problems)) as advance:
        rows, samples, ledger = (stack.enter_context(writing(path)) for path in files)
        ledger.write(to_lines({"source": each.source, "fate": each.fate, "why": each.why} for each in task.left_out))
        for index, problem in enumerate(task.problems):
            responses = with_duplicates(answers.read(index))
            kept = set(chosen(responses, index, task.wanted))
            totals.add(responses, kept)
            prompt = task.form.prompt_of(problem)
            of = {"source": problem.source, "problem": index}
            asked = {"prompt": prompt, "reference_answer": as_json(problem.reference)}
            rows.write(to_lines(row(task, problem, prompt, responses[each], each) for each in sorted(kept)))
            samples.write(to_lines({**of, "sample": each, **asked, **response} for each, response in enumerate(responses)))
            fates = [{"fate": each["fate"], "why": each["why"]} for each in responses]
            ledger.write(to_lines({**of, "sample": each, **fate, "kept": each in kept} for each, fate in enumerate(fates)))
            advance(1)
    return {
        **totals.summary(), "left_out": dict(Counter(each.fate for each in task.left_out)), "seconds": round(answers.seconds, 1),
        "out": str(files.rows), "model": task.config.model.id, "weights": task.weights, "backend": task.config.eval.backend,
        "asked": task.asked | task.rule,
    }  # fmt: skip


def with_duplicates(responses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The responses to a problem, with the fate "duplicate" where it is that."""
    same = duplicates(responses)
    return [
        {**each, "fate": "duplicate", "why": f"says what sample {same[index]} says"} if index in same else each
        for index, each in enumerate(responses)
    ]


def row(task: Task, problem: Example, prompt: str, response: dict[str, Any], sample: int) -> dict[str, Any]:
    """A row of the specification's format, with where it comes from."""
    sampling = task.sampling
    return {
        "prompt": prompt,
        "response": response["response"],
        "reference_answer": as_json(problem.reference),
        "provenance": {
            "source": problem.source, "sample": sample, "model": task.config.model.id, "weights": task.weights,
            "backend": task.config.eval.backend, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens, "stop": list(sampling.stop), "seed": sampling.seed,
            "log_prob": response["log_prob"], "length": len(response["token_ids"]), "token_entropy": response["token_entropy"],
            "verdict": response["fate"], "ids_differ": response["ids_differ"],
        },
    }  # fmt: skip
