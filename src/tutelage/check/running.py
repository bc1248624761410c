"""Properties of a run: it goes on to the same bits, its engine has its weights, and what it generates ends where labels say so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch

from tutelage import console
from tutelage.check.subject import Finding, Subject, distance, sampled
from tutelage.config import Config, replaced
from tutelage.evaluation import (
    Completion,
    EngineError,
    EngineHandle,
    Sampling,
    engine_setting,
    hand_over,
    native,
    prompt_ids,
    registry,
)
from tutelage.machines import ALONE, bytes_in_words
from tutelage.model import for_device, load_policy, size_in_bytes
from tutelage.resources import engine_device
from tutelage.runs import Checkpoints, RunLog
from tutelage.training import accumulate_gradients, set_up, update_weights

STEPS, SAVED_AFTER = 4, 2
ASKED, CAP = 4, 64
"""Problems that the untouched model is asked, and the tokens that it may answer with."""


def resumed(subject: Subject) -> Finding:
    """Four steps, and two steps, a checkpoint, a fresh start and two more, end in the same weights."""
    needed, free = 4 * size_in_bytes(subject.policy.model), shutil.disk_usage(subject.scratch).free
    if needed > free:
        wants, has = bytes_in_words(needed, free)
        return Finding(None, f"{subject.scratch.parent} has {has} free, and a checkpoint needs {wants}")
    given = subject.pool.config
    model = for_device(given.model, subject.policy.device).model_copy(update={"compile": "off"})
    settings = {
        "train.num_steps": STEPS, "train.batch_size": 2, "train.grad_accum": 2, "train.pack_tokens": None,
        "train.update": "step", "train.lr": 1e-4, "train.warmup_ratio": 0.0, "run.dir": str(subject.scratch / "run"),
    }  # fmt: skip
    config = replaced(given.model_copy(update={"model": model}), settings)
    log = RunLog(subject.scratch / "run")
    log.directory.mkdir()
    with console.quiet():  # what a run says when it goes on is about no run of the person's
        uninterrupted = _weights_after(subject, config, log, save_at=SAVED_AFTER)
        again = _weights_after(subject, config, log, save_at=None)
    if torch.equal(uninterrupted, again):
        return Finding(True, f"the same bits after {STEPS} steps, {STEPS - SAVED_AFTER} of them resumed")
    apart = distance(again, uninterrupted)
    exact = subject.policy.device.type == "cpu"
    return Finding(not exact and apart <= 1e-6, f"weights differ by {apart:.1e} after {STEPS - SAVED_AFTER} resumed steps")


def _weights_after(subject: Subject, config: Config, log: RunLog, save_at: int | None) -> torch.Tensor:
    """A sample of the weights after all steps, from the newest checkpoint on; one is saved after step `save_at`."""
    policy = load_policy(config.model, subject.policy.tokenizer)
    rows = replace(subject.prepared, train=subject.rows, max_length=max(map(len, subject.rows)))
    start = set_up(policy, rows, config, log)
    saves = Checkpoints(log.directory, ALONE, 1)
    for step in range(start.step, STEPS):
        accumulate_gradients(policy, *start.course.at(step), config, step)
        update_weights(policy, start.optimizer, config.train.lr)
        if step + 1 == save_at:
            failures = [*saves.save(step + 1, policy.model, start.optimizer), *saves.wait()]
            if failures:
                raise RuntimeError(failures[0])
    return sampled([weight for weight in policy.model.parameters() if weight.requires_grad])


def engines(subject: Subject) -> Finding:
    """A vLLM engine that was handed the policy's weights, and then others, gives the policy's log-probabilities, with and without
    its cache, and its greedy responses."""
    config, policy = subject.pool.config, subject.policy
    device = engine_device(config.eval.device, policy.device)
    if config.eval.backend == "native":
        return Finding(None, registry.reason("auto", device.type) or "eval.backend = native")
    if absent := registry.reason(config.eval.backend, device.type):
        return Finding(None, absent)
    prompts = prompt_ids(policy.tokenizer, subject.pool.problems[:ASKED])
    longest = max(map(len, prompts)) + CAP
    log = subject.scratch / "engine.log"
    engine = EngineHandle(engine_setting(config, policy.precision, device, max(longest, 256), log))
    with closing(engine):
        try:
            engine.start()
        except EngineError:
            last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it says nothing"])[-1]
            what = f"{engine.title} does not start with this model here: {last}"
            return Finding(None if config.eval.backend == "auto" else False, what)
        engine.load(hand_over(policy, engine))
        with _nudged(policy.model):  # it has read the model as it is; what it gets now is another one
            proof = engine.load(hand_over(policy, engine))
            theirs, ours = engine.generate(prompts, _greedy(subject)), _generate(subject, prompts)
    same = sum(a.token_ids == b.token_ids for a, b in zip(ours, theirs, strict=True))
    gaps = f"{proof.max_gap:.1e} nats at most, {proof.cached_max_gap:.1e} through the cache ({proof.dtype})"
    return Finding(proof.holds, f"{gaps}; {same} of {len(ours)} greedy responses equal")


def stops(subject: Subject) -> Finding:
    """When the model says the token that labels end with, its response is over."""
    policy = subject.policy
    prompts = prompt_ids(policy.tokenizer, subject.pool.problems[:ASKED])
    taught = next((row for row in subject.prepared.train if row.ends), None)
    if taught is None:
        return Finding(False, "no row teaches an end token: all are cut")
    end = taught.response_ids[-1]

    def insist(module: Any, arguments: Any, output: Any) -> Any:
        output.logits[..., end] = output.logits.amax() + 10
        return output

    with policy.model.register_forward_hook(insist):
        insisting = _generate(subject, prompts)
    for found in insisting:
        if found.finish_reason != "stop" or found.token_ids != (end,):
            what = f"{len(found.token_ids)} tokens, ended by {found.finish_reason}"
            return Finding(False, f"a model that says token {end}, with which labels end, was let go on: {what}")
    free = _generate(subject, prompts)
    ended = sum(completion.finish_reason == "stop" for completion in free)
    return Finding(True, f"token {end} ends a response; of {len(free)} of the model as it is, {ended} ended within {CAP} tokens")


def _generate(subject: Subject, prompts: list[list[int]]) -> list[Completion]:
    """The policy's own greedy responses."""
    return native.generate(subject.policy.model, subject.policy.tokenizer, prompts, _greedy(subject))


def _greedy(subject: Subject) -> Sampling:
    stops = subject.policy.stops
    return Sampling(max_new_tokens=CAP, temperature=0.0, stop=stops.strings, end_token_id=stops.end_token_id)


@contextmanager
def _nudged(model: Any) -> Iterator[None]:
    """Within it, the model's vectors (of its norms) are a tenth larger."""
    before = [(weight.data, weight.data.clone()) for weight in model.parameters() if weight.ndim < 2]
    for weight, _ in before:
        weight.mul_(1.1)
    try:
        yield
    finally:
        for weight, values in before:
            weight.copy_(values)
