"""``tutelage sweep``: one training run (trial) for each size, kind of data, seed and setting; shared work done once.

The sweep's directory holds ``baseline/``, ``trials/NAME/`` (run directories like any other), ``sweep.json`` (the design and what
became of it), and the result as a table (``sweep.csv``, ``sweep.parquet``) and a page (``report.html``).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tutelage import console
from tutelage.config import Config, changeable, replaced, to_toml
from tutelage.data import Prepared, choose
from tutelage.errors import InputError, RunError
from tutelage.evaluation import with_absolute_paths
from tutelage.experiments import dry_run
from tutelage.experiments.design import Design
from tutelage.experiments.layout import Layout, Trial, lay_out
from tutelage.machines import fanout
from tutelage.model import identity_of
from tutelage.report import page as report
from tutelage.resources import visible_name
from tutelage.runs import Reading, changes, changes_of_model, locked, results, verdicts, write_text
from tutelage.training import evaluate_untrained, fine_tune

Models = Literal["all", "best", "none"]
Ended = Generator[tuple[int, BaseException | None], None, None]
"""(index of a job, None or why it failed), as jobs end."""


@dataclass(frozen=True)
class Job:
    """What a process does: train, or, without a baseline to take over, evaluate the untouched model."""

    config: Config
    prepared: Prepared
    trains: bool
    baseline: Path | None = None


def run_sweep(
    config: Config,
    design: Design,
    directory: Path,
    *,
    where: str = "local",
    workers: int | None = None,
    gpus_per_trial: int = 1,
    models: Models = "all",
) -> Path:
    """Run what of a sweep has not finished yet, and write its table and page.

    Args:
        where: as `fanout.run_map`.
        workers: trials at the same time on this machine; None: as many as its GPUs allow, else one.
        models: which trials' trained models stay on the disk: all, the best one's, or none.

    Raises:
        InputError: the design, the configuration or the data are wrong, or the directory holds something else.
        RunError: trials failed; the others are finished.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: at least one is needed")
    with locked(directory, "--out"):
        config, directory, layout = _checked(config, design, directory, where, gpus_per_trial)
        devices = _devices(gpus_per_trial) if where == "local" else []
        at_once = workers or max(1, len(devices))
        gpus = 0 if config.model.device == "cpu" else gpus_per_trial

        def run(jobs: Iterable[Job]) -> Ended:
            return fanout.run_apart(work, jobs, where, workers=at_once, devices=devices[:at_once], gpus_per_job=gpus)

        state = _begin(config, design, layout, directory)
        try:
            _run_all(layout, directory, state, run, models)
        except KeyboardInterrupt:
            left = len(_unfinished(layout))
            raise KeyboardInterrupt(f"{left} trials are left; the same command goes on where they are") from None
        finally:
            _write_state(state, directory)
        return _finish(layout, state, directory)


def predict_sweep(
    config: Config, design: Design, directory: Path, where: str = "local", gpus_per_trial: int = 1, models: Models = "all"
) -> list[dict[str, Any]]:
    """Print every trial of a sweep with the time and memory that it is reckoned to take on this machine, and train nothing.

    Args:
        where, models: as `run_sweep`.

    Returns:
        What `--json` prints of each trial.

    Raises:
        InputError: as `run_sweep`.
    """
    _, _, layout = _checked(config, design, directory, where, gpus_per_trial)
    return dry_run.show(layout, gpus_per_trial, len(_unfinished(layout)) if models == "all" else 1)


def _checked(config: Config, design: Design, directory: Path, where: str, gpus_per_trial: int) -> tuple[Config, Path, Layout]:
    """(configuration, directory, layout) of a sweep that can be run, or go on. Raises InputError as `run_sweep`."""
    fanout.require(where)
    console.quiet_libraries()
    if gpus_per_trial < 1:
        raise InputError(f"--gpus-per-trial {gpus_per_trial}: at least one is needed")
    if where != "local":
        config, directory = with_absolute_paths(config), directory.absolute()  # other machines see them under these names
    _refuse_what_is_no_sweep(directory)
    layout = lay_out(config, design, directory)
    if design.seeds == 1:
        console.say(verdicts.ONE_SEED)
    _refuse_other_trials(layout, directory)
    return config, directory, layout


