"""``tutelage export``: a Hugging Face directory from a checkpoint, without the run going on, and on any machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli import gguf, hub
from tutelage.cli.command import Commands, Outcome, add_command, integer, start
from tutelage.errors import InputError, RunError, first_line

if TYPE_CHECKING:
    from tutelage.config import Config


def add(commands: Commands) -> None:
    parser = add_command(commands, "export", run, "a Hugging Face directory from a run's checkpoint")
    parser.add_argument("directory", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--step", type=integer(0, 10**9), help="which checkpoint (default: the run's end, else its newest one)")
    parser.add_argument("--out", type=Path, help="a new directory (default: export-step-N in the run directory)")
    parser.add_argument("--adapter", action="store_true", help="the LoRA adapter by itself, in PEFT's format, not merged")
    parser.add_argument("--gguf", choices=gguf.TYPES, metavar="TYPE", help=f"also a GGUF file: {', '.join(gguf.TYPES)}")
    parser.add_argument(
        "--gguf-converter", type=Path, metavar="PATH", help=f"llama.cpp's {gguf.SCRIPT} (default: the one on PATH)"
    )
    parser.add_argument("--push", metavar="NAME", help="also upload it to the Hugging Face hub, as NAME or OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="with --push: a repository that is made is private")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage import console

    if arguments.adapter and arguments.gguf:
        raise InputError("--adapter with --gguf: a GGUF file is made of a full model; leave one of them out")
    if arguments.private and not arguments.push:
        raise InputError("--private says how --push makes a repository; add --push NAME")
    command = gguf.converter(arguments.gguf_converter) if arguments.gguf else []
    to = hub.destination(arguments.push, arguments.private) if arguments.push else None
    start()
    directory = export(arguments.directory, arguments.step, arguments.out, arguments.adapter)
    made = {"directory": str(directory)}
    if arguments.gguf:
        made["gguf"] = str(gguf.convert(command, directory, arguments.gguf, arguments.directory.resolve().name))
    if to is not None:
        made["hub"] = hub.upload(directory, to)
    for line in made.values():
        console.out(line)
    return Outcome(made)


def export(run: Path, step: int | None = None, out: Path | None = None, adapter: bool = False) -> Path:
    """Write the model as it was after `step` optimizer steps: weights in safetensors shards, adapters merged, with tokenizer,
    stop token and model card.

    Args:
        step: None: the end of a finished run, else its newest checkpoint.
        out: a new directory; None: in the run directory, ``export-step-N``, or ``export`` of a finished run's end. An adapter's is
            named ``adapter`` in place of ``export``.
        adapter: write the adapter alone, as PEFT reads it, with tokenizer and card.

    Raises:
        InputError: no such run, checkpoint or adapter; or `out` exists.
    """
    from tutelage.model import require_undamaged
    from tutelage.runs import checkpoint, damage

    if not (run / "config.toml").is_file():
        raise InputError(f"{run}: not a run directory (it holds no config.toml)")
    config, kind = damage.configuration(run / "config.toml"), "adapter" if adapter else "export"
    if adapter and config.model.lora == "none":
        raise InputError(
            f"{run}: --adapter: the run trained all weights (model.lora = none), so it has no adapter; leave --adapter out"
        )
    if step is None and (run / "result.json").is_file():
        if not (run / "model").is_dir():
            raise InputError(f"{run}: the run is finished, but its model is not there any more ({run}/model)")
        require_undamaged(run / "model")
        target = out or run / kind
        return _copy_adapter(run, target, config) if adapter else _copy(run / "model", target)
    found = _checkpoint(run, step)
    target = out or run / f"{kind}-step-{checkpoint.step_of(found)}"
    _write(run, found, target, config, adapter)
    return target


def _checkpoint(run: Path, step: int | None) -> Path:
    """The checkpoint after `step` steps, or the newest sound one. Raises InputError: there is none, or it is damaged."""
    from tutelage.runs import checkpoint

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
    return found


@contextlib.contextmanager
def _made(target: Path) -> Iterator[Path]:
    """A folder beside `target`, which gets that name at the end. Raises RunError: it cannot be written; nothing half-written is left."""
    from tutelage.runs import owned

    with owned(target):
        beside = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            yield beside
            beside.rename(target)
        except OSError as error:  # shutil's own has a list of errors in place of a message
            raise RunError(f"{target}: the model could not be copied there: {error.strerror or first_line(error)}") from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _copy(model: Path, target: Path) -> Path:
    """Copy a saved model. Raises RunError: it cannot be read or written."""
    with _made(target) as beside:
        shutil.copytree(model, beside)
    return target


def _copy_adapter(run: Path, target: Path, config: Config) -> Path:
    """Copy the adapter of a finished run. Raises InputError: an earlier version did not keep it."""
    from tutelage.model import ADAPTER, tokenizer_of

    if not (run / "model" / ADAPTER).is_dir():
        raise InputError(f"{run}: the run was finished by a version that kept the merged model only, so its adapter is gone")
    steps = json.loads((run / "result.json").read_text(encoding="utf-8"))["steps"]
    with _made(target) as beside:
        shutil.copytree(run / "model" / ADAPTER, beside)
        _complete_adapter(beside, config, tokenizer_of(config), _card(run, config, steps, adapter=True))
    return target


def _write(run: Path, found: Path, target: Path, config: Config, adapter: bool) -> None:
    """Write the model of a run's checkpoint, or its adapter alone."""
    from tutelage import console
    from tutelage.machines import ALONE
    from tutelage.model import identity_of, load_policy, lora, save_model, tokenizer_of
    from tutelage.runs import Reading, checkpoint, damage, owned, refuse_another_model

    tokenizer, reading = tokenizer_of(config), Reading(run)
    refuse_another_model(run, identity_of(config.model.id))
    damage.say(reading.faults, run)
    precision = reading.table("plan.json").get("precision", config.model.precision)
    as_trained = config.model.model_copy(update={"device": "cpu", "precision": precision})
    card = _card(run, config, checkpoint.step_of(found), adapter)
    with owned(target) if not adapter else contextlib.nullcontext():
        with console.progress("loading the checkpoint"):
            policy = load_policy(as_trained, tokenizer, to_train=False, here=False)
            checkpoint.load(found, policy.model, None, ALONE)
        if not adapter:
            return save_model(policy, target, card)
    with _made(target) as beside:
        lora.save(policy.model, lora.adapter_weights(policy.model), beside)
        _complete_adapter(beside, config, tokenizer, card)


def _complete_adapter(folder: Path, config: Config, tokenizer: Any, card: str) -> None:
    """Add the tokenizer, the card, and the pinned revision of the model that the adapter is of."""
    name, pinned, revision = config.model.id.partition("@")
    if pinned and not Path(config.model.id).exists():
        settings = folder / "adapter_config.json"
        written = json.loads(settings.read_text(encoding="utf-8"))
        written |= {"base_model_name_or_path": name, "revision": revision}
        settings.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _card(run: Path, config: Config, step: int, adapter: bool) -> str:
    """The card of a run's model after `step` steps."""
    from tutelage.config import replaced
    from tutelage.data import template_of
    from tutelage.model import tokenizer_of
    from tutelage.report import model_card
    from tutelage.runs import Reading, kept_template

    reading = Reading(run)
    precision = reading.table("plan.json").get("precision", config.model.precision)
    template = kept_template(replaced(config, {"run.dir": str(run)}))
    template = template or template_of(config.data.prompt, tokenizer_of(config), config.data.template_arguments)
    result = {"steps": step, "evaluations": [line for line in reading.evaluations if line["step"] <= step]}
    return model_card(config, result, reading.fates, template, precision, adapter)
