"""``tutelage sweep``: one training run (trial) for each size, kind of data, seed and setting; shared work done once.

The sweep's directory holds ``baseline/``, ``trials/NAME/`` (run directories like any other), ``sweep.json`` (the design and what
became of it), and the result as a table (``sweep.csv``, ``sweep.parquet``) and a page (``report.html``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tutelage import console
from tutelage.config import Config, changeable, replaced, to_toml
from tutelage.data import Pool, Prepared, choose, read_pool
from tutelage.errors import InputError, RunError
from tutelage.experiments import dry_run
from tutelage.experiments.design import Design, Point, name_of, rows_of, steps_for, trial_config
from tutelage.machines import fanout
from tutelage.model import load_tokenizer, steps_per_epoch, total_steps
from tutelage.report import page as report
from tutelage.runs import Reading, changes, locked, results, write_text
from tutelage.training import evaluate_untrained, train_one_size

Models = Literal["all", "best", "none"]
Ended = Generator[tuple[int, BaseException | None], None, None]
"""(number of a job, None or why it failed), as jobs end."""


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep; `group` says which baseline and which pool of rows are its."""

    name: str
    config: Config
    group: str
    steps: int
    tokens: int


@dataclass(frozen=True)
class Plan:
    """A sweep laid out: points of curves, their trials by name, and the pools of rows by group."""

    points: list[Point]
    trials: dict[str, Trial]
    pools: dict[str, Pool]


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
    on_dry_run: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Path:
    """Run what of a sweep has not finished yet, and write its table and page.

    Args:
        where: as `fanout.run_map`.
        workers: trials at the same time on this machine; None: as many as its GPUs allow, else one.
        models: which trials' trained models stay on the disk: all, the best one's, or none.
        on_dry_run: where given, train nothing, but print every trial with its predicted time and memory, and hand that over.

    Raises:
        InputError: the design, the configuration or the data are wrong, or the directory holds something else.
        RunError: trials failed; the others are finished.
    """
    fanout.require(where)
    console.quiet_libraries()
    for name, value in (("--workers", workers), ("--gpus-per-trial", gpus_per_trial)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: at least one is needed")
    if where != "local":
        config, directory = with_absolute_paths(config), directory.absolute()  # other machines see them under these names
    _refuse_what_is_no_sweep(directory)
    plan = lay_out(config, design, directory)
    _refuse_other_trials(plan, directory)
    if on_dry_run is not None:
        on_dry_run(dry_run.show(list(plan.trials.values()), plan.pools, len(_unfinished(plan)) if models == "all" else 1))
        return directory
    devices = _devices(gpus_per_trial) if where == "local" else []
    at_once = workers or max(1, len(devices))
    gpus = 0 if config.model.device == "cpu" else gpus_per_trial

    def run(jobs: Iterable[Job]) -> Ended:
        return fanout.run_apart(work, jobs, where, workers=at_once, devices=devices[:at_once], gpus_per_job=gpus)

    with locked(directory, "--out"):
        state = _begin(config, design, plan, directory)
        try:
            _run_all(plan, directory, state, run, models)
        except KeyboardInterrupt:
            left = len(_unfinished(plan))
            raise KeyboardInterrupt(f"{left} trials are left; the same command goes on where they are") from None
        finally:
            _write_state(state, directory)
        return _finish(plan, state, directory)


def _run_all(plan: Plan, directory: Path, state: dict[str, Any], run: Callable[[Iterable[Job]], Ended], models: Models) -> None:
    """What has not finished yet: the baselines, then the trials of those that have one."""

    def follow(names: list[str], jobs: Iterable[Job], what: str, sizes: list[int]) -> None:
        with console.progress(what, sum(sizes)) as advance, contextlib.closing(run(jobs)) as ended:
            for count, (number, answer) in enumerate(ended, 1):
                _tell(names[number], answer, state, directory)
                _remove_models(plan, models)
                advance(sizes[number], f"({count} of {len(names)})")

    evaluations = _baselines(plan, directory)
    follow(list(evaluations), evaluations.values(), "evaluating the untouched model", [1] * len(evaluations))
    ready, left_out = _unfinished_with_baseline(plan, directory)
    for trial in left_out:
        _tell(trial.name, RunError("the untouched model could not be evaluated"), state, directory)
    names, sizes = [trial.name for trial in ready], [trial.tokens for trial in ready]
    follow(names, (_trial_job(trial, plan, directory) for trial in ready), "tokens trained on", sizes)


def lay_out(config: Config, design: Design, directory: Path) -> Plan:
    """Points and trials of a design. Raises InputError: a value is none, or there are not so many rows."""
    points: list[Point] = []
    trials: dict[str, Trial] = {}
    pools: dict[str, Pool] = {}
    for varied, base in design.variations(config):
        if base.train.num_steps is not None and design.equal == "epochs":
            raise InputError("train.num_steps is given, so trials take as many steps each: write --equal steps (or tokens)")
        group = _group(base)
        if group not in pools:
            pools[group] = read_pool(base, load_tokenizer(base.model.id))
        pool = pools[group]
        for point, trial in _of_one_variation(base, design, varied, group, pool, directory):
            points.append(point)
            if trials.setdefault(trial.name, trial).config != trial.config:
                raise InputError(f"two different trials would have the name {trial.name}; sweep their settings apart")
    return Plan(points, trials, pools)


def _of_one_variation(
    base: Config, design: Design, varied: dict[str, str], group: str, pool: Pool, directory: Path
) -> Iterator[tuple[Point, Trial]]:
    unsized = base.data.model_copy(update={"size": None, "filter": False})
    raw = choose(pool, unsized)
    lengths = unsized.model_copy(update={"max_length": raw.max_length})
    sets = {False: raw, True: choose(pool, lengths.model_copy(update={"filter": True}))} if _grades(design) else {False: raw}
    right = len(sets[True].train) if True in sets else len(raw.train)
    rows_per_step = base.train.batch_size * base.train.grad_accum

    def course(kind: str, rows: int) -> tuple[int, float]:
        """(steps, tokens of a step) of a set by itself, as if its rows were as long as those of its kind are on average."""
        whole = sets[kind == "filtered"].train
        epoch = steps_per_epoch(rows, rows_per_step)
        steps = total_steps(rows, rows_per_step, base.train.num_epochs, base.train.num_steps)
        return steps, sum(map(len, whole)) / len(whole) * rows / epoch

    counted = [(kind, size, rows_of(kind, size, len(raw.train), right)) for size in design.sizes for kind in design.kinds]
    largest = max((course(kind, rows) for kind, _, rows in counted), key=lambda pair: pair[0] * pair[1])
    for kind, size, rows in counted:
        own_steps, tokens_per_step = course(kind, rows)
        steps = steps_for(design.equal, own_steps, tokens_per_step, largest)
        lr = design.lrs[design.sizes.index(size)] if design.lrs else None
        for seed in range(base.train.seed, base.train.seed + design.seeds):
            name = name_of(kind, rows, size, len(raw.train), seed, varied, lr)
            point = Point(name, kind, size, rows, seed, steps, round(steps * tokens_per_step), varied)
            num_steps = base.train.num_steps if design.equal == "epochs" else steps
            where = str(directory / "trials" / name)
            made = trial_config(base, point, raw.max_length, where, lr=lr, num_steps=num_steps)
            yield point, Trial(name, made, group, steps, point.tokens)


def _grades(design: Design) -> bool:
    return "filtered" in design.kinds or "control" in design.kinds


def _group(config: Config) -> str:
    """Equal for configurations that share rows, problems and the evaluation of the untouched model."""
    aside = changeable() | {"data.size", "data.filter", "data.subset_seed", "data.max_length", "eval.every"}
    values = {
        f"{section}.{key}": value
        for section in ("model", "data", "eval")
        for key, value in getattr(config, section).model_dump().items()
        if not key.startswith("lora")
    }
    told = {key: value for key, value in values.items() if key not in aside}
    return hashlib.sha256(repr(sorted(told.items(), key=lambda pair: pair[0])).encode()).hexdigest()[:8]


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
            train_one_size(job.config, prepared=job.prepared, baseline=job.baseline)
        else:
            evaluate_untrained(job.config, job.prepared)


def _baseline_of(directory: Path, group: str) -> Path:
    return directory / "baseline" / group


def _baselines(plan: Plan, directory: Path) -> dict[str, Job]:
    """Evaluations of the untouched model that are wanted and not there yet."""
    jobs = {}
    for group in plan.pools:
        trial = next(trial for trial in plan.trials.values() if trial.group == group)
        where = _baseline_of(directory, group)
        if trial.config.eval.before and not Reading(where).trained:
            config = replaced(trial.config, {"run.dir": str(where)})
            jobs[f"baseline {group}"] = Job(config, choose(plan.pools[group], config.data), trains=False)
    return jobs


def _unfinished(plan: Plan) -> list[Trial]:
    return [trial for trial in plan.trials.values() if not Reading(Path(trial.config.run.dir)).trained]


def _unfinished_with_baseline(plan: Plan, directory: Path) -> tuple[list[Trial], list[Trial]]:
    """Unfinished trials that can be begun, and those whose baseline failed."""
    unfinished = _unfinished(plan)
    wanted = {trial.group for trial in unfinished if trial.config.eval.before}
    missing = {group for group in wanted if not Reading(_baseline_of(directory, group)).trained}
    ready = [trial for trial in unfinished if trial.group not in missing]
    return ready, [trial for trial in unfinished if trial.group in missing]


def _trial_job(trial: Trial, plan: Plan, directory: Path) -> Job:
    baseline = _baseline_of(directory, trial.group) if trial.config.eval.before else None
    return Job(trial.config, choose(plan.pools[trial.group], trial.config.data), True, baseline)


def _remove_models(plan: Plan, models: Models) -> None:
    """Remove the models of finished trials that are not to stay; a trial is as good as its last accuracy, the first of equals best."""
    if models == "all":
        return
    readings = [reading for trial in plan.trials.values() if (reading := Reading(Path(trial.config.run.dir))).trained]
    ranked = sorted(readings, key=lambda reading: -(reading.last or {"accuracy": -1.0})["accuracy"])
    for reading in ranked[models == "best" :]:
        shutil.rmtree(reading.directory / "model", ignore_errors=True)


def _refuse_what_is_no_sweep(directory: Path) -> None:
    others = [path.name for path in directory.iterdir() if not path.name.startswith(".")] if directory.is_dir() else []
    if others and not results.is_sweep(directory):
        raise InputError(
            f"--out: {directory} is not empty and not a sweep ({', '.join(sorted(others)[:3])}); choose another --out"
        )


def _refuse_other_trials(plan: Plan, directory: Path) -> None:
    """Raises InputError where what is there was trained by another configuration, or on other rows or problems."""
    for trial in plan.trials.values():
        if (Path(trial.config.run.dir) / "config.toml").is_file() and (changed := changes(trial.config, changeable())):
            raise InputError(
                f"{trial.config.run.dir} holds a trial of another configuration ({'; '.join(changed)}); choose another --out, or undo that"
            )
    known = results.read_state(directory).get("pools", {})
    for group, pool in plan.pools.items():
        if known.get(group, pool.fingerprint) != pool.fingerprint:
            raise InputError(
                f"--out: {directory} holds trials on other rows or problems: {pool.config.data.train}, or what it is validated on,"
                " has changed since; choose another --out"
            )


def with_absolute_paths(config: Config) -> Config:
    """The same, with the whole paths of what is a file or a directory here."""

    def whole_path(name: str) -> str:
        return str(Path(name).absolute()) if Path(name).exists() else name

    named = {"model.id": config.model.id, "data.train": config.data.train, "data.prompt": config.data.prompt}
    named |= {} if config.data.validation is None else {"data.validation": config.data.validation}
    return replaced(config, {key: whole_path(name) for key, name in named.items()})


def _devices(gpus_per_trial: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each trial that fits beside the others; none without GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    if count and gpus_per_trial > count:
        raise InputError(f"--gpus-per-trial {gpus_per_trial}: this machine has {count}")
    return [",".join(names[start : start + gpus_per_trial]) for start in range(0, count - gpus_per_trial + 1, gpus_per_trial)]


def _begin(config: Config, design: Design, plan: Plan, directory: Path) -> dict[str, Any]:
    """The state of the sweep: its design, its points, and the sessions that worked on it."""
    known = results.read_state(directory)
    sessions = [*known.get("sessions", []), {"started": time.time(), "seconds": 0.0, "finished": [], "failed": {}}]
    if len(sessions) > 1:
        console.say(f"going on: {len(plan.trials) - len(_unfinished(plan))} of {len(plan.trials)} trials are finished")
    state = {
        "design": asdict(design),
        "price_per_hour": config.run.price_per_hour,
        "points": [asdict(point) for point in plan.points],
        "pools": known.get("pools", {}) | {group: pool.fingerprint for group, pool in plan.pools.items()},
        "baselines": {trial.name: str(Path("baseline") / trial.group) for trial in plan.trials.values()},
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


def _finish(plan: Plan, state: dict[str, Any], directory: Path) -> Path:
    """Write the table and the page. Raises RunError if trials have failed."""
    results.write_table(directory)
    results.show(directory)
    page = report.write(directory)
    console.say(f"The page is {page}, the table {directory}/sweep.csv (and .parquet).")
    failed = results.failures(state, directory)
    if failed:
        listed = "\n".join(f"  {name}: {reason}" for name, reason in failed.items())
        raise RunError(f"{len(failed)} of {len(plan.trials)} trials failed; the same command tries them again:\n{listed}")
    return page
