"""The training loop."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage import batching, checkpoint, console, show
from tutelage.config import Config
from tutelage.data import Example
from tutelage.errors import InputError, RunError
from tutelage.evaluate import REWARD_FUNCTIONS, log_generations_vllm, solve
from tutelage.model import Policy, choose_device, load_policy, load_tokenizer, resolve, save_model, size_in_bytes
from tutelage.optim import lr_at, make_optimizer
from tutelage.prepare import Prepared, prepare
from tutelage.runlog import RunLog, open_run
from tutelage.tokens import TokenizedExample


class Interrupted(KeyboardInterrupt):
    """Training was interrupted after its state was saved; the message says how to continue."""


@dataclass(frozen=True)
class Result:
    """What a finished run leaves: its directory, the evaluations (oldest first) and the number of optimizer steps."""

    directory: Path
    evaluations: list[dict[str, Any]]
    steps: int


def train_one_size(config: Config, size: int | None = None) -> Result:
    """Fine-tune on `size` training rows (None: what `config.data.size` says) and evaluate while training.

    A run directory with an unfinished run of the same configuration is continued.

    Raises:
        InputError: something given is wrong; nothing was computed.
        RunError: the run could not go on.
        Interrupted: Ctrl-C; the state was saved.
    """
    if size is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"size": size})})
    choose_device(config.model.device)  # what can be wrong is found before anything is read or computed
    if config.eval.engine == "vllm":
        from tutelage.generation import vllm

        vllm.require()
    resolve(config.model.id)
    tokenizer = load_tokenizer(config.model.id)
    prepared = prepare(config, tokenizer)
    with open_run(config) as log:
        write_ledger(log.directory, prepared)
        show.preview(prepared, tokenizer)
        with console.progress("loading the model"):
            policy = load_policy(config.model, tokenizer)
        _check_space(log.directory, policy, config)
        return run(policy, prepared, config, log)


def run(policy: Policy, prepared: Prepared, config: Config, log: RunLog) -> Result:
    """Train, evaluating on the way; save the model at the end."""
    train, rows_per_step = config.train, config.train.batch_size * config.train.grad_accum
    total = batching.total_steps(len(prepared.train), rows_per_step, train.num_epochs, train.num_steps)
    optimizer = make_optimizer(policy.model, train)
    step = _resume(policy, optimizer, log)
    evaluate = Evaluator(policy, prepared.validation, config, log)
    save_every = config.run.save_every if config.run.save_every is not None else config.eval.every
    policy.model.config.use_cache = False
    policy.model.train()
    try:
        if step == 0 and config.eval.before:
            evaluate(0)
        with console.progress("training", total) as advance:
            advance(step)
            while step < total:
                started = time.monotonic()
                examples = [
                    prepared.train[row] for row in batching.step_rows(len(prepared.train), rows_per_step, train.seed, step)
                ]
                loss, grad_norm, tokens = accumulate_gradients(policy, examples, config, step)
                with _uninterrupted():  # weights, optimizer and step number change together or not at all
                    update_weights(policy, optimizer, lr_at(step, total, train))
                    step += 1
                seconds = time.monotonic() - started
                log.metrics(
                    kind="train", step=step, epoch=round(step / batching.steps_per_epoch(len(prepared.train), rows_per_step), 4), loss=loss,
                    grad_norm=grad_norm, lr=lr_at(step - 1, total, train), response_tokens=tokens, seconds=round(seconds, 4),
                    tokens_per_second=round(sum(map(len, examples)) / seconds, 1),
                )  # fmt: skip
                advance(1, f"loss {loss:.4f}")
                if step < total and config.eval.every and step % config.eval.every == 0:
                    evaluate(step)
                if step < total and save_every and step % save_every == 0:
                    checkpoint.save(log.directory, step, policy.model, optimizer)
        evaluate(total)
    except KeyboardInterrupt:
        checkpoint.save(log.directory, step, policy.model, optimizer)
        raise Interrupted(
            f"interrupted after step {step} of {total}; everything measured is in {log.directory}.\n"
            f"To go on from there: tutelage train {log.directory / 'config.toml'}"
        ) from None
    evaluations = log.evaluations()
    with console.progress("saving the model"):
        save_model(policy, log.directory / "model", show.model_card(config, prepared, evaluations, total))
    log.finish({"steps": total, "evaluations": evaluations, "model": "model"})
    checkpoint.remove_all(log.directory)
    return Result(log.directory, evaluations, total)


def accumulate_gradients(
    policy: Policy, examples: Sequence[TokenizedExample], config: Config, step: int
) -> tuple[float, float, int]:
    """Forward and backward over one step's rows, gradients clipped: (loss, gradient norm before clipping, response tokens).

    The loss is one sum over response tokens, divided once by a number that is known before the first backward pass; so the
    gradient does not depend on how the rows are split into micro-batches.

    Raises:
        RunError: loss or gradient is not finite; no weight was changed.
    """
    tokens = sum(len(example.response_ids) for example in examples)
    denominator = tokens if config.train.loss_normalization == "token" else len(examples)
    pad = policy.tokenizer.pad_token_id if policy.tokenizer.pad_token_id is not None else policy.stops.end_token_id
    policy.model.zero_grad(set_to_none=True)  # also what an interrupted step had left
    loss = torch.zeros((), dtype=torch.float64, device=policy.device)
    for index, batch in enumerate(batching.micro_batches(examples, config.train.batch_size, pad)):
        torch.manual_seed(hash((config.train.seed, step, index)))  # dropout is a function of (seed, step, micro-batch)
        part = -policy.response_log_probs(batch).sum() / denominator
        part.backward()
        loss += part.detach().double()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.train.clip_grad)
    if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
        sources = ", ".join(example.source for example in examples)
        raise RunError(
            f"step {step + 1}: the loss is {loss.item()}, its gradient norm {norm.item()}; no weight was changed."
            f" The step's rows: {sources}"
        )
    return loss.item(), norm.item(), tokens


def update_weights(policy: Policy, optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One optimizer step at learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class Evaluator:
    """Lets the policy solve the validation problems after a step, and logs and prints what came of it."""

    def __init__(self, policy: Policy, problems: list[Example], config: Config, log: RunLog) -> None:
        self.policy, self.problems, self.config, self.log = policy, problems, config.eval, log
        self.engine: Any = None
        if config.eval.engine == "vllm":
            from tutelage.generation import vllm

            with console.progress("starting vLLM"):
                self.engine = vllm.init_vllm(
                    resolve(config.model.id), config.eval.device, config.eval.seed, config.eval.gpu_memory_utilization
                )

    def __call__(self, step: int) -> None:
        started = time.monotonic()
        with console.progress(f"evaluating at step {step}", len(self.problems)) as advance:
            result = solve(self.policy, self.problems, self.config, advance) if self.engine is None else self._vllm()
        self.log.generations(step, result["records"])
        self.log.metrics(kind="eval", step=step, **result["summary"], seconds=round(time.monotonic() - started, 2))
        show.evaluation(step, result["summary"])

    def _vllm(self) -> dict[str, Any]:
        from tutelage.generation import Sampling, vllm

        vllm.load_policy_into_vllm_instance(self.policy.model, self.engine)
        config, stops = self.config, self.policy.stops
        sampling = Sampling(config.max_new_tokens, config.temperature, config.top_p, stops.strings, config.seed)
        return log_generations_vllm(
            self.engine,
            [example.prompt for example in self.problems],
            [example.reference for example in self.problems],
            REWARD_FUNCTIONS[config.reward],
            vllm.sampling_params(sampling, stops.end_token_id),
            batch_size=len(self.problems),
        )


def write_ledger(directory: Path, prepared: Prepared) -> None:
    """``ledger.jsonl``: the fate of every training row."""
    from tutelage.runlog import append_lines

    path = directory / "ledger.jsonl"
    path.unlink(missing_ok=True)
    append_lines(path, [vars(fate) for fate in prepared.ledger])


def _resume(policy: Policy, optimizer: torch.optim.Optimizer, log: RunLog) -> int:
    """Restore the newest checkpoint if there is one; the number of optimizer steps already done."""
    found = checkpoint.latest(log.directory)
    step = 0
    if found is not None:
        with console.progress("loading the checkpoint"):
            step = checkpoint.load(found, policy.model, optimizer)
        console.say(f"continuing after step {step} ({found})", style="bold")
    log.forget_after(step if found is not None else -1)
    return step


def _check_space(directory: Path, policy: Policy, config: Config) -> None:
    """The disk must hold the model, and a checkpoint beside its predecessor."""
    weights = size_in_bytes(policy.model)
    needed = weights + (0 if config.run.save_every == 0 else 6 * weights)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InputError(
            f"run.dir: {directory.absolute()} has {free / 1e9:.1f} GB free, and the run needs {needed / 1e9:.1f} GB"
            " for its model and checkpoints (run.save_every = 0 keeps none); make room, or choose another --run.dir"
        )


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[Any] = []
    previous = signal.signal(signal.SIGINT, lambda *arguments: received.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if received:
        raise KeyboardInterrupt
