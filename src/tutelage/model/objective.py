"""The mathematics of the specification: log-probabilities and entropy of response tokens, and the masked cross-entropy of a step."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

CHUNK = 1024
"""Rows that meet the vocabulary at a time: at 151,936 entries one float32 chunk is 0.6 GB."""


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Shannon entropy in nats of each next-token distribution.

    H = log Z − Σ p·logit with log Z = logsumexp(logits), in float32 whatever the input's precision. The largest logit is taken
    off first, which changes nothing but rounding. A logit of −inf (a forbidden token) contributes nothing.

    Args:
        logits: (…, vocabulary).

    Returns:
        (…), float32 (float64 for float64 logits).
    """
    logits = _wide(logits)
    logits = logits - logits.amax(dim=-1, keepdim=True)
    log_z = torch.logsumexp(logits, dim=-1, keepdim=True)
    probs = torch.exp(logits - log_z)
    return log_z.squeeze(-1) - (probs * logits.masked_fill(torch.isneginf(logits), 0.0)).sum(dim=-1)


def masked_normalize(tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None) -> torch.Tensor:
    """Sum over `dim` (or over everything) where mask is 1, divided by a constant.

    Masked-out elements never count, not even when they are infinite or NaN. Half-precision input is summed in float32.

    Raises:
        ValueError: tensor and mask differ in shape.
    """
    if tensor.shape != mask.shape:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}, mask {tuple(mask.shape)}: they must be equal")
    kept = torch.where(mask.bool(), _wide(tensor), 0.0)
    total = kept.sum() if dim is None else kept.sum(dim=dim)
    return (total / normalize_constant).to(tensor.dtype)


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The specification's micro-batch step: loss, and its backward pass.

    loss = Σ(−log p · mask) / normalize_constant / (batch size × gradient_accumulation_steps)

    Args:
        policy_log_probs: (batch, seq_len), with a graph behind them.
        response_mask: (batch, seq_len), 1 at response tokens.

    Returns:
        (loss, metadata): the detached loss that was back-propagated, and ``masked_ce_sum`` (already divided by
        `normalize_constant`) and ``num_response_tokens``.

    Raises:
        ValueError: shapes differ or are not (batch, seq_len); a count or the constant is not positive.
    """
    if policy_log_probs.ndim != 2 or policy_log_probs.shape != response_mask.shape:
        raise ValueError(
            f"policy_log_probs has shape {tuple(policy_log_probs.shape)}, response_mask {tuple(response_mask.shape)}:"
            " both must be (batch, seq_len)"
        )
    if gradient_accumulation_steps < 1 or normalize_constant <= 0:
        raise ValueError(
            f"gradient_accumulation_steps is {gradient_accumulation_steps}, normalize_constant {normalize_constant}: both must be positive"
        )
    masked_ce_sum = masked_normalize(-_wide(policy_log_probs), response_mask, normalize_constant)
    loss = masked_ce_sum / (policy_log_probs.shape[0] * gradient_accumulation_steps)
    loss.backward()
    return loss.detach(), {"masked_ce_sum": masked_ce_sum.detach(), "num_response_tokens": response_mask.sum()}


def get_response_log_probs(
    model: Any,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    return_token_entropy: bool = False,
    with_grad: bool = False,
) -> dict[str, torch.Tensor]:
    """Log-probability of each label under the model, and on demand the entropy of each next-token distribution.

    Args:
        model: a causal language model whose output has ``.logits`` of shape (batch, seq_len, vocabulary); or a `Policy`, which
            computes shared prefixes once and never holds all logits.
        input_ids, labels: (batch, seq_len); labels are the inputs shifted by one. Padding must be on the right.
        with_grad: keep the graph (training) or not (evaluation).

    Returns:
        ``log_probs`` (batch, seq_len) float32, and ``token_entropy`` (batch, seq_len), detached, when asked for.
    """
    with contextlib.nullcontext() if with_grad else torch.no_grad():
        if hasattr(model, "score_rows"):
            scores: Scores = model.score_rows(input_ids, labels, entropy=return_token_entropy)
            entropy = {} if scores.entropies is None else {"token_entropy": scores.entropies.view_as(labels)}
            return {"log_probs": scores.log_probs.view_as(labels), **entropy}
        logits = model(input_ids).logits
        log_probs = torch.stack([_label_log_probs(row, label) for row, label in zip(logits, labels, strict=True)])
        result = {"log_probs": log_probs}
    if return_token_entropy:
        with torch.no_grad():
            result["token_entropy"] = torch.stack([compute_entropy(row) for row in logits.detach()])
    return result


@dataclass(frozen=True)
class Head:
    """The map from hidden states to logits: ``cap · tanh(scale · (h Wᵀ + b) / cap)``, without the cap where there is none.

    Attributes:
        weight: (vocabulary, hidden size); bias: (vocabulary,) or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, hidden size) → (rows, vocabulary), at least float32 from the matrix product on."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        logits = _wide(torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype), bias))
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True)
class Scores:
    """What `score` says of its targets.

    Attributes:
        total: the sum of weight · log-probability.
        log_probs, entropies: (targets,), at least float32; `entropies` in nats and detached, None unless asked for.
    """

    total: torch.Tensor
    log_probs: torch.Tensor
    entropies: torch.Tensor | None


