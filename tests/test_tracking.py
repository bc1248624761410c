"""Trackers: the same numbers under the same names in each, at their own steps, and no tracker can end a run. All without a network."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import threading
import time
from pathlib import Path

import pytest
from lines import read_lines

from tutelage.config import describe, load_config, parse_config
from tutelage.data import Template
from tutelage.errors import InputError
from tutelage.runs import tracking
from tutelage.runs.log import open_run

# of SQLAlchemy 2.1, about what MLflow does inside
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

LOGGED = [  # as training logs it: the evaluation of step 2 comes in after step 3
    {"kind": "train", "step": 1, "loss": 3.0, "note": "text"},
    {"kind": "train", "step": 2, "loss": 2.5},
    {"kind": "train", "step": 3, "loss": 2.0},
    {"kind": "eval", "step": 2, "accuracy": 0.5, "length": {"mean": 7.0}, "logged_at_step": 3},
    {"kind": "train", "step": 4, "loss": 1.5},
    {"kind": "eval_skipped", "step": 4},
]
RESPONSES = [
    {"prompt": f"What is {n} + {n}?", "sample": sample, "response": f"`<b>{n + n}</b>\n\n# no heading", "ground_truth": str(n + n),
     "reward": float(n % 2), "length": 3, "token_entropy": 0.5 if n else None}
    for n in range(20) for sample in (0, 1)
]  # fmt: skip
TRACKED = {
    "train/loss": [(1, 3.0), (2, 2.5), (3, 2.0), (4, 1.5)],
    "eval/accuracy": [(2, 0.5)],
    "eval/length/mean": [(2, 7.0)],
    "eval/logged_at_step": [(2, 3.0)],
}


@pytest.fixture(scope="module")
def trackio_directory(tmp_path_factory: pytest.TempPathFactory):
    """Trackio reads where to write when it is imported, once for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield


@pytest.fixture(autouse=True)
def nobody_calls_home(monkeypatch, trackio_directory):
    for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_NAME", "WANDB_ENTITY", "WANDB_RUN_GROUP", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }.items():
        monkeypatch.setenv(name, value)


def installed(name):
    pytest.importorskip("tensorboard" if name == "tensorboard" else name, reason=f"{name} is not installed")
    if name == "mlflow":
        pytest.importorskip("sqlalchemy", reason="MLflow's local store needs SQLAlchemy")


def config_of(directory, *names):
    return parse_config({"run": {"dir": str(directory), "tracking": list(names)}})


def logged(config, lines=LOGGED, finished=True):
    """A run that logs the lines; what it says is in the test's output."""
    with open_run(config) as log:
        log.begin(config, Template(), {"sha256": "hash", "unread": []}, [])
        for line in lines:
            log.metrics(**line)
        if finished:
            log.finish({})


def texts_of(directory, name):
    """What the tracker shows of the responses to the first problems."""
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (event,) = EventAccumulator(str(directory / "tensorboard")).Reload().Tensors("eval/samples/text_summary")
        return event.step, event.tensor_proto.string_val[0].decode()
    logged: dict = {}
    until = time.monotonic() + 60
    while "eval/samples/path" not in logged and time.monotonic() < until:  # W&B's own process may write after `finish` has returned
        items = [item for record in wandb_records(directory) for item in record.history.item]
        logged = {"/".join(item.nested_key) or item.key: item.value_json for item in items}
        time.sleep(0.05)
    path = json.loads(logged["eval/samples/path"])
    (file,) = directory.glob(f"wandb/offline-run-*/files/{path}")
    return int(logged["eval_step"]), file.read_text()


