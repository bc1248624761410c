"""What tests let every rank of a job do, and a process by itself too: ``function(world, **arguments)``."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from tutelage.config import parse_config
from tutelage.data import prepare
from tutelage.errors import InputError
from tutelage.evaluation.certificate import expected_of, probes
from tutelage.evaluation.engine.snapshot import take
from tutelage.machines.sharding import full_tensor, local_part, reshard
from tutelage.machines.world import ALONE, World
from tutelage.model import lora, optim
from tutelage.model.load import load_policy, tokenizer_of
from tutelage.model.order import step_batches
from tutelage.runs import checkpoint
from tutelage.runs.log import SilentRunLog
from tutelage.training.start import set_up
from tutelage.training.step import accumulate_gradients, update_weights


def set_up_here(world: World, raw: dict):
    """(policy, course, optimizer) of a configuration, with plain SGD where `train.sgd` is set; nothing is written."""
    start, optimizer = begun_here(world, raw)
    return start.course.policy, start.course, optimizer


def begun_here(world: World, raw: dict):
    """(start, optimizer) as `set_up_here`."""
    raw = {section: dict(values) for section, values in raw.items()}
    sgd = raw["train"].pop("sgd", False)
    config = parse_config(raw)
    tokenizer = tokenizer_of(config)
    prepared = prepare(config, tokenizer)
    policy = load_policy(config.model, tokenizer, world=world, shard_ranks=config.parallel.shard)
    start = set_up(policy, prepared, config, SilentRunLog(Path("/nowhere")), world)
    optimizer = start.optimizer
    if sgd:
        trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=config.train.lr)
    return start, optimizer


def taken(start, optimizer, examples, batches, step: int, lr: float):
    """An optimizer step, whose weights change after the backward pass or in it."""
    course = start.course
    if start.updates is not None:
        start.updates.expect(lr, False)
        return start.updates.step(examples, batches, step)
    gradients = accumulate_gradients(course.policy, examples, batches, course.config, step, course.world)
    update_weights(course.policy, optimizer, lr)
    return gradients


def train_steps(world: World, raw: dict, steps: int = 3, rows: int | None = None) -> dict:
    """Losses, gradient norms, and on rank 0 the weights, after some optimizer steps."""
    start, optimizer = begun_here(world, raw)
    policy, course = start.course.policy, start.course
    losses, norms, tokens = [], [], []
    for step in range(steps):
        examples = course.examples(step)[:rows]
        gradients = taken(start, optimizer, examples, course.batches(examples), step, course.config.train.lr)
        losses.append(gradients.loss)
        norms.append(gradients.grad_norm)
        tokens.append(gradients.response_tokens)
    weights = {name: full_tensor(tensor).float().clone() for name, tensor in lora.merged_weights(policy.model)}
    local = sum(local_part(parameter).numel() for parameter in policy.model.parameters())
    return {
        "losses": losses, "norms": norms, "tokens": tokens, "weights": weights if world.leads else None,
        "buffers": {name: buffer.clone() for name, buffer in policy.model.named_buffers()}, "local": local, "packs": policy.packs,
    }  # fmt: skip


def fingerprint(state: dict) -> str:
    """A hash of whole tensors, by name; all ranks take part."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = full_tensor(state[name]).detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def saved(run: Path, step: int, model, optimizer, world: World = ALONE, keep: int = 2) -> Path:
    """A checkpoint, once it is there."""
    run.mkdir(exist_ok=True)
    saves = checkpoint.Checkpoints(run, world, keep)
    assert not saves.save(step, model, optimizer) and not saves.wait()
    world.any(False)  # the first rank seals when all have written: a rank may be here before
    found = checkpoint.latest(run)
    assert found is not None
    return found


def save_after_steps(world: World, raw: dict, run: str, steps: int = 2) -> str:
    start, optimizer = begun_here(world, raw)
    policy = start.course.policy
    for step in range(steps):
        taken(start, optimizer, *start.course.at(step), step, 1e-3)
    saved(Path(run), steps, policy.model, optimizer, world)
    return fingerprint(checkpoint.state_of(policy.model, optimizer))


def load_and_hash(world: World, raw: dict, run: str) -> str:
    policy, _, optimizer = set_up_here(world, raw)
    optim.fill_state(optimizer)
    found = checkpoint.latest(Path(run))
    assert found is not None
    checkpoint.load(found, policy.model, optimizer, world)
    return fingerprint(checkpoint.state_of(policy.model, optimizer))


