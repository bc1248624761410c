"""Sweeps of a tiny model: shared work, curves, tables, failures, and going on after a kill."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
import os
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jobs
import pyarrow.parquet
import pytest
from chain import CHATML, make_chain_model

from tutelage.config import Config, load_config, parse_config, replaced, to_toml
from tutelage.data import arithmetic, choose
from tutelage.data.templates import template
from tutelage.errors import InputError, RunError
from tutelage.experiments import sweep
from tutelage.experiments.design import Design
from tutelage.experiments.layout import lay_out
from tutelage.machines import fanout
from tutelage.runs import results
from tutelage.runs.files import to_lines
from tutelage.runs.reading import Reading

EVERYTHING = Design((8, None), ("raw", "filtered", "control"), 2)
ONE = Design((8,), ("raw",), 1)


def config_in(directory: Path, model: str) -> Config:
    """24 rows, three of them wrong; six problems."""
    train, validation = directory / "rows.jsonl", directory / "problems.jsonl"
    train.write_text(to_lines(arithmetic.rows("train", 24)), encoding="utf-8")
    validation.write_text(to_lines(arithmetic.rows("validation", 6)), encoding="utf-8")
    return parse_config({
        "model": {"id": model, "device": "cpu", "precision": "fp32"},
        "data": {"train": str(train), "validation": str(validation), "prompt": "plain"},
        "train": {"lr": 1e-3, "batch_size": 4, "grad_accum": 1, "num_epochs": 1},
        "eval": {"every": 0, "examples": 6, "full": False, "max_new_tokens": 4, "backend": "native"},
    })  # fmt: skip


@pytest.fixture
def config(tiny_model, tmp_path):
    return config_in(tmp_path, tiny_model)


def in_this_process(patch: pytest.MonkeyPatch) -> list[str]:
    """Trials in this process: quicker than processes of their own, of which other tests start some. Gives the jobs that ran."""
    ran = []

    def run_apart(function, jobs, *_, **__):
        for index, job in enumerate(jobs):
            ran.append(Path(job.config.run.dir).name)
            try:
                function(job)
                yield index, None
            except (RunError, InputError) as error:
                yield index, error

    patch.setattr(fanout, "run_apart", run_apart)
    return ran


@pytest.fixture
def ran(monkeypatch):
    return in_this_process(monkeypatch)


@dataclass(frozen=True)
class Swept:
    config: Config
    directory: Path
    page: Path
    ran: list[str]
    counts: dict[str, int]
    said: str


@pytest.fixture(scope="module")
def swept(tiny_model, tmp_path_factory):
    """A sweep over everything, with what was read, judged, tokenized and solved."""
    from tutelage.data import filter, pool, store
    from tutelage.evaluation import validation

    home = tmp_path_factory.mktemp("swept")
    counts = {"read": 0, "made": 0, "judge": 0, "solve": 0}
    config = config_in(home, tiny_model)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:

        def counted(module, name, key):
            original = getattr(module, name)

            def call(*arguments, **options):
                counts[key] += 1
                return original(*arguments, **options)

            patch.setattr(module, name, call)

        patch.setattr("tutelage.data.filter.cache_directory", lambda: home / "cache")
        counted(pool, "open_store", "read")
        counted(filter, "judge", "judge")
        counted(store, "make_part", "made")
        counted(validation, "solve", "solve")
        ran = in_this_process(patch)
        page = sweep.run_sweep(config, EVERYTHING, home / "out")
    return Swept(config, home / "out", page, ran, counts, said.getvalue())


@pytest.mark.slow
def test_a_sweep_leaves_a_table_a_page_and_run_directories(swept):
    assert swept.page.is_file() and "raw-21-seed43" in swept.page.read_text()
    rows = pyarrow.parquet.read_table(swept.directory / "sweep.parquet").to_pylist()
    assert len(rows) == 12 and len(swept.ran) == 1 + 10  # a baseline; the controls of eight rows are raw sets
    with (swept.directory / "sweep.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == [row["trial"] for row in rows]
    assert {(row["data"], row["size"]): row["rows"] for row in rows} == {
        ("raw", "8"): 8, ("filtered", "8"): 8, ("control", "8"): 8, ("raw", "full"): 24, ("filtered", "full"): 21, ("control", "full"): 21,
    }  # fmt: skip
    assert all(row["status"] == "finished" and row["accuracy_before"] is not None and row["failure"] is None for row in rows)
    assert "Accuracy by training rows" in swept.said and "not significant" in swept.said


@pytest.mark.slow
def test_rows_and_the_untouched_model_are_looked_at_once_for_all_trials(swept):
    # two files; each trial solves once, after training
    assert swept.counts == {"read": 2, "made": 2, "judge": 1, "solve": 1 + 10}
    for trial in (swept.directory / "trials").iterdir():
        first, last = Reading(trial).evaluations
        assert first["step"] == 0 and "baseline" in first["adopted_from"] and "adopted_from" not in last
        assert len(Reading(trial).answers(0)) == 6


@pytest.mark.slow
def test_a_trial_is_the_run_that_its_configuration_gives_by_itself(swept, tmp_path):
    from tutelage.training import fine_tune

    trial = swept.directory / "trials" / "filtered-8-seed42"
    fine_tune(load_config(trial / "config.toml", [f"--run.dir={tmp_path / 'alone'}"]))
    a, b = Reading(trial), Reading(tmp_path / "alone")
    assert [line["loss"] for line in a.steps] == [line["loss"] for line in b.steps]
    assert [line["accuracy"] for line in a.evaluations] == [line["accuracy"] for line in b.evaluations]
    assert (trial / "model" / "model.safetensors").read_bytes() == (tmp_path / "alone/model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_sweep_on_something_else_in_the_same_directory_is_refused(swept, tmp_path):
    """Another configuration, other rows, a run where a sweep should be, and a sweep where a run should be."""
    from tutelage.training import fine_tune

    other = replaced(swept.config, {"train.lr": 5e-4})
    with pytest.raises(InputError, match=r"seed42 holds a trial of another configuration \(train.lr: 0.001 → 0.0005\)"):
        sweep.run_sweep(other, ONE, swept.directory)
    rows = Path(swept.config.data.train)
    before = rows.read_text(encoding="utf-8")
    rows.write_text(before + to_lines(list(arithmetic.rows("train", 30))[24:]), encoding="utf-8")
    try:
        with pytest.raises(InputError, match="trials on other rows or problems"):
            sweep.run_sweep(swept.config, Design((16,), ("raw",), 1), swept.directory)
    finally:
        rows.write_text(before, encoding="utf-8")
    with pytest.raises(InputError, match="holds a sweep; give this run another"):
        fine_tune(load_config(swept.directory / "config.toml"))
    (tmp_path / "config.toml").write_text(to_toml(swept.config))
    with pytest.raises(InputError, match=r"not empty and not a sweep \(config.toml\)"):
        sweep.run_sweep(swept.config, ONE, tmp_path)


def test_a_sweep_that_goes_on_another_day_asks_as_it_asked(tmp_path, monkeypatch):
    dated = make_chain_model(tmp_path / "dated", "Today is {{ strftime_now('%d %b %Y') }}\n" + CHATML)
    config = replaced(config_in(tmp_path, dated), {"data.prompt": "chat"})

    def laid_out_on(day: str):
        clock = SimpleNamespace(today=lambda: datetime.date.fromisoformat(day))
        monkeypatch.setattr(template, "datetime", SimpleNamespace(date=clock, datetime=datetime.datetime))
        return lay_out(config, ONE, tmp_path / "out")

    first = laid_out_on("2026-01-01")
    (tmp_path / "out").mkdir()
    sweep._begin(config, ONE, first, tmp_path / "out")
    again = laid_out_on("2026-02-02")
    sweep._refuse_other_trials(again, tmp_path / "out")
    [one], [other] = first.pools.values(), again.pools.values()
    assert one.template.to_json() == other.template.to_json() and "01 Jan 2026" in other.problems[0].prompt


def test_subsets_are_nested_and_each_seed_has_its_own(config, tmp_path):
    layout = lay_out(config, Design((8, 16), ("filtered",), 2), tmp_path)
    kept = {
        name: {row.source for row in choose(layout.pools[trial.group], trial.config.data).train}
        for name, trial in layout.trials.items()
    }
    for seed in (42, 43):
        assert len(kept[f"filtered-8-seed{seed}"]) == 8 and kept[f"filtered-8-seed{seed}"] < kept[f"filtered-16-seed{seed}"]
    assert kept["filtered-8-seed42"] != kept["filtered-8-seed43"]


@pytest.mark.slow
def test_finished_trials_are_never_repeated_and_only_the_best_model_stays(config, ran, tmp_path):
    out = tmp_path / "out"
    sweep.run_sweep(config, ONE, out)
    before = (out / "trials" / "raw-8-seed42" / "result.json").stat().st_mtime_ns
    ran.clear()
    sweep.run_sweep(config, Design((8, None), ("raw",), 1), out, models="best")
    assert ran == ["raw-full-seed42"]
    assert (out / "trials" / "raw-8-seed42" / "result.json").stat().st_mtime_ns == before
    assert len(results.read_state(out)["sessions"]) == 2
    assert [trial.name for trial in (out / "trials").iterdir() if (trial / "model").is_dir()] == ["raw-8-seed42"]


@pytest.mark.slow
def test_a_trial_whose_last_evaluation_failed_has_no_accuracy(config, ran, tmp_path, monkeypatch, capsys):
    """An earlier evaluation, or that of the untouched model, is not the trained one's."""
    from tutelage.evaluation import live

    original = live.Evaluator.__call__
    monkeypatch.setattr(live.Evaluator, "__call__", lambda self, step: original(self, step) if step == 0 else None)
    sweep.run_sweep(config, ONE, tmp_path / "out", models="best")
    (row,) = results.table(tmp_path / "out")
    assert (row["status"], row["accuracy"], row["gained"]) == ("finished, not evaluated", None, None)
    assert results.points(tmp_path / "out") == []
    assert "not in the table: raw, 8 (raw-8-seed42): finished, not evaluated" in capsys.readouterr().out


