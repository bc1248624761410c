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


def masked_normalize(tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None) -> torch.Tensor:
    """Sum over `dim` (or over everything) where mask is 1, divided by a constant.

    Masked-out elements never count, not even when they are infinite or NaN. Half-precision input is summed in float32.

    Raises:
        ValueError: tensor and mask differ in shape.
    """
    if tensor.shape != mask.shape:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}, mask {tuple(mask.shape)}: they must be equal")
    kept = torch.where(mask.bool(), wide(tensor), 0.0)
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
    masked_ce_sum = masked_normalize(-wide(policy_log_probs), response_mask, normalize_constant)
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


def _label_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[label] as logit − logsumexp, in float32: (rows, vocabulary), (rows,) → (rows,)."""
    return -torch.nn.functional.cross_entropy(wide(logits), labels, reduction="none")
