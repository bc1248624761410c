"""What to change next when memory is short: settings in the order of how little they change of what is learnt, each with its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.config import Config, shown
from tutelage.model import RECOMPUTATIONS, Policy

MEANINGS: dict[str, dict[Any, str]] = {
    "model.precision": {
        "bf16-mixed": "float32 masters, bfloat16 compute",
        "bf16-sr": "bfloat16 weights, stochastically rounded",
        "fp32": "float32 throughout",
    },
    "train.optimizer": {"adamw": "moments in full precision", "adamw-8bit": "moments in 8-bit blocks"},
    "model.lora": {"none": "all weights are trained", "lora": "adapters over frozen weights", "dora": "adapters over frozen weights"},
}
"""What the values of a setting mean that says how a model is trained."""
# an adapter's frozen weights are bfloat16 under bf16-mixed
ADAPTERS = {"model.lora": "lora", "model.precision": "bf16-mixed", "train.optimizer": "adamw"}
WAYS: tuple[dict[str, Any], ...] = (
    {"model.precision": "bf16-mixed", "train.optimizer": "adamw"},
    {"model.precision": "bf16-sr", "train.optimizer": "adamw"},
    {"model.precision": "bf16-sr", "train.optimizer": "adamw-8bit"},
    ADAPTERS,
)
"""Ways to train, from the one with most state."""


@dataclass(frozen=True)
class Rung:
    """The next setting down.

    Attributes:
        settings: what to set, by dotted names.
        means: what that changes.
    """

    settings: Mapping[str, Any]
    means: str

    def __str__(self) -> str:
        """As on the command line."""
        return " with ".join(f"--{name} {shown(value)}" for name, value in self.settings.items())


def way_of(config: Config) -> tuple[str, str, str]:
    """(precision, optimizer, adapters) of a configuration."""
    return config.model.precision, config.train.optimizer, config.model.lora


def ways(config: Config, kind: str, ranks: int) -> Iterator[dict[str, Any]]:
    """Changes for each way to train on a kind of device: first none at all, then `WAYS` as far as they are possible."""
    if ranks == 1 or config.train.optimizer == "adamw":
        yield {}
    if config.model.lora != "none":
        return
    if kind == "cuda":
        yield from (way for way in WAYS if _is_possible(way, ranks))
    else:
        yield {name: value for name, value in ADAPTERS.items() if name != "model.precision"}


def exact_rungs(config: Config, policy: Policy, ranks: int, tokens: int | None) -> Iterator[Rung]:
    """The settings down that leave gradients as they are.

    Args:
        tokens: of the largest batch of the run. None: its rows are alone already.
    """
    if tokens is not None and policy.packs:
        yield Rung({"train.pack_tokens": tokens // 2}, "the same gradients")
    elif tokens is not None:
        rows = config.train.batch_size * config.train.grad_accum
        fewer = max((size for size in range(1, config.train.batch_size // 2 + 1) if rows % size == 0), default=1)
        yield Rung({"train.batch_size": fewer, "train.grad_accum": rows // fewer}, "the same gradients")
    if policy.model.supports_gradient_checkpointing:
        for stronger in RECOMPUTATIONS[RECOMPUTATIONS.index(policy.recomputation) + 1 :]:
            yield Rung({"model.activation_checkpointing": stronger}, "the same gradients, in more time")
    if policy.device.type == "cuda" and not config.model.activation_offload and ranks == 1:
        yield Rung({"model.activation_offload": True}, "the same gradients, in more time")


def smaller_state(config: Config, ranks: int) -> Rung | None:
    """The next way to train whose weights, gradients and moments need less memory; None below the last one."""
    if config.model.lora != "none":
        return None
    own = dict(zip(MEANINGS, way_of(config), strict=True))
    way = next((way for way in WAYS if _is_possible(way, ranks) and _is_leaner(way, own)), ADAPTERS)
    changes = {name: value for name, value in way.items() if own[name] != value}
    return Rung(changes, "; ".join(MEANINGS[name][value] for name, value in changes.items()))


def _is_leaner(way: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a way has less state than another one in weights or moments, and more in neither."""
    a, b = ((each["model.precision"] == "bf16-sr", each["train.optimizer"] == "adamw-8bit") for each in (way, other))
    return a != b and a[0] >= b[0] and a[1] >= b[1]


def _is_possible(way: Mapping[str, Any], ranks: int) -> bool:
    """8-bit moments cannot be shared among ranks yet."""
    return ranks == 1 or way["train.optimizer"] == "adamw"