@pytest.mark.slow
def test_a_baseline_that_fails_leaves_out_the_trials_that_need_it_alone(config, ran, tmp_path, monkeypatch):
    """A setting that changes the questions has a baseline of its own."""
    original, out = sweep.evaluate_untrained, tmp_path / "out"

    def sometimes(config, prepared):
        if config.data.prompt == "none":
            raise RunError("out of memory")
        return original(config, prepared)

    monkeypatch.setattr(sweep, "evaluate_untrained", sometimes)
    design = Design((8,), ("raw",), 1, vary=(("data.prompt", ("plain", "none")),))
    with pytest.raises(
        RunError, match="2 of 2 trials failed|raw-8-prompt=none-seed42: the untouched model could not be evaluated"
    ):
        sweep.run_sweep(config, design, out)
    assert [row["status"] for row in results.table(out)] == ["finished", "failed"]
    monkeypatch.setattr(sweep, "evaluate_untrained", original)
    sweep.run_sweep(config, design, out)
    assert results.failures(results.read_state(out), out) == {}
    assert len(list((out / "baseline").iterdir())) == 2 and results.baseline_scores(out) is None


@pytest.mark.slow
def test_a_trial_that_fails_is_listed_and_the_others_go_on(config, ran, tmp_path, monkeypatch):
    original, out, design = sweep.fine_tune, tmp_path / "out", Design((8, None), ("raw",), 1)

    def sometimes(config, **options):
        if config.data.size == 8:
            raise RunError("the disk is full")
        return original(config, **options)

    monkeypatch.setattr(sweep, "fine_tune", sometimes)
    with pytest.raises(RunError, match=r"1 of 2 trials failed.*again:\n  raw-8-seed42: the disk is full"):
        sweep.run_sweep(config, design, out)
    rows = {row["trial"]: row for row in results.table(out)}
    assert rows["raw-8-seed42"]["status"] == "failed" and rows["raw-8-seed42"]["failure"] == "the disk is full"
    assert rows["raw-full-seed42"]["status"] == "finished"
    assert "the disk is full" in (out / "report.html").read_text()
    monkeypatch.setattr(sweep, "fine_tune", original)
    ran.clear()
    sweep.run_sweep(config, design, out)
    assert ran == ["raw-8-seed42"] and not results.failures(results.read_state(out), out)


