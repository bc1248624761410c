"""What is decided before the first step from what the run will need: which activations to keep, and whether to compile."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config
from tutelage.errors import InputError
from tutelage.machines import ALONE, World
from tutelage.model import RECOMPUTATIONS, Policy, Recomputation
from tutelage.resources import HEADROOM, USUAL_SHARE, Load, activation_bytes, free_memory, matrix_rate, state_to_come
from tutelage.runs import write_text

COMPILE_SECONDS = 60
"""What compiling one layer, forward and backward, is reckoned to cost; measured: 10–45 s."""
COMPILED_GAIN = {"cpu": 0.15, "cuda": 0.2}
"""The share of a step that compiled layers are reckoned to save; measured on a CPU: 0.19 (bench/results/train_cpu.json)."""


def arrange(
    policy: Policy,
    config: Config,
    pack_tokens: int,
    planned_tokens: int,
    record: Path | None = None,
    world: World = ALONE,
    writes: bool = True,
) -> Policy:
    """Set the policy up for a run of `planned_tokens` tokens in packs of `pack_tokens`, and say what was decided.

    What "auto" has decided is written to `record` (if it `writes`); a run that goes on reads it there, so that it computes as it
    did before. Of several ranks, the first decides.

    Raises:
        InputError: activations cannot be checkpointed in this model, or not be offloaded from this device.
    """
    decided = world.first(lambda: _decide(policy, config, pack_tokens, planned_tokens, record, world.size))
    if record is not None and writes:
        write_text(record, json.dumps(decided) + "\n")
    recomputation, compiled = decided["activation_checkpointing"], decided["compile"]
    # a compiled layer itself computes again what is cheap
    if compiled and recomputation == "selective":
        recomputation = "none"
    policy.recompute(recomputation)
    if compiled:
        policy.compile()
    offload, always_sync = config.model.activation_offload, decided["always_sync"]
    return replace(policy, offload=offload, recomputation=recomputation, always_sync=always_sync, compiled=compiled)


def _decide(
    policy: Policy, config: Config, pack_tokens: int, planned_tokens: int, record: Path | None, ranks: int
) -> dict[str, Any]:
    if config.model.activation_offload and policy.device.type != "cuda":
        raise InputError("model.activation_offload: activations on a CPU are in the host's memory already; leave it out")
    if config.model.activation_offload and ranks > 1:
        raise InputError('model.activation_offload: not with several ranks; use model.activation_checkpointing = "full"')
    known = recorded(record)
    if known.get("ranks", 1) != ranks:  # what fits is another matter then
        known = {"compile": known["compile"]} if "compile" in known else {}
    decided: dict[str, Any] = {"ranks": ranks, "precision": policy.precision}
    if "parts" in known:  # batches were halved when memory ran out
        decided["parts"] = known["parts"]
    decided |= {"activation_checkpointing": _recomputation(policy, config, pack_tokens, known)}
    decided["compile"] = _compiles(policy, config, planned_tokens // ranks, known)
    decided["always_sync"] = ranks > 1 and _syncs_always(policy, config, pack_tokens, decided, known)
    return decided


def recorded(record: Path | None) -> dict[str, Any]:
    """What ``plan.json`` says was decided before; nothing where there is none."""
    known: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record is not None and record.is_file() else {}
    return known


def _syncs_always(policy: Policy, config: Config, pack_tokens: int, decided: dict[str, Any], known: dict[str, Any]) -> bool:
    if config.parallel.sync != "auto":
        return config.parallel.sync == "always"
    if "always_sync" in known:
        return bool(known["always_sync"])
    # between exchanges a rank holds a whole gradient, in float32
    whole = 4.0 * sum(weight.numel() for weight in policy.model.parameters() if weight.requires_grad)
    rest = HEADROOM * free_memory(policy.device) - state_to_come(policy, config)
    fits = whole + activation_bytes(policy, Load(pack_tokens, pack_tokens), decided["activation_checkpointing"]) <= rest
    console.say(f"gradients are exchanged after {'the last' if fits else 'each'} micro-batch of a step")
    return not fits


def _recomputation(policy: Policy, config: Config, pack_tokens: int, decided: dict[str, Any]) -> Recomputation:
    wanted = config.model.activation_checkpointing
    if not policy.model.supports_gradient_checkpointing:
        if wanted not in ("auto", "none"):
            raise InputError(
                f'model.activation_checkpointing: {type(policy.model).__name__} does not support it; set it to "none"'
            )
        return "none"
    if wanted != "auto":
        return wanted
    chosen: Recomputation = decided.get("activation_checkpointing") or choose_recomputation(policy, config, pack_tokens)
    console.say(f"activation checkpointing: {chosen} (planned for packs of {pack_tokens:,} tokens)")
    return chosen


def _compiles(policy: Policy, config: Config, planned_tokens: int, decided: dict[str, Any]) -> bool:
    if config.model.compile != "auto":
        return config.model.compile == "on"
    if "compile" in decided:
        console.say(f"compilation: {'on' if decided['compile'] else 'off'} (as before)")
        return bool(decided["compile"])
    rate = matrix_rate(policy.device, policy.compute_dtype)
    if rate is None:
        console.say("compilation: off (the rate of matrix products could not be measured)")
        return False
    weights = sum(weight.numel() for weight in policy.model.parameters())
    seconds = 6 * weights * planned_tokens / (USUAL_SHARE * rate)
    saved = COMPILED_GAIN[policy.device.type] * seconds
    earns = saved > 2 * COMPILE_SECONDS
    console.say(
        f"compilation: {'on' if earns else 'off'} (about {seconds / 60:.0f} min of training are planned; compiled layers would save"
        f" about {saved / 60:.1f} min of it, compiling costs about {COMPILE_SECONDS / 60:.1f})"
    )
    return earns


def choose_recomputation(policy: Policy, config: Config, pack_tokens: int) -> Recomputation:
    """The first of none, selective and full whose planned memory fits into what is free on the device; full if none does."""
    free = HEADROOM * free_memory(policy.device) - state_to_come(policy, config)
    return next((kind for kind in RECOMPUTATIONS if activation_bytes(policy, Load(pack_tokens, pack_tokens), kind) <= free), "full")