def in_tensorboard(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def wandb_records(directory):
    """The records in the files of W&B's offline runs (blocks of 32 KiB, headers of 7 bytes), oldest file first."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            size, part = struct.unpack("<HB", data[at + 4 : at + 7])
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if part in (1, 4):  # whole, or the last part
                yield Record.FromString(whole)
                whole = b""


def in_wandb(directory):
    """What W&B plots: each name over the step that `define_metric` names for it."""
    axes, found = {}, {}
    for record in wandb_records(directory):
        if record.metric.glob_name:
            axes[record.metric.glob_name] = record.metric.step_metric
        values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in values.items():
            axis = axes.get(f"{name.partition('/')[0]}/*")
            if axis and name != axis:
                found.setdefault(name, []).append((values[axis], value))
    return found


def in_trackio(directory):
    import sqlite3

    from trackio.utils import TRACKIO_DIR

    ids = json.loads((directory / ".tracking.json").read_text())
    found: dict = {}
    with sqlite3.connect(Path(TRACKIO_DIR) / "tutelage.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (ids["trackio"],)).fetchall()
    for step, text in rows:
        for name, value in json.loads(text).items():
            found.setdefault(name, []).append((step, value))
    return found


def mlflow_client(directory):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{directory / 'mlflow.db'}")


def mlflow_run(directory):
    return mlflow_client(directory).get_run(json.loads((directory / ".tracking.json").read_text())["mlflow"])


def in_mlflow(directory):
    client, run = mlflow_client(directory), mlflow_run(directory)
    return {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


NAMES = {"project": "course", "name": "lr-2e-5", "group": "size curve", "entity": "a-team"}


def config_with_names(directory, tracker):
    settings = {f"tracking_{key}": value for key, value in NAMES.items()}
    return parse_config({"run": {"dir": str(directory), "tracking": [tracker], **settings}})


READERS = {"tensorboard": in_tensorboard, "wandb": in_wandb, "trackio": in_trackio, "mlflow": in_mlflow}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_responses_of_an_evaluation_are_texts_at_its_step(tmp_path, monkeypatch, name):
    installed(name)
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "600")
    config = config_of(tmp_path / "run", name)
    with open_run(config) as log:
        log.begin(config, Template(), {"sha256": "hash", "unread": []}, [])
        log.generations(7, RESPONSES)
        log.finish({})
    step, text = texts_of(tmp_path / "run", name)
    assert step == 7 and "What is 7 + 7?" in text and "What is 8 + 8?" not in text
    assert name == "wandb" or "    `<b>14</b>\n    \n    # no heading" in text


def goes_on_from(step, monkeypatch):
    monkeypatch.setattr("tutelage.runs.checkpoint.latest", lambda run: run / "checkpoints" / f"step-{step:08d}")


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_numbers_stand_at_their_steps_in_one_tracker_run_that_goes_on(tmp_path, monkeypatch, name):
    """The run stops after step 3, goes on from step 2, and is finished; W&B and MLflow know it by the names of the settings."""
    installed(name)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    run = tmp_path / "run"
    config = config_of(run, name) if name == "trackio" else config_with_names(run, name)
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "600")  # seconds; on a busy machine its process may need more than its own 30
    with contextlib.ExitStack() as held:
        if name == "wandb":  # whoever calls us may have a run of their own
            import wandb

            theirs = held.enter_context(wandb.init(project="theirs", dir=str(tmp_path)))
        logged(config, LOGGED[:3], finished=False)
        before = (run / ".tracking.json").read_text()
        if name == "wandb":
            time.sleep(1.1)  # W&B names the directory of a session by the second
        if name == "mlflow":
            assert mlflow_run(run).info.status == "FAILED"
        goes_on_from(2, monkeypatch)
        logged(config, LOGGED[2:])  # step 3 is taken again
        if name == "wandb":
            assert wandb.run is theirs
    assert (run / ".tracking.json").read_text() == before
    found = READERS[name](run)
    assert {key: sorted(set(points)) for key, points in found.items()} == TRACKED
    if name == "tensorboard":
        assert found == TRACKED  # the first step 3 is void
    if name == "wandb":
        assert {record.run.run_id for record in wandb_records(run) if record.run.run_id} == {json.loads(before)["wandb"]}
        assert [record.exit.exit_code for record in wandb_records(run) if record.WhichOneof("record_type") == "exit"] == [1, 0]
        made = next(record.run for record in wandb_records(run) if record.run.run_id)
        assert {"project": made.project, "name": made.display_name, "group": made.run_group, "entity": made.entity} == NAMES
        metrics = [record.metric for record in wandb_records(run) if record.WhichOneof("record_type") == "metric"]
        axes = {metric.glob_name or metric.name: metric.step_metric for metric in metrics}
        assert axes == {"train_step": "", "eval_step": "", "train/*": "train_step", "eval/*": "eval_step"}
    if name == "trackio":
        import trackio

        assert [each.name for each in trackio.Api().runs("tutelage")].count(json.loads(before)["trackio"]) == 1
    if name == "mlflow":
        made = mlflow_run(run)
        assert made.info.status == "FINISHED" and made.info.run_name == NAMES["name"] and made.data.tags["group"] == NAMES["group"] and made.data.params["train.lr"] == "2e-05"
        assert len(made.data.params) >= len(describe()) - 10  # settings that are tables count once
        assert mlflow_client(run).get_experiment(made.info.experiment_id).name == NAMES["project"]


@pytest.mark.slow
def test_mlflow_goes_where_it_is_told(tmp_path, monkeypatch, capsys):
    installed("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at.all")
    logged(config_of(tmp_path / "run", "mlflow"))
    assert "mlflow failed and is left out" in capsys.readouterr().out and not (tmp_path / "run" / "mlflow.db").exists()


@pytest.mark.slow
def test_a_run_that_begins_again_leaves_nothing_of_the_first_in_tensorboard(tmp_path):
    installed("tensorboard")
    config = config_of(tmp_path / "run", "tensorboard")
    logged(config, [{"kind": "train", "step": 1, "loss": 9.0}], finished=False)  # no checkpoint
    logged(config)
    assert in_tensorboard(tmp_path / "run") == TRACKED


# ── with stand-ins ──


class Recorder:
    """Stands in for the packages of W&B and Trackio: it keeps what it was called with."""

    def __init__(self):
        self.began, self.axes, self.lines, self.ended = {}, {}, [], []

    def init(self, **arguments):
        self.began = arguments
        return self

    def Settings(self, **settings):
        return settings

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, numbers, **more):
        self.lines.append(numbers)

    def finish(self, **more):
        self.ended.append(more)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_names_are_those_of_the_settings_then_of_the_environment_then_of_the_run(tmp_path, monkeypatch, tracker):
    def began(config):
        monkeypatch.setitem(sys.modules, tracker, recorder := Recorder())
        tracking.start(config, Path(config.run.dir), None)
        return {key: recorder.began.get(key) for key in NAMES}

    for directory in ("first", "second"):
        (tmp_path / directory).mkdir()
    given, unnamed = began(config_with_names(tmp_path / "first", tracker)), began(config_of(tmp_path / "second", tracker))
    if tracker == "trackio":  # its names are made unique, and it has no entities
        assert given.pop("name").startswith("lr-2e-5-") and unnamed.pop("name").startswith("second-")
        assert given == {"project": "course", "group": "size curve", "entity": None}
        assert unnamed == {"project": "tutelage", "group": None, "entity": None}
        return
    assert given == NAMES and unnamed == {"project": "tutelage", "name": "second", "group": None, "entity": None}
    for name, value in {"WANDB_PROJECT": "theirs", "WANDB_NAME": "their-run"}.items():
        monkeypatch.setenv(name, value)
    assert began(config_of(tmp_path / "second", tracker)) == {**unnamed, "project": "theirs", "name": "their-run"}
    assert began(config_with_names(tmp_path / "first", tracker)) == NAMES


def test_wandb_gets_the_keys_and_axes_of_the_course(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", recorder := Recorder())
    tracker = tracking.start(config_of(tmp_path, "wandb"), tmp_path, None)
    tracker.send("train", 3, {"loss": 2.0, "step": 3})
    tracker.send("eval", 2, {"accuracy": 0.5, "length": {"mean": 7.0}})
    tracker.end(True)
    assert recorder.axes == {"train_step": None, "train/*": "train_step", "eval_step": None, "eval/*": "eval_step"}
    assert recorder.lines == [{"train/loss": 2.0, "train_step": 3}, {"eval/accuracy": 0.5, "eval/length/mean": 7.0, "eval_step": 2}]
    assert recorder.ended == [{"exit_code": 0}]


def test_trials_of_a_sweep_have_their_own_names_behind_the_given_one(tmp_path):
    from tutelage.experiments.design import Point, trial_config

    point = Point("raw-128-seed42", "raw", 128, 128, 42, 8, 1000, {})
    named, plain = (
        trial_config(config, point, 64, str(tmp_path / point.trial), lr=None, num_steps=None)
        for config in (config_with_names(tmp_path, "wandb"), config_of(tmp_path, "wandb"))
    )
    assert (named.run.tracking_name, named.run.tracking_group) == ("lr-2e-5-raw-128-seed42", "size curve")
    assert plain.run.tracking_name is None


def test_samples_are_the_first_response_to_each_of_the_first_problems():
    rows = tracking.samples_of(RESPONSES)
    assert [row[0] for row in rows] == [f"What is {n} + {n}?" for n in range(tracking.SAMPLES)]
    assert "**reward 1**, 3 tokens, mean entropy 0.500 nats" in tracking.as_markdown(rows)
    assert "**reward 0**, 3 tokens\n" in tracking.as_markdown(rows[:1])


def test_a_table_that_a_tracker_refuses_leaves_the_run_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", recorder := Recorder())  # it has no Table
    tracker = tracking.start(config_of(tmp_path, "wandb"), tmp_path, None)
    tracker.texts(3, RESPONSES)
    tracker.send("train", 4, {"loss": 2.0})
    assert "wandb failed and is left out" in capsys.readouterr().out and recorder.lines == []


def stand_in(monkeypatch, name, send=lambda *numbers: None, end=lambda finished: None):
    monkeypatch.setitem(tracking.STARTS, name, lambda *arguments: tracking.Tracker(send, end))


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    steps, ended = [], []

    def refuses(*arguments):
        raise ValueError

    def breaks(kind, step, numbers):
        if step == 2:
            raise OSError("no route to host\nand much more about it")

    def sticks(finished):
        raise TimeoutError("still there")

    monkeypatch.setitem(tracking.STARTS, "wandb", refuses)
    stand_in(monkeypatch, "mlflow", breaks)
    stand_in(monkeypatch, "trackio", end=sticks)
    stand_in(monkeypatch, "tensorboard", lambda kind, step, numbers: steps.append((kind, step)), ended.append)
    logged(config_of(tmp_path / "run", "wandb", "mlflow", "trackio", "tensorboard"))
    assert capsys.readouterr().out.splitlines() == [
        "run.tracking: wandb failed and is left out from here on (ValueError: ValueError)",
        "run.tracking: mlflow failed and is left out from here on (OSError: no route to host)",
        "run.tracking: trackio failed and is left out from here on (TimeoutError: still there)",
    ]
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == len(LOGGED)
    assert steps == [(line["kind"], line["step"]) for line in LOGGED[:-1]] and ended == [True]


def test_two_threads_send_one_after_the_other(tmp_path, monkeypatch):
    sending, overlaps, steps = threading.Lock(), [], []

    def send(kind, step, numbers):
        if not sending.acquire(blocking=False):
            overlaps.append(step)
            return
        time.sleep(0.001)
        steps.append(step)
        sending.release()

    stand_in(monkeypatch, "wandb", send)
    tracker = tracking.start(config_of(tmp_path, "wandb"), tmp_path, None)
    threads = [
        threading.Thread(target=lambda first=first: [tracker.send("train", step, {}) for step in range(first, 100, 2)])
        for first in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlaps and sorted(steps) == list(range(100))


def test_ids_that_cannot_be_read_begin_new_runs(tmp_path, monkeypatch):
    seen = []

    def starts(config, directory, ids, after):
        seen.append((dict(ids), after))
        ids["wandb"] = "new"
        return tracking.Tracker(lambda *numbers: None, lambda finished: None)

    monkeypatch.setitem(tracking.STARTS, "wandb", starts)
    (tmp_path / ".tracking.json").write_text('{"wandb": "ol')
    for after in (3, 4, None):
        tracking.start(config_of(tmp_path, "wandb"), tmp_path, after)
    assert seen == [({}, 3), ({"wandb": "new"}, 4), ({}, None)]


def test_a_package_that_is_missing_is_said_before_anything_is_computed(make_config, monkeypatch):
    from tutelage.training import fine_tune

    def not_reached(*arguments):
        raise AssertionError("something was read or computed")

    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr("tutelage.training.loop.prepare", not_reached)
    config = make_config(run__tracking=["wandb", "mlflow"])
    with pytest.raises(InputError, match=r'run\.tracking.* wandb .* mlflow .*pip install "tutelage\[tracking\]"$'):
        fine_tune(config)
    assert not Path(config.run.dir).exists()
    tracking.require([])


@pytest.mark.parametrize(("old", "new"), [("none", []), ("wandb", ["wandb"])])
def test_a_configuration_of_an_older_run_is_read(tmp_path, old, new):
    (tmp_path / "config.toml").write_text(f'[run]\ntracker = "{old}"\n')
    assert load_config(tmp_path / "config.toml").run.tracking == new
    assert load_config(tmp_path / "config.toml", ["--run.tracking", '["mlflow"]']).run.tracking == ["mlflow"]


def test_a_tracker_that_is_named_twice_or_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"run\.tracking names wandb more than once"):
        parse_config({"run": {"tracking": ["wandb", "mlflow", "wandb"]}})
    with pytest.raises(InputError, match=r"run\.tracking\.0: .*'tensorboard', 'wandb', 'trackio' or 'mlflow', got 'comet'"):
        parse_config({"run": {"tracking": ["comet"]}})
