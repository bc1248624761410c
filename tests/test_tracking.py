"""Trackers: the same numbers under the same names in each, at their own steps, and no tracker can end a run. All without a network."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from tutelage.config import describe, load_config, parse_config
from tutelage.errors import InputError
from tutelage.runs import tracking
from tutelage.runs.files import read_lines
from tutelage.runs.log import open_run

# of SQLAlchemy 2.1, about what MLflow does inside
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

TRACKERS = ["tensorboard", "wandb", "trackio", "mlflow"]

LOGGED = [  # as training logs it: the evaluation of step 2 comes in after step 3
    {"kind": "train", "step": 1, "loss": 3.0, "note": "text"},
    {"kind": "train", "step": 2, "loss": 2.5},
    {"kind": "train", "step": 3, "loss": 2.0},
    {"kind": "eval", "step": 2, "accuracy": 0.5, "length": {"mean": 7.0}, "logged_at_step": 3},
    {"kind": "train", "step": 4, "loss": 1.5},
    {"kind": "eval_skipped", "step": 4},
]
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
    for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
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
        log.begin(config, "{question}", {"sha256": "hash"}, [])
        for line in lines:
            log.metrics(**line)
        if finished:
            log.finish({})


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


def in_mlflow(directory):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{directory / 'mlflow.db'}")
    run = json.loads((directory / ".tracking.json").read_text())["mlflow"]
    return {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run, name)]
        for name in client.get_run(run).data.metrics
    }


READERS = {"tensorboard": in_tensorboard, "wandb": in_wandb, "trackio": in_trackio, "mlflow": in_mlflow}


@pytest.mark.parametrize("name", TRACKERS)
def test_each_tracker_has_the_same_names_at_their_own_steps(tmp_path, name):
    installed(name)
    logged(config_of(tmp_path / "run", name))
    found = READERS[name](tmp_path / "run")
    assert found == TRACKED  # an evaluation that came in late too


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_that_goes_on_does_so_in_the_same_tracker_run(tmp_path, monkeypatch, name):
    installed(name)
    run, config = tmp_path / "run", config_of(tmp_path / "run", name)
    logged(config, LOGGED[:3], finished=False)
    before = (run / ".tracking.json").read_text()
    monkeypatch.setattr("tutelage.runs.checkpoint.latest", lambda directory: directory / "checkpoints" / "step-00000002")
    logged(config, LOGGED[2:])  # step 3 is taken again
    assert (run / ".tracking.json").read_text() == before
    found = READERS[name](run)
    assert set(found) == set(TRACKED) and [set(found[key]) for key in TRACKED] == [set(TRACKED[key]) for key in TRACKED]
    if name == "tensorboard":
        assert found == TRACKED  # the first step 3 is void
    if name == "wandb":
        assert {record.run.run_id for record in wandb_records(run) if record.run.run_id} == {json.loads(before)["wandb"]}
    if name == "trackio":
        import trackio

        assert [each.name for each in trackio.Api().runs("tutelage")].count(json.loads(before)["trackio"]) == 1


def test_a_run_that_begins_again_begins_again_at_its_trackers(tmp_path):
    installed("tensorboard")
    installed("mlflow")
    run, config = tmp_path / "run", config_of(tmp_path / "run", "tensorboard", "mlflow")
    logged(config, LOGGED[:3], finished=False)  # no checkpoint
    before = (run / ".tracking.json").read_text()
    logged(config)
    assert (run / ".tracking.json").read_text() != before
    assert in_tensorboard(run) == in_mlflow(run) == TRACKED


def test_a_tracker_learns_whether_the_run_was_finished(tmp_path, monkeypatch):
    installed("mlflow")
    installed("wandb")
    from mlflow import MlflowClient

    def status(name):
        ids = json.loads((tmp_path / name / ".tracking.json").read_text())
        return MlflowClient(f"sqlite:///{tmp_path / name / 'mlflow.db'}").get_run(ids["mlflow"]).info.status

    def ends(name):
        codes = [record.exit.exit_code for record in wandb_records(tmp_path / name) if record.WhichOneof("record_type") == "exit"]
        return status(name), codes

    config = config_of(tmp_path / "failed", "mlflow", "wandb")
    with pytest.raises(RuntimeError), open_run(config) as log:
        log.begin(config, "{question}", {"sha256": "hash"}, [])
        raise RuntimeError
    logged(config_of(tmp_path / "finished", "mlflow", "wandb"))
    assert ends("failed") == ("FAILED", [1]) and ends("finished") == ("FINISHED", [0])
    monkeypatch.setattr("tutelage.runs.checkpoint.latest", lambda directory: directory / "checkpoints" / "step-00000002")
    config = config_of(tmp_path / "failed", "mlflow")
    with open_run(config) as log:  # it goes on
        log.begin(config, "{question}", {"sha256": "hash"}, [])
        assert status("failed") == "RUNNING"


def test_mlflow_has_the_settings_and_goes_where_it_is_told(tmp_path, monkeypatch):
    installed("mlflow")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    logged(config_of(tmp_path / "run", "mlflow"))
    assert not (tmp_path / "run" / "mlflow.db").exists()
    client = MlflowClient(uri)
    run = client.get_run(json.loads((tmp_path / "run" / ".tracking.json").read_text())["mlflow"])
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    assert run.info.run_name == "run" and run.data.params["train.lr"] == "2e-05"
    assert len(run.data.params) >= len(describe()) - 10  # but those that are none are there as well, or tables


def test_a_run_of_the_callers_own_at_wandb_is_left_alone(tmp_path):
    installed("wandb")
    import wandb

    with wandb.init(project="theirs", dir=str(tmp_path)) as theirs:
        logged(config_of(tmp_path / "run", "wandb"))
        assert wandb.run is theirs
        theirs.log({"still": 1})
    assert in_wandb(tmp_path / "run") == TRACKED


def test_a_package_that_is_missing_is_said_before_anything_is_computed(make_config, monkeypatch):
    from tutelage import train_one_size

    def not_reached(*arguments):
        raise AssertionError("something was read or computed")

    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr("tutelage.training.loop.prepare", not_reached)
    config = make_config(run__tracking=["wandb", "mlflow"])
    with pytest.raises(InputError, match=r'(?s)run\.tracking.* wandb .* mlflow .*pip install "tutelage\[tracking\]"') as raised:
        train_one_size(config)
    assert len(str(raised.value).splitlines()) == 1
    assert not Path(config.run.dir).exists()
    tracking.require([])


def flaky(fails_at):
    """A stand-in for a tracker: (what starts it, the steps that it got, how it was ended). It raises from a step on."""
    steps, ended = [], []

    def send(kind, step, numbers):
        if kind == "train" and step >= fails_at:
            raise OSError("no route to host\nand much more about it")
        steps.append((kind, step))

    return lambda *arguments: tracking.Tracker(send, ended.append), steps, ended


def test_a_tracker_that_fails_is_told_once_and_training_goes_on(make_config, monkeypatch, capsys):
    from tutelage import train_one_size

    broken, got, ended = flaky(2)
    sound, all_of_it, ended_well = flaky(100)
    monkeypatch.setitem(tracking.STARTS, "wandb", broken)
    monkeypatch.setitem(tracking.STARTS, "mlflow", sound)
    monkeypatch.setattr(tracking, "require", lambda names: None)
    config = make_config(run__tracking=["wandb", "mlflow"])
    result = train_one_size(config)
    said = [line for line in capsys.readouterr().out.splitlines() if "run.tracking" in line]
    assert said == ["run.tracking: wandb failed and is left out from here on (OSError: no route to host)"]
    steps = [(line["kind"], line["step"]) for line in read_lines(Path(config.run.dir) / "metrics.jsonl")]
    assert result.steps == 4 and [step for kind, step in steps if kind == "train"] == [1, 2, 3, 4]
    assert all_of_it == steps and ended_well == [True]
    assert got == [("eval", 0), ("train", 1)] and ended == []


def test_a_tracker_that_does_not_start_or_end_is_told_too(tmp_path, monkeypatch, capsys):
    def refuses(*arguments):
        raise ValueError

    def sticks(finished):
        raise TimeoutError("still there")

    monkeypatch.setitem(tracking.STARTS, "wandb", refuses)
    monkeypatch.setitem(tracking.STARTS, "mlflow", lambda *arguments: tracking.Tracker(lambda *numbers: None, sticks))
    logged(config_of(tmp_path / "run", "wandb", "mlflow"))
    assert capsys.readouterr().out.splitlines() == [
        "run.tracking: wandb failed and is left out from here on (ValueError: )",
        "run.tracking: mlflow failed and is left out from here on (TimeoutError: still there)",
    ]
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == len(LOGGED)


def test_ids_that_cannot_be_read_begin_new_runs(tmp_path, monkeypatch):
    seen = []

    def starts(config, directory, ids, after):
        seen.append((dict(ids), after))
        ids["wandb"] = "new"
        return tracking.Tracker(lambda *numbers: None, lambda finished: None)

    monkeypatch.setitem(tracking.STARTS, "wandb", starts)
    (tmp_path / ".tracking.json").write_text('{"wandb": "ol')
    tracking.start(config_of(tmp_path, "wandb"), tmp_path, after=3)
    tracking.start(config_of(tmp_path, "wandb"), tmp_path, after=4)
    tracking.start(config_of(tmp_path, "wandb"), tmp_path, after=None)
    assert seen == [({}, 3), ({"wandb": "new"}, 4), ({}, None)]


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


def test_help_names_the_trackers():
    assert next(row[2] for row in describe() if row[1] == "tracking") == "list of tensorboard | wandb | trackio | mlflow"
