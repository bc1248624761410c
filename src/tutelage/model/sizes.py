"""The sizes that config.json gives a model: those that cannot be meant are refused before memory or time is spent on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tutelage.model.weights import headers, quoted

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
MORE_LAYERS = ("depth", "encoder_layers", "decoder_layers", "num_encoder_layers", "num_nextn_predict_layers", "mtp_num_hidden_layers")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "moe_num_experts")
ROWS = ("vocab_size",)
WIDTHS = (
    "hidden_size", "n_embd", "d_model", "intermediate_size", "moe_intermediate_size", "n_inner", "ffn_dim", "d_ff", "head_dim",
    "num_attention_heads", "num_key_value_heads", "n_head",
)  # fmt: skip
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
BOUNDS = {
    **dict.fromkeys((*LAYERS, *MORE_LAYERS), (1000, "layers are made one by one, in time and memory, and no model has a thousand")),
    **dict.fromkeys(EXPERTS, (1 << 14, "experts are made in each layer, and no model has so many")),
    **dict.fromkeys(ROWS, (1 << 24, "each is a row of the embedding, and no tokenizer has so many tokens")),
    **dict.fromkeys(WIDTHS, (1 << 20, "matrices have that many rows or columns, and no model has such")),
    **dict.fromkeys(POSITIONS, (1 << 32, "no model has so many positions")),
}
"""Of each size: the largest one, and what the bound is for."""
NEEDED = (*LAYERS, *ROWS, "hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head")
"""Sizes that are at least one where they are given."""


def fault(config: dict[str, Any]) -> str:
    """What in a configuration is of another type than it can be, or beyond its bound; "" if nothing is."""
    if not isinstance(config.get("model_type"), str | None):
        return f"config.json: model_type is {_shown(config['model_type'])}, not a name"
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return f"config.json: architectures is {_shown(names)}, not a list of names"
    for part in ("text_config", "auto_map"):
        if not isinstance(config.get(part), dict | None):
            return f"config.json: {part} is {_shown(config[part])}, not an object"
    for name, key, value in _sizes(config):
        most, why = BOUNDS[key]
        if isinstance(value, bool) or not isinstance(value, int):
            return f"config.json: {name} is {_shown(value)}, not a count"
        if value < (1 if key in NEEDED else 0):
            return f"config.json: {name} is {_shown(value)}, and there is at least one"
        if value > most:
            return f"config.json: {name} is {_shown(value)}, more than {most:,}: {why}"
    return ""


DEEPEST = 4
"""How far within each other configurations of parts are looked at; none in use are further."""


def _sizes(config: dict[str, Any], within: str = "") -> Iterator[tuple[str, str, Any]]:
    """(its name, its key, the value) of each size, in objects within the configuration, too."""
    for key, value in config.items():
        if isinstance(value, dict) and within.count(".") < DEEPEST and key.endswith("_config") and key != "quantization_config":
            yield from _sizes(value, f"{within}{key}.")
        elif key in BOUNDS and value is not None:
            for each in value if isinstance(value, list) else [value]:  # some models have a size for each layer
                yield f"{within}{key}", key, each


def _shown(value: Any) -> str:
    return quoted(value, 60)


def beyond_weights(config: dict[str, Any], folder: Path) -> str:
    """Why the configuration is of another model than the weights: it has more layers, or a larger embedding, than they can fill."""
    tensors = [entry.get("shape") or [] for _, of_file in headers(folder) for entry in of_file.values()]
    numbers = sum(math.prod(shape) for shape in tensors)
    inner = config.get("text_config") or {}
    given = {key: inner.get(key, config.get(key)) for key in (*LAYERS, *ROWS, "hidden_size", "n_embd", "d_model")}
    layers = _first(given, LAYERS)
    if layers > len(tensors):
        return f"config.json describes {layers:,} layers, and the weights are {len(tensors):,} tensors: they are of another model"
    width, rows = _first(given, ("hidden_size", "n_embd", "d_model")), _first(given, ROWS)
    # factorized embeddings are narrower than the model
    if width * rows > numbers and not any("embed" in key and key.endswith(("size", "dim", "rank")) for key in {**config, **inner}):
        return (
            f"config.json describes an embedding of {rows:,} × {width:,} numbers, and all the weights together hold {numbers:,}: they are"
            " of another model"
        )
    return ""


def _first(given: dict[str, Any], keys: tuple[str, ...]) -> int:
    """The first size that is given; 0 if none is."""
    return next((value for key in keys if isinstance(value := given[key], int)), 0)
