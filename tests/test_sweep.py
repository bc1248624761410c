"""Sweeps of a tiny model: shared work, curves, tables, failures, and going on after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from tutelage.config import load_config, to_toml
from tutelage.data import arithmetic
from tutelage.errors import InputError, RunError
from tutelage.experiments import sweep
from tutelage.experiments.design import Design
from tutelage.machines import fanout
from tutelage.runs import results
from tutelage.runs.readings import Reading
from tutelage.runs.runlog import read_lines, to_lines

EVERYTHING = Design((8, None), ("raw", "filtered", "control"), 2)


@pytest.fixture
def config(make_config, tmp_path):
    """24 rows, three of them wrong; six problems."""
    train, validation = tmp_path / "rows.jsonl", tmp_path / "problems.jsonl"
    train.write_text(to_lines(arithmetic.rows("train", 24)), encoding="utf-8")
    validation.write_text(to_lines(arithmetic.rows("validation", 6)), encoding="utf-8")
    return make_config(
        data__train=str(train), data__validation=str(validation), train__num_steps=None, train__num_epochs=1, train__grad_accum=1,
        eval__every=0, eval__examples=6, eval__max_new_tokens=4,
    )  # fmt: skip


@pytest.fixture
def here(monkeypatch):
    """Trials in this process: quicker than processes of their own, of which other tests start some. Gives the jobs that ran."""
    ran = []

    def run_apart(function, jobs, *_, **__):
        for number, job in enumerate(jobs):
            ran.append(Path(job.config.run.dir).name)
            try:
                function(job)
                yield number, None
            except (RunError, InputError) as error:
                yield number, error

    monkeypatch.setattr(fanout, "run_apart", run_apart)
    return ran


def test_a_sweep_leaves_a_table_a_page_and_run_directories(config, here, tmp_path, capsys):
    page = sweep.sweep(config, EVERYTHING, tmp_path / "out")
    assert page.is_file() and "raw-21-seed43" in page.read_text()
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "sweep.parquet").to_pylist()
    assert len(rows) == 12 and len(here) == 1 + 10  # a baseline; the controls of eight rows are raw sets
    with (tmp_path / "out" / "sweep.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == [row["trial"] for row in rows]
    assert {(row["data"], row["size"]): row["rows"] for row in rows} == {
        ("raw", "8"): 8, ("filtered", "8"): 8, ("control", "8"): 8, ("raw", "full"): 24, ("filtered", "full"): 21, ("control", "full"): 21,
    }  # fmt: skip
    assert all(row["status"] == "finished" and row["accuracy_before"] is not None and row["failure"] is None for row in rows)
    said = capsys.readouterr().out
    assert "Accuracy by training rows" in said and "not significant" in said


def test_subsets_are_nested_and_each_seed_has_its_own(config, here, tmp_path):
    sweep.sweep(config, Design((8, 16), ("filtered",), 2), tmp_path / "out")

    def kept(name):
        return {
            line["source"] for line in read_lines(tmp_path / "out" / "trials" / name / "ledger.jsonl") if line["fate"] == "kept"
        }

    for seed in (42, 43):
        assert len(kept(f"filtered-8-seed{seed}")) == 8 and kept(f"filtered-8-seed{seed}") < kept(f"filtered-16-seed{seed}")
    assert kept("filtered-8-seed42") != kept("filtered-8-seed43")


def test_rows_are_read_judged_and_tokenized_once_and_the_untouched_model_evaluated_once(config, here, tmp_path, monkeypatch):
    counts = {"read": 0, "judge": 0, "tokenized": 0, "solve": 0}

    def counted(module, name, key, amount=lambda *_: 1):
        original = getattr(module, name)

        def call(*arguments, **options):
            counts[key] += amount(*arguments)
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    from tutelage.data import pool as prepare
    from tutelage.evaluation import live

    counted(prepare, "read_rows", "read")
    counted(prepare, "judge", "judge")
    counted(prepare, "tokenize", "tokenized", lambda examples, *_: len(examples))
    counted(live, "solve", "solve")
    sweep.sweep(config, EVERYTHING, tmp_path / "out")
    assert counts == {
        "read": 2,
        "judge": 1,
        "tokenized": 24,
        "solve": 1 + 10,
    }  # two files; each trial solves once, after training
    for trial in (tmp_path / "out" / "trials").iterdir():
        first, last = Reading(trial).evaluations
        assert first["step"] == 0 and "baseline" in first["adopted_from"] and "adopted_from" not in last
        assert len(Reading(trial).answers(0)) == 6


def test_a_trial_is_the_run_that_its_configuration_gives_by_itself(config, here, tmp_path):
    from tutelage.training.loop import train_one_size

    sweep.sweep(config, Design((8,), ("filtered",), 1), tmp_path / "out")
    trial = tmp_path / "out" / "trials" / "filtered-8-seed42"
    alone = load_config(trial / "config.toml", [f"--run.dir={tmp_path / 'alone'}"])
    train_one_size(alone)
    a, b = Reading(trial), Reading(tmp_path / "alone")
    assert [line["loss"] for line in a.steps] == [line["loss"] for line in b.steps]
    assert [line["accuracy"] for line in a.evaluations] == [line["accuracy"] for line in b.evaluations]
    assert (trial / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "alone" / "model" / "model.safetensors"
    ).read_bytes()


def test_finished_trials_are_never_repeated_and_a_larger_design_reuses_them(config, here, tmp_path):
    sweep.sweep(config, Design((8,), ("raw",), 1), tmp_path / "out")
    before = (tmp_path / "out" / "trials" / "raw-8-seed42" / "result.json").stat().st_mtime_ns
    here.clear()
    sweep.sweep(config, Design((8, None), ("raw",), 1), tmp_path / "out")
    assert here == ["raw-full-seed42"]
    assert (tmp_path / "out" / "trials" / "raw-8-seed42" / "result.json").stat().st_mtime_ns == before
    assert len(results.read_state(tmp_path / "out")["sessions"]) == 2


def test_a_sweep_of_another_configuration_in_the_same_directory_is_refused(config, here, tmp_path):
    sweep.sweep(config, Design((8,), ("raw",), 1), tmp_path / "out")
    other = config.model_copy(update={"train": config.train.model_copy(update={"lr": 5e-4})})
    with pytest.raises(InputError, match=r"raw-8-seed42 holds a trial of another configuration \(train.lr: 0.001 → 0.0005\)"):
        sweep.sweep(other, Design((8,), ("raw",), 1), tmp_path / "out")


def test_other_rows_in_the_same_directory_are_refused(config, here, tmp_path):
    sweep.sweep(config, Design((8,), ("raw",), 1), tmp_path / "out")
    with Path(config.data.train).open("a", encoding="utf-8") as file:
        file.write(to_lines(arithmetic.rows("train", 30)[24:]))
    with pytest.raises(InputError, match="trials on other rows or problems"):
        sweep.sweep(config, Design((8, 16), ("raw",), 1), tmp_path / "out")


def test_a_directory_that_holds_something_else_is_refused(config, here, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(to_toml(config))
    with pytest.raises(InputError, match=r"not empty and not a sweep \(config.toml\)"):
        sweep.sweep(config, Design((8,), ("raw",), 1), tmp_path / "run")
    from tutelage.training.loop import train_one_size

    sweep.sweep(config, Design((8,), ("raw",), 1), tmp_path / "out")
    with pytest.raises(InputError, match="holds a sweep; give this run another"):
        train_one_size(load_config(tmp_path / "out" / "config.toml"))


def test_a_trial_whose_last_evaluation_failed_has_no_accuracy(config, here, tmp_path, monkeypatch):
    """An earlier evaluation, or that of the untouched model, is not the trained one's."""
    from tutelage.evaluation import live

    original = live.NativeEvaluator.__call__
    monkeypatch.setattr(live.NativeEvaluator, "__call__", lambda self, step: original(self, step) if step == 0 else None)
    sweep.sweep(config, Design((8, None), ("raw",), 1), tmp_path / "out", models="best")
    rows = results.table(tmp_path / "out")
    assert [(row["status"], row["accuracy"], row["gained"]) for row in rows] == [("finished, not evaluated", None, None)] * 2
    assert results.points(tmp_path / "out") == []


