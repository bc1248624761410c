"""Our AdamW: its arithmetic beside a float64 reference, rounding that is unbiased and repeatable, and 8-bit blocks."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from adamw_cases import CASES, RATES, begun, reference, tensors, train, weights_of
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage.model.adamw import AdamW, blocks, plain, rounding

# ── the arithmetic ──


@pytest.mark.parametrize("chunk", [512, plain.CHUNK])
def test_float32_weights_move_as_by_the_reference_and_by_torch(monkeypatch, chunk):
    monkeypatch.setattr(plain, "CHUNK", chunk)
    ours = begun(torch.float32, False)
    exact = reference(ours, RATES)
    torchs = torch.optim.AdamW(
        [{**group, "params": [weight.detach().clone().requires_grad_() for weight in group["params"]]} for group in ours.param_groups]
    )
    train(ours, range(4), RATES)
    train(torchs, range(4), RATES)
    for mine, theirs, right in zip(weights_of(ours), weights_of(torchs), exact):
        assert (mine - right).abs().max() < 1e-6 and (mine - theirs).abs().max() < 1e-6


def test_bfloat16_weights_move_as_the_reference_on_average():
    """Steps of 1e-5 on weights near 1, whose neighbours are 0.004 away: a few weights move, and their mean is right."""
    weight = torch.nn.Parameter(torch.full((2**18,), 1.0, dtype=torch.bfloat16))
    optimizer = AdamW([weight], 1e-5, seed=0)
    for _ in range(20):
        weight.grad = torch.full_like(weight, 1e-3)
        optimizer.step()
    assert 0 < (weight != 1).float().mean() < 0.1
    assert (weight.double().mean() - 1).item() == pytest.approx(-20e-5, rel=0.05)


@pytest.mark.parametrize("beta1", [0.9, 0.999])
def test_bfloat16_moments_follow_gradients_that_fall(beta1):
    """Rounded to the nearest number, a moment that changes by a thousandth in a step would stand still."""
    weight = torch.nn.Parameter(torch.zeros(4096, dtype=torch.bfloat16))
    optimizer = AdamW([weight], 1e-4, (beta1, 0.999), seed=0)
    first = second = 0.0
    nearest = torch.zeros((), dtype=torch.bfloat16)
    for step in range(500):
        gradient = 1.0 if step < 100 else 0.125
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        first, second = beta1 * first + (1 - beta1) * gradient, 0.999 * second + 0.001 * gradient**2
        nearest = (nearest.float() * 0.999 + 0.001 * gradient**2).bfloat16()
    state = optimizer.state[weight]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    assert state["exp_avg"].double().mean().item() == pytest.approx(first, rel=0.01)
    assert state["exp_avg_sq"].double().mean().item() == pytest.approx(second, rel=0.01)
    assert abs(float(nearest) / second - 1) > 0.2


def test_eight_bit_moments_follow_the_reference():
    optimizer = begun(torch.float32, True)
    exact = reference(optimizer, RATES)
    before = [weight.detach().clone() for weight in weights_of(optimizer)]
    train(optimizer, range(4), RATES)
    for weight, right, was in zip(weights_of(optimizer), exact, before):
        if blocks.width_of(weight.shape):
            assert (weight - right).norm() < 0.02 * (right - was).norm()
        else:
            assert (weight - right).abs().max() < 1e-6
    assert {value.dtype for value in optimizer.state[weights_of(optimizer)[3]].values()} == {torch.float32}


def test_a_weight_without_a_gradient_stays_and_counts_no_step():
    optimizer = begun(torch.bfloat16, False)
    train(optimizer, range(2))
    still = weights_of(optimizer)[2]
    before = {name: value.clone() for name, value in {"weight": still.detach(), **optimizer.state[still]}.items()}
    for weight in weights_of(optimizer):
        weight.grad = None if weight is still else torch.ones_like(weight)
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in {"weight": still.detach(), **optimizer.state[still]}.items())
    assert optimizer.state[weights_of(optimizer)[0]]["step"] == 3


# ── random bits ──


def bits(count: int, seed: int = 0, index: int = 0, step: int = 1, start: int = 0) -> torch.Tensor:
    """The three numbers (3 × count) of 16 bits of elements of a parameter."""
    key = rounding.keys(torch.tensor([rounding.salt(seed, index)], dtype=torch.int32), torch.tensor([float(step)]))[0]
    indices = torch.arange(count, dtype=torch.int32)
    hashed = rounding.hashes(indices, start, key, torch.empty_like(indices), torch.empty_like(indices))
    return torch.stack([rounding.part(hashed, part, torch.empty_like(indices)) for part in range(3)])


VALUES = [
    1.0, -1.0, 1.0 + 2**-9, -(1.0 + 2**-9), 1.0 + 2**-20, math.pi, -math.e * 1e-6, 2 - 2**-10, -(2 - 2**-20), 4 + 2**-18,
    2**-126 - 2**-135, 3.3e-39, -(2**-133 + 2**-140), 2**-136, 3.0e38, 0.0,
]  # fmt: skip


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("value", VALUES)
def test_rounding_gives_a_neighbour_and_the_value_on_average(value, part):
    exact = torch.full((2**16,), value)
    rounded = torch.empty(2**16, dtype=torch.bfloat16)
    rounding.round_into(rounded, exact.clone(), bits(2**16, step=7)[part])
    low = (exact[:1].view(torch.int32) & -65536).view(torch.float32).double()
    high = ((exact[:1].view(torch.int32) & -65536) + 65536).view(torch.float32).double()
    share = (exact[0].double() - low) / (high - low)
    assert set(rounded.double().tolist()) <= {low.item(), high.item()}
    gone_up = ((rounded.double() - low) / (high - low)).mean().item()
    assert abs(gone_up - share.item()) <= 5 * math.sqrt(share.item() * (1 - share.item()) / 2**16)


def test_each_of_the_random_numbers_makes_a_value_go_up_exactly_as_often_as_it_should():
    value = torch.full((65536,), 1.0 + 2**-7 * 0.3)
    lower = int(value[0].view(torch.int32)) & 0xFFFF
    rounded = torch.empty(65536, dtype=torch.bfloat16)
    rounding.round_into(rounded, value, torch.arange(65536, dtype=torch.int32))
    assert int((rounded > 1).sum()) == lower


def test_infinities_and_what_is_not_a_number_stay():
    odd = torch.tensor([0x7F800000, -0x800000, 0x7FFFFFFF, 0x7F800001, 0x7FC00000, -1, -0x7FFFFF], dtype=torch.int32)
    for bit in (0, 1, 0x8000, 0xFFFF):
        rounded = torch.empty(7, dtype=torch.bfloat16)
        rounding.round_into(rounded, odd.clone().view(torch.float32), torch.full((7,), bit, dtype=torch.int32))
        assert rounded[:2].tolist() == [math.inf, -math.inf] and rounded[2:].isnan().all()


def test_random_bits_are_even_and_independent():
    """Of elements, of the three parts of a hash, of steps, of parameters and of seeds; 5 standard deviations are allowed."""
    count = 2**16
    base = bits(count)
    others = [
        bits(count, step=2), bits(count, step=3), bits(count, index=1), bits(count, seed=1), bits(count, start=1), bits(count, start=256),
        base.flip(0), base[[1, 2, 0]],
    ]  # fmt: skip
    for shift in (0, 8):  # each byte takes each value equally often: 255 degrees of freedom
        for row in base:
            counts = torch.bincount((row >> shift) & 255, minlength=256).double()
            assert ((counts - count / 256) ** 2 / (count / 256)).sum() < 255 + 5 * math.sqrt(510)
    signs = 1 - 2 * ((base[:, None] >> torch.arange(16)[:, None]) & 1).double()
    assert signs.mean(-1).abs().max() < 5 / math.sqrt(count)
    for other in others:
        theirs = 1 - 2 * ((other[:, None] >> torch.arange(16)[:, None]) & 1).double()
        for mine, yours in zip(signs, theirs):
            if not torch.equal(mine, yours):  # the middle row of a flip is itself
                assert (mine @ yours.T / count).abs().max() < 5.5 / math.sqrt(count)


def test_an_element_draws_the_same_bits_in_whatever_part_of_a_weight():
    assert torch.equal(bits(1000)[:, 300:], bits(700, start=300))
    assert torch.equal(bits(64, start=2**31 - 32)[:, 32:], bits(32, start=2**31))


@pytest.mark.parametrize("name", CASES)
def test_a_restored_state_goes_on_bit_for_bit_without_a_generator(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    straight, first, second = (begun(*CASES[name]) for _ in range(3))
    train(straight, range(4))
    train(first, range(2))
    second.make_state()
    with torch.no_grad():
        for mine, theirs in zip(weights_of(second), weights_of(first)):
            mine.copy_(theirs)
            for key, value in first.state[theirs].items():
                second.state[mine][key].copy_(value)
    train(second, range(2, 4))
    for mine, theirs in zip(tensors(second), tensors(straight)):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_rounds_otherwise():
    found = []
    for seed in (0, 0, 1):
        weight = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        weight.grad = torch.ones_like(weight)
        AdamW([weight], 1e-3, seed=seed).step()
        found.append(weight.detach())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


# ── 8-bit blocks ──


@pytest.mark.parametrize("sign", [True, False])
def test_codes_are_the_dynamic_quantiles(sign):
    shares = blocks.shares(sign)
    assert len(set(shares)) == 256 and shares[-1] == 1.0 and 0.0 in shares
    positive = [share for share in shares if share > 0]
    assert len(positive) == (128 if sign else 255) and positive[0] == pytest.approx(0.55e-6 if sign else 0.325e-6)
    assert positive[-2] == pytest.approx(0.1 + 0.9 * (63.5 / 64 if sign else 127.5 / 128))
    if sign:
        assert [-share for share in shares if share < 0] == positive[-2::-1]


@pytest.mark.parametrize("sign", [True, False])
def test_encoding_takes_the_nearest_code(sign):
    generator = torch.Generator().manual_seed(0)
    values = 10 ** (-9 * torch.rand(2**14, generator=generator)) * (-1.0 if sign else 1.0) ** torch.arange(2**14)
    values[::256], values[1::256] = 1.0, 0.0
    codes, scales, spare = torch.empty(2**14, dtype=torch.uint8), torch.empty(64), torch.empty(2**14, dtype=torch.int32)
    blocks.encode(values * 0.3, codes, scales, sign, spare)
    decoded = blocks.decode(codes, scales, sign, torch.empty(2**14), spare)
    shares = torch.tensor(blocks.shares(sign), dtype=torch.float64)
    gaps = (values[:, None].double() - shares).abs()
    if not sign:
        gaps[values > 0, 0] = math.inf  # what is above 0 stays there
    assert torch.allclose(scales, torch.tensor(0.3))
    nearest = gaps.min(1).values
    assert ((values - decoded.double() / 0.3).abs() <= nearest + 1e-6 * (values.abs() + nearest)).all()
    assert (decoded[values == 0] == 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 1.0, 1e30])
def test_blocks_of_any_size_are_kept(scale):
    """Squares of small gradients are below 1e-12, where a fixed least scale would lose them."""
    values = scale * torch.linspace(0.5, 1, 256)
    codes, scales, spare = torch.empty(256, dtype=torch.uint8), torch.empty(1), torch.empty(256, dtype=torch.int32)
    blocks.encode(values.clone(), codes, scales, False, spare)
    decoded = blocks.decode(codes, scales, False, torch.empty(256), spare)
    assert torch.allclose(decoded, values, rtol=0.01, atol=0) and torch.isfinite(decoded).all()


def test_gradients_that_come_once_make_no_large_steps():
    """A second moment coded as 0 under a first one that is not would be a division by eps."""
    weight = torch.nn.Parameter(torch.zeros(16, 256))
    optimizer = AdamW([weight], 1e-3, seed=0, eight_bit=True)
    for gradient in (torch.cat([torch.full((16, 1), 1.0), torch.full((16, 255), 1e-5)], 1), torch.zeros(16, 256), torch.zeros(16, 256)):
        weight.grad = gradient
        optimizer.step()
    assert weight.detach().abs().max() < 4e-3


# ── no waiting ──


class Waits(TorchDispatchMode):
    """Names what makes a host wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal"):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CASES)
def test_a_step_never_waits_for_the_device(name):
    optimizer = begun(*CASES[name])
    with Waits() as waits:
        train(optimizer, range(3), RATES)
        float(torch.ones(1))
    assert waits.found == ["aten._local_scalar_dense.default"]  # the last line's own


def test_triton_is_left_alone_where_nothing_is_on_cuda(monkeypatch):
    monkeypatch.delitem(sys.modules, "tutelage.model.adamw.kernel", raising=False)
    train(begun(torch.bfloat16, True), range(1))
    assert "tutelage.model.adamw.kernel" not in sys.modules
