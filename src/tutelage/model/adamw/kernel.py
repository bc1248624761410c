# mypy: allow-untyped-defs, allow-incomplete-defs

"""AdamW's update as one Triton kernel: what `plain` computes, in one pass over weights, gradients and moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from tutelage.model.adamw import blocks, rounding
from tutelage.model.adamw.plain import Part, Rates

ELEMENTS = 1024
"""How many one program updates: four blocks of 256, or more narrower ones."""
FIRST, SECOND, THIRD = (tl.constexpr(factor) for factor in (rounding.FIRST, rounding.SECOND, rounding.THIRD))
SHARES, CODES = tl.constexpr(512), tl.constexpr(65536)
BOUNDARIES = tl.constexpr(256)


@triton.jit
def _hashes(element, key1, key2):
    """`rounding.hashes`; elements and keys are uint32."""
    bits = element + key1
    bits ^= bits >> 16
    bits = bits * FIRST + key2
    bits ^= bits >> 15
    bits *= SECOND
    return bits ^ (bits >> 16)


@triton.jit
def _round(values, bits):
    """`rounding.round_into`: bfloat16 of float32 values; bits are uint32, below 65,536."""
    cut = (values.to(tl.uint32, bitcast=True) + bits) & 0xFFFF0000
    # the cards' own NaN is all ones: a carry would make it zero
    return tl.where(values == values, cut.to(tl.float32, bitcast=True), values).to(tl.bfloat16)


@triton.jit
def _decode(codes, scale, numbers):
    return tl.load(numbers + codes.to(tl.int32)) * scale[:, None]


@triton.jit
def _encode(values, numbers, guesses):
    """(codes, scales) of rows of values, as `blocks.encode`."""
    scale = tl.max(tl.abs(values), axis=1)
    share = values / tl.where(scale > 0, scale, 1.0)[:, None]
    guess = tl.load(guesses + (share.to(tl.uint32, bitcast=True) >> 16)).to(tl.int32)
    boundary = tl.load(numbers + BOUNDARIES + guess)
    return (guess + (share >= boundary).to(tl.int32)).to(tl.uint8), scale


@triton.jit(do_not_specialize=["index", "start", "count"])
def _kernel(
    weights, gradients, firsts, seconds, first_scales, second_scales, numbers, guesses, sizes, all_eps, keys,
    index, start, count, gain1, gain2, decay,
    EVEN: tl.constexpr, CODED: tl.constexpr, ROUND_WEIGHT: tl.constexpr, ROUND_MOMENTS: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = row.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    # said by sixteens, it is the same for 16 neighbours: they are loaded together
    inside = at // 16 < count // 16 if EVEN else at < count
    weight = tl.load(weights + at, inside, 0.0).to(tl.float32)
    gradient = tl.load(gradients + at, inside, 0.0).to(tl.float32)
    if CODED:
        filled = row < tl.cdiv(count, WIDTH)
        first = _decode(tl.load(firsts + at, inside, 0), tl.load(first_scales + row, filled, 0.0), numbers)
        second = _decode(tl.load(seconds + at, inside, 0), tl.load(second_scales + row, filled, 0.0), numbers + SHARES)
        first, second = tl.where(inside, first, 0.0), tl.where(inside, second, 0.0)
    else:
        first = tl.load(firsts + at, inside, 0.0).to(tl.float32)
        second = tl.load(seconds + at, inside, 0.0).to(tl.float32)
    first += gain1 * (gradient - first)
    second += gain2 * (gradient * gradient - second)
    step = first / (tl.sqrt(second) + tl.load(all_eps + index))
    weight = weight * decay - step * tl.load(sizes + index)

    if ROUND_WEIGHT or ROUND_MOMENTS:
        key = keys + 2 * index
        element = (at + start).to(tl.uint32)
        bits = _hashes(element, tl.load(key).to(tl.uint32, bitcast=True), tl.load(key + 1).to(tl.uint32, bitcast=True))
    if ROUND_WEIGHT:
        tl.store(weights + at, _round(weight, bits & 0xFFFF), inside)
    else:
        tl.store(weights + at, weight, inside)
    if CODED:
        codes, scale = _encode(first, numbers, guesses)
        tl.store(firsts + at, codes, inside)
        tl.store(first_scales + row, scale, filled)
        codes, scale = _encode(second, numbers + SHARES, guesses + CODES)
        tl.store(seconds + at, codes, inside)
        tl.store(second_scales + row, scale, filled)
    elif ROUND_MOMENTS:
        tl.store(firsts + at, _round(first, bits >> 16), inside)
        tl.store(seconds + at, _round(second, (bits * THIRD) >> 16), inside)
    else:
        tl.store(firsts + at, first, inside)
        tl.store(seconds + at, second, inside)


def update(parts: Sequence[Part], rates: Rates) -> None:
    """One step of some of a group's parameters; weights and moments change in place."""
    numbers, guesses = blocks.tables(parts[0].weight.device)
    with torch.cuda.device_of(parts[0].weight):  # Triton launches on the current device
        for part in parts:
            count, coded = part.weight.numel(), part.first_scale is not None
            scales: Any = (part.first_scale, part.second_scale) if coded else (numbers, numbers)
            width = part.width or blocks.BLOCK
            _kernel[(triton.cdiv(count, ELEMENTS),)](
                part.weight, part.gradient, part.first, part.second, *scales, numbers, guesses,
                rates.sizes, rates.eps, rates.keys, part.index, part.start, count, rates.gain1, rates.gain2, rates.decay,
                EVEN=count % 16 == 0, CODED=coded, ROUND_WEIGHT=part.weight.dtype == torch.bfloat16,
                ROUND_MOMENTS=part.first.dtype == torch.bfloat16, ROWS=ELEMENTS // width, WIDTH=width,
            )  # fmt: skip