def score(
    hidden: torch.Tensor,
    head: Head,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    entropy: bool = False,
    chunk: int = CHUNK,
) -> Scores:
    """Log-probability of each label, and on demand each distribution's entropy, without a (targets × vocabulary) tensor.

    `chunk` targets at a time meet the vocabulary. With `weights`, which say beforehand what each log-probability counts in
    `total`, the gradients are computed in the same pass (as Liger Kernel does, Hsu et al. 2024), and only `total` can be
    differentiated. Without them `total` is the plain sum, `log_probs` can be differentiated by anything, and the backward pass
    computes each chunk's logits again.

    Args:
        hidden: (targets, hidden size) of the positions that predict the labels.
        labels, weights: (targets,).
    """
    learns = torch.is_grad_enabled()
    total, log_probs, entropies = _Score.apply(
        hidden, head.weight, head.bias, (head.scale, head.cap), labels, weights, entropy, chunk, learns
    )
    return Scores(total if weights is not None else log_probs.sum(), log_probs, entropies if entropy else None)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden, weight, bias, form, labels, weights, entropy, chunk, learns = given
        ctx.set_materialize_grads(False)
        ctx.form, ctx.chunk, ctx.now = form, chunk, weights is not None
        wanted = ctx.needs_input_grad[:3] if learns and ctx.now else (False,) * 3
        log_probs, entropies, gradients = _by_chunks(hidden, Head(weight, bias, *form), labels, weights, wanted, entropy, chunk)
        if ctx.now:
            ctx.mark_non_differentiable(log_probs, entropies)
            ctx.gradients = gradients
            return torch.dot(weights.to(log_probs.dtype), log_probs), log_probs, entropies
        ctx.mark_non_differentiable(entropies)
        ctx.save_for_backward(hidden, weight, bias, labels)
        return log_probs.new_zeros(()), log_probs, entropies

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Any, ...]:
        of_total, of_log_probs, _ = upstream
        if ctx.now:
            gradients = tuple(None if g is None else g.mul_(of_total.to(g.dtype)) for g in ctx.gradients)
            del ctx.gradients
        else:
            hidden, weight, bias, labels = ctx.saved_tensors
            head, wanted = Head(weight, bias, *ctx.form), ctx.needs_input_grad[:3]
            _, _, gradients = _by_chunks(hidden, head, labels, of_log_probs, wanted, False, ctx.chunk)
        return (*gradients, *(None,) * 6)


def _by_chunks(
    hidden: torch.Tensor,
    head: Head,
    labels: torch.Tensor,
    upstream: torch.Tensor | None,
    wanted: Sequence[bool],
    entropy: bool,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """Log-probabilities, entropies (empty unless asked for), and the wanted gradients of Σ upstream · log p by hidden, weight, bias.

    ∂ log p(y) / ∂ logits = onehot(y) − p, through the cap (whose slope is 1 − (logits / cap)²), the scale and the matrix.
    """
    computed = replace(head, weight=head.weight.to(hidden.dtype))  # once, not for each chunk
    log_probs = torch.empty(len(labels), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    entropies = log_probs.new_empty(len(labels) if entropy else 0)
    by_hidden = torch.empty_like(hidden) if wanted[0] else None
    by_weight = torch.zeros_like(head.weight, dtype=log_probs.dtype) if wanted[1] else None
    by_bias = torch.zeros_like(head.bias, dtype=log_probs.dtype) if wanted[2] and head.bias is not None else None
    for start in range(0, len(labels), chunk):
        part = slice(start, start + chunk)
        g = upstream[part] if upstream is not None and any(wanted) else None
        log_probs[part], entropy_of_part, by_logits = _one_chunk(hidden[part], computed, labels[part], g, entropy)
        if entropy_of_part is not None:
            entropies[part] = entropy_of_part
        if by_logits is not None:
            if by_bias is not None:
                by_bias += by_logits.sum(dim=0, dtype=by_bias.dtype)
            if by_hidden is not None:
                torch.mm(by_logits, computed.weight, out=by_hidden[part])
            if by_weight is not None:
                by_weight += by_logits.T @ hidden[part]
        del by_logits  # else it would live beside the next chunk
    return log_probs, entropies, (by_hidden, by_weight, by_bias)


def _one_chunk(
    hidden: torch.Tensor, head: Head, labels: torch.Tensor, upstream: torch.Tensor | None, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Log-probabilities, entropies if asked for, and, given the gradients of the log-probabilities, those of the linear layer's
    output in the precision of `hidden`. At most two float32 tensors of (targets, vocabulary) live at a time, three under a cap.
    """
    logits = head(hidden)
    slope = head.scale if head.cap is None else (1 - (logits / head.cap) ** 2).mul_(head.scale)
    logs = torch.log_softmax(logits, dim=-1)
    del logits
    log_probs = logs.gather(1, labels[:, None]).squeeze(1)
    if not entropy and upstream is None:
        return log_probs, None, None
    probs = logs.exp() if entropy else logs.exp_()
    entropies = -torch.linalg.vecdot(probs, logs) if entropy else None
    if upstream is None:
        return log_probs, entropies, None
    by_logits = probs.neg_()
    by_logits[torch.arange(len(labels), device=labels.device), labels] += 1
    return log_probs, entropies, by_logits.mul_(upstream[:, None]).mul_(slope).to(hidden.dtype)


def _label_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[label] as logit − logsumexp, in float32: (rows, vocabulary), (rows,) → (rows,)."""
    return -torch.nn.functional.cross_entropy(_wide(logits), labels, reduction="none")


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
