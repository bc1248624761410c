"""The specification's functions: log-probabilities and entropy of response tokens, and the masked cross-entropy of a micro-batch."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from tutelage.model.scoring import Scores, wide


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Shannon entropy in nats of each next-token distribution.

    H = log Z − Σ p·logit with log Z = logsumexp(logits), in float32 whatever the input's precision. The largest logit is taken
    off first, which changes nothing but rounding. A logit of −inf (a forbidden token) contributes nothing.

    Args:
        logits: (…, vocabulary).

    Returns:
        (…), float32 (float64 for float64 logits).
    """
    logits = wide(logits)
    logits = logits - logits.amax(dim=-1, keepdim=True)
    log_z = torch.logsumexp(logits, dim=-1, keepdim=True)
    probs = torch.exp(logits - log_z)
    return log_z.squeeze(-1) - (probs * logits.masked_fill(torch.isneginf(logits), 0.0)).sum(dim=-1)


def masked_normalize(
    tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float | None = 1.0, dim: int | None = None
) -> torch.Tensor:
    """Sum over `dim` (or over everything) where mask is 1, divided by a constant.

    The course gives two orders of the last two arguments: its handout (tensor, mask, normalize_constant, dim), which is the order here,
    and its adapters (tensor, mask, dim, normalize_constant). By keyword both mean the same.

    Masked-out elements never count, not even when they are infinite or NaN. Half-precision input is summed in float32.

    Args:
        tensor, mask: of one shape; the mask is boolean, or 0 and 1.
        normalize_constant: positive; None means 1.0.
        dim: the dimension to sum over; None sums over all.

    Returns:
        The tensor without `dim`, or a scalar; in the tensor's precision, float32 for integers.

    Raises:
        ValueError: tensor and mask differ in shape; the constant is not positive; the tensor has no such dimension.
    """
    total, constant = _masked_sum(tensor, mask, dim), 1.0 if normalize_constant is None else normalize_constant
    if not torch.as_tensor(constant).gt(0).all():
        raise ValueError(
            f"normalize_constant is {normalize_constant}: it must be positive. Write normalize_constant=… by name, so that no other"
            " argument can be taken for it"
        )
    return _as_precise_as(tensor, total / constant)


def masked_mean(tensor: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """The mean over `dim` (or over everything) of the elements where mask is 1.

    With a `dim`, each mean has a denominator of its own: how many elements of its row (column, …) the mask keeps. A mean of these
    means is therefore not the mean over everything, which `dim=None` gives: there the denominator is the mask's full sum.

    A row without any kept element has no mean. It gives NaN, as `torch.mean` of nothing does: a 0 would look like a measured value, and
    draw the average of several rows towards it.

    Args:
        tensor, mask: of one shape; the mask is boolean, or 0 and 1.
        dim: the dimension to average over; None averages over all.

    Returns:
        The tensor without `dim`, or a scalar; in the tensor's precision, float32 for integers.

    Raises:
        ValueError: tensor and mask differ in shape; the tensor has no such dimension.
    """
    return _as_precise_as(tensor, _masked_sum(tensor, mask, dim) / _masked_sum(mask.bool(), mask, dim))


def _masked_sum(tensor: torch.Tensor, mask: torch.Tensor, dim: int | None) -> torch.Tensor:
    """The sum over `dim`, or over everything, of what the mask keeps; in float32 at least."""
    if tensor.shape != mask.shape:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}, mask {tuple(mask.shape)}: they must be equal")
    if dim is not None and not (isinstance(dim, int) and -tensor.ndim <= dim < tensor.ndim):
        raise ValueError(
            f"dim is {dim!r}: it must be a dimension of the tensor, which has shape {tuple(tensor.shape)}, or None for all of them."
            " Write dim=… by name, so that no other argument can be taken for it"
        )
    kept = torch.where(mask.bool(), wide(tensor), 0.0)
    return kept.sum() if dim is None else kept.sum(dim=dim)


def _as_precise_as(tensor: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    return result.to(tensor.dtype) if tensor.is_floating_point() else result


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float | None = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The specification's micro-batch step: loss, and its backward pass.

    loss = Σ(−log p · mask) / normalize_constant / (batch size × gradient_accumulation_steps)

    Args:
        policy_log_probs: (batch, seq_len), with a graph behind them: from `get_response_log_probs(…, with_grad=True)`.
        response_mask: (batch, seq_len), 1 at response tokens.
        gradient_accumulation_steps: how many micro-batches make one optimizer step.
        normalize_constant: None means 1.0.

    Returns:
        (loss, metadata): the detached loss that was back-propagated, and ``masked_ce_sum`` (already divided by
        `normalize_constant`) and ``num_response_tokens``.

    Raises:
        ValueError: shapes differ or are not (batch, seq_len); a count or the constant is not positive; the log-probabilities have no
            graph.
    """
    if policy_log_probs.ndim != 2 or policy_log_probs.shape != response_mask.shape:
        raise ValueError(
            f"policy_log_probs has shape {tuple(policy_log_probs.shape)}, response_mask {tuple(response_mask.shape)}:"
            " both must be (batch, seq_len)"
        )
    if gradient_accumulation_steps < 1:
        raise ValueError(f"gradient_accumulation_steps is {gradient_accumulation_steps}: it must be at least 1")
    masked_ce_sum = masked_normalize(-wide(policy_log_probs), response_mask, normalize_constant)
    loss = masked_ce_sum / (policy_log_probs.shape[0] * gradient_accumulation_steps)
    if not loss.requires_grad:
        raise ValueError(
            "policy_log_probs have no graph behind them, so nothing can be trained: call get_response_log_probs(…, with_grad=True), and"
            " neither it nor this function under torch.no_grad()"
        )
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


def _label_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[label] as logit − logsumexp, in float32: (rows, vocabulary), (rows,) → (rows,)."""
    return -torch.nn.functional.cross_entropy(wide(logits), labels, reduction="none")