def test_a_baseline_that_fails_leaves_out_the_trials_that_need_it_alone(config, here, tmp_path, monkeypatch):
    original = sweep.evaluate_untrained

    def sometimes(config, prepared):
        if config.data.prompt == "none":
            raise RunError("out of memory")
        return original(config, prepared)

    monkeypatch.setattr(sweep, "evaluate_untrained", sometimes)
    design = Design((8,), ("raw",), 1, vary=(("data.prompt", ("plain", "none")),))
    with pytest.raises(
        RunError, match="2 of 2 trials failed|raw-8-prompt=none-seed42: the untouched model could not be evaluated"
    ):
        sweep.sweep(config, design, tmp_path / "out")
    assert [row["status"] for row in results.table(tmp_path / "out")] == ["finished", "failed"]
    monkeypatch.setattr(sweep, "evaluate_untrained", original)
    sweep.sweep(config, design, tmp_path / "out")
    assert results.failures(results.read_state(tmp_path / "out"), tmp_path / "out") == {}


def test_a_control_of_another_learning_rate_is_another_trial(config, tmp_path):
    plan = sweep.lay_out(config, Design((21, None), ("raw", "control"), 1, lrs=(1e-3, 5e-4)), tmp_path)
    assert {name: trial.config.train.lr for name, trial in plan.trials.items()} == {
        "raw-21-lr=0.001-seed42": 1e-3, "raw-full-lr=0.0005-seed42": 5e-4, "raw-21-lr=0.0005-seed42": 5e-4,
    }  # fmt: skip


