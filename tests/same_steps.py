"""Steps that shall be the same one."""

from __future__ import annotations

import pytest
import torch


def assert_same(one, other):
    """(what `accumulate_gradients` returns, gradients by name) of two steps: losses and gradients agree."""
    (a, by_a), (b, by_b) = one, other
    assert a.loss == pytest.approx(b.loss, rel=1e-5) and a.nll == pytest.approx(b.nll, rel=1e-5)
    for name, gradient in by_a.items():
        torch.testing.assert_close(by_b[name], gradient, rtol=1e-4, atol=1e-6)
