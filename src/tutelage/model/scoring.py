"""Hidden states to log-probabilities: the head, and its log-softmax in chunks of targets, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

CHUNK, LARGE_CHUNK = 1024, 4096
"""Targets that meet the vocabulary at a time: at 151,936 entries one float32 chunk is 0.6 or 2.5 GB. The large one is for GPUs."""


@dataclass(frozen=True)
class Head:
    """The map from hidden states to logits: ``cap · tanh(scale · (h Wᵀ + b) / cap)``, without the cap where there is none.

    Attributes:
        weight: (vocabulary, hidden size); bias: (vocabulary,) or None.
        cast: the weight in the precision that is computed in, made once for several batches; None: it is made for each.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    cast: torch.Tensor | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, hidden size) → (rows, vocabulary), at least float32 from the matrix product on."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        logits = wide(torch.nn.functional.linear(hidden, self.weight_in(hidden.dtype), bias))
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def weight_in(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight in a precision."""
        return self.cast if self.cast is not None and self.cast.dtype == dtype else self.weight.to(dtype)


@dataclass(frozen=True)
class Manner:
    """How a head is computed; none of it changes what is computed, but by rounding.

    Attributes:
        chunk: targets that meet the vocabulary at a time.
        compiled: whether the element-wise part is compiled.
        cast: as in `Head`.
    """

    chunk: int = CHUNK
    compiled: bool = False
    cast: torch.Tensor | None = None


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
    compiled: bool = False,
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
        compiled: whether the element-wise part is compiled.
    """
    # within a Function gradients are always off, so it is told whether they are wanted
    asked = _Asked(head, entropy, chunk, compiled, torch.is_grad_enabled())
    total, log_probs, entropies = _Score.apply(hidden, head.weight, head.bias, labels, weights, asked)
    return Scores(total if weights is not None else log_probs.sum(), log_probs, entropies if entropy else None)


class _Asked(NamedTuple):
    """What of `score` is no tensor to differentiate by; `learns`: whether gradients are wanted at all."""

    head: Head
    entropy: bool
    chunk: int
    compiled: bool
    learns: bool


class _Wanted(NamedTuple):
    """Whose gradients are wanted."""

    hidden: bool
    weight: bool
    bias: bool


class _Gradients(NamedTuple):
    """Of Σ upstream · log p; those by weight and bias are to be multiplied by `unit` still, so that it costs no pass of its own."""

    hidden: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    unit: torch.Tensor | None = None

    def times(self, factor: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """By hidden states, weight and bias, in place; None: times one."""
        by_hidden = self.hidden if self.hidden is None or factor is None else self.hidden.mul_(factor)
        both = self.unit if factor is None or self.unit is None else self.unit * factor
        by_weight, by_bias = (it if it is None or both is None else it.mul_(both) for it in (self.weight, self.bias))
        return by_hidden, by_weight, by_bias


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        weights: torch.Tensor | None,
        asked: _Asked,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        ctx.asked, ctx.fused = asked, weights is not None
        wanted = _Wanted(*ctx.needs_input_grad[:3]) if asked.learns and ctx.fused else _Wanted(False, False, False)
        log_probs, entropies, gradients = _by_chunks(hidden, labels, weights, wanted, asked)
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
            gradients = ctx.gradients.times(by_total)
            del ctx.gradients
        else:
            hidden, weight, bias, labels = ctx.saved_tensors
            asked = ctx.asked._replace(head=replace(ctx.asked.head, weight=weight, bias=bias), entropy=False)
            _, _, found = _by_chunks(hidden, labels, by_log_probs, _Wanted(*ctx.needs_input_grad[:3]), asked)
            gradients = found.times(None)
        return (*gradients, None, None, None)  # none for labels, weights and what was asked


def _by_chunks(
    hidden: torch.Tensor, labels: torch.Tensor, upstream: torch.Tensor | None, wanted: _Wanted, asked: _Asked
) -> tuple[torch.Tensor, torch.Tensor, _Gradients]:
    """Log-probabilities, entropies (empty unless asked for), and the wanted gradients of Σ upstream · log p.

    ∂ log p(y) / ∂ logits = onehot(y) − p, through the cap (whose slope is 1 − (logits / cap)²), the scale and the matrix. What is
    the same for all entries of a row, −upstream · scale, is multiplied onto the (targets × hidden) side of the products.
    """
    head, size, dtype = asked.head, len(labels), hidden.dtype
    weight = head.weight_in(dtype)  # cast once, not for each chunk
    exact = dtype in (torch.bfloat16, torch.float16) and adds_in_float32(hidden.device)
    log_probs = torch.empty(size, dtype=torch.promote_types(dtype, torch.float32), device=hidden.device)
    entropies = log_probs.new_empty(size if asked.entropy else 0)
    by_hidden = torch.empty_like(hidden) if wanted.hidden else None
    by_weight = by_bias = None
    factor, share, unit = _factors(upstream, head.scale, log_probs) if upstream is not None and any(wanted) else (None, None, None)
    elements = _compiled_chunk() if asked.compiled else _one_chunk
    for start in range(0, size, asked.chunk):
        part = slice(start, start + asked.chunk)
        log_probs[part], entropy_of_part, apart = elements(
            # a compiled function casts without a pass of its own
            _logits(hidden[part], weight, head.bias, in_float32=exact and not asked.compiled),
            labels[part], head.scale, head.cap, asked.entropy, None if factor is None else dtype,
        )  # fmt: skip
        if entropy_of_part is not None:
            entropies[part] = entropy_of_part
        if apart is None or factor is None or share is None:
            continue
        if by_hidden is not None:
            product = torch.mm(apart, weight, out_dtype=log_probs.dtype) if exact else torch.mm(apart, weight)
            torch.mul(product, factor[part], out=by_hidden[part])
            del product
        if wanted.weight:
            by_weight = _plus(by_weight, apart.T, (hidden[part] * share[part]).to(dtype), log_probs.dtype, exact)
        if wanted.bias:
            by_bias = _plus(by_bias, apart.T.to(log_probs.dtype), share[part], log_probs.dtype, False)
        del apart  # else it would live beside the next chunk's
    if wanted.weight and by_weight is None:  # without a target
        by_weight = torch.zeros_like(head.weight, dtype=log_probs.dtype)
    if wanted.bias and head.bias is not None:
        by_bias = torch.zeros_like(head.bias, dtype=log_probs.dtype) if by_bias is None else by_bias.squeeze(1)
    return log_probs, entropies, _Gradients(by_hidden, by_weight, by_bias, unit)


def _factors(upstream: torch.Tensor, scale: float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """−upstream · scale as (targets, 1), its shares of the largest of them, and that one: at least float32.

    Most targets of a step count the same, so most shares are one: hidden states that are multiplied by them stay as they are, and
    the gradient of the weight loses nothing in half precision.
    """
    factor = (upstream.to(like.dtype) * -scale)[:, None]
    if not len(factor):
        return factor, factor, like.new_ones(())
    largest = factor.abs().amax()
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    return factor, factor / unit, unit


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, in_float32: bool) -> torch.Tensor:
    """The product with the weight, in the precision of `hidden`, or at once in float32, so that no cast follows."""
    if not in_float32:
        return torch.nn.functional.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
    product = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    return product if bias is None else product.add_(bias)


def _plus(total: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype, exact: bool) -> torch.Tensor:
    """`total` + a b in `dtype`, in place; the product itself where there is nothing yet to add it to.

    Args:
        exact: whether the device gives products of half-precision matrices in float32.
    """
    if total is None:
        return torch.mm(a, b, out_dtype=dtype) if exact else torch.mm(a, b).to(dtype)
    if exact:
        return torch.addmm(total, a, b, out_dtype=dtype, out=total)
    return total.addmm_(a, b) if a.dtype == dtype else total.add_(torch.mm(a, b))


def _one_chunk(
    logits: torch.Tensor, labels: torch.Tensor, scale: float, cap: float | None, entropy: bool, dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """All that is element-wise: log-probabilities, entropies if asked for, and how far each distribution is apart from its label.

    The last is p − onehot(label), times the slope of the cap, (targets, vocabulary) in `dtype`; None without. Each entry is rounded
    once: those of labels come from their log-probabilities, so that those of sure tokens are as exact as any.
    At most two float32 tensors of (targets, vocabulary) live at a time, three under a cap.

    Args:
        logits: (targets, vocabulary), of the product alone.
    """
    logits = wide(logits)
    bent = None if cap is None else torch.tanh(logits * (scale / cap))
    if cap is not None and bent is not None:
        logits = bent * cap
    elif scale != 1.0:
        logits = logits * scale
    logs = torch.log_softmax(logits, dim=-1)
    del logits
    own = logs.gather(1, labels[:, None])
    log_probs = own.squeeze(1)
    if not entropy and dtype is None:
        return log_probs, None, None
    by_label = torch.expm1(own)
    if bent is not None:
        by_label = by_label * (1 - bent.gather(1, labels[:, None]) ** 2)
    # written over the logarithms, or rounded at once, where nothing else reads them
    probs = logs.exp() if entropy else _exp(logs, logs.dtype if dtype is None or bent is not None else dtype)
    entropies = -torch.linalg.vecdot(probs, logs) if entropy else None
    if dtype is None:
        return log_probs, entropies, None
    apart = probs if bent is None else torch.ops.aten.tanh_backward(probs, bent)  # times 1 − bent²
    apart = apart.to(dtype)
    apart[torch.arange(len(labels), device=labels.device), labels] = by_label.squeeze(1).to(dtype)
    return log_probs, entropies, apart


def _exp(logs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """exp(logs) in `dtype` in one pass, over `logs` itself where that is its precision."""
    if torch.compiler.is_compiling():  # which fuses the cast by itself
        return logs.exp().to(dtype)
    return torch.exp(logs, out=logs if logs.dtype == dtype else torch.empty_like(logs, dtype=dtype))


@functools.cache
def _compiled_chunk() -> Callable[..., tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]]:
    return torch.compile(_one_chunk, dynamic=True)


@functools.cache
def adds_in_float32(device: torch.device) -> bool:
    """Whether the device gives, and adds up, products of half-precision matrices in float32 (`out_dtype`): tried on small ones."""
    if device.type != "cuda":
        return False
    a, b, total = (torch.ones(shape, dtype=dtype, device=device) for shape, dtype in (
        ((16, 32), torch.bfloat16), ((16, 64), torch.bfloat16), ((32, 64), torch.float32)
    ))  # fmt: skip
    try:  # the calls that are made of large ones
        product = torch.mm(a.T, b, out_dtype=torch.float32)
        torch.addmm(total, a.T, b, out_dtype=torch.float32, out=total)
    except (TypeError, RuntimeError):  # no such argument, or not on this device
        return False
    return bool((product == 16).all() and (total == 17).all())


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
