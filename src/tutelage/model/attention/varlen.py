"""Variable-length attention by the packages that have it, as one function of one shape.

Each package is asked for its signature when it is chosen: an argument that it lacks is an error, before anything is computed.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from tutelage.errors import InputError

Bounds = tuple[torch.Tensor, torch.Tensor, int, int]
"""Where the queries and the keys of each run begin, and where the last ones end, (runs + 1,) int32 each; the most tokens of a run, and
of a path, or more."""
Varlen = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Bounds, float], torch.Tensor]
"""Causal attention of runs to their paths; differentiable, and traced by `torch.compile` without a graph break.

query (tokens, heads, size), key and value (keys, key heads, size), bounds, scaling → (tokens, heads, size). The last query of a run sees
all keys of its path, and each query one key more than the query before it (the causal mask is aligned to the lower right).
"""

_REMEDY = "or train on padded rows: train.pack = false"


def has_flash3() -> bool:
    return find_spec("flash_attn_interface") is not None


def has_flash2() -> bool:
    # flash-attn's compiled part; a folder `flash_attn` alone may be another package's
    return find_spec("flash_attn_2_cuda") is not None


def flash3() -> Varlen:
    """FlashAttention 3, by its own function.

    torch's `activate_flash_attention_impl("FA3")` is not used: it calls the package's C++ function by position, for one version of
    the package, and changes every SDPA call of the process.
    """
    called = _from_package("flash_attn_interface", "flash_attn_varlen_func", "FlashAttention 3")
    if not hasattr(torch.ops.flash_attn_3, "_flash_attn_forward"):
        raise InputError(
            "FlashAttention 3 (flash_attn_interface): its forward pass is no torch operation, so layers cannot be compiled around"
            f" it; install a newer flash_attn_3, uninstall it, {_REMEDY}"
        )
    return _with_flash(called)


def flash2() -> Varlen:
    """FlashAttention 2, by its own function."""
    return _with_flash(_from_package("flash_attn", "flash_attn_varlen_func", "FlashAttention 2"))


def torchs_own() -> Varlen:
    """torch's `varlen_attn`, which calls the FlashAttention that torch was built with."""
    from torch.nn.attention.varlen import varlen_attn

    parameters = _checked(varlen_attn, f"torch {torch.__version__}", {"scale", "window_size"})
    # where the argument exists, grouped heads are refused without it; before it existed, they were taken as they are
    is_told_of_groups = "enable_gqa" in parameters

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds, scaling: float) -> torch.Tensor:
        options: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]} if is_told_of_groups else {}
        # a window of (-1, 0) is causal attention
        attended: Any = varlen_attn(query, key, value, *bounds, scale=scaling, window_size=(-1, 0), **options)
        return attended

    return attend


def _with_flash(called: Callable[..., Any]) -> Varlen:
    """A FlashAttention package's variable-length function as a `Varlen`."""

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bounds: Bounds, scaling: float) -> torch.Tensor:
        deterministic = torch.are_deterministic_algorithms_enabled()
        return called(query, key, value, *bounds, softmax_scale=scaling, causal=True, deterministic=deterministic)

    return attend


def _from_package(module: str, name: str, label: str) -> Callable[..., Any]:
    """A FlashAttention package's variable-length function, its signature checked."""
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, OSError) as error:
        raise InputError(
            f"{label} is installed, but {module}.{name} cannot be imported ({error}): install a build of it for torch"
            f" {torch.__version__}, uninstall it, {_REMEDY}"
        ) from None
    _checked(function, f"{label} ({module})", {"softmax_scale", "causal", "deterministic"})
    return function


def _checked(function: Callable[..., Any], label: str, needed: set[str]) -> set[str]:
    """The names of the function's parameters.

    Raises:
        InputError: one that is needed is not among them.
    """
    parameters = set(inspect.signature(function).parameters)
    if lacking := sorted(needed - parameters):
        raise InputError(
            f"{label}: {function.__name__} takes no argument {' and no '.join(lacking)}, so it cannot attend within packs:"
            f" install another version of it, {_REMEDY}"
        )
    return parameters
