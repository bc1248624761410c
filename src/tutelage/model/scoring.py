"""Hidden states to log-probabilities: the head, and its log-softmax in chunks of targets, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

CHUNK = 1024
"""Targets that meet the vocabulary at a time: at 151,936 entries one float32 chunk is 0.6 GB."""


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
        logits = wide(torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype), bias))
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

    `chunk` targets at a time meet the vocabulary. There are two roads.

    - With `weights` (fused): what each log-probability counts in `total` is known beforehand, so the gradients are computed in the
      same pass (as Liger Kernel does, Hsu et al. 2024). Only `total` can be differentiated.
    - Without `weights` (plain): `log_probs` can be differentiated by anything, and the backward pass computes each chunk's logits
      again. `total` is the plain sum.

    Args:
        hidden: (targets, hidden size) of the positions that predict the labels.
        labels, weights: (targets,).
    """
    # within a Function gradients are always off, so it is told whether they are wanted
    learns = torch.is_grad_enabled()
    total, log_probs, entropies = _Score.apply(
        hidden, head.weight, head.bias, head.scale, head.cap, labels, weights, entropy, chunk, learns
    )
    return Scores(total if weights is not None else log_probs.sum(), log_probs, entropies if entropy else None)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        cap: float | None,
        labels: torch.Tensor,
        weights: torch.Tensor | None,
        entropy: bool,
        chunk: int,
        learns: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        ctx.scale, ctx.cap, ctx.chunk, ctx.fused = scale, cap, chunk, weights is not None
        wanted = _Wanted(*ctx.needs_input_grad[:3]) if learns and ctx.fused else _Wanted(False, False, False)
        log_probs, entropies, gradients = _by_chunks(
            hidden, Head(weight, bias, scale, cap), labels, weights, wanted, entropy, chunk
        )
        if weights is not None:
            ctx.mark_non_differentiable(log_probs, entropies)
            ctx.gradients = gradients
            return torch.dot(weights.to(log_probs.dtype), log_probs), log_probs, entropies
        ctx.mark_non_differentiable(entropies)
        ctx.save_for_backward(hidden, weight, bias, labels)
        return log_probs.new_zeros(()), log_probs, entropies

    @staticmethod
    def backward(ctx: Any, by_total: torch.Tensor, by_log_probs: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        if ctx.fused:
            gradients = tuple(None if g is None else g.mul_(by_total.to(g.dtype)) for g in ctx.gradients)
            del ctx.gradients
        else:
            hidden, weight, bias, labels = ctx.saved_tensors
            wanted = _Wanted(*ctx.needs_input_grad[:3])
            head = Head(weight, bias, ctx.scale, ctx.cap)
            _, _, gradients = _by_chunks(hidden, head, labels, by_log_probs, wanted, False, ctx.chunk)
        # none for scale, cap, labels, weights, entropy, chunk and learns
        return (*gradients, None, None, None, None, None, None, None)


class _Wanted(NamedTuple):
    """Whose gradients are wanted."""

    hidden: bool
    weight: bool
    bias: bool


Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
"""By hidden, by weight, by bias."""


def _by_chunks(
    hidden: torch.Tensor,
    head: Head,
    labels: torch.Tensor,
    upstream: torch.Tensor | None,
    wanted: _Wanted,
    entropy: bool,
    chunk: int,
) -> tuple[torch.Tensor, torch.Tensor, Gradients]:
    """Log-probabilities, entropies (empty unless asked for), and the wanted gradients of Σ upstream · log p.

    ∂ log p(y) / ∂ logits = onehot(y) − p, through the cap (whose slope is 1 − (logits / cap)²), the scale and the matrix.
    """
    # the weight is cast once, not for each chunk
    computed = replace(head, weight=head.weight.to(hidden.dtype))
    log_probs = torch.empty(len(labels), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    entropies = log_probs.new_empty(len(labels) if entropy else 0)
    by_hidden = torch.empty_like(hidden) if wanted.hidden else None
    # gradients of the weight add up over chunks: in float32
    by_weight = torch.zeros_like(head.weight, dtype=log_probs.dtype) if wanted.weight else None
    by_bias = torch.zeros_like(head.bias, dtype=log_probs.dtype) if wanted.bias and head.bias is not None else None
    for start in range(0, len(labels), chunk):
        part = slice(start, start + chunk)
        factor = upstream[part] if upstream is not None and any(wanted) else None
        log_probs[part], entropy_of_part, by_logits = _one_chunk(hidden[part], computed, labels[part], factor, entropy)
        if entropy_of_part is not None:
            entropies[part] = entropy_of_part
        if by_logits is not None:
            if by_bias is not None:
                by_bias += by_logits.sum(dim=0, dtype=by_bias.dtype)
            if by_hidden is not None:
                torch.mm(by_logits, computed.weight, out=by_hidden[part])
            if by_weight is not None:
                by_weight += by_logits.T @ hidden[part]
        del by_logits  # else it would live beside the next chunk's
    return log_probs, entropies, (by_hidden, by_weight, by_bias)


def _one_chunk(
    hidden: torch.Tensor, head: Head, labels: torch.Tensor, upstream: torch.Tensor | None, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Log-probabilities, entropies if asked for, and the gradients of the linear layer's output.

    The last are computed where `upstream` (targets,) gives the gradients of the log-probabilities; they have the precision of
    `hidden`. At most two float32 tensors of (targets, vocabulary) live at a time, three under a cap.
    """
    logits = head(hidden)
    slope = None if head.cap is None else 1 - (logits / head.cap) ** 2
    logs = torch.log_softmax(logits, dim=-1)
    del logits
    log_probs = logs.gather(1, labels[:, None]).squeeze(1)
    if not entropy and upstream is None:
        return log_probs, None, None
    probs = logs.exp() if entropy else logs.exp_()
    entropies = -torch.linalg.vecdot(probs, logs) if entropy else None
    if upstream is None:
        return log_probs, entropies, None
    factor = (upstream * head.scale)[:, None]
    by_logits = probs.mul_(-factor)
    by_logits[torch.arange(len(labels), device=labels.device), labels] += factor.squeeze(1)
    if slope is not None:
        by_logits.mul_(slope)
    return log_probs, entropies, by_logits.to(hidden.dtype)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
