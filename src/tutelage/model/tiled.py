"""Tiles: MLPs and norms meet some tokens at a time, so that what they compute within exists for those alone.

Both map each token by itself. So a pass over tiles is the same function, and its gradient the same sum: of the weights' gradients, one
for each tile, added in float32 and rounded once. The backward pass keeps a module's input alone and computes a tile again when its
gradient is wanted (as ALST does, Bekman et al. 2025).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tutelage.errors import InputError

TILES = (8192, 4096, 2048, 1024)
"""Tokens of a tile that "auto" chooses from: below, products of matrices would be too small to be fast."""
Call = Callable[[torch.Tensor], torch.Tensor]


def tile(model: Any, layers: list[Any], tokens: int) -> None:
    """Let the MLPs and norms of a model compute `tokens` tokens at a time; 0: all at once.

    A graph of `torch.compile` ends before a tiled module and goes on behind it.

    Raises:
        InputError: the model has no module that maps each token by itself.
    """
    found = list(dict.fromkeys(tileable(model, layers)))
    if tokens and not found:
        raise InputError(
            f"model.tile: {type(model).__name__} has no MLP and no norm that computes each token by itself; set it to 0"
        )
    for module in found:
        own = vars(module).get("forward")
        if isinstance(own, _Tiled):
            own = own.own
            if isinstance(getattr(own, "__self__", None), torch.nn.Module):  # the method of its class
                del module.forward
            else:
                module.forward = own
        if tokens:
            module.forward = _Tiled(module, module.forward, tokens)


def tileable(model: Any, layers: list[Any]) -> Iterator[torch.nn.Module]:
    """The norms of a model, and the MLPs of its decoder layers; those that draw random numbers or route tokens stay as they are."""
    for module in model.modules():
        own = list(module._parameters.values())
        if "Norm" in type(module).__name__ and own and all(weight is None or weight.ndim == 1 for weight in own):
            yield module
    for layer in layers:
        yield from _mlps(layer)


def mlps_that_tile(layers: list[Any]) -> bool:
    """Whether each layer has an MLP that maps each token by itself."""
    return bool(layers) and all(next(_mlps(layer), None) is not None for layer in layers)


def _mlps(layer: Any) -> Iterator[torch.nn.Module]:
    for name, module in layer.named_children():
        if name in ("mlp", "feed_forward") and not any(map(_mixes, module.modules())):
            yield module


def _mixes(module: torch.nn.Module) -> bool:
    """Whether a module does more than map each token by itself: dropout, or experts."""
    return (isinstance(module, torch.nn.Dropout) and module.p > 0) or hasattr(module, "experts")


class _Tiled:
    """A module's forward pass by tiles. `own` is its forward pass of all tokens at once."""

    def __init__(self, module: torch.nn.Module, own: Call, tokens: int) -> None:
        self.module, self.own, self.tokens = module, own, tokens

    @torch.compiler.disable
    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, …) → the same shape."""
        rows = hidden.flatten(0, 1)
        if len(rows) <= self.tokens:
            return self.own(hidden)
        weights = self.weights()
        if not torch.is_grad_enabled() or not (hidden.requires_grad or weights):
            return self.compute(rows).view_as(hidden)
        # what is needed later is kept before anything is computed: activation checkpointing, which computes a layer again, then
        # stops before it would compute the tiles once more than needed
        anchor = _Anchor.apply(rows, self, *weights)
        return _Filled.apply(anchor, functools.partial(self.compute, rows.detach())).view_as(hidden)

    def weights(self) -> list[torch.Tensor]:
        """Those of the module that learn: under bf16-mixed the copies, of a sharded model the full ones."""
        return [weight for weight in self.module.parameters() if weight.requires_grad]

    def compute(self, rows: torch.Tensor) -> torch.Tensor:
        """The output (tokens, …) of all tiles, without a graph."""
        made: torch.Tensor | None = None
        with torch.no_grad():
            for start in range(0, len(rows), self.tokens):
                part = self.own(rows[start : start + self.tokens].unsqueeze(0)).squeeze(0)
                made = part.new_empty(len(rows), *part.shape[1:]) if made is None else made
                made[start : start + self.tokens] = part
                del part  # else it would live beside the next tile's
        assert made is not None
        return made

    def gradients(self, rows: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Those of the rows and of the weights, tile by tile."""
        weights, by_rows = self.weights(), torch.empty_like(rows)
        sums: list[torch.Tensor | None] = [None] * len(weights)
        for start in range(0, len(rows), self.tokens):
            part = slice(start, start + self.tokens)
            with torch.enable_grad():
                entering = rows[part].detach().requires_grad_()
                leaving = self.own(entering.unsqueeze(0)).squeeze(0)
            found = torch.autograd.grad(leaving, [entering, *weights], gradient[part].to(leaving.dtype), allow_unused=True)
            del leaving
            by_rows[part] = found[0]
            sums = [_plus(total, more) for total, more in zip(sums, found[1:], strict=True)]
            del found
        return by_rows, [total if total is None else total.to(weight.dtype) for total, weight in zip(sums, weights, strict=True)]


def _plus(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    """Their sum in float32 at least, in place."""
    if more is None:
        return total
    return more.to(torch.promote_types(more.dtype, torch.float32)) if total is None else total.add_(more)


class _Anchor(torch.autograd.Function):
    """Holds a module's input for the backward pass; a tensor without memory stands for the module's output."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, tiled: _Tiled, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.tiled = tiled
        return rows.new_empty(()).expand(rows.shape)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        by_rows, by_weights = ctx.tiled.gradients(rows, gradient)
        return by_rows, None, *by_weights


class _Filled(torch.autograd.Function):
    """The output that an anchor stands for."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        return compute()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None
