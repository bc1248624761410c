"""The mathematics of the specification: log-probabilities and entropy of response tokens, and the masked cross-entropy of a step."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

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
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    return_token_entropy: bool = False,
    with_grad: bool = False,
) -> dict[str, torch.Tensor]:
    """Log-probability of each label under the model, and on demand the entropy of each next-token distribution.

    Args:
        model: a causal language model whose output has ``.logits`` of shape (batch, seq_len, vocabulary).
        input_ids, labels: (batch, seq_len); labels are the inputs shifted by one. Padding must be on the right.
        with_grad: keep the graph (training) or not (evaluation).

    Returns:
        ``log_probs`` (batch, seq_len) float32, and ``token_entropy`` (batch, seq_len), detached, when asked for.
    """
    with contextlib.nullcontext() if with_grad else torch.no_grad():
        logits = model(input_ids).logits
        log_probs = torch.stack([_label_log_probs(row, label) for row, label in zip(logits, labels, strict=True)])
        result = {"log_probs": log_probs}
    if return_token_entropy:
        with torch.no_grad():
            result["token_entropy"] = torch.stack([compute_entropy(row) for row in logits.detach()])
    return result


def head_log_probs(hidden: torch.Tensor, head: Any, labels: torch.Tensor, chunk: int = CHUNK) -> torch.Tensor:
    """Log-probabilities of labels from hidden states, without ever keeping a (rows × vocabulary) tensor.

    Each chunk of rows goes through the head, and again in the backward pass.

    Args:
        hidden: (rows, hidden size) of the positions that predict a response token.
        head: maps (rows, hidden size) to logits (rows, vocabulary).
        labels: (rows,).

    Returns:
        (rows,) float32.
    """

    def one(part: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return _label_log_probs(head(part), label)

    parts = zip(hidden.split(chunk), labels.split(chunk), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([one(part, label) for part, label in parts])
    return torch.cat([checkpoint(one, part, label, use_reentrant=False) for part, label in parts])


def _label_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[label] as logit − logsumexp, in float32: (rows, vocabulary), (rows,) → (rows,)."""
    return -torch.nn.functional.cross_entropy(_wide(logits), labels, reduction="none")


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
