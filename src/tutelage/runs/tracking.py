"""Where a run's numbers go besides ``metrics.jsonl``: TensorBoard, W&B, Trackio, MLflow. None of them can end a run."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tutelage import console
from tutelage.config import Config
from tutelage.errors import InputError, first_line
from tutelage.runs.files import flattened
from tutelage.runs.records import read_table

PROJECT = "tutelage"
SAMPLES = 8
"""Responses of each evaluation that are sent as texts: those to the first problems, which are the same ones each time."""
COLUMNS = ("prompt", "response", "ground_truth", "reward", "length", "token_entropy")
"""What is sent of a response."""
IDS = ".tracking.json"
"""The file of a run directory with the ids of its runs at the trackers: a run that goes on does so in the same ones."""


Rows = Sequence[Sequence[Any]]
"""Responses in the cells of a table, by `COLUMNS`."""


def _no_texts(step: int, rows: Rows) -> None:
    """Of a tracker that takes numbers alone."""


class Tracker(NamedTuple):
    """What takes a run's numbers and texts.

    `send` takes a kind ("train" or "eval"), a step and its numbers; `end` is told whether the run is finished or only stopped;
    `texts` takes a step and some of its responses.
    """

    send: Callable[[str, int, Mapping[str, Any]], None]
    end: Callable[[bool], None]
    texts: Callable[[int, Any], None] = _no_texts


def require(names: Sequence[str]) -> None:
    """Raises InputError where packages of `run.tracking` are not installed."""
    missing = []
    for name in names:
        try:
            importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise InputError(f'run.tracking needs what cannot be imported: {", ".join(missing)}; pip install "tutelage[tracking]"')


def start(config: Config, directory: Path, after: int | None) -> Tracker:
    """All of `run.tracking` as one tracker, which never fails: a tracker that fails is told once, and left out from then on.

    Args:
        after: the step that the run goes on from, and its runs at the trackers too; None: they all begin.
    """
    ids: dict[str, str] = {}
    if after is not None:
        known, fault = read_table(directory / IDS)
        ids |= known
        if fault:
            console.say(f"run.tracking: {directory / IDS} is damaged ({fault}): the trackers' runs begin anew", style="yellow")
    running: dict[str, Tracker] = {}
    turn = threading.Lock()  # the evaluation's thread and the one that trains do not send at once

    def guarded(name: str, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except Exception as error:  # whatever it is: metrics.jsonl is the record, and training is worth more than its picture
            running.pop(name, None)
            reason = f"{type(error).__name__}: {first_line(error)}"
            console.say(f"run.tracking: {name} failed and is left out from here on ({reason})", style="yellow")

    def begin(name: str) -> None:
        running[name] = STARTS[name](config, directory, ids, after)
        (directory / IDS).write_text(json.dumps(ids) + "\n")

    def send(kind: str, step: int, values: Mapping[str, Any]) -> None:
        known = ((key, value) for key, value in flattened(values, "/").items() if isinstance(value, int | float) and key != "step")
        numbers = {f"{kind}/{key}": value for key, value in known}
        with turn:
            for name, tracker in list(running.items()):
                guarded(name, tracker.send, kind, step, numbers)

    def end(finished: bool) -> None:
        for name, tracker in list(running.items()):
            guarded(name, tracker.end, finished)

    def texts(step: int, records: Sequence[Mapping[str, Any]]) -> None:
        rows = samples_of(records)
        with turn:
            for name, tracker in list(running.items()):
                guarded(name, tracker.texts, step, rows)

    for name in config.run.tracking:
        guarded(name, begin, name)
    return Tracker(send, end, texts)


def samples_of(records: Sequence[Mapping[str, Any]]) -> Rows:
    """The first response to each of the first problems of an evaluation."""
    first = [record for record in records if record.get("sample", 0) == 0][:SAMPLES]
    return [[record.get(column) for column in COLUMNS] for record in first]


def as_markdown(rows: Rows) -> str:
    """Responses as Markdown: whatever is in a text stays text, for lines that are indented by four are code."""
    said = []
    for prompt, response, reference, reward, length, entropy in rows:
        mean = "" if entropy is None else f", mean entropy {entropy:.3f} nats"
        said.append(f"**reward {reward:g}**, {length} tokens{mean}")
        for name, text in (("prompt", prompt), ("response", response), ("reference", reference)):
            said.append(f"{name}:\n\n{textwrap.indent(str(text), '    ', lambda line: True)}")
        said.append("---")
    return "\n\n".join(said)


def _tensorboard(config: Config, directory: Path, ids: dict[str, str], after: int | None) -> Tracker:
    """Event files in ``tensorboard/``; those of steps that a continued run takes again are void."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(directory / "tensorboard", purge_step=0 if after is None else after + 1)

    def send(kind: str, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    def texts(step: int, rows: Rows) -> None:
        writer.add_text("eval/samples", as_markdown(rows), step)
        writer.flush()

    return Tracker(send, lambda finished: writer.close(), texts)


def _wandb(config: Config, directory: Path, ids: dict[str, str], after: int | None) -> Tracker:
    """A run at W&B, or with WANDB_MODE=offline in ``wandb/``, from where `wandb sync` takes it."""
    import wandb

    run: Any = wandb.init(
        project=_project(config, "WANDB_PROJECT"),
        entity=config.run.tracking_entity,
        group=config.run.tracking_group,
        name=_name(config, directory, "WANDB_NAME"),
        id=ids.setdefault("wandb", uuid.uuid4().hex[:8]),
        resume="allow",
        reinit="create_new",  # whoever calls us may have a run of their own, which is not ours to use or to end
        dir=os.environ.get("WANDB_DIR", str(directory)),
        config=config.model_dump(mode="json"),
        allow_val_change=True,
        settings=wandb.Settings(finish_timeout=60),  # then the rest is on the disk for `wandb sync`, and the process may end
    )
    for kind in ("train", "eval"):  # as CS336 has it; W&B's own step only ever grows, and an evaluation may come in later than its step
        run.define_metric(f"{kind}_step")
        run.define_metric(f"{kind}/*", step_metric=f"{kind}_step")

    def send(kind: str, step: int, numbers: Mapping[str, float]) -> None:
        run.log({**numbers, f"{kind}_step": step})

    def texts(step: int, rows: Rows) -> None:
        run.log({"eval/samples": wandb.Table(columns=list(COLUMNS), data=_of_one_type(rows)), "eval_step": step})

    return Tracker(send, lambda finished: run.finish(exit_code=0 if finished else 1), texts)


def _trackio(config: Config, directory: Path, ids: dict[str, str], after: int | None) -> Tracker:
    """A run in Trackio's own place, TRACKIO_DIR; its name is made unique, for it is all that Trackio finds a run again by."""
    import trackio

    name = ids.setdefault("trackio", f"{_name(config, directory)}-{uuid.uuid4().hex[:8]}")
    trackio.init(
        project=_project(config), name=name, group=config.run.tracking_group, resume="allow", config=config.model_dump(mode="json")
    )

    def texts(step: int, rows: Rows) -> None:
        trackio.log({"eval/samples": trackio.Table(columns=list(COLUMNS), data=_of_one_type(rows))}, step=step)

    return Tracker(lambda kind, step, numbers: trackio.log(dict(numbers), step=step), lambda finished: trackio.finish(), texts)


def _mlflow(config: Config, directory: Path, ids: dict[str, str], after: int | None) -> Tracker:
    """A run at MLFLOW_TRACKING_URI, or in ``mlflow.db``; through a client, which leaves alone what whoever calls us has set up."""
    import mlflow
    from mlflow.entities import Metric, Param

    logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)  # it tells of each table that it makes
    client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{directory.absolute() / 'mlflow.db'}")
    if "mlflow" in ids:
        client.update_run(ids["mlflow"], status="RUNNING")
    else:
        experiment = _project(config, "MLFLOW_EXPERIMENT_NAME")
        with contextlib.suppress(mlflow.MlflowException):  # it is there
            client.create_experiment(experiment)
        tags = {"group": config.run.tracking_group} if config.run.tracking_group else {}
        found = client.get_experiment_by_name(experiment).experiment_id
        run = client.create_run(found, run_name=_name(config, directory), tags=tags)
        ids["mlflow"] = run.info.run_id
        settings = [Param(key, str(value)) for key, value in flattened(config.model_dump(mode="json"), ".").items()]
        for first in range(0, len(settings), 100):  # as many as MLflow takes at once
            client.log_batch(ids["mlflow"], params=settings[first : first + 100])

    def send(kind: str, step: int, numbers: Mapping[str, float]) -> None:
        now = round(time.time() * 1000)
        client.log_batch(ids["mlflow"], metrics=[Metric(key, float(value), now, step) for key, value in numbers.items()])

    return Tracker(send, lambda finished: client.set_terminated(ids["mlflow"], "FINISHED" if finished else "FAILED"))


STARTS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow}


def _of_one_type(rows: Rows) -> list[list[Any]]:
    """Rows for a table whose columns have a type each: a reference may be a text, or a list of them."""
    return [[prompt, response, str(reference), *numbers] for prompt, response, reference, *numbers in rows]


def _project(config: Config, variable: str = "") -> str:
    return config.run.tracking_project or os.environ.get(variable) or PROJECT


def _name(config: Config, directory: Path, variable: str = "") -> str:
    return config.run.tracking_name or os.environ.get(variable) or directory.resolve().name