def _run_all(
    layout: Layout, directory: Path, state: dict[str, Any], run: Callable[[Iterable[Job]], Ended], models: Models
) -> None:
    """What has not finished yet: the baselines, then the trials of those that have one."""

    def follow(names: list[str], jobs: Iterable[Job], what: str, sizes: list[int]) -> None:
        with console.progress(what, sum(sizes)) as advance, contextlib.closing(run(jobs)) as ended:
            for count, (index, answer) in enumerate(ended, 1):
                _tell(names[index], answer, state, directory)
                _remove_models(layout, models)
                advance(sizes[index], f"({count} of {len(names)})")

    evaluations = _baselines(layout, directory)
    follow(list(evaluations), evaluations.values(), "evaluating the untouched model", [1] * len(evaluations))
    ready: dict[str, tuple[Trial, Path | None]] = {}
    for trial in _unfinished(layout):
        baseline = _baseline_of(directory, trial.group) if trial.config.eval.before else None
        if baseline is not None and not Reading(baseline).trained:
            _tell(trial.name, RunError("the untouched model could not be evaluated"), state, directory)
        else:
            ready[trial.name] = trial, baseline
    jobs = (
        Job(trial.config, choose(layout.pools[trial.group], trial.config.data), True, baseline)
        for trial, baseline in ready.values()
    )
    follow(list(ready), jobs, "tokens trained on", [trial.tokens for trial, _ in ready.values()])


