"""Stochastic rounding to bfloat16, by bits that are a function of (seed, parameter, step, element).

A float32 number is cut to bfloat16 after a random number of 16 bits was added to its lower half. It goes up with the probability that
its lower half says, so it stays what it is on average. No generator has a state: the bits are hashes of a counter, the element's
index. So a resumed run draws what the uninterrupted one draws, whatever the number of ranks, and so does the Triton kernel.
"""

from __future__ import annotations

import hashlib

import torch

FIRST, SECOND, THIRD = 0x7FEB352D, 0x846CA68B, 0x9E3779B1
"""Odd factors of the hash (the first two by Wellons, "Hash Function Prospector"; the third is 2³² over the golden ratio)."""


def signed(number: int) -> int:
    """The int32 of the same lower 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


def salt(seed: int, index: int) -> tuple[int, int]:
    """Two int32 that stand for a seed and the index of a parameter."""
    digest = hashlib.blake2b(f"{seed}-{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little", signed=True), int.from_bytes(digest[4:], "little", signed=True)


def keys(salts: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """The keys (parameters × 2, int32) of each parameter's salt at its step."""
    mixed = salts + steps.to(torch.int32)[:, None]
    spare = torch.empty_like(mixed)
    for factor in (FIRST, SECOND):
        _fold(mixed, 16, spare).mul_(signed(factor))
    return _fold(mixed, 15, spare)


def hashes(indices: torch.Tensor, first: int, key: torch.Tensor, out: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
    """32 random bits (int32) of each element; `indices` count from 0, and `first` is the index of the first element."""
    torch.add(indices, key[0] + signed(first), out=out)
    _fold(out, 16, spare).mul_(signed(FIRST)).add_(key[1])
    _fold(out, 15, spare).mul_(signed(SECOND))
    return _fold(out, 16, spare)


def _fold(bits: torch.Tensor, shift: int, spare: torch.Tensor) -> torch.Tensor:
    """``bits ^= bits >> shift``, the sign bit not carried along."""
    torch.bitwise_right_shift(bits, shift, out=spare)
    return bits.bitwise_xor_(spare.bitwise_and_(2 ** (32 - shift) - 1))


def part(hashed: torch.Tensor, index: int, out: torch.Tensor) -> torch.Tensor:
    """One of three numbers of 16 bits of each hash: its lower half, its upper half, and the upper half of a multiple.

    Any two of them are independent of each other.
    """
    if index == 0:
        return torch.bitwise_and(hashed, 0xFFFF, out=out)
    source = hashed if index == 1 else torch.mul(hashed, signed(THIRD), out=out)
    return torch.bitwise_right_shift(source, 16, out=out).bitwise_and_(0xFFFF)


def round_into(target: torch.Tensor, values: torch.Tensor, bits: torch.Tensor) -> None:
    """Write float32 `values` into a bfloat16 `target`, rounded by `bits` (int32, below 65,536); `values` are lost.

    Infinities stay, and so does what is not a number: once its lower half is zero, nothing is carried into the upper one.
    """
    infinity = float("inf")
    cut = values.nan_to_num_(float("nan"), infinity, -infinity).view(torch.int32).add_(bits).bitwise_right_shift_(16)
    target.view(torch.int16).copy_(cut)