@pytest.mark.slow
def test_any_setting_can_be_swept(config, ran, tmp_path):
    sweep.run_sweep(config, Design((8,), ("raw",), 1, (("train.lr", ("1e-3", "1e-2")),), "steps"), tmp_path / "out")
    rows = results.table(tmp_path / "out")
    assert [(row["train.lr"], row["trial"]) for row in rows] == [
        ("1e-3", "raw-8-lr=1e-3-seed42"), ("1e-2", "raw-8-lr=1e-2-seed42"),
    ]  # fmt: skip
    assert len(ran) == 3  # the baseline is shared: the learning rate does not change it
    assert [point.name for point in results.points(tmp_path / "out")] == ["raw, lr = 1e-3", "raw, lr = 1e-2"]
    assert "equal optimizer steps" in (tmp_path / "out" / "report.html").read_text()


def test_equal_sets_are_trained_once_and_said_to_be_equal(config, tmp_path, capsys):
    """Nothing is wrong in these rows, so filtered rows and the control are the raw ones; 21 rows are all there are."""
    right = [row for row in arithmetic.rows("train", 24) if not row["planted_error"]]
    Path(config.data.train).write_text(to_lines(right), encoding="utf-8")
    design = Design((8, 21, None), ("raw", "filtered", "control"), 1)
    layout = lay_out(config, design, tmp_path / "out")
    assert list(layout.trials) == ["raw-8-seed42", "raw-21-seed42"]
    assert [point.trial for point in layout.points] == ["raw-8-seed42"] * 3 + ["raw-21-seed42"] * 6
    sweep.predict_sweep(config, design, tmp_path / "out")
    said = capsys.readouterr().out
    assert "raw, 8, filtered, 8 and control, 8 are the same 8 rows, and trained once (raw-8-seed42)" in said
    apart = lay_out(config, Design((8,), ("raw",), 2, (("train.lr", ("1e-3", "2e-3")),)), tmp_path / "out")
    assert len(apart.trials) == 4  # other seeds and settings are other trials


