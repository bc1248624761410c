"""The training loop."""

from __future__ import annotations

import contextlib
import math
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from tutelage import checkpoint, console, lora, optim, packing, plan, show
from tutelage.config import Config, parse_config
from tutelage.errors import InputError, RunError
from tutelage.generation import vllm
from tutelage.live import Evaluator
from tutelage.machine import uninterrupted
from tutelage.model import (
    check_positions,
    choose_device,
    is_out_of_memory,
    load_policy,
    load_tokenizer,
    resolve,
    save_model,
    size_in_bytes,
)
from tutelage.placement import engine_device, place_engine
from tutelage.policy import Policy
from tutelage.prepare import Prepared, prepare
from tutelage.runlog import RunLog, open_run, refuse_to_overwrite, require_tracker
from tutelage.speed import matrix_rate, step_flops
from tutelage.tokens import TokenizedExample

T = TypeVar("T")


class Interrupted(KeyboardInterrupt):
    """Training was interrupted after its state was saved; the message says how to continue."""


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: its directory, the evaluations (oldest first), the number of optimizer steps, and for how long
    evaluations held up training (`RunLog.evaluation_cost`)."""

    directory: Path
    evaluations: list[dict[str, Any]]
    steps: int
    evaluation_cost: dict[str, float | None]


def train_one_size(config: Config, size: int | None = None) -> Result:
    """Fine-tune on `size` training rows (None: what `config.data.size` says) and evaluate while training.

    A run directory with an unfinished run of the same configuration is continued.

    Raises:
        InputError: something given is wrong; nothing was computed.
        RunError: the run could not go on.
        Interrupted: Ctrl-C; the state was saved.
    """
    if size is not None:
        raw = config.model_dump()
        config = parse_config({**raw, "data": {**raw["data"], "size": size}})
    # what can be wrong is found before anything is read or computed
    trains_on = choose_device(config.model.device)
    optim.require(config)
    if config.model.lora != "none":
        lora.require()
    require_tracker(config.run.tracker)
    if config.eval.backend != "native":
        generates_on = engine_device(config.eval.device, trains_on)
        if config.eval.backend == "vllm":
            vllm.require(generates_on.type)
    resolve(config.model.id)
    refuse_to_overwrite(config)
    tokenizer = load_tokenizer(config.model.id)
    prepared = prepare(config, tokenizer)
    with open_run(config) as log:
        show.preview(prepared, tokenizer)
        with console.progress("loading the model"):
            policy = load_policy(config.model, tokenizer)
        check_positions(policy, prepared.max_length, "data.max_length")
        check_positions(
            policy,
            prepared.longest_prompt + config.eval.max_new_tokens,
            "the longest prompt + eval.max_new_tokens",
        )
        _check_space(log.directory, policy, config)
        log.begin(config, prepared.template, prepared.fingerprint(), prepared.ledger)
        return run(policy, prepared, config, log)


def run(policy: Policy, prepared: Prepared, config: Config, log: RunLog) -> Result:
    """Train from where the run stands to its end, evaluating on the way, and save the model."""
    train, rows_per_step = config.train, config.train.batch_size * config.train.grad_accum
    epoch = packing.steps_per_epoch(len(prepared.train), rows_per_step)
    total = packing.total_steps(len(prepared.train), rows_per_step, train.num_epochs, train.num_steps)
    save_every = config.run.save_every if config.run.save_every is not None else config.eval.every
    policy = replace(policy, packs=policy.packs and train.pack)
    budget = train.pack_tokens or train.batch_size * prepared.max_length
    optimizer = optim.make_optimizer(policy.model, config)
    step = _resume(policy, optimizer, log)
    largest = max(budget, prepared.max_length) if policy.packs else train.batch_size * prepared.max_length
    record = log.directory / "plan.json"
    if step == 0:
        record.unlink(missing_ok=True)
    policy = plan.arrange(policy, config, largest, sum(map(len, prepared.train)) * total // epoch, record)
    longest = prepared.longest_prompt + config.eval.max_new_tokens
    placement = place_engine(policy, config, optimizer, largest, longest)

    def batches_of(step: int) -> tuple[list[TokenizedExample], list[packing.Batch]]:
        rows = packing.step_rows(len(prepared.train), rows_per_step, train.seed, step)
        examples = [prepared.train[row] for row in rows]
        return examples, packing.step_batches(examples, budget, train.batch_size, None if policy.packs else policy.pad_token_id)

    policy.model.config.use_cache = False
    policy.model.train()
    with contextlib.closing(Evaluator(policy, prepared, config, log, optimizer, placement, longest, total)) as evaluate:
        try:
            evaluate(step)
            with console.progress("training", total, done=step) as advance, prefetched(batches_of, range(step, total)) as ahead:
                clock = Clock()
                for examples, batches in ahead:
                    clock.lap("data")
                    gradients = accumulate_gradients(policy, examples, batches, config, step)
                    clock.lap("forward_backward")
                    with uninterrupted():  # weights, optimizer, step number and log change together or not at all
                        lr = optim.lr_at(step, total, train)
                        changed = update_weights(policy, optimizer, lr)
                        step += 1
                        clock.lap("optimizer")
                        log.metrics(
                            kind="train", step=step, epoch=round(step / epoch, 4), lr=lr, **vars(gradients), weights_changed=changed,
                            **_speed(policy, examples, batches, clock),
                        )  # fmt: skip
                    advance(1, f"loss {gradients.loss:.4f}")
                    evaluate.collect(step)  # what is logged outlasts the checkpoint
                    if save_every and step % save_every == 0 and step < total:
                        checkpoint.save(log.directory, step, policy.model, optimizer)
                    evaluate(step)
                    clock = Clock()
            evaluate.finish(total)
            result = _finished(policy, prepared, config, log, total)
        except (KeyboardInterrupt, RuntimeError, MemoryError) as stop:
            if isinstance(stop, RuntimeError) and not isinstance(stop, RunError) and not is_out_of_memory(stop):
                raise
            explained = _saved(_explained(stop, f"step {step} of {total}", policy, log), policy, optimizer, step, log)
            if isinstance(stop, KeyboardInterrupt):
                with contextlib.suppress(KeyboardInterrupt, RunError):  # a second Ctrl-C gives up what is in flight
                    evaluate.finish(step)
            raise explained from None
    checkpoint.remove_all(log.directory)
    return result


def _finished(policy: Policy, prepared: Prepared, config: Config, log: RunLog, total: int) -> Result:
    """Save the model, and say in the log that the run is finished."""
    evaluations, cost = log.evaluations(), log.evaluation_cost()
    with console.progress("saving the model"):
        save_model(policy, log.directory / "model", show.model_card(config, prepared, evaluations, total))
    log.finish({"steps": total, "evaluations": evaluations, "evaluation_cost": cost, "model": "model"})
    return Result(log.directory, evaluations, total, cost)


def _explained(stop: BaseException, where: str, policy: Policy, log: RunLog) -> BaseException:
    """What is raised when training stops after `where`: what happened, and how to go on from there."""
    how = (
        f"stopped after {where}; everything measured is in {log.directory}.\n"
        f"To go on from there: tutelage train {log.directory / 'config.toml'}"
    )
    if isinstance(stop, KeyboardInterrupt):
        return Interrupted(how)
    if isinstance(stop, RunError):
        return RunError(f"{stop}\n{how}")
    return RunError(
        f"the memory of {policy.device} is too small: {str(stop).splitlines()[0]}\n{how} --train.batch_size HALF --train.grad_accum DOUBLE"
        " (the result is the same; and a smaller --train.pack_tokens where it is set); or with --model.activation_checkpointing full,"
        " or a smaller --eval.batch_size"
    )


def _saved(explained: BaseException, policy: Policy, optimizer: torch.optim.Optimizer, step: int, log: RunLog) -> BaseException:
    """`explained` once the state after `step` is saved; if it cannot be, what says so too."""
    policy.model.zero_grad(set_to_none=True)
    try:
        with contextlib.suppress(KeyboardInterrupt), uninterrupted():
            checkpoint.save(log.directory, step, policy.model, optimizer)
    except RunError as second:
        return RunError(f"{explained}\nBut not from this step: {second}")
    return explained


@dataclass(frozen=True)
class Gradients:
    """What is known of a step before the weights change: its loss, the norm of its gradient before clipping, its size."""

    loss: float
    grad_norm: float
    response_tokens: int


def accumulate_gradients(
    policy: Policy, examples: Sequence[TokenizedExample], batches: Sequence[packing.Batch], config: Config, step: int
) -> Gradients:
    """Forward and backward over one step's rows, laid out in batches; gradients clipped.

    The loss is one sum over response tokens, divided once by a number that is known before the first backward pass; so the
    gradient does not depend on how the rows are laid out.

    Raises:
        RunError: loss or gradient is not finite; no weight was changed.
    """
    tokens = sum(len(example.response_ids) for example in examples)
    denominator = tokens if config.train.loss_normalization == "token" else len(examples)
    policy.model.zero_grad(set_to_none=True)  # also what an interrupted step had left
    loss = torch.zeros((), dtype=torch.float64, device=policy.device)
    with policy.computing():
        for index, batch in enumerate(batches):
            # dropout is a function of (seed, step, batch): a resumed run draws the same
            torch.manual_seed(random.Random(f"{config.train.seed}-{step}-{index}").getrandbits(63))
            part = -policy.score(batch, batch.weights / denominator).total
            part.backward()
            loss += part.detach().double()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.train.clip_grad)
    total, size = torch.stack([loss, norm.double()]).tolist()  # both at once: each would wait for the device
    if not (math.isfinite(total) and math.isfinite(size)):
        sources = ", ".join(example.source for example in examples)
        raise RunError(
            f"step {step + 1}: the loss is {total}, its gradient norm {size}; no weight was changed. The step's rows: {sources}"
        )
    return Gradients(total, size, tokens)


def update_weights(policy: Policy, optimizer: torch.optim.Optimizer, lr: float) -> float:
    """One optimizer step at learning rate `lr`; the share of weights that it changed."""
    watch = optim.Watch(policy.model)
    optim.set_lr(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return round(watch.changed(), 4)


@contextlib.contextmanager
def prefetched(make: Callable[[int], T], steps: Iterable[int]) -> Iterator[Iterator[T]]:
    """What `make` gives for each step, made in a thread of its own while the step before it computes."""
    with ThreadPoolExecutor(1) as worker:

        def ahead() -> Iterator[T]:
            coming: Future[T] | None = None
            for step in steps:
                following = worker.submit(make, step)
                if coming is not None:
                    yield coming.result()
                coming = following
            if coming is not None:
                yield coming.result()

        yield ahead()


class Clock:
    """The seconds between laps, by the name of what ended there."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def _resume(policy: Policy, optimizer: torch.optim.Optimizer, log: RunLog) -> int:
    """Restore the newest checkpoint if there is one; the number of optimizer steps already done."""
    found = checkpoint.latest(log.directory)
    step = 0
    if found is not None:
        with console.progress("loading the checkpoint"):
            step = checkpoint.load(found, policy.model, optimizer)
        console.say(f"continuing after step {step} ({found})", style="bold")
        log.forget_after(step)
    else:
        log.set_aside()
    return step


