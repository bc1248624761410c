"""How many weights an optimizer step really changed."""

from __future__ import annotations

from typing import Any

import torch

from tutelage.machines import local_part

SAMPLED = 4096
"""Elements of each weight that are watched for change."""


class ChangeMeter:
    """The share of weights that an optimizer step changes, by `SAMPLED` elements of each weight; near zero, training stands still.

    Of a sharded model, it measures this rank's part.
    """

    def __init__(self, model: Any) -> None:
        weights = [local_part(parameter.detach()) for parameter in model.parameters() if parameter.requires_grad]
        self.weights = [weight for weight in weights if weight.numel()]
        self.before = self._sample()

    def _sample(self) -> list[torch.Tensor]:
        return [weight.flatten()[:: max(1, weight.numel() // SAMPLED)].clone() for weight in self.weights]

    def changed(self) -> tuple[float, float]:
        """(how many weights changed since the meter was made, of how many)."""
        if not self.weights:
            return 0.0, 0.0
        shares = [(now != then).float().mean() for now, then in zip(self._sample(), self.before, strict=True)]
        sizes = [float(weight.numel()) for weight in self.weights]
        return float(torch.stack(shares).cpu().double() @ torch.tensor(sizes, dtype=torch.float64)), sum(sizes)