def test_different_trials_of_one_name_are_refused(config, tmp_path):
    for name in ("a_b.txt", "a/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{question}")
    names = tuple(str(tmp_path / name) for name in ("a_b.txt", "a/b.txt"))
    with pytest.raises(InputError, match="two different trials would have the name"):
        sweep.lay_out(config, Design((8,), ("raw",), 1, vary=(("data.prompt", names),)), tmp_path)


def test_workers_and_gpus_are_at_least_one(config, tmp_path):
    for options in ({"workers": -1}, {"workers": 0}, {"gpus_per_trial": 0}):
        with pytest.raises(InputError, match="at least one is needed"):
            sweep.sweep(config, Design((8,), ("raw",), 1), tmp_path / "out", **options)


def test_a_trial_that_fails_is_listed_and_the_others_go_on(config, here, tmp_path, monkeypatch, capsys):
    original = sweep.train_one_size

    def sometimes(config, **options):
        if config.data.size == 8 and config.train.seed == 42:
            raise RunError("the disk is full")
        return original(config, **options)

    monkeypatch.setattr(sweep, "train_one_size", sometimes)
    with pytest.raises(RunError, match=r"1 of 4 trials failed.*again:\n  raw-8-seed42: the disk is full"):
        sweep.sweep(config, Design((8, None), ("raw",), 2), tmp_path / "out")
    rows = {row["trial"]: row for row in results.table(tmp_path / "out")}
    assert rows["raw-8-seed42"]["status"] == "failed" and rows["raw-8-seed42"]["failure"] == "the disk is full"
    assert sum(row["status"] == "finished" for row in rows.values()) == 3
    assert "the disk is full" in (tmp_path / "out" / "report.html").read_text()
    monkeypatch.setattr(sweep, "train_one_size", original)
    here.clear()
    sweep.sweep(config, Design((8, None), ("raw",), 2), tmp_path / "out")
    assert here == ["raw-8-seed42"] and not results.failures(results.read_state(tmp_path / "out"), tmp_path / "out")


def test_equal_steps_and_equal_tokens_are_what_they_say(config, here, tmp_path):
    sweep.sweep(config, Design((8, None), ("raw",), 1, equal="steps"), tmp_path / "steps")
    assert [row["steps"] for row in results.table(tmp_path / "steps")] == [6, 6]
    plan = sweep.lay_out(config, Design((8, None), ("raw", "filtered"), 1, equal="tokens"), tmp_path / "tokens")
    tokens = [point.tokens for point in plan.points]
    assert max(tokens) - min(tokens) <= max(tokens) / 6  # one step
    fixed = config.model_copy(update={"train": config.train.model_copy(update={"num_steps": 3})})
    with pytest.raises(InputError, match="--equal steps"):
        sweep.lay_out(fixed, Design((8,), ("raw",), 1, equal="epochs"), tmp_path)
    assert "equal optimizer steps" in (tmp_path / "steps" / "report.html").read_text()


def test_each_size_can_have_its_learning_rate(config, tmp_path):
    plan = sweep.lay_out(config, Design((8, None), ("raw",), 1, lrs=(1e-3, 5e-4)), tmp_path)
    assert [trial.config.train.lr for trial in plan.trials.values()] == [1e-3, 5e-4]


def test_any_setting_can_be_swept(config, here, tmp_path):
    sweep.sweep(config, Design((8,), ("raw",), 1, vary=(("train.lr", ("1e-3", "1e-2")),)), tmp_path / "out")
    rows = results.table(tmp_path / "out")
    assert [(row["train.lr"], row["trial"]) for row in rows] == [
        ("1e-3", "raw-8-lr=1e-3-seed42"), ("1e-2", "raw-8-lr=1e-2-seed42"),
    ]  # fmt: skip
    assert len(here) == 3  # the baseline is shared: the learning rate does not change it
    assert [point.name for point in results.points(tmp_path / "out")] == ["raw, lr = 1e-3", "raw, lr = 1e-2"]


