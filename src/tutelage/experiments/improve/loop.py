"""``tutelage improve``: round after round, the model solves problems, trains on its right answers, and is evaluated.

The directory holds ``round-N/`` (run directories like any other), ``samples/round-N.jsonl`` (accepted rows, with what `tutelage sample`
writes beside them), ``rows/round-N.jsonl`` (what the round trains on), ``improve.json`` (what was asked for and what became of it), and
the page, ``report.html``. What is finished is known by its files, so the same command goes on wherever it was interrupted.
"""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.config import Config, changeable, replaced, to_toml
from tutelage.data import Prepared, Template, prepare
from tutelage.errors import InputError, RunError
from tutelage.evaluation import sample_problems, with_absolute_paths
from tutelage.experiments.improve.first import evaluate_start, resolved_start
from tutelage.experiments.improve.ground import FATES_OF_ROWS, HELD_OUT, Ground, read_ground, same_problems, write_problems
from tutelage.experiments.improve.mix import KEPT, config_of_round, config_of_sampling, samples_of, solved_so_far, write_rows
from tutelage.experiments.improve.wished import Improvement
from tutelage.machines import fanout
from tutelage.model import identity_of, tokenizer_of
from tutelage.report import page as report
from tutelage.runs import changes, changes_of_model, locked, rounds, write_text
from tutelage.training import fine_tune

State = dict[str, Any]


def run_improve(config: Config, wished: Improvement, directory: Path, where: str = "local", workers: int = 2) -> Path:
    """Do what of the rounds has not finished yet, and write their page.

    Args:
        where: where problems are solved, as `fanout.run_map`; rounds are trained on this machine.
        workers: jobs that share the problems on a cluster.

    Returns:
        The page.

    Raises:
        InputError: the configuration or the data are wrong, or the directory holds something else; nothing was computed.
        RunError: a round failed, or accepted nothing; what was finished stays.
    """
    with locked(directory, "--out"):
        ground = checked(config, wished, directory, where)
        state = _begin(ground)
        try:
            for index in range(wished.rounds + 1):
                _round(ground, state, index, where, workers)
        except KeyboardInterrupt as stop:
            if str(stop):  # of training, which says where it stands
                raise
            raise KeyboardInterrupt("interrupted; the same command goes on where it is") from None
        finally:
            _write_state(state, directory)
            page = _show(directory)
        return page


def checked(config: Config, wished: Improvement, directory: Path, where: str = "local") -> Ground:
    """What all rounds share, where the rounds can be done, or go on. Raises InputError as `run_improve`; nothing is written."""
    fanout.require(where)
    console.quiet_libraries()
    start = None if wished.start is None else resolved_start(wished.start)
    if where != "local":  # other machines see files under these names
        config, directory = with_absolute_paths(config), directory.absolute()
        start = str(Path(start).absolute()) if start is not None and Path(start).exists() else start
    wished = replace(wished, start=start)
    state = _state_of(config, wished, directory)
    ground = read_ground(config, wished, directory, Template.from_json(state["template"]) if state else None)
    if state and ground.fingerprint != state["problems"]["fingerprint"]:
        raise InputError(
            f"--out: {directory} holds rounds on other rows or problems: {config.data.in_words}, {wished.problems.path}, or what is"
            " validated on, has changed since; undo that, or choose another --out"
        )
    return ground


def _state_of(config: Config, wished: Improvement, directory: Path) -> State:
    """What a directory holds of these rounds. Raises InputError: it holds something else, or rounds of other settings or models."""
    ours = {HELD_OUT, FATES_OF_ROWS, KEPT, "config.toml"}  # of a beginning that was refused or interrupted
    there = directory.iterdir() if directory.is_dir() else ()
    others = [path.name for path in there if not path.name.startswith(".") and path.name not in ours]
    if not rounds.is_improvement(directory):
        if others:
            raise InputError(
                f"--out: {directory} is not empty and holds nothing of `tutelage improve` ({', '.join(sorted(others)[:3])}); choose"
                " another --out"
            )
        return {}
    state = rounds.read_state(directory)
    changed = wished.changes(state["design"])
    if (directory / "config.toml").is_file():
        changed += changes(replaced(config, {"run.dir": str(directory)}), changeable())
    if changed:
        raise InputError(
            f"--out: {directory} holds rounds of other settings ({'; '.join(changed)}); choose another --out, or undo that"
        )
    for name, identity in _identities(config, wished).items():
        if name in state["models"] and (different := changes_of_model(state["models"][name], identity)):
            raise InputError(
                f"--out: {directory} holds rounds of another model: {name} has changed since ({'; '.join(different)}); choose another"
                " --out, or undo that"
            )
    return state


def _identities(config: Config, wished: Improvement) -> dict[str, Any]:
    return {name: identity_of(name) for name in dict.fromkeys([config.model.id, wished.start]) if name is not None}


