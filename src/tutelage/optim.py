"""The optimizer and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch

from tutelage.config import TrainConfig


def make_optimizer(model: Any, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused; weight decay on matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True)


def lr_at(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`: linear warm-up, then cosine, linear or constant."""
    warmup = round(config.warmup_ratio * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, total - warmup)
    return config.lr * (0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress)
