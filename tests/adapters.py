"""What tests of adapters share: rows, adapters that are not nothing, and packs beside padded rows."""

from __future__ import annotations

import torch

from tutelage.data.tokens import TokenizedExample
from tutelage.model.batch import pack, pad

ROWS = [TokenizedExample("a", (5, 6, 7), (8, 9)), TokenizedExample("b", (5, 6), (10, 11, 12))]


def trained(policy, std: float = 0.1):
    """The policy with adapters that change what it computes."""
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    return policy


def gradients_by_packs(policy, precision: str) -> dict[str, torch.Tensor]:
    """Gradients of `ROWS` in a pack, which adapters alone have; in float32 they are those of padded rows."""
    gradients = []
    for batch in (pack(ROWS), pad(ROWS, 0)):
        policy.model.zero_grad()
        with policy.computing():
            policy.score(batch, batch.weights).total.backward()
        gradients.append({name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None})
    packed, padded = gradients
    assert packed.keys() == padded.keys() and all("lora_" in name for name in packed)
    if precision == "fp32":
        for name, gradient in packed.items():
            torch.testing.assert_close(gradient, padded[name], rtol=1e-4, atol=1e-6)
    return packed
