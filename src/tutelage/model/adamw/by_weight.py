"""AdamW weight by weight: each as soon as its gradient is complete; its moments in the device's memory or in the host's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adamw import adamw

from tutelage.machines import local_part
from tutelage.model.adamw import optimizer, plain
from tutelage.model.adamw.ferry import Ferry
from tutelage.model.adamw.optimizer import AdamW, fresh, moment_bytes, part_of, rates_of

PIECE = 2**24
"""Elements of a weight whose moments visit the device together; the border of a block."""
OF_ALL = "all weights"
"""The key of the state that belongs to no single weight."""


class ByWeight(AdamW):
    """`AdamW`, or torch's fused one where all is float32, that updates one weight at a time: the same bits as all at once.

    Args:
        host: whether moments wait in the host's memory; pieces of them visit the device (`Ferry`).
    """

    def __init__(
        self, groups: Iterable[Any], lr: float, betas: tuple[float, float], *, seed: int, eight_bit: bool, host: bool
    ) -> None:
        super().__init__(groups, lr, betas, seed=seed, eight_bit=eight_bit)
        self.host = host
        self._found = {
            parameter: (group, salts[index : index + 1])
            for group, salts in zip(self.param_groups, self._salts, strict=True)
            for index, parameter in enumerate(group["params"])
        }
        self._ferry = Ferry(local_part(next(iter(self._found))).device)

    @torch.no_grad()
    def make_state(self) -> None:
        """As `AdamW.make_state`; with the norm of the gradient before, which is not a number before the first step."""
        for parameter in self._found:
            if parameter not in self.state:
                self.state[parameter] = fresh(parameter.detach(), self.eight_bit, self.host)
        self.of_all.setdefault("norm", torch.full((), float("nan"), dtype=torch.float64))

    @property
    def of_all(self) -> dict[str, torch.Tensor]:
        """The state that belongs to no single weight."""
        state: Any = self.state
        found: dict[str, torch.Tensor] = state[OF_ALL]
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        assert closure is None, "a closure would compute gradients between updates"
        self.make_state()
        for parameter in self._found:
            if parameter.grad is not None:
                self.update(parameter)
        self.settle()
        return None

    @torch.no_grad()
    def update(self, parameter: torch.Tensor) -> None:
        """Update one weight by its gradient. On CUDA the update may still be under way afterwards, until `settle`."""
        part = part_of(parameter, self.state[parameter], 0)
        if not self.host:
            self._rule(parameter)(part)
            return
        with self._ferry.beside(part.gradient):
            rule = self._rule(parameter)
            for begin in range(0, part.weight.numel(), PIECE):
                self._ferry.carry(part.chunk(begin, min(begin + PIECE, part.weight.numel())), rule)

    def settle(self) -> None:
        """Wait until all weights and moments are updated."""
        self._ferry.settle()

    def _rule(self, parameter: torch.Tensor) -> Callable[[plain.Part], None]:
        """What updates a piece of a weight in the step that begins now, which is counted."""
        steps, (group, salts) = self.state[parameter]["step"], self._found[parameter]
        counted = steps.clone()
        steps.add_(1.0)
        if self.eight_bit or parameter.dtype != torch.float32:
            rates = rates_of(group, steps[None], salts)
            return lambda piece: optimizer.update([piece] if piece.weight.numel() else [], rates)
        beta1, beta2 = group["betas"]

        def by_torch(piece: plain.Part) -> None:
            if piece.weight.numel():
                adamw(
                    [piece.weight], [piece.gradient], [piece.first], [piece.second], [], [counted.clone()], fused=True,
                    amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
                    maximize=False,
                )  # fmt: skip

        return by_torch


def piece_bytes(weight: torch.Tensor, eight_bit: bool) -> int:
    """Bytes of the moments of a weight's largest piece."""
    count = local_part(weight).numel()
    return -(-moment_bytes(weight, eight_bit) * min(count, PIECE) // max(1, count))
