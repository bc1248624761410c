"""The tile and the head's chunk that fit into the memory that is free: one rule for a run and for a plan."""

from __future__ import annotations

from dataclasses import replace

from tutelage.model import CHUNK, LARGE_CHUNK, TILES, Recomputation
from tutelage.resources.memory import Load, Shapes, activations_of

CHUNKS = (CHUNK, CHUNK // 2, CHUNK // 4, CHUNK // 8)
"""Targets that meet the vocabulary at a time, from the usual number down."""


def tile_for(shapes: Shapes, load: Load, kind: Recomputation, wanted: int | None, free: float) -> int:
    """Tokens that MLPs and norms compute at a time; 0: all.

    As wanted. Without a wish all at once where that fits, else the largest tile that fits, else the smallest one. "selective" keeps the
    products of an MLP, so tiles would save nothing.

    Args:
        free: bytes for activations.
    """
    if wanted is not None:
        return wanted
    tiles = [size for size in TILES if size < load.tokens] if shapes.has_tiles and kind != "selective" else []
    fitting = (size for size in (0, *tiles) if activations_of(replace(shapes, tile=size), load, kind) <= free)
    return next(fitting, tiles[-1] if tiles else 0)


def chunk_for(shapes: Shapes, load: Load, kind: Recomputation, free: float, on_gpu: bool) -> int:
    """Targets that meet the vocabulary at a time: many on a GPU that has the memory for them, else as many as fit."""
    sizes = (LARGE_CHUNK, *CHUNKS) if on_gpu else CHUNKS
    fitting = (size for size in sizes if activations_of(replace(shapes, chunk=size), load, kind) <= free)
    return next(fitting, CHUNKS[-1])
