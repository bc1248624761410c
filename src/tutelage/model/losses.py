"""What a step minimises: a sum over targets, divided once by the denominator of the step (`train.loss`).

The losses of `LOSSES` take the fused road of `scoring.score`. A plug-in takes the plain one, where log-probabilities can be
differentiated by anything, for one more pass over the logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tutelage.config import is_plug_in, load_plug_in
from tutelage.errors import InputError
from tutelage.model.scoring import Factor

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A function of (log_probs, weights, entropies), all (targets,) float32, to a scalar: the sum over the targets.

`log_probs` carries the graph. `weights` says what each target counts: the sum of the weights of the rows that share it. `entropies`
(nats) are detached. The function must be a sum over targets, as ``-(weights * log_probs).sum()`` is: a step is split into batches,
and the sums of its batches are added before they are divided.
"""


@dataclass(frozen=True)
class Fused:
    """The loss −Σ weight · factor(log-probability) · log-probability, whose factor has no gradient.

    Attributes:
        factor: None: one.
    """

    factor: Factor | None = None


LOSSES: dict[str, Fused] = {
    "nll": Fused(),  # the negative log-likelihood
    "dft": Fused(torch.exp),  # Dynamic Fine-Tuning (Wu et al. 2025): the probability itself is the factor
}
"""The fused losses by name."""


@functools.cache  # asked in every step, imported and tried once
def loss_named(name: str) -> Fused | Loss:
    """The loss of `train.loss`.

    Raises:
        InputError: there is no such loss, or it is no sum over targets.
    """
    if name in LOSSES:
        return LOSSES[name]
    if not is_plug_in(name):
        raise InputError(f'train.loss = "{name}": write {", ".join(LOSSES)}, or "module:function" for a loss of your own')
    loss: Loss = load_plug_in("train.loss", name)
    _require_a_sum(name, loss)
    return loss


def _require_a_sum(name: str, loss: Loss) -> None:
    """Raises InputError if a loss of two halves of some targets does not add up to the loss of all of them."""
    random = torch.Generator().manual_seed(0)
    log_probs = -4 * torch.rand(12, dtype=torch.float64, generator=random)
    weights, entropies = torch.tensor([1.0, 2.0, 1.0] * 4, dtype=torch.float64), -log_probs / 2
    try:
        full, twice, *halves = (
            loss(log_probs[part].clone().requires_grad_(), times * weights[part], entropies[part])
            for part, times in ((slice(None), 1), (slice(None), 2), (slice(0, 5), 1), (slice(5, None), 1))
        )
    except Exception as error:  # whatever the user's own function raises
        raise InputError(f'train.loss = "{name}": {type(error).__name__}: {error}; it is called as {_CALL}') from None
    if not all(isinstance(value, torch.Tensor) and value.shape == () for value in (full, twice, *halves)):
        raise InputError(f'train.loss = "{name}": it does not return a scalar tensor; it is called as {_CALL}')
    if not full.requires_grad:
        raise InputError(f'train.loss = "{name}": what it returns does not depend on log_probs, so nothing could be learnt')
    if not full.isfinite():
        raise InputError(f'train.loss = "{name}": it is {full.item()} for ordinary log-probabilities; it is called as {_CALL}')
    if not torch.allclose(twice, 2 * full, rtol=1e-6, atol=1e-9):
        raise InputError(
            f'train.loss = "{name}": twice the weights do not give twice the loss ({full.item():.6g}, then {twice.item():.6g}), so a'
            " prediction that rows share would count once; multiply what each target adds by its weight"
        )
    together = halves[0] + halves[1]
    if not torch.allclose(full, together, rtol=1e-6, atol=1e-9):
        raise InputError(
            f'train.loss = "{name}": it is no sum over targets (all of them give {full.item():.6g}, two halves together'
            f" {together.item():.6g}), so a step would depend on how its rows are split; return a sum, as"
            " -(weights * log_probs).sum(): it is divided by the denominator of the step afterwards"
        )


_CALL = "loss(log_probs, weights, entropies), each of shape (targets,), and returns the sum over the targets"
