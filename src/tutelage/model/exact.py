"""A policy that computes in float32, on the weights as an engine gets them: what its scores are without rounding."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch

from tutelage.machines import is_sharded
from tutelage.model import lora
from tutelage.model.policy import Policy, layers_of
from tutelage.model.quantized import dense_weight

MERGED = "in float32"
"""A layer of PEFT that has a merged adapter, of whatever name, computes with the weight under it alone."""


@contextlib.contextmanager
def in_float32(policy: Policy, sent: torch.dtype) -> Iterator[Policy]:
    """A policy of the same model that scores in float32, row by row; each weight is the float32 value of the one that was sent.

    Copies are made of one layer at a time, and of the head. Of a sharded model that computes in bfloat16, hidden states are still
    rounded between layers.

    Args:
        sent: the precision in which weights are sent. An adapter is merged into the weight under it, which is then rounded.
    """
    model, exact = policy.model, copy.copy(policy)
    exact.precision, exact.packs, exact.compiled = "fp32", False, False
    layers = layers_of(model)
    within = {id(module) for layer in layers for module in layer.modules()}
    parts = [(layer, list(layer.modules())) for layer in layers]
    parts += [(module, [module]) for module in model.modules() if id(module) not in within]
    copies = [_Copies(modules, sent) for _, modules in parts]
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

    def __init__(self, modules: list[Any], sent: torch.dtype) -> None:
        self.adapted = [module for module in modules if hasattr(module, "base_layer")]
        self.modules, self.sent = modules, sent
        self.kept: list[tuple[Any, str, torch.Tensor]] = []

    def take(self, *_: Any) -> None:
        merged = {id(module.base_layer): lora.merged_weight(module) for module in self.adapted}
        for module in self.adapted:
            module.merged_adapters.append(MERGED)
        for module in self.modules:
            for name, weight in module._parameters.items():
                if weight is None:
                    continue
                value = weight
                if name == "weight":
                    value = merged[id(module)] if id(module) in merged else dense_weight(module)
                if value.is_floating_point():
                    self.kept.append((module, name, weight))
                    module._parameters[name] = value.detach().to(self.sent).float()

    def give_back(self, *_: Any) -> None:
        for module in self.adapted:
            module.merged_adapters.clear()
        for module, name, weight in self.kept:
            module._parameters[name] = weight
        self.kept.clear()
