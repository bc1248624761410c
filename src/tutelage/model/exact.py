"""A policy that computes in float32, on the weights as an engine gets them: what its scores are without rounding."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch

from tutelage.machines import is_sharded
from tutelage.model.policy import Policy, layers_of


@contextlib.contextmanager
def in_float32(policy: Policy, sent: torch.dtype) -> Iterator[Policy]:
    """A policy of the same model that scores in float32, row by row; each weight is the float32 value of the one that was sent.

    Copies are made of one layer at a time, and of the head. Of a sharded model that computes in bfloat16, hidden states are still
    rounded between layers.

    Args:
        sent: the precision in which weights are sent. A weight under an adapter is rounded before the adapter is added, not after.
    """
    model, exact = policy.model, copy.copy(policy)
    exact.precision, exact.packs, exact.compiled = "fp32", False, False
    layers = layers_of(model)
    within = {id(module) for layer in layers for module in layer.modules()}
    parts = [(layer, list(layer.modules())) for layer in layers]
    parts += [(module, [module]) for module in model.modules() if id(module) not in within]
    adapters = {id(module) for name, module in model.named_modules() if "lora_" in name}
    copies = [_Copies([(each, torch.float32 if id(each) in adapters else sent) for each in modules]) for _, modules in parts]
    hooks = []
    try:
        for (unit, _), each in zip(parts, copies, strict=True):
            hooks.append(unit.register_forward_pre_hook(each.take))
            # before the hooks of sharding, which take the full weights away
            hooks.append(unit.register_forward_hook(each.give_back, prepend=True))
        if not is_sharded(model):
            exact._head = policy.head.weight.detach().to(sent).float()
        yield exact
    finally:
        for each in copies:
            each.give_back()
        for hook in hooks:
            hook.remove()


class _Copies:
    """The weights of modules that compute now, while float32 copies of what is sent of them stand in."""

    def __init__(self, modules: list[tuple[Any, torch.dtype]]) -> None:
        self.modules = modules
        self.kept: list[tuple[Any, str, torch.Tensor]] = []

    def take(self, *_: Any) -> None:
        for module, sent in self.modules:
            for name, weight in module._parameters.items():
                if weight is not None and weight.is_floating_point():
                    self.kept.append((module, name, weight))
                    module._parameters[name] = weight.detach().to(sent).float()

    def give_back(self, *_: Any) -> None:
        for module, name, weight in self.kept:
            module._parameters[name] = weight
        self.kept.clear()
