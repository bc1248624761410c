"""``tutelage train --replay STEP``: a step once more, from the nearest checkpoint before it, row by row; nothing is written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config
from tutelage.data import Prepared, TokenizedExample, prepare
from tutelage.errors import InputError
from tutelage.machines import World, agreed, join
from tutelage.model import Course, identity_of, load_policy, optim, tokenizer_of
from tutelage.runs import SilentRunLog, checkpoint, damage, kept_template, refuse_another_model
from tutelage.training.start import set_up
from tutelage.training.step import Guard, accumulate_gradients, update_weights


def replay_step(config: Config, step: int) -> list[dict[str, Any]]:
    """Compute optimizer step `step` (from 1) of a run again, and then each of its rows by itself.

    The steps between the nearest earlier checkpoint and this one are trained again first, which gives the same weights, since
    order and randomness are functions of (seed, step).

    Returns:
        For each row ``source``, ``tokens`` (of its response), ``loss`` (NLL per response token) and ``grad_norm``, the largest
        gradient first.

    Raises:
        InputError: the run has no such step.
    """
    directory = Path(config.run.dir)
    if not (directory / "config.toml").is_file():
        raise InputError(f"run.dir: {directory} is not a run directory (it holds no config.toml)")
    with join(config.model.device, config.parallel.timeout) as world:
        log = SilentRunLog(directory)
        tokenizer = world.first(lambda: tokenizer_of(config))
        prepared = world.first(lambda: prepare(config, tokenizer, kept_template(config)))
        world.first(lambda: _require_the_same(config, prepared, log))
        policy = load_policy(config.model, tokenizer, to_train=config.train.pack, world=world, shard_ranks=config.parallel.shard)
        nearest = world.first(lambda: checkpoint.sound(directory, step - 1, "training again from step {step}"))
        until = -1 if nearest is None else checkpoint.step_of(nearest)
        start = set_up(policy, prepared, config, log, world, until)
        course, done = start.course, start.step
        if not 1 <= step <= course.total:
            raise agreed(InputError(f"--replay {step}: the run has steps 1 to {course.total}"), world)
        lines = world.first(lambda: log.reading().steps)
        rates = {line["step"]: line["lr"] for line in lines if "lr" in line}  # a run that was made longer had others
        guard = Guard.of_lines(config.train.spike_ratio, [line for line in lines if line["step"] <= done])
        with console.progress("training up to the step", step - 1 - done) as advance:
            for earlier in range(done, step - 1):
                if world.any(world.stop.wanted):
                    raise agreed(KeyboardInterrupt("the replay was stopped"), world)
                examples, batches = course.at(earlier)
                lr = rates.get(earlier + 1, optim.lr_at(earlier, course.total, config.train))
                if start.updates is not None:
                    start.updates.expect(lr, measures=False)
                    gradients = start.updates.step(examples, batches, earlier)
                else:
                    gradients = accumulate_gradients(policy, examples, batches, config, earlier, world)
                if not guard.objection(gradients.loss, gradients.grad_norm) and start.updates is None:
                    update_weights(policy, start.optimizer, lr, measures=False)
                advance(1)
        examples, batches = course.at(step - 1)
        step_gradients = accumulate_gradients(policy, examples, batches, config, step - 1, world)
        rows = [_alone(course, example, step - 1, world) for example in examples]
        rows.sort(key=lambda row: (row["grad_norm"] == row["grad_norm"], -row["grad_norm"]))  # what is not a number comes first
        with contextlib.suppress(StopIteration):
            logged = next(line for line in lines if line["step"] == step)
            console.say(f"logged: loss {logged['loss']:.6g}, gradient norm {logged['grad_norm']:.6g}")
        verdict = guard.objection(step_gradients.loss, step_gradients.grad_norm) or "it would be applied"
        console.say(f"replayed: loss {step_gradients.loss:.6g}, gradient norm {step_gradients.grad_norm:.6g}: {verdict}")
        console.table(
            f"The rows of step {step}, each by itself",
            ("row", "response tokens", "loss per token", "gradient norm"),
            [(row["source"], row["tokens"], f"{row['loss']:.4g}", f"{row['grad_norm']:.4g}") for row in rows],
        )
        return rows


def _require_the_same(config: Config, prepared: Prepared, log: SilentRunLog) -> None:
    """Raises InputError where the rows or the model are not those of the run; says what is damaged."""
    log.refuse_other_rows(prepared.fingerprint())
    refuse_another_model(log.directory, identity_of(config.model.id))
    damage.say(log.reading().faults, log.directory)


def _alone(course: Course, example: TokenizedExample, step: int, world: World) -> dict[str, Any]:
    config = course.config
    gradients = accumulate_gradients(course.policy, [example], course.batches([example]), config, step, world)
    return {
        "source": example.source, "tokens": len(example.response_ids), "loss": gradients.nll, "grad_norm": gradients.grad_norm,
    }  # fmt: skip
