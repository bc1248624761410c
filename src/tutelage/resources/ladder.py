"""What to change next when memory is short: settings in the order of how little they change of what is learnt, each with its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.config import Config, shown
from tutelage.model import RECOMPUTATIONS, TILES, Policy, Recomputation

MEANINGS: dict[str, dict[Any, str]] = {
    "model.precision": {
        "bf16-mixed": "float32 masters, bfloat16 compute",
        "bf16-sr": "bfloat16 weights, stochastically rounded",
        "fp32": "float32 throughout",
    },
    "train.optimizer": {"adamw": "moments in full precision", "adamw-8bit": "moments in 8-bit blocks"},
    "train.update": {"step": "all weights updated at once", "in_backward": "each weight updated in the backward pass"},
    "train.optimizer_offload": {False: "moments on the card", True: "moments in the host's memory"},
    "model.lora": {"none": "all weights are trained", "lora": "adapters over frozen weights", "dora": "adapters over frozen weights"},
}
"""What the values of a setting mean that says how a model is trained."""
_PLAIN = {"train.update": "step", "train.optimizer_offload": False}
# an adapter's frozen weights are bfloat16 under bf16-mixed
ADAPTERS = {"model.lora": "lora", "model.precision": "bf16-mixed", "train.optimizer": "adamw", **_PLAIN}
WAYS: tuple[dict[str, Any], ...] = (
    _PLAIN | {"model.precision": "bf16-mixed", "train.optimizer": "adamw"},
    _PLAIN | {"model.precision": "bf16-sr", "train.optimizer": "adamw"},
    _PLAIN | {"model.precision": "bf16-sr", "train.optimizer": "adamw-8bit"},
    _PLAIN | {"model.precision": "bf16-sr", "train.optimizer": "adamw-8bit", "train.update": "in_backward"},
    {"model.precision": "bf16-sr", "train.optimizer": "adamw-8bit", "train.update": "in_backward", "train.optimizer_offload": True},
    ADAPTERS,
)
"""Ways to train, in the order of how little they change of what is learnt, then of the time they cost. Updates in the backward pass, and
moments in the host's memory, never ran on a card: they stand behind what did."""
KEEPS: tuple[tuple[Recomputation, dict[str, Any]], ...] = (
    ("none", {}),
    ("selective", {}),
    ("full", {}),
    ("full", {"model.activation_offload": True}),
)
"""What the backward pass computes again, with what else is set, from the fastest: gradients stay as they are. Tiles come by themselves
where a row is long."""


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


def way_of(config: Config) -> tuple[Any, ...]:
    """The values of a configuration for the settings that `MEANINGS` names: precision, optimizer, adapters."""
    return tuple(getattr(getattr(config, section), key) for section, _, key in (name.partition(".") for name in MEANINGS))


def ways(config: Config, kind: str) -> Iterator[dict[str, Any]]:
    """Changes for each way to train on a kind of device: first none at all, then `WAYS` as far as they are possible."""
    yield {}
    if config.model.lora != "none":
        return
    if kind == "cuda":
        yield from WAYS
    else:
        yield {name: value for name, value in ADAPTERS.items() if name != "model.precision"}


def keeps(config: Config, kind: str) -> list[tuple[Recomputation, dict[str, Any]]]:
    """Those of `KEEPS` that a configuration and a kind of device can have; first what the configuration wants."""
    wanted = config.model.activation_checkpointing
    tried = [each for each in KEEPS if wanted in ("auto", each[0]) or each[0] != "none"]
    tried = [each for each in tried if not (config.model.tile and each[0] == "selective")]  # which keeps what tiles would save
    offloads = kind == "cuda" and not config.model.activation_offload
    return sorted((each for each in tried if offloads or not each[1]), key=lambda each: wanted not in ("auto", each[0]))


def exact_rungs(config: Config, policy: Policy, tokens: int | None, longest: int = 0) -> Iterator[Rung]:
    """The settings down that leave gradients as they are: smaller batches, then `KEEPS` and tiles, as a plan tries them.

    Args:
        tokens: of the largest batch of the run. None: its rows are alone already, of `longest` tokens at most.
    """
    if tokens is not None and policy.packs:
        yield Rung({"train.pack_tokens": tokens // 2}, "the same gradients")
    elif tokens is not None:
        rows = config.train.rows_per_step
        fewer = max((size for size in range(1, config.train.batch_size // 2 + 1) if rows % size == 0), default=1)
        yield Rung({"train.batch_size": fewer, "train.grad_accum": rows // fewer}, "the same gradients")
    possible = keeps(config, policy.device.type) if policy.model.supports_gradient_checkpointing else []
    now = RECOMPUTATIONS.index(policy.recomputation)
    for what, more in possible:
        if not more and RECOMPUTATIONS.index(what) > now:
            yield Rung({"model.activation_checkpointing": what}, "the same gradients, in more time")
    full = {"model.activation_checkpointing": "full"} if possible and config.model.activation_checkpointing != "full" else {}
    smaller = next((size for size in TILES if size < (policy.tile or tokens or longest)), None)
    if policy.has_tiles and smaller is not None:
        yield Rung({**full, "model.tile": smaller}, "the same gradients, MLPs and norms by tiles")
    for _, more in possible:
        if more:
            yield Rung({**full, **more}, "the same gradients, in more time")


def smaller_state(config: Config, kind: str = "cuda") -> Rung | None:
    """The next way to train whose weights, gradients and moments need less memory on a kind of device; None below the last one."""
    if config.model.lora != "none":
        return None
    own = dict(zip(MEANINGS, way_of(config), strict=True))
    # it changes nothing that is learnt; a CPU's memory is the host's
    offloads = {"train.optimizer_offload": kind != "cpu" or config.train.optimizer_offload}
    way = own | offloads
    if own == way:
        way = next((way | offloads for way in WAYS if _is_leaner(way | offloads, own)), ADAPTERS)
    changes = {name: value for name, value in way.items() if own[name] != value}
    return Rung(changes, "; ".join(MEANINGS[name][value] for name, value in changes.items()))


LEAN = {"model.precision": "bf16-sr", "train.optimizer": "adamw-8bit", "train.update": "in_backward", "train.optimizer_offload": True}
"""The values of a way that need less memory than the others."""


def _is_leaner(way: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a way has less on the device than another one in something, and more in nothing."""
    if way.get("model.lora", "none") != "none":
        return False
    a, b = ([each.get(name) == value for name, value in LEAN.items()] for each in (way, other))
    return a != b and all(one >= two for one, two in zip(a, b, strict=True))