def test_a_setting_that_changes_the_questions_has_a_baseline_of_its_own(config, here, tmp_path):
    sweep.sweep(config, Design((8,), ("raw",), 1, vary=(("data.prompt", ("plain", "none")),)), tmp_path / "out")
    assert len(list((tmp_path / "out" / "baseline").iterdir())) == 2 and results.baseline_scores(tmp_path / "out") is None


def test_a_dry_run_prints_every_trial_and_trains_nothing(config, here, tmp_path, capsys):
    told = []
    sweep.sweep(config, EVERYTHING, tmp_path / "out", on_dry_run=told.extend)
    said = capsys.readouterr().out
    assert not here and not (tmp_path / "out").exists()
    assert "raw-8-seed42" in [trial["trial"] for trial in told] and all(trial["training_seconds"] > 0 for trial in told)
    assert (
        all(name in said for name in ("raw-8-seed42", "filtered-full-seed43", "raw-21-seed42")) and "of one device, and" in said
    )


def test_only_the_best_model_stays_if_only_that_is_wanted(config, here, tmp_path):
    sweep.sweep(config, Design((8, None), ("raw",), 1), tmp_path / "out", models="best")
    assert [trial.name for trial in (tmp_path / "out" / "trials").iterdir() if (trial / "model").is_dir()] == ["raw-8-seed42"]


def test_a_size_that_the_data_do_not_have_is_refused_before_anything_is_trained(config, here, tmp_path):
    with pytest.raises(InputError, match="only 21 rows that the filter keeps"):
        sweep.sweep(config, Design((22,), ("filtered",), 1), tmp_path / "out")
    assert not here


def test_a_sweep_that_is_killed_goes_on_where_it_was(config, tmp_path):
    """With processes of their own: the whole job is killed in the middle, and started again."""
    recipe, out = tmp_path / "recipe.toml", tmp_path / "out"
    recipe.write_text(to_toml(config))
    command = [
        sys.executable, "-m", "tutelage", "sweep", str(recipe), "--sizes", "8,full", "--data", "raw", "--out", str(out),
        "--train.num_epochs=4", "--run.save_every=1",
    ]  # fmt: skip
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = time.monotonic()
    in_the_middle = out / "trials" / "raw-full-seed42" / "checkpoints"
    while not (in_the_middle.is_dir() and any(in_the_middle.iterdir())):
        assert first.poll() is None and time.monotonic() - started < 240
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(1.5)  # trials end with the sweep that started them
    begun = len(Reading(out / "trials" / "raw-full-seed42").steps)
    done = (out / "trials" / "raw-8-seed42" / "result.json").stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "going on: 1 of 2 trials are finished" in again.stdout or begun == 24
    assert (out / "trials" / "raw-8-seed42" / "result.json").stat().st_mtime_ns == done
    state = json.loads((out / "sweep.json").read_text())
    assert len(state["sessions"]) == 2 and all(row["status"] == "finished" for row in results.table(out))
    steps = [line["step"] for line in Reading(out / "trials" / "raw-full-seed42").steps]
    assert steps == list(range(1, 25))


def square(number: int) -> int:
    if number < 0:
        raise RunError(f"{number} is negative")
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_jobs_apart_do_not_harm_each_other():
    found = dict(fanout.run_apart(square, [2, -1, 13, 3], workers=2))
    assert found[0] == 4 and found[3] == 9
    assert str(found[1]) == "-1 is negative" and "SIGKILL" in str(found[2])


def devices_of(number: int) -> tuple[str, str]:
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]


def test_each_worker_has_its_share_of_the_machine(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = dict(fanout.run_apart(devices_of, range(4), workers=2, devices=["0,1", "2,3"]))
    assert dict(fanout.run_apart(devices_of, range(2), workers=2, devices=["5"]))[1][0] == "5"
    cores = str(max(1, os.cpu_count() // 2))
    assert {found[0], found[1]} == {("0,1", cores), ("2,3", cores)} and "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    assert sweep._devices(2) == ["0,1", "2,3"] and sweep._devices(1) == ["0", "1", "2", "3", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,2,1")
    assert sweep._devices(2) == ["7,5", "3,2"]
    with pytest.raises(InputError, match="this machine has 5"):
        sweep._devices(6)