def work(job: Job) -> None:
    """The process of one trial, or of the baseline. What it says goes to its run directory."""
    directory = Path(job.config.run.dir)
    directory.mkdir(parents=True, exist_ok=True)
    with (
        (directory / ".console.log").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        if job.trains:
            fine_tune(job.config, prepared=job.prepared, baseline=job.baseline)
        else:
            evaluate_untrained(job.config, job.prepared)


def _baseline_of(directory: Path, group: str) -> Path:
    return directory / "baseline" / group


def _baselines(layout: Layout, directory: Path) -> dict[str, Job]:
    """Evaluations of the untouched model that are wanted and not there yet."""
    jobs = {}
    for group in layout.pools:
        trial = next(trial for trial in layout.trials.values() if trial.group == group)
        baseline = _baseline_of(directory, group)
        if trial.config.eval.before and not Reading(baseline).trained:
            config = replaced(trial.config, {"run.dir": str(baseline)})
            jobs[f"baseline {group}"] = Job(config, choose(layout.pools[group], config.data), trains=False)
    return jobs


def _unfinished(layout: Layout) -> list[Trial]:
    return [trial for trial in layout.trials.values() if not Reading(Path(trial.config.run.dir)).trained]


def _remove_models(layout: Layout, models: Models) -> None:
    """Remove the models of finished trials that are not to stay; a trial is as good as its last accuracy, the first of equals best."""
    if models == "all":
        return
    readings = [reading for trial in layout.trials.values() if (reading := Reading(Path(trial.config.run.dir))).trained]
    ranked = sorted(readings, key=lambda reading: -(reading.last or {"accuracy": -1.0})["accuracy"])
    for reading in ranked[models == "best" :]:
        shutil.rmtree(reading.directory / "model", ignore_errors=True)


def _refuse_what_is_no_sweep(directory: Path) -> None:
    others = [path.name for path in directory.iterdir() if not path.name.startswith(".")] if directory.is_dir() else []
    if others and not results.is_sweep(directory):
        raise InputError(
            f"--out: {directory} is not empty and not a sweep ({', '.join(sorted(others)[:3])}); choose another --out"
        )


def _models(layout: Layout) -> dict[str, str]:
    """`model.id` of each group of trials."""
    return {trial.group: trial.config.model.id for trial in layout.trials.values()}


def _refuse_other_trials(layout: Layout, directory: Path) -> None:
    """Raises InputError where what is there was trained by another configuration, or on other rows or problems."""
    for trial in layout.trials.values():
        if (Path(trial.config.run.dir) / "config.toml").is_file() and (changed := changes(trial.config, changeable())):
            raise InputError(
                f"{trial.config.run.dir} holds a trial of another configuration ({'; '.join(changed)}); choose another --out, or undo that"
            )
    state = results.read_state(directory)
    models = state.get("models", {})
    for group, model_id in _models(layout).items():
        if group in models and (changed := changes_of_model(models[group], identity_of(model_id))):
            raise InputError(
                f"--out: {directory} holds trials of another model: {model_id} has changed since ({'; '.join(changed)});"
                " choose another --out, or undo that"
            )
    known = state.get("pools", {})
    for group, pool in layout.pools.items():
        if known.get(group, pool.fingerprint) != pool.fingerprint:
            raise InputError(
                f"--out: {directory} holds trials on other rows or problems: {pool.config.data.in_words}, or what it is validated on,"
                " has changed since; choose another --out"
            )


def _devices(gpus_per_trial: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each trial that fits beside the others; none without GPUs."""
    count = torch.cuda.device_count()
    if count and gpus_per_trial > count:
        raise InputError(f"--gpus-per-trial {gpus_per_trial}: this machine has {count}")
    names = [visible_name(index) for index in range(count)]
    return [",".join(names[start : start + gpus_per_trial]) for start in range(0, count - gpus_per_trial + 1, gpus_per_trial)]


def _begin(config: Config, design: Design, layout: Layout, directory: Path) -> dict[str, Any]:
    """The state of the sweep: its design, its points, and the sessions that worked on it."""
    known = results.read_state(directory)
    sessions = [*known.get("sessions", []), {"started": time.time(), "seconds": 0.0, "finished": [], "failed": {}}]
    if len(sessions) > 1:
        console.say(f"going on: {len(layout.trials) - len(_unfinished(layout))} of {len(layout.trials)} trials are finished")
    state = {
        "design": asdict(design),
        "price_per_hour": config.run.price_per_hour,
        "points": [asdict(point) for point in layout.points],
        "pools": known.get("pools", {}) | {group: pool.fingerprint for group, pool in layout.pools.items()},
        "models": known.get("models", {}) | {group: identity_of(model_id) for group, model_id in _models(layout).items()},
        "templates": known.get("templates", {}) | {group: pool.template.to_json() for group, pool in layout.pools.items()},
        "baselines": {trial.name: str(Path("baseline") / trial.group) for trial in layout.trials.values()},
        "sessions": sessions,
    }
    write_text(directory / "config.toml", to_toml(replaced(config, {"run.dir": str(directory)})))
    _write_state(state, directory)
    return state


def _tell(name: str, answer: BaseException | None, state: dict[str, Any], directory: Path) -> None:
    """Write down how a trial ended, and say so."""
    session = state["sessions"][-1]
    if answer is None and not name.startswith("baseline") and not results.trial_of(directory, name).trained:
        answer = RunError("it ended, but left no result where this machine looks for it")
    if answer is None:
        session["finished"].append(name)
        console.say(f"{name}: {results.in_a_line(directory, name)}")
    else:
        session["failed"][name] = str(answer)
        console.say(f"{name}: failed: {answer}; the others go on", style="bold red")
    _write_state(state, directory)


def _write_state(state: dict[str, Any], directory: Path) -> None:
    session = state["sessions"][-1]
    session["seconds"] = round(time.time() - session["started"], 1)
    write_text(directory / "sweep.json", json.dumps(state, indent=1) + "\n")


def _finish(layout: Layout, state: dict[str, Any], directory: Path) -> Path:
    """Write the table and the page. Raises RunError if trials have failed."""
    results.write_table(directory)
    verdicts.show(directory)
    page = report.write(directory)
    console.say(f"The page is {page}, the table {directory}/sweep.csv (and .parquet).")
    failed = results.failures(state, directory)
    if failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise RunError(f"{len(failed)} of {len(layout.trials)} trials failed; the same command tries them again:\n{listed}")
    return page
