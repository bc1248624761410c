"""Properties of the step: how rows are laid out, who computes them and in what precision changes nothing but rounding."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace

import torch

from tutelage.check.subject import ROWS, Finding, Subject, distance, gradients, largest_gap, sampled, worst
from tutelage.config import Config, replaced, to_toml
from tutelage.data import TokenizedExample, pad_and_shift
from tutelage.evaluation import MAX_GAP_FLOAT32
from tutelage.machines import ALONE, World, full_tensor, launch
from tutelage.model import (
    for_device,
    get_response_log_probs,
    load_policy,
    pack,
    pad,
    sft_microbatch_train_step,
    step_batches,
    tokenizer_of,
)
from tutelage.resources import costs_of, free_memory, weight_bytes
from tutelage.training import accumulate_gradients

GRADIENT_BOUND = 1e-4
"""Bound of ‖a − b‖ / ‖b‖ of two gradients in float32. Log-probabilities have the bound of a sync with vLLM."""
ROUNDING_BOUND = 0.1
"""Nats on average that computing in bfloat16 may change log-probabilities; SmolLM2's change by 0.03."""
RANKS_NEED = 5.0
"""Two ranks on a CPU need about so many times the bytes of the model in float32."""


def packed(subject: Subject) -> Finding:
    """Rows in one pack have the log-probabilities that each has alone."""
    if not subject.policy.packs:
        return Finding(None, "this run is trained on padded rows")
    gap = largest_gap(_log_probs(subject, together=True), _log_probs(subject, together=False))
    tokens = sum(len(row.response_ids) for row in subject.rows)
    return Finding(gap <= MAX_GAP_FLOAT32, f"{gap:.1e} nats at most, over {tokens} response tokens")


def fused(subject: Subject) -> Finding:
    """The fused objective has the log-probabilities and the gradient of the specification's functions on full logits."""
    policy, rows = subject.policy, subject.rows
    ours = _log_probs(subject, together=False)
    tensors = pad_and_shift([(row.prompt_ids, row.response_ids) for row in rows], policy.pad_token_id)
    ids, labels, masks = (tensors[name].to(policy.device) for name in ("input_ids", "labels", "response_mask"))
    policy.model.zero_grad(set_to_none=True)
    theirs = []
    with policy.computing():
        for index in range(len(rows)):  # one by one: full logits are large
            row = slice(index, index + 1)
            found = get_response_log_probs(policy.model, ids[row], labels[row], with_grad=True)["log_probs"]
            sft_microbatch_train_step(found, masks[row], len(rows))
            theirs.append(found.detach()[masks[row]].cpu())
    plain = sampled(gradients(policy.model))
    as_specified = replaced(subject.config, {"train.loss": "nll", "train.loss_normalization": "sequence"})
    unweighted = replace(subject, config=as_specified, rows=[replace(row, weight=1.0) for row in rows])
    gap, apart = largest_gap(ours, theirs), distance(_gradient(unweighted, rows_together=1), plain)
    return Finding(gap <= MAX_GAP_FLOAT32 and apart <= GRADIENT_BOUND, f"{gap:.1e} nats at most; gradients differ by {apart:.1e}")


def splits(subject: Subject) -> Finding:
    """All rows at once, one at a time, and two at a time give one gradient."""
    if len(subject.rows) < 2:
        return Finding(None, "one row cannot be split")
    at_once, *others = [_gradient(subject, rows_together) for rows_together in (ROWS, 1, 2)]
    apart = worst([distance(other, at_once) for other in others])
    return Finding(apart <= GRADIENT_BOUND, f"gradients differ by {apart:.1e}")


def ranks(subject: Subject) -> Finding:
    """Two ranks that share the weights, on this machine's CPU, have the gradient of one process."""
    needed, free = RANKS_NEED * weight_bytes(subject.policy), free_memory(torch.device("cpu"))
    if needed > free:
        return Finding(None, f"two ranks on the CPU need about {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} are free")
    config = replaced(subject.config, {"model.device": "cpu"})
    question, answer = subject.scratch / "question.json", subject.scratch / "answer.pt"
    asked = {"config": to_toml(config), "rows": [asdict(row) for row in subject.rows]}
    question.write_text(json.dumps(asked), encoding="utf-8")
    if launch(2, [str(question), str(answer)], module="tutelage.check.rank"):
        return Finding(False, "a job of 2 ranks did not end well; its own message stands above")
    apart = distance(torch.load(answer, weights_only=True), gradient_of(config, subject.rows, ALONE))
    return Finding(apart <= GRADIENT_BOUND, f"gradients differ by {apart:.1e} (gloo, on the CPU)")


def gradient_of(config: Config, rows: list[TokenizedExample], world: World) -> torch.Tensor:
    """A sample of the gradient of the rows' step, one row at a time, by all ranks of a job on the CPU."""
    policy = load_policy(config.model, tokenizer_of(config), world=world)
    policy.model.train()
    pad_id = None if policy.packs and config.train.pack else policy.pad_token_id
    batches = step_batches(rows, max(map(len, rows)), 1, pad_id, world.rank, world.size, costs_of(policy))
    accumulate_gradients(policy, rows, batches, config, 0, world)
    return sampled([full_tensor(gradient) for gradient in gradients(policy.model)])


def drift(subject: Subject) -> Finding:
    """What computing in bfloat16 changes, where the configuration does so here."""
    if for_device(subject.pool.config.model, subject.policy.device).precision == "fp32":
        return Finding(None, "this run computes in float32")
    exact = torch.cat(_log_probs(subject, together=False)).double()
    rounding = copy.copy(subject.policy)  # of the same model
    rounding.precision = "bf16-mixed"
    gaps = (torch.cat(_log_probs(replace(subject, policy=rounding), together=False)).double() - exact).abs()
    mean, most = float(gaps.mean()), float(gaps.max())
    return Finding(mean <= ROUNDING_BOUND, f"{mean:.2g} nats on average, {most:.2g} at most (bound: {ROUNDING_BOUND} on average)")


def _log_probs(subject: Subject, together: bool) -> list[torch.Tensor]:
    """Log-probabilities of each row's response, as the model computes them in evaluation."""
    policy, rows = subject.policy, subject.rows
    policy.model.eval()
    with torch.no_grad(), policy.computing():
        if together:
            batch = pack(rows)
            scores = policy.score(batch).log_probs.cpu()
            return [scores[targets] for targets in batch.of_examples]
        return [policy.score(pad([row], policy.pad_token_id)).log_probs.cpu() for row in rows]


def _gradient(subject: Subject, rows_together: int) -> torch.Tensor:
    """A sample of the gradient of the rows' step, computed so many rows at a time."""
    course = subject.course(rows_together)
    model = subject.policy.model
    accumulate_gradients(subject.policy, subject.rows, course.batches(subject.rows), course.config, 0)
    found = sampled(gradients(model))
    model.zero_grad(set_to_none=True)
    return found
