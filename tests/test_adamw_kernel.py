"""The Triton kernel of our AdamW beside plain torch: in Triton's interpreter, compiled for cards, and on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adamw_cases import CASES, RATES, begun, reference, train, trained


def run(script: str, *arguments: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / script), *arguments], capture_output=True, text=True, timeout=300, cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What the kernel makes of each case in Triton's interpreter, which has to be asked for before Triton is imported."""
    pytest.importorskip("triton")
    path = tmp_path_factory.mktemp("kernel") / "tensors.pt"
    run("adamw_cases.py", str(path))
    return torch.load(path)


def assert_close(ours: list[dict[str, torch.Tensor]], theirs: list[dict[str, torch.Tensor]]) -> None:
    """To rounding: now and then that makes a stochastic one, or a code, fall on the other side."""
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.keys() == yours.keys()
        coded = "exp_avg_scale" in mine
        for key, value in mine.items():
            one, other = value.double(), yours[key].double()
            assert value.dtype == yours[key].dtype
            if value.dtype == torch.float32:
                least = 5e-5 if coded and key == "weight" else 1e-6 * one.abs().max()  # a twentieth of a step
                assert ((one - other).abs() <= (0.02 if coded and key != "weight" else 1e-6) * one.abs() + least).all()
            else:
                assert (one - other).abs().max() <= (1 if value.dtype == torch.uint8 else 2**-7 * one.abs().max())
                assert (one != other).sum() <= 1 + 0.002 * one.numel()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_plain_torch(interpreted, name):
    assert_close(interpreted[name], trained(name))


@pytest.mark.slow
def test_the_kernel_moves_float32_weights_as_the_reference(interpreted):
    for mine, right in zip(interpreted["float32"], reference(begun(torch.float32, False), [1e-3] * 4)):
        assert (mine["weight"] - right).abs().max() < 1e-6


@pytest.mark.slow
def test_the_kernel_compiles_for_cards_with_wide_loads(tmp_path, monkeypatch):
    """Triton brings the assembler along: no card is needed. Codes and scales are looked up one by one.

    A kernel is compiled for dtypes, and for constants that say the kind: not for a size, a step or a learning rate.
    """
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = json.loads(run("compiled_adamw.py"))
    assert found.pop("constants") == ["EVEN", "CODED", "ROUND_WEIGHT", "ROUND_MOMENTS", "ROWS", "WIDTH"]
    assert found.pop("whatever their value") == ["index", "start", "count"]
    assert len(found) == 10
    for kind, accesses in found.items():
        assert accesses["wide"] >= 7 and ("u8" in kind or accesses.get("narrow", 0) <= 4), (kind, accesses)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
@pytest.mark.parametrize("name", CASES)
def test_on_cuda_the_kernel_is_plain_torch_and_is_compiled_once(name):
    from tutelage.model.adamw import kernel

    assert_close(trained(name, "cuda"), trained(name))
    compiled = [len(cache[0]) for cache in kernel._kernel.device_caches.values()]
    train(begun(*CASES[name], "cuda"), range(4), RATES)
    assert [len(cache[0]) for cache in kernel._kernel.device_caches.values()] == compiled