def _speed(
    policy: Policy, examples: Sequence[TokenizedExample], batches: Sequence[packing.Batch], clock: Clock
) -> dict[str, float]:
    """What a step's metrics say of its speed: tokens are the rows' own, each counted; the matrix share is of distinct ones."""
    seconds = sum(clock.laps.values())
    rate = matrix_rate(policy.device, policy.compute_dtype)
    return {
        "seconds": round(seconds, 4),
        **{f"{name}_seconds": round(lap, 4) for name, lap in clock.laps.items()},
        "tokens_per_second": round(sum(map(len, examples)) / seconds, 1),
        "distinct_tokens": sum(batch.input_ids.numel() for batch in batches),
        "matrix_share": round(sum(step_flops(policy, batch) for batch in batches) / seconds / rate, 4),
    }


def _check_space(directory: Path, policy: Policy, config: Config) -> None:
    """The disk must hold the model, and a checkpoint beside its predecessor."""
    checkpoint_size = 3 * size_in_bytes(policy.model, trained=True)
    needed = size_in_bytes(policy.model) + (0 if config.run.save_every == 0 else 2 * checkpoint_size)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InputError(
            f"run.dir: {directory.absolute()} has {free / 1e9:.1f} GB free, and the run needs {needed / 1e9:.1f} GB"
            " for its model and checkpoints (run.save_every = 0 keeps none); make room, or choose another --run.dir"
        )
