"""The attention function that transformers calls.

It is registered with transformers under `NAME`. A call that carries a layout is packed. Any other call (generation with its cache,
padded rows) goes to transformers' own SDPA function.
"""

from __future__ import annotations

from typing import Any

import torch

from tutelage.model.attention.layouts import Layout

NAME = "tutelage"


class UnsupportedAttention(ValueError):
    """The model's attention does more than a causal softmax over all earlier tokens, so it cannot be packed exactly."""


def register() -> None:
    """Make the attention known to transformers under `NAME`; generation with it makes its masks as SDPA does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: shapes as in `Layout.attend`.

    Returns:
        ((1, tokens, heads, size), None).

    Raises:
        UnsupportedAttention: the model asks for more than causal attention: a sliding window, soft-capping, sinks, dropout.
    """
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )  # fmt: skip
    asked = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if asked or dropout:
        raise UnsupportedAttention(" and ".join(asked) or "attention dropout")
    return layout.attend(query, key, value, scaling if scaling is not None else query.shape[-1] ** -0.5), None
