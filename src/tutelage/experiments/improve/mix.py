"""The rows that a round trains on: those that were accepted of the model's own responses, and the configuration's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config, replaced
from tutelage.data import BadRow, Example, Parsed, Prepared, encode_prompt, plain
from tutelage.errors import RunError
from tutelage.evaluation import Form
from tutelage.experiments.improve.ground import Ground
from tutelage.model import tokenizer_of
from tutelage.runs import rounds, to_lines, writing

Row = dict[str, Any]
KEPT = "template.json"
"""The prompt template of all rounds, as it was when they began: a chat template may show the day."""


def samples_of(directory: Path, index: int) -> Path:
    """The accepted rows of a round."""
    return directory / "samples" / f"{rounds.name_of(index)}.jsonl"


def rows_of(directory: Path, index: int) -> Path:
    """All rows that a round trains on."""
    return directory / "rows" / f"{rounds.name_of(index)}.jsonl"


def accepted(directory: Path, index: int) -> Iterator[Row]:
    """The accepted rows of a round. Raises RunError: their file is not there any more, or damaged."""
    path = samples_of(directory, index)
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: the rows that were accepted in round {index} cannot be read: {error}; put the file back"
        ) from None


def own_rows(own: Prepared, form: Form) -> Iterator[Row]:
    """The configuration's own rows as they are trained on, one for each sequence: prompt, response, and what it counts in the loss.

    The prompt is the text from which a round makes the ids that the configuration's own run makes: what the model sees, or the bare
    question. A sequence of which neither is true is left out, and counted.
    """
    left_out, example = 0, ""
    train: Any = own.train
    for index in range(len(train)):
        asked = train.asked(index)
        prompt = _prompt_of(asked, train.store.parsed(int(train.rows[int(train.of_row[index])])), form)
        if prompt is None:
            left_out, example = left_out + 1, example or asked.source
            continue
        weight = float(train.weights[index])  # over the mean: one where all count the same
        yield {"prompt": prompt, "response": plain(asked.response), "reference_answer": asked.reference, "weight": weight}
    if left_out:
        console.say(
            f"{left_out} turns of the configuration's rows cannot be written as rows of the rounds' prompt template (the first: {example});"
            " rounds leave them out",
            style="yellow",
        )


def _prompt_of(asked: Example, parsed: Parsed, form: Form) -> str | None:
    """The prompt of a row that gives the same ids by the template of the rounds; None where there is none."""
    try:
        return form.prompt_of(asked)
    except BadRow:
        gives = not parsed.messages and form.gives(parsed.prompt, encode_prompt(form.tokenizer, asked.prompt))
        return parsed.prompt if gives else None


def write_rows(ground: Ground, index: int) -> dict[str, int]:
    """Write the rows that a round trains on; how many are the configuration's own, and how many were sampled."""
    path, wished = rows_of(ground.directory, index), ground.wished
    path.parent.mkdir(exist_ok=True)
    own = own_rows(ground.own, Form(ground.template, ground.tokenizer)) if ground.own is not None and wished.with_rows else iter(())
    sources = range(1, index + 1) if wished.origin == "base" else (index,)
    counts = {"own": 0, "sampled": 0}
    with writing(path) as file:
        for row in own:
            counts["own"] += 1
            file.write(to_lines([row]))
        for source in sources:
            for row in accepted(ground.directory, source):
                counts["sampled"] += 1
                kept = {key: row[key] for key in ("prompt", "response", "reference_answer")}
                file.write(to_lines([kept | {"weight": 1.0}]))
    return counts


def solved_so_far(directory: Path, index: int) -> int:
    """How many problems a right response was accepted for, in a round or one before it."""
    return len({row["prompt"] for each in range(1, index + 1) for row in accepted(directory, each) if is_right(row)})


def is_right(row: Row) -> bool:
    """Whether an accepted row holds a right response; with ``--keep all`` there are others too."""
    return bool(row["provenance"]["verdict"] == "right")


def model_of(ground: Ground, index: int) -> str:
    """The model of a round: the one that it has trained, or, of round 0, perhaps one that was given."""
    if index == 0 and ground.wished.start is not None:
        return ground.wished.start
    return str(ground.directory / rounds.name_of(index) / "model")


def config_of_round(ground: Ground, index: int) -> Config:
    """The configuration of a round's run: `tutelage train` on it alone gives the same run."""
    config, name = ground.config, rounds.name_of(index)
    values: dict[str, Any] = {"run.dir": str(ground.directory / name), "run.keep_end": False}
    if config.run.tracking_name is not None:
        values["run.tracking_name"] = f"{config.run.tracking_name}-{name}"
    if index == 0:
        return replaced(config, values)
    values |= {
        "data.train": str(rows_of(ground.directory, index)), "data.train_split": "train", "data.validation": ground.validation,
        "data.hub_config": None, "data.shape": "auto", "data.columns": {}, "data.where": None,
        "data.filter": False,  # rows were graded when they were accepted, and the configuration's own are those that it trains on
        "data.weight": "weight", "data.size": None, "data.duplicates": "drop", "data.overlap": "drop",
    }  # fmt: skip
    if ground.wished.origin == "last":
        values |= {"model.id": model_of(ground, index - 1), "eval.before": False}  # the round before has evaluated it
    return replaced(config, values)


def config_of_sampling(ground: Ground, index: int) -> Config:
    """The configuration by which the model of the round before is asked, with the prompts and the end token of all rounds."""
    config, model = ground.config, model_of(ground, index - 1)
    # a model that was given ends by its own token, as it is evaluated
    tokenizer = tokenizer_of(replaced(config, {"model.id": model})) if model == ground.wished.start else ground.tokenizer
    values = {
        "model.id": model, "model.end_token": tokenizer.eos_token,
        "eval.temperature": ground.wished.temperature, "data.prompt": str(ground.directory / KEPT), "data.template_arguments": {},
    }  # fmt: skip
    return replaced(config, values)
