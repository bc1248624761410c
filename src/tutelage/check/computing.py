"""Properties of the step: how rows are laid out, who computes them and in what precision changes nothing but rounding."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import torch

from tutelage.check.subject import ROWS, Finding, Subject, distance, largest_gap, sampled_gradient, worst
from tutelage.config import replaced, to_toml
from tutelage.data import TokenizedExample, pad_and_shift
from tutelage.evaluation import MAX_GAP_FLOAT32, MEAN_GAP_BFLOAT16
from tutelage.machines import launch
from tutelage.model import for_device, get_response_log_probs, pack, pad, sft_microbatch_train_step
from tutelage.resources import free_memory, weight_bytes
from tutelage.training import accumulate_gradients

SHARE = 1e-4
"""Bound of the difference of two gradients in float32, ‖a − b‖ / ‖b‖; log-probabilities have the bounds of a sync with vLLM."""
OF_RANKS = 5.0
"""Two ranks on a CPU need about so many times the bytes of the model in float32."""


def packed(subject: Subject) -> Finding:
    """Rows in one pack have the log-probabilities that each has alone."""
    if not subject.policy.packs:
        return Finding(None, "this run is trained on padded rows")
    gap = largest_gap(_log_probs(subject, together=True), _log_probs(subject, together=False))
    return Finding(gap <= MAX_GAP_FLOAT32, f"{gap:.1e} nats at most, over {_responses(subject.rows)} response tokens")


def fused(subject: Subject) -> Finding:
    """The fused objective has the log-probabilities and the gradient of the specification's functions on whole logits."""
    policy, rows = subject.policy, subject.rows
    ours = _log_probs(subject, together=False)
    tensors = pad_and_shift([(row.prompt_ids, row.response_ids) for row in rows], policy.pad_token_id)
    ids, labels, masks = (tensors[name].to(policy.device) for name in ("input_ids", "labels", "response_mask"))
    policy.model.zero_grad(set_to_none=True)
    theirs = []
    with policy.computing():
        for number in range(len(rows)):  # one by one: whole logits are large
            part = slice(number, number + 1)
            found = get_response_log_probs(policy.model, ids[part], labels[part], with_grad=True)["log_probs"]
            sft_microbatch_train_step(found, masks[part], len(rows))
            theirs.append(found.detach()[masks[part]].cpu())
    plain = sampled_gradient(policy.model)
    _gradient(replace(subject, config=replaced(subject.config, {"train.loss_normalization": "sequence"})), rows_together=1)
    gap, apart = largest_gap(ours, theirs), distance(sampled_gradient(policy.model), plain)
    policy.model.zero_grad(set_to_none=True)
    return Finding(gap <= MAX_GAP_FLOAT32 and apart <= SHARE, f"{gap:.1e} nats at most; gradients differ by {apart:.1e}")


def splits(subject: Subject) -> Finding:
    """All rows at once, one at a time, and two at a time give one gradient."""
    if len(subject.rows) < 2:
        return Finding(None, "one row cannot be split")
    norms, gradients = [], []
    for together in (ROWS, 1, 2):
        norms.append(_gradient(subject, together))
        gradients.append(sampled_gradient(subject.policy.model))
    subject.policy.model.zero_grad(set_to_none=True)
    apart = worst([distance(other, gradients[0]) for other in gradients[1:]])
    return Finding(apart <= SHARE, f"gradients differ by {apart:.1e}; their norm is {norms[0]:.4g}")


def ranks(subject: Subject) -> Finding:
    """Two ranks that share the weights, on this machine's CPU, have the gradient of one process."""
    needed, free = OF_RANKS * weight_bytes(subject.policy), free_memory(torch.device("cpu"))
    if needed > free:
        return Finding(None, f"two ranks on the CPU need about {needed / 1e9:.0f} GB, and {free / 1e9:.0f} are free")
    found = []
    for count in (1, 2):
        question, answer = subject.scratch / "question.json", subject.scratch / f"answer-{count}.pt"
        config = replaced(subject.course(rows_together=1).config, {"model.device": "cpu"})
        rows = [asdict(row) for row in subject.rows]
        question.write_text(json.dumps({"config": to_toml(config), "rows": rows}), encoding="utf-8")
        if launch(count, [str(question), str(answer)], module="tutelage.check.rank"):
            return Finding(False, f"a job of {count} rank{'s' * (count > 1)} did not end well; its own message stands above")
        found.append(torch.load(answer, weights_only=True))
    apart = distance(found[1], found[0])
    return Finding(apart <= SHARE, f"gradients differ by {apart:.1e} (gloo, on the CPU)")


def drift(subject: Subject) -> Finding:
    """What computing in bfloat16 changes, where the configuration does so here."""
    given = for_device(subject.pool.config.model, subject.policy.device)
    if given.precision == "fp32":
        return Finding(None, "this run computes in float32")
    exact = _log_probs(subject, together=False)
    rounded = _log_probs(replace(subject, policy=replace(subject.policy, precision="bf16-mixed")), together=False)
    gaps = torch.cat(rounded).double() - torch.cat(exact).double()
    mean, most = float(gaps.abs().mean()), float(gaps.abs().max())
    return Finding(mean <= MEAN_GAP_BFLOAT16, f"{mean:.2g} nats on average, {most:.2g} at most (bound: {MEAN_GAP_BFLOAT16} on average)")


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


def _gradient(subject: Subject, rows_together: int) -> float:
    """Put the gradient of the rows' step into the model, so many rows at a time; its norm."""
    longest = max(map(len, subject.rows))
    budget = None if rows_together == ROWS else rows_together * longest
    course = subject.course(budget, rows_together)
    batches = course.batches(subject.rows)
    return accumulate_gradients(subject.policy, subject.rows, batches, course.config, 0).grad_norm


def _responses(rows: list[TokenizedExample]) -> int:
    return sum(len(row.response_ids) for row in rows)
