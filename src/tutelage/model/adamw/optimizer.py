"""AdamW as an optimizer of torch: its state, and which code updates it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard

from tutelage.machines import local_part
from tutelage.model.adamw import blocks, plain, rounding


class AdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019), computed in float32; bfloat16 weights are rounded stochastically.

    Moments have the precision of their weight. Bfloat16 ones are rounded stochastically too: rounded to the nearest number, a second
    moment stands still, since a step changes it by a share of 1 − β₂ = 0.001 and bfloat16 knows steps of 0.004. With `eight_bit`,
    moments are `blocks` of 8-bit numbers, and float32 in weights of fewer than `blocks.SMALL` elements.

    A step asks the device for nothing, so the host does not wait: steps are counted on the device, and what depends on them is
    computed there. On CUDA one Triton kernel does all; it is compiled once for each kind of weight and moment.

    Args:
        groups: parameter groups; each may have its own `lr`, `betas`, `eps` and `weight_decay`.
        seed: of the random bits, which are a function of (seed, step, index of the parameter, element).
    """

    def __init__(
        self, groups: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, *, seed: int, eight_bit: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.eight_bit = eight_bit
        self._salts: list[torch.Tensor] = []
        count = 0
        for group in self.param_groups:
            salts = [rounding.salt(seed, count + index) for index in range(len(group["params"]))]
            self._salts.append(torch.tensor(salts, dtype=torch.int32).to(local_part(group["params"][0]).device))
            count += len(salts)

    @torch.no_grad()
    def make_state(self) -> None:
        """Moments of zero and no step counted, for each parameter that has no state yet."""
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter not in self.state:
                self.state[parameter] = _fresh(parameter.detach(), self.eight_bit)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.make_state()
        for group, salts in zip(self.param_groups, self._salts, strict=True):
            parts = [
                _part(parameter, self.state[parameter], index)
                for index, parameter in enumerate(group["params"])
                if parameter.grad is not None
            ]
            if not parts:
                continue
            counted = [self.state[parameter]["step"] for parameter in group["params"]]
            torch._foreach_add_([counted[part.index] for part in parts], 1.0)
            rates = _rates(group, torch.stack(counted), salts)
            _update([part for part in parts if part.weight.numel()], rates)  # a rank may hold nothing of a weight
        return loss


def _update(parts: list[plain.Part], rates: plain.Rates) -> None:
    if not parts:
        return
    if parts[0].weight.is_cuda:
        from tutelage.model.adamw import kernel

        kernel.update(parts, rates)
    else:
        plain.update(parts, rates)


def _fresh(weight: torch.Tensor, eight_bit: bool) -> dict[str, torch.Tensor]:
    """The state of a weight before its first step. Steps are float32, as torch's own AdamW has them."""
    device = local_part(weight).device
    state = {"step": torch.zeros((), device=device)}
    coded = eight_bit and weight.numel() >= blocks.SMALL
    dtype = torch.uint8 if coded else torch.float32 if eight_bit else weight.dtype
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.zeros_like(weight, dtype=dtype)
        if coded:
            state[f"{name}_scale"] = torch.zeros(blocks.blocks_in(weight.numel()), device=device)
    return state


def moment_bytes(count: int, element_size: int, eight_bit: bool) -> int:
    """Bytes of the state of a weight of `count` elements of so many bytes."""
    if not eight_bit:
        return 4 + 2 * count * element_size
    return 4 + 2 * (count + 4 * blocks.blocks_in(count) if count >= blocks.SMALL else 4 * count)


def _part(parameter: torch.Tensor, state: dict[str, torch.Tensor], index: int) -> plain.Part:
    def flat(name: str) -> torch.Tensor:
        return local_part(state[name]).view(-1)

    assert parameter.grad is not None
    weight, gradient = local_part(parameter.detach()).view(-1), local_part(parameter.grad).contiguous().view(-1)
    scales = (state.get("exp_avg_scale"), state.get("exp_avg_sq_scale"))
    return plain.Part(weight, gradient, flat("exp_avg"), flat("exp_avg_sq"), *scales, index, _start(parameter))


def _start(parameter: torch.Tensor) -> int:
    """Index, in the full weight, of the first element that this rank holds: so ranks draw what one process draws."""
    if not isinstance(parameter, DTensor):
        return 0
    start, rows = 0, parameter.shape[0] if parameter.ndim else 1
    for dimension, placement in enumerate(parameter.placements):
        if isinstance(placement, Replicate):
            continue
        if not (isinstance(placement, Shard) and placement.dim == 0) or start:
            raise NotImplementedError(f"weights that are split as {parameter.placements} cannot be updated")
        each = -(-rows // parameter.device_mesh.size(dimension))  # as torch.chunk splits
        start = min(rows, each * parameter.device_mesh.get_local_rank(dimension))
    return start * math.prod(parameter.shape[1:])


def _rates(group: dict[str, Any], steps: torch.Tensor, salts: torch.Tensor) -> plain.Rates:
    lr, (beta1, beta2) = group["lr"], group["betas"]
    # 1 − β^step, which a power would round to nothing in float32
    first, second = (-torch.expm1(steps * (math.log(beta) if beta else -math.inf)) for beta in (beta1, beta2))
    root = second.sqrt()
    return plain.Rates(
        1.0 - beta1, 1.0 - beta2, 1.0 - lr * group["weight_decay"], lr * root / first, group["eps"] * root,
        rounding.keys(salts, steps),
    )  # fmt: skip
