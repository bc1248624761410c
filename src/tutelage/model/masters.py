"""float32 masters and the bfloat16 copies that are computed with: how the gradients of copies reach their masters."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch


def copies_of(masters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """bfloat16 copies of float32 weights, to compute with; those of weights that learn pass their gradients on.

    A copy is a leaf of the graph. As soon as its gradient of a batch is known, the gradient is added to that of its master in
    float32, in one pass, and freed.
    """
    copies = [torch.empty_like(master, dtype=torch.bfloat16, requires_grad=False) for master in masters]
    if copies:
        with torch.no_grad():
            torch._foreach_copy_(copies, list(masters))
    for master, copy in zip(masters, copies, strict=True):
        if master.requires_grad and torch.is_grad_enabled():
            copy.requires_grad_().register_post_accumulate_grad_hook(functools.partial(_pass_on, master))
    return copies


def _pass_on(master: torch.Tensor, copy: torch.Tensor) -> None:
    """Add the gradient of a copy to that of its master, and free it; then call the master's hooks, as for a leaf of the graph."""
    assert copy.grad is not None
    if master.grad is None:
        master.grad = copy.grad.to(master.dtype)
    else:
        master.grad.add_(copy.grad)
    copy.grad = None
    for hook in (master._post_accumulate_grad_hooks or {}).values():
        hook(master)