def job_train(raw: dict, fake: str = "good", stop_at: int | None = None) -> str:
    """A whole run; "" or how it was stopped.

    Args:
        fake: how the fake engine behaves.
        stop_at: before this optimizer step, rank 1 gets a SIGUSR1.
    """
    from tutelage.evaluation.engine.fake import VARIABLE
    from tutelage.training import fit as oom
    from tutelage.training import loop as train

    original = oom.accumulate_gradients

    def stopping(policy, examples, batches, config, step, *others, **more):
        if stop_at is not None and step == stop_at - 1 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(policy, examples, batches, config, step, *others, **more)

    oom.accumulate_gradients = stopping
    os.environ[VARIABLE] = fake
    try:
        train.fine_tune(parse_config(raw))
    except train.Preempted as stop:
        return str(stop)
    finally:
        oom.accumulate_gradients = original
    return ""


def job_check_with_forgotten_rows(arguments: list[str]) -> None:
    """A rank of the doctor's two; rank 1 computes its rows, but gives their targets no weight."""
    from tutelage.check import computing, rank

    def forget(*given):
        return [replace(batch, weights=batch.weights * 0) for batch in step_batches(*given)]

    step_batches = computing.step_batches
    if os.environ["RANK"] == "1":
        computing.step_batches = forget
    try:
        rank.main(*map(Path, arguments))
    finally:
        computing.step_batches = step_batches


def snapshot_of_shards(world: World, raw: dict) -> dict:
    """The tensors of a snapshot, which the first rank keeps."""
    policy, _, _ = set_up_here(world, raw)
    taken = take(lora.merged_weights(policy.model), torch.float32, keep=world.leads)
    return {name: tensor.clone() for name, tensor in taken.tensors().items()}


def expected_of_shards(world: World, raw: dict) -> tuple[list[list[float]], float, list[str]]:
    """What the trainer expects of an engine in bfloat16, and the types of its weights afterwards."""
    policy, course, _ = set_up_here(world, raw)
    expected = expected_of(policy, "bfloat16", probes(policy.tokenizer), course.examples(0))
    reshard(policy.model)
    types = sorted({f"{type(weight).__name__} {weight.dtype}" for weight in policy.model.parameters()})
    return [scores.tolist() for scores in expected.scores], expected.rounding, types


def time_of_a_save(world: World, raw: dict, run: str) -> dict:
    """What a checkpoint after one step costs: seconds of the call, and until it is sealed; its bytes."""
    policy, course, optimizer = set_up_here(world, raw)
    examples, batches = course.at(0)
    accumulate_gradients(policy, examples, batches, course.config, 0, world)
    update_weights(policy, optimizer, 1e-5)
    saves = checkpoint.Checkpoints(Path(run), world, keep=1)
    assert not saves.save(1, policy.model, optimizer) and not saves.wait()
    world.any(False)
    found = checkpoint.latest(Path(run))
    assert found is not None
    size = sum(path.stat().st_size for path in found.iterdir())
    return {"gigabytes": size / 1e9, "call_seconds": saves.last["call_seconds"], "total_seconds": saves.last["seconds"]}


def rounded_steps(world: World, raw: dict, steps: int = 3) -> str:
    """A hash of weights and moments after steps along gradients that do not depend on how the weights are shared."""
    policy, _, optimizer = set_up_here(world, raw)
    for step in range(steps):
        for parameter in policy.model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3 * (step + 1))
        optimizer.step()
    return fingerprint(checkpoint.state_of(policy.model, optimizer))


def what_fails_on_rank_0(world: World, surprise: bool = False) -> tuple[str, str, bool]:
    """What every rank gets of an error on the first: its kind, its text, and whether another rank tells it."""

    def fail() -> None:
        if surprise:
            raise KeyError("x")
        raise InputError("no such file")

    try:
        world.first(fail)
    except Exception as error:
        return type(error).__name__, str(error), error.printed
    raise AssertionError


def gradients_by_a_loss(world, raw, directory):
    """(loss, nll, gradients by name) of the first step, by a loss that lies in a directory."""
    sys.path.append(directory)
    config = parse_config(raw)
    tokenizer = tokenizer_of(config)
    examples = prepare(config, tokenizer).train[:8]
    policy = load_policy(config.model, tokenizer, world=world)
    batches = step_batches(examples, 10**6, 8, rank=world.rank, ranks=world.size)
    found = accumulate_gradients(policy, examples, batches, config, 0, world)
    return found.loss, found.nll, {name: full_tensor(weight.grad) for name, weight in policy.model.named_parameters()}
