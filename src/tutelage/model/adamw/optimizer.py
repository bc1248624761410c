"""AdamW as an optimizer of torch: its state, and which code updates it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from tutelage.machines import first_row, local_part
from tutelage.model.adamw import blocks, plain, rounding


class AdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019), computed in float32; bfloat16 weights are rounded stochastically.

    Moments have the precision of their weight. Bfloat16 ones are rounded stochastically too: rounded to the nearest number, a second
    moment stands still, since a step changes it by a share of 1 − β₂ = 0.001 and bfloat16 knows steps of 0.004. With `eight_bit`,
    moments are `blocks` of 8-bit numbers, and float32 where a weight has none (`blocks.width_of`).

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
                self.state[parameter] = fresh(parameter.detach(), self.eight_bit)

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
                part_of(parameter, self.state[parameter], index)
                for index, parameter in enumerate(group["params"])
                if parameter.grad is not None
            ]
            if not parts:
                continue
            counted = [self.state[parameter]["step"] for parameter in group["params"]]
            torch._foreach_add_([counted[part.index] for part in parts], 1.0)
            rates = rates_of(group, torch.stack(counted), salts)
            update([part for part in parts if part.weight.numel()], rates)  # a rank may hold nothing of a weight
        return loss


def update(parts: list[plain.Part], rates: plain.Rates) -> None:
    if not parts:
        return
    if parts[0].weight.is_cuda:
        from tutelage.model.adamw import kernel

        kernel.update(parts, rates)
    else:
        plain.update(parts, rates)


def fresh(weight: torch.Tensor, eight_bit: bool, host: bool = False) -> dict[str, torch.Tensor]:
    """The state of a weight before its first step. Steps are float32, as torch's own AdamW has them.

    Args:
        host: whether moments are in the host's memory.
    """
    state = {"step": torch.zeros((), device=local_part(weight).device)}
    width = blocks.width_of(weight.shape) if eight_bit else 0
    dtype = torch.uint8 if width else torch.float32 if eight_bit else weight.dtype
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = _zeros(weight, weight.shape, dtype, host)
        if width:
            blocks_of_rows = (weight.shape[0], math.prod(weight.shape[1:]) // width)
            state[f"{name}_scale"] = _zeros(weight, blocks_of_rows, torch.float32, host)
    return state


def _zeros(weight: torch.Tensor, shape: Sequence[int], dtype: torch.dtype, host: bool) -> torch.Tensor:
    """Zeros of a shape, whose rows are shared by ranks as those of a weight; in the host's memory, pinned for a weight on CUDA."""
    own = local_part(weight)
    local = (own.shape[0], *shape[1:]) if shape else ()
    device = torch.device("cpu") if host else own.device
    zeros = torch.zeros(local, dtype=dtype, device=device, pin_memory=host and own.is_cuda)
    if not isinstance(weight, DTensor):
        return zeros
    # not `from_local`, which moves what is on the host to the device of the mesh
    meta = TensorMeta(torch.Size(shape), torch.empty(shape, device="meta").stride(), dtype)
    return DTensor(zeros, DTensorSpec(weight.device_mesh, weight.placements, meta), requires_grad=False)


def moment_bytes(weight: torch.Tensor, eight_bit: bool) -> int:
    """Bytes of the state of a weight; of a sharded one, of this rank's part."""
    count, width = local_part(weight).numel(), blocks.width_of(weight.shape) if eight_bit else 0
    if width:
        return 4 + 2 * (count + 4 * count // width)
    return 4 + 2 * count * (4 if eight_bit else weight.element_size())


def part_of(parameter: torch.Tensor, state: dict[str, torch.Tensor], index: int) -> plain.Part:
    def flat(name: str) -> torch.Tensor:
        return local_part(state[name]).view(-1)

    assert parameter.grad is not None
    start = first_row(parameter) * math.prod(parameter.shape[1:])  # so ranks draw what one process draws
    weight, gradient = local_part(parameter.detach()).view(-1), local_part(parameter.grad).contiguous().view(-1)
    first, second = (flat(f"{name}_scale") if f"{name}_scale" in state else None for name in ("exp_avg", "exp_avg_sq"))
    return plain.Part(weight, gradient, flat("exp_avg"), flat("exp_avg_sq"), first, second, index, start)


def rates_of(group: dict[str, Any], steps: torch.Tensor, salts: torch.Tensor) -> plain.Rates:
    lr, (beta1, beta2) = group["lr"], group["betas"]
    # 1 − β^step, which a power would round to nothing in float32
    first, second = (-torch.expm1(steps * (math.log(beta) if beta else -math.inf)) for beta in (beta1, beta2))
    root = second.sqrt()
    return plain.Rates(
        1.0 - beta1, 1.0 - beta2, 1.0 - lr * group["weight_decay"], lr * root / first, group["eps"] * root,
        rounding.keys(salts, steps),
    )  # fmt: skip