def test_equal_steps_and_equal_tokens_are_what_they_say(config, tmp_path):
    assert [point.steps for point in lay_out(config, Design((8, None), ("raw",), 1, equal="steps"), tmp_path).points] == [6, 6]
    layout = lay_out(config, Design((8, None), ("raw", "filtered"), 1, equal="tokens"), tmp_path)
    tokens = [point.tokens for point in layout.points]
    assert max(tokens) - min(tokens) <= max(tokens) / 6  # one step
    with pytest.raises(InputError, match="--equal steps"):
        lay_out(replaced(config, {"train.num_steps": 3}), Design((8,), ("raw",), 1, equal="epochs"), tmp_path)


def test_each_size_can_have_its_learning_rate(config, tmp_path):
    """A control of another learning rate is another trial."""
    layout = lay_out(config, Design((21, None), ("raw", "control"), 1, lrs=(1e-3, 5e-4)), tmp_path)
    assert {name: trial.config.train.lr for name, trial in layout.trials.items()} == {
        "raw-21-lr=0.001-seed42": 1e-3, "raw-full-lr=0.0005-seed42": 5e-4, "raw-21-lr=0.0005-seed42": 5e-4,
    }  # fmt: skip


def test_different_trials_of_one_name_are_refused(config, tmp_path):
    for name in ("a_b.txt", "a/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{question}")
    names = tuple(str(tmp_path / name) for name in ("a_b.txt", "a/b.txt"))
    with pytest.raises(InputError, match="two different trials would have the name"):
        lay_out(config, Design((8,), ("raw",), 1, vary=(("data.prompt", names),)), tmp_path)


def test_what_cannot_be_run_is_refused_before_anything_is_trained(config, ran, tmp_path):
    for options in ({"workers": -1}, {"workers": 0}, {"gpus_per_trial": 0}):
        with pytest.raises(InputError, match="at least one is needed"):
            sweep.run_sweep(config, ONE, tmp_path / "out", **options)
    with pytest.raises(InputError, match="only 21 rows that the filter keeps"):
        sweep.run_sweep(config, Design((22,), ("filtered",), 1), tmp_path / "out")
    assert not ran


