"""The optimizers and the learning-rate schedule."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterator
from typing import Any

import torch

from tutelage.config import Config, TrainConfig
from tutelage.errors import InputError
from tutelage.machines import local_part
from tutelage.model.adamw import ROOMS, AdamW, ByWeight, moment_bytes, piece_bytes


def of_torch(config: Config) -> bool:
    """Whether torch's own fused AdamW does: weights and moments are float32."""
    return config.model.precision != "bf16-sr" and config.train.optimizer == "adamw"


def require(config: Config) -> None:
    """Raises InputError where the configured optimizer lacks its compiler."""
    on_cuda = config.model.device != "cpu" and torch.cuda.is_available()
    if on_cuda and not of_torch(config) and importlib.util.find_spec("triton") is None:
        raise InputError(
            f"model.precision = {config.model.precision} with train.optimizer = {config.train.optimizer} needs triton on CUDA,"
            " which is not installed: pip install triton"
        )


def make_optimizer(model: Any, config: Config) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), weight decay on matrices only: torch's fused one where all is float32, else `adamw.AdamW`.

    Weight by weight (`ByWeight`) where weights change in the backward pass, or moments are in the host's memory.
    """
    train = config.train
    matrices = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    eight_bit = train.optimizer == "adamw-8bit"
    if train.update == "in_backward" or train.optimizer_offload:
        return ByWeight(groups, train.lr, train.betas, seed=train.seed, eight_bit=eight_bit, host=train.optimizer_offload)
    if of_torch(config):
        return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
    return AdamW(groups, train.lr, train.betas, seed=train.seed, eight_bit=eight_bit)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@contextlib.contextmanager
def offloaded(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within it, the optimizer's state waits in the host's memory."""
    places = [
        (state, name, value.device)
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.device.type != "cpu"
    ]
    for state, name, _ in places:
        state[name] = state[name].to("cpu")
    try:
        yield
    finally:
        for state, name, device in places:
            state[name] = state[name].to(device)


def fill_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's state as it is before the first step: moments of zero, no step counted. No weight changes.

    Optimizers make their state in the first step, where memory that runs out leaves some moments made and others not. Made here,
    it runs out before anything is trained. A checkpoint is loaded into this state, too.
    """
    if isinstance(optimizer, AdamW):
        optimizer.make_state()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    lrs = [group["lr"] for group in optimizer.param_groups]
    set_lr(optimizer, 0.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"].zero_()
        elif "step" in state:
            state["step"] = 0


def bytes_of_state(weight: torch.Tensor, config: Config) -> int:
    """Bytes of the state that `make_optimizer`'s optimizer will hold for a weight; of a sharded one, for this rank's part."""
    return moment_bytes(weight, config.train.optimizer == "adamw-8bit")


def bytes_of_pieces(model: Any, config: Config) -> int:
    """Bytes of a device that moments in the host's memory need there: of the largest pieces that are under way at a time."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return ROOMS * max(piece_bytes(parameter, config.train.optimizer == "adamw-8bit") for parameter in trained)


def state_bytes(optimizer: torch.optim.Optimizer) -> float:
    """Bytes of the state that an optimizer has by now beside its weights, on their device; of sharded weights, of this rank's part."""
    tensors = [
        local_part(value)
        for weight, state in optimizer.state.items()
        for value in state.values()
        if isinstance(weight, torch.Tensor) and isinstance(value, torch.Tensor)
    ]
    device = next((local_part(weight).device for group in optimizer.param_groups for weight in group["params"]), None)
    return float(sum(tensor.nbytes for tensor in tensors if tensor.device == device))


def lr_at(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`: linear warm-up, then cosine, linear or constant."""
    warmup = round(config.warmup_ratio * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, total - warmup)
    return config.lr * (0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress)
