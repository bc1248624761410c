"""Short trainings by our AdamW, whatever computes its update; run as a process, what the Triton kernel makes of them."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

import torch

from tutelage.model.adamw import optimizer as of_adamw

SIZES = [(32, 256), (61, 96), (4097,), (10, 10), (1,), (7 * 256 + 3,)]
"""The first two have blocks of 8-bit moments, of 256 and of 32 numbers."""
CASES = {
    "float32": (torch.float32, False), "bfloat16": (torch.bfloat16, False),
    "float32, 8-bit moments": (torch.float32, True), "bfloat16, 8-bit moments": (torch.bfloat16, True),
}  # fmt: skip
RATES = [1e-3, 3e-4, 2e-3, 1e-4]
"""Learning rates of four steps."""


@contextmanager
def updated_by(update):
    original, of_adamw.update = of_adamw.update, lambda parts, rates: update(parts, rates)
    try:
        yield
    finally:
        of_adamw.update = original


def begun(dtype: torch.dtype, eight_bit: bool, device: str = "cpu") -> of_adamw.AdamW:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(size, generator=generator).to(device, dtype)) for size in SIZES]
    groups = [{"params": weights[:2], "weight_decay": 0.1}, {"params": weights[2:]}]
    return of_adamw.AdamW(groups, 1e-3, (0.9, 0.99), seed=3, eight_bit=eight_bit)


def gradients(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(size, generator=generator) * 0.01 for size in SIZES]


def weights_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def train(optimizer: torch.optim.Optimizer, steps: range, rates: list[float] | None = None) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rates[step] if rates else 1e-3
        for weight, gradient in zip(weights_of(optimizer), gradients(step)):
            weight.grad = gradient.to(weight)
        optimizer.step()


def reference(optimizer: torch.optim.Optimizer, rates: list[float]) -> list[torch.Tensor]:
    """Loshchilov & Hutter's algorithm 2 in float64, from the weights as they are."""
    found = [weight.detach().double() for weight in weights_of(optimizer)]
    decays = [group["weight_decay"] for group in optimizer.param_groups for _ in group["params"]]
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in found]
    for step, lr in enumerate(rates):
        for index, gradient in enumerate(gradients(step)):
            gradient = gradient.to(weights_of(optimizer)[index].dtype).double()
            first, second = moments[index]
            moments[index] = first, second = beta1 * first + (1 - beta1) * gradient, beta2 * second + (1 - beta2) * gradient**2
            size, root = lr / (1 - beta1 ** (step + 1)), (second / (1 - beta2 ** (step + 1))).sqrt() + 1e-8
            found[index] = found[index] * (1 - lr * decays[index]) - size * first / root
    return found


def tensors(optimizer: torch.optim.Optimizer) -> list[dict[str, torch.Tensor]]:
    """Each weight, and its state by name."""
    return [
        {name: value.detach().cpu() for name, value in {"weight": weight, **optimizer.state[weight]}.items()}
        for weight in weights_of(optimizer)
    ]


def trained(name: str, device: str = "cpu") -> list[dict[str, torch.Tensor]]:
    optimizer = begun(*CASES[name], device)
    train(optimizer, range(4))
    return tensors(optimizer)


if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"
    from tutelage.model.adamw import kernel

    with updated_by(kernel.update):
        torch.save({name: trained(name) for name in CASES}, sys.argv[1])