def _begin(ground: Ground) -> State:
    """The state of the rounds: what is asked for, what was done, and the sessions that worked on it."""
    directory, config, wished = ground.directory, ground.config, ground.wished
    known = rounds.read_state(directory)
    sessions = [*known.get("sessions", []), {"started": time.time(), "seconds": 0.0, "finished": [], "failed": {}}]
    state = {
        "design": wished.to_json(),
        "price_per_hour": config.run.price_per_hour,
        "problems": {
            "source": wished.problems.path, "count": len(ground.unsolved.problems), "fates": dict(ground.unsolved.fates),
            "fingerprint": ground.fingerprint,
        },
        "models": known.get("models", {}) | _identities(config, wished),
        "template": ground.template.to_json(),
        "rounds": known.get("rounds", []),
        "sessions": sessions,
    }  # fmt: skip
    if not known:
        write_problems(ground)
        write_text(directory / KEPT, ground.template.to_json())
    write_text(directory / "config.toml", to_toml(replaced(config, {"run.dir": str(directory)})))
    _write_state(state, directory)
    done = sum(rounds.is_done(rounds.reading_of(directory, index)) for index in range(wished.rounds + 1))
    if known:
        console.say(f"going on: {done} of the rounds 0 to {wished.rounds} are finished")
    console.say(f"{len(ground.unsolved.problems)} problems to solve in each round, {len(ground.validated_on)} held-out problems")
    return state


def _round(ground: Ground, state: State, index: int, where: str, workers: int) -> None:
    """One round, from where it stands to its end. Raises RunError: it failed, or accepted nothing."""
    name, directory = rounds.name_of(index), ground.directory
    if rounds.is_done(rounds.reading_of(directory, index)):
        return
    try:
        if index > 0:
            _sample(ground, state, index, where, workers)
        console.say(f"\nround {index}: {_what(ground, state, index)}", style="bold")
        _train(ground, index)
    except (RunError, InputError) as error:
        state["sessions"][-1]["failed"][name] = str(error)
        raise RunError(f"round {index}: {error}") from error
    finally:
        _free_memory()
    state["sessions"][-1]["finished"].append(name)
    _write_state(state, directory)
    console.say(f"round {index}: {rounds.in_a_line(directory, index)}")


def _what(ground: Ground, state: State, index: int) -> str:
    """What a round does, in words."""
    if index == 0:
        start = ground.wished.start
        return "training on the configuration's own rows" if start is None else f"{start} is evaluated as it is"
    rows = rounds.records(state)[index]["rows"]
    return f"training on {rows['sampled']} accepted rows and {rows['own']} of the configuration's own"


def _sample(ground: Ground, state: State, index: int, where: str, workers: int) -> None:
    """Let the model of the round before solve the problems, and write the rows that this round trains on."""
    wished, directory, path = ground.wished, ground.directory, samples_of(ground.directory, index)
    path.parent.mkdir(exist_ok=True)
    problems = ground.unsolved.problems
    console.say(f"\nround {index}: the model of round {index - 1} solves {len(problems)} problems", style="bold")
    config = config_of_sampling(ground, index)
    wanted = replace(wished.wanted, seed=wished.wanted.seed + index)
    summary = sample_problems(problems, config, path, wanted, where, workers)
    record = {"round": index, "sampling": summary}
    _keep(state, record, directory)
    if not summary["kept"]:
        fates = ", ".join(f"{count} {fate}" for fate, count in summary["fates"].items() if count)
        raise RunError(
            f"no response was accepted: of {len(problems)} problems × {wanted.samples} responses, {fates}. What is finished stays; try"
            " more --samples, easier --problems, another --temperature, or more of the configuration's own rows, in another --out"
        )
    _free_memory()
    rows = write_rows(ground, index)
    _keep(state, {**record, "rows": rows, "solved_so_far": solved_so_far(directory, index)}, directory)


def _keep(state: State, record: dict[str, Any], directory: Path) -> None:
    """Write down what is known of a round."""
    others = [each for each in state["rounds"] if each["round"] != record["round"]]
    state["rounds"] = sorted([*others, record], key=lambda each: each["round"])
    _write_state(state, directory)


def _train(ground: Ground, index: int) -> None:
    """Train a round, which evaluates it; a model that was given as round 0 is evaluated alone."""
    config = config_of_round(ground, index)
    if index == 0:
        if ground.wished.start is not None:
            evaluate_start(ground, Path(config.run.dir))
        else:
            fine_tune(config, prepared=ground.own)
        return
    prepared = _prepared(ground, config)
    before = ground.directory / rounds.name_of(0)
    shares = ground.wished.origin == "base" and rounds.untouched_of(ground.directory) is not None
    fine_tune(config, prepared=prepared, baseline=before if shares else None)


def _prepared(ground: Ground, config: Config) -> Prepared:
    """The rows of a round. Raises RunError: other problems would be validated on than in the rounds before."""
    prepared = prepare(config, tokenizer_of(config), ground.template)
    if not same_problems(prepared.validation, ground.validated_on):
        raise RunError("the held-out problems are not those of the rounds before; put back what data.validation names")
    return prepared


def _free_memory() -> None:
    """Give back the memory of a GPU that a model took, so that an engine in a process of its own has room."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _write_state(state: State, directory: Path) -> None:
    session = state["sessions"][-1]
    session["seconds"] = round(time.time() - session["started"], 1)
    rounds.write_state(state, directory)


def _show(directory: Path) -> Path:
    """Print the rounds and write their page, as far as they are."""
    page = directory / "report.html"
    if rounds.is_done(rounds.reading_of(directory, 0)):
        with suppress(RunError, InputError):  # the rounds are there all the same, and `tutelage report` says what is wrong
            rounds.show(directory)
            page = report.write(directory)
            console.say(f"The page is {page}")
    return page