def test_a_dry_run_prints_every_trial_and_trains_nothing(config, ran, tmp_path, capsys):
    trials = sweep.predict_sweep(config, EVERYTHING, tmp_path / "out")
    said = capsys.readouterr().out
    assert not ran and not (tmp_path / "out").exists()
    assert "raw-8-seed42" in [trial["trial"] for trial in trials] and all(trial["training_seconds"] > 0 for trial in trials)
    assert all(name in said for name in ("raw-8-seed42", "filtered-full-seed43", "raw-21-seed42"))
    assert "of one device, and" in said


def test_a_dry_run_and_a_plan_reckon_the_same_seconds_and_bytes(config, ran, tmp_path):
    from tutelage.advice.propose import advise

    for changes in ({}, {"train.pack": False}, {"model.lora": "lora", "eval.every": 2}):
        one = replaced(config, changes)
        (trial,) = sweep.predict_sweep(one, ONE, tmp_path / "out")
        ((_, laid_out),) = lay_out(one, ONE, tmp_path / "out").trials.items()
        given = advise(laid_out.config).given.needs
        assert (trial["training_seconds"], trial["evaluation_seconds"]) == given.seconds
        assert trial["peak_bytes"] == given.peak > 0


def test_a_dry_run_says_what_finished_trials_took(config, ran, tmp_path):
    out = tmp_path / "out"
    sweep.run_sweep(config, ONE, out)
    first, second = sweep.predict_sweep(config, Design((8, None), ("raw",), 1), out)
    took = sum(line["seconds"] for line in Reading(out / "trials" / "raw-8-seed42").steps)
    assert first == {"trial": "raw-8-seed42", "finished": True, "training_seconds": took}
    points = {point["trial"]: point for point in results.read_state(out)["points"]}
    assert second["training_seconds"] == pytest.approx(took * second["tokens"] / points["raw-8-seed42"]["tokens"])


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_where_it_was(config, tmp_path, monkeypatch, capfd):
    """With processes of their own: the bench kills the whole job in the middle, starts it again, and sums it up."""
    recipe, out = tmp_path / "recipe.toml", tmp_path / "out"
    recipe.write_text(to_toml(config))
    bench = Path(__file__).parent.parent / "bench"
    monkeypatch.syspath_prepend(str(bench))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [
        "sweep.py", "--config", str(recipe), "--out", str(out), "--sizes", "8,full", "--data", "raw", "--seeds", "1", "--kill-after", "1",
        "--train.num_epochs=4", "--run.save_every=1", "--eval.before=false",
    ])  # fmt: skip
    runpy.run_path(str(bench / "sweep.py"), run_name="__main__")
    assert "going on: 1 of 2 trials are finished" in capfd.readouterr().out
    found, state = json.loads((tmp_path / "sweep.json").read_text()), json.loads((out / "sweep.json").read_text())
    assert (found["trials"], found["finished"], found["resumed"], found["failures"]) == (2, 2, 1, {})
    assert [(point["data"], point["size"]) for point in found["curves"]] == [("raw", "8"), ("raw", "full")]
    assert len(state["sessions"]) == 2 and all(row["status"] == "finished" for row in results.table(out))
    assert state["sessions"][1]["finished"] == ["raw-full-seed42"]
    assert [line["step"] for line in Reading(out / "trials" / "raw-full-seed42").steps] == list(range(1, 25))


@pytest.mark.slow
def test_jobs_apart_do_not_harm_each_other():
    found = dict(fanout.run_apart(jobs.square, [2, -1, 13, 3], workers=2))
    assert found[0] == 4 and found[3] == 9
    assert str(found[1]) == "-1 is negative" and "SIGKILL" in str(found[2])


@pytest.mark.slow
def test_each_worker_has_its_share_of_the_machine(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = dict(fanout.run_apart(jobs.share_of_the_machine, range(2), workers=2, devices=["0,1", "2,3"]))
    cores = str(max(1, os.cpu_count() // 2))
    assert {found[0], found[1]} == {("0,1", cores), ("2,3", cores)} and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_gpus_of_trials_have_the_names_of_the_environment(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    assert sweep._devices(2) == ["0,1", "2,3"] and sweep._devices(1) == ["0", "1", "2", "3", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,2,1")
    assert sweep._devices(2) == ["7,5", "3,2"]
    with pytest.raises(InputError, match="this machine has 5"):
        sweep._devices(6)
