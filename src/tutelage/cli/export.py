"""``tutelage export``: a Hugging Face directory from a checkpoint, without the run going on, and on any machine."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tutelage.cli.command import Commands, Outcome, add_command, integer, start
from tutelage.errors import InputError, RunError, first_line


def add(commands: Commands) -> None:
    parser = add_command(commands, "export", run, "a Hugging Face directory from a run's checkpoint")
    parser.add_argument("directory", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--step", type=integer(0, 10**9), help="which checkpoint (default: the run's end, else its newest one)")
    parser.add_argument("--out", type=Path, help="a new directory (default: export-step-N in the run directory)")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage import console

    start()
    directory = export(arguments.directory, arguments.step, arguments.out)
    console.out(str(directory))
    return Outcome({"directory": str(directory)})


def export(run: Path, step: int | None = None, out: Path | None = None) -> Path:
    """Write the model as it was after `step` optimizer steps: weights in safetensors shards, adapters merged, with tokenizer,
    stop token and model card.

    Args:
        step: None: the end of a finished run, else its newest checkpoint.
        out: a new directory; None: in the run directory, ``export-step-N``, or ``export`` of a finished run's end.

    Raises:
        InputError: no such run or checkpoint; or `out` exists.
    """
    from tutelage.model import require_undamaged
    from tutelage.runs import checkpoint, owned

    if not (run / "config.toml").is_file():
        raise InputError(f"{run}: not a run directory (it holds no config.toml)")
    if step is None and (run / "result.json").is_file():
        if not (run / "model").is_dir():
            raise InputError(f"{run}: the run is finished, but its model is not there any more ({run}/model)")
        require_undamaged(run / "model")
        return _copy(run / "model", out or run / "export")
    found = checkpoint.sound(run, then="exporting step {step}") if step is None else checkpoint.latest(run, before=step)
    if found is None or (step is not None and checkpoint.step_of(found) != step):
        there = [str(checkpoint.step_of(path)) for path in checkpoint.complete(run / "checkpoints")]
        raise InputError(
            f"{run}: no complete checkpoint{'' if step is None else f' of step {step}'}; there are: {', '.join(there) or 'none'}"
            " (a finished run keeps its model, the checkpoint of its end, and with run.keep_best the best one)"
        )
    damage = "" if step is None else checkpoint.damage_of(found)
    if damage:
        raise InputError(f"{found} is damaged: {damage}; without --step, the newest one that is sound is exported")
    target = out or run / f"export-step-{checkpoint.step_of(found)}"
    with owned(target):
        _write(run, found, target)
    return target


def _copy(model: Path, target: Path) -> Path:
    """Copy a saved model. Raises RunError: it cannot be read or written; nothing half-written is left."""
    from tutelage.runs import owned

    with owned(target):
        beside = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            shutil.copytree(model, beside)
            beside.rename(target)
        except OSError as error:  # shutil's own has a list of errors in place of a message
            raise RunError(f"{target}: the model could not be copied there: {error.strerror or first_line(error)}") from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return target


def _write(run: Path, found: Path, target: Path) -> None:
    """Write the model of a run's checkpoint."""
    from tutelage import console
    from tutelage.config import replaced
    from tutelage.data import template_of
    from tutelage.machines import ALONE
    from tutelage.model import identity_of, load_policy, save_model, tokenizer_of
    from tutelage.report import model_card
    from tutelage.runs import Reading, checkpoint, damage, kept_template, refuse_another_model

    config = damage.configuration(run / "config.toml")
    tokenizer = tokenizer_of(config)
    reading = Reading(run)
    refuse_another_model(run, identity_of(config.model.id))
    damage.say(reading.faults, run)
    precision = reading.table("plan.json").get("precision", config.model.precision)
    as_trained = config.model.model_copy(update={"device": "cpu", "precision": precision})
    with console.progress("loading the checkpoint"):
        policy = load_policy(as_trained, tokenizer, to_train=False, here=False)
        checkpoint.load(found, policy.model, None, ALONE)
    step = checkpoint.step_of(found)
    template = kept_template(replaced(config, {"run.dir": str(run)}))
    template = template or template_of(config.data.prompt, tokenizer, config.data.template_arguments)
    evaluations = [line for line in reading.evaluations if line["step"] <= step]
    save_model(policy, target, model_card(config, reading.fates, evaluations, step, template, precision))
