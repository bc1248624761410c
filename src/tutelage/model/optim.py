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


def needs_torchao(config: Config) -> bool:
    return config.model.precision == "bf16-sr" or config.train.optimizer == "adamw-8bit"


def require(config: Config, ranks: int = 1) -> None:
    """Raises InputError where the configured optimizer is not installed, or cannot work on weights that `ranks` share."""
    if ranks > 1 and config.train.optimizer == "adamw-8bit":
        raise InputError(
            'train.optimizer = "adamw-8bit": torchao\'s 8-bit moments do not work on sharded weights yet; use "adamw", of which'
            f" each of the {ranks} ranks holds a part only"
        )
    if needs_torchao(config) and importlib.util.find_spec("torchao") is None:
        raise InputError(
            f"model.precision = {config.model.precision} with train.optimizer = {config.train.optimizer} needs torchao,"
            " which is not installed: pip install 'tutelage[gpu]'"
        )


def make_optimizer(model: Any, config: Config) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), weight decay on matrices only: torch's fused one on float32 weights, else torchao's.

    bfloat16 weights are rounded stochastically, so that updates below their precision survive on average; the 8-bit variant
    holds its moments in blocks of 8-bit numbers (Dettmers et al. 2022).
    """
    train = config.train
    matrices = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if not needs_torchao(config):
        return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
    from torchao.optim import AdamW8bit, _AdamW

    kind: Any = AdamW8bit if train.optimizer == "adamw-8bit" else _AdamW
    optimizer: torch.optim.Optimizer = kind(
        groups, lr=train.lr, betas=train.betas, bf16_stochastic_round=config.model.precision == "bf16-sr"
    )
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        set_group_lr(group, lr)


def set_group_lr(group: dict[str, Any], lr: float) -> None:
    """Set the learning rate of a group; torchao holds its own as a tensor, which compiled code reads."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
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
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    set_lr(optimizer, 0.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        set_group_lr(group, lr)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"].zero_()
        elif "step" in state:
            state["step"] = 0


def state_bytes(optimizer: torch.optim.Optimizer) -> float:
    """Bytes of the state that an optimizer has by now; of sharded weights, of this rank's part."""
    tensors = [local_part(value) for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def lr_at(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`: linear warm-up, then cosine, linear or constant."""
    warmup = round(config.warmup_ratio * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, total - warmup)
    return config.lr * (0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress)
