"""What "auto" decides before the first step, from what the run will need: activations to keep, compilation, chunks of the head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage import console
from tutelage.config import Config
from tutelage.errors import InputError
from tutelage.model import CHUNK, RECOMPUTATIONS, Course, Policy, Recomputation, liger
from tutelage.resources import (
    HEADROOM,
    USUAL_SHARE,
    Load,
    Shapes,
    activations_of,
    chunk_for,
    free_memory,
    state_to_come,
    tile_for,
)
from tutelage.runs import Reading, write_text

COMPILE_SECONDS = 60
"""What compiling one layer, forward and backward, is reckoned to cost; measured: 10–45 s."""
COMPILED_GAIN = {"cpu": 0.15, "cuda": 0.175}
"""The share of a step that compiled layers are reckoned to save; measured on a CPU: 0.19 (bench/results/train_cpu.json), on an H100:
0.175 (1.43 s to 1.18 s a step)."""
FOR_COMPILED: tuple[Recomputation, ...] = ("none", "full")
"""What compiled layers can recompute. The compiler chooses by itself what it keeps within a layer, so "selective" says nothing."""


def require(config: Config) -> None:
    """Raises InputError if settings of activations and of compilation exclude each other."""
    if config.model.compile == "on" and config.model.activation_checkpointing == "selective":
        raise InputError(
            'model.activation_checkpointing = "selective" with model.compile = "on": compiled layers choose by themselves what they'
            ' compute again; write "none" or "full", or leave compilation off'
        )
    if config.model.tile and config.model.activation_checkpointing == "selective":
        raise InputError(
            'model.tile with model.activation_checkpointing = "selective": that keeps the products of each MLP, so tiles save nothing;'
            ' write "none" or "full", or leave the tile out'
        )


def arrange(course: Course, held: float, matrix_rate: float | None, record: Path, writes: bool) -> None:
    """Set the policy of a run up for its largest batches, and say what was decided.

    What "auto" has decided is written to `record` (if it `writes`). A run that goes on reads it there, so that it computes as it
    did before. Of several ranks, the first decides.

    Args:
        held: bytes of optimizer state that are allocated already.
        matrix_rate: floating-point operations per second of the device; None: not known.

    Raises:
        InputError: activations cannot be checkpointed in this model, or not be offloaded from this device; kernels that the run began
            with are not there.
    """
    policy, config = course.policy, course.config
    decided = course.world.first(lambda: _decide(course, held, matrix_rate, record))
    policy.recompute(decided["activation_checkpointing"])
    policy.chunk = decided["chunk"]
    if decided["compile"]:
        policy.compile()
    if decided["liger"]:
        decided["liger"] = _gives_kernels(policy, began_with=bool(recorded(record).get("liger")))
    policy.compute_by_tiles(decided["tile"])  # of the kernels that there are by now
    if writes:
        write_text(record, json.dumps(decided) + "\n")
    policy.offload, policy.always_sync = config.model.activation_offload, decided["always_sync"]


def _decide(course: Course, held: float, matrix_rate: float | None, record: Path) -> dict[str, Any]:
    policy, config, ranks = course.policy, course.config, course.world.size
    if config.model.activation_offload and policy.device.type != "cuda":
        raise InputError("model.activation_offload: activations on a CPU are in the host's memory already; leave it out")
    if config.model.activation_offload and ranks > 1 and config.model.activation_checkpointing != "full":
        raise InputError(
            'model.activation_offload: with several ranks only beside model.activation_checkpointing = "full", where the inputs of'
            " layers are all that waits in the host's memory"
        )
    known = recorded(record)
    if known.get("ranks", 1) != ranks:  # what fits is another matter then
        known = {"compile": known["compile"]} if "compile" in known else {}
    free = HEADROOM * free_memory(policy.device) - max(0.0, state_to_come(policy, config) - held)
    compiled = _compiles(course, matrix_rate, known)
    shapes = replace(Shapes.of(policy), offload=config.model.activation_offload)
    recomputation = _recomputation(course, shapes, free, FOR_COMPILED if compiled else RECOMPUTATIONS, known)
    if compiled and recomputation == "selective":  # recorded by a run of before, which computed "none"
        recomputation = "none"
    decided: dict[str, Any] = {"ranks": ranks, "precision": policy.precision}
    decided |= {"activation_checkpointing": recomputation, "compile": compiled}
    decided["tile"] = _tile(course, shapes, free, recomputation, known)
    decided["chunk"] = _chunk(course, replace(shapes, tile=decided["tile"]), free, recomputation, known)
    # a run that goes on has them if it began with them
    decided["liger"] = not compiled and (bool(known.get("liger")) if "activation_checkpointing" in known else liger.is_usable(policy))
    if "parts" in known:  # batches were halved when memory ran out
        decided["parts"] = known["parts"]
    decided["always_sync"] = ranks > 1 and _syncs_always(course, replace(shapes, tile=decided["tile"]), free, recomputation, known)
    return decided


def recorded(record: Path) -> dict[str, Any]:
    """What ``plan.json`` says was decided before; nothing where there is none, or a damaged one."""
    return Reading(record.parent).table(record.name)


def forget(record: Path, config: Config) -> None:
    """Forget what was decided before, for a run that begins; not where batches were halved because memory ran out, and may be."""
    if config.train.on_oom == "stop" or "parts" not in recorded(record):
        record.unlink(missing_ok=True)


def _syncs_always(course: Course, shapes: Shapes, free: float, recomputation: Recomputation, known: dict[str, Any]) -> bool:
    policy, sync = course.policy, course.config.parallel.sync
    if sync != "auto":
        return sync == "always"
    if "always_sync" in known:
        return bool(known["always_sync"])
    # between exchanges a rank holds a full gradient, in float32
    gradient = 4.0 * sum(weight.numel() for weight in policy.model.parameters() if weight.requires_grad)
    fits = gradient + activations_of(shapes, _largest(course), recomputation) <= free
    console.say(f"gradients are exchanged after {'the last' if fits else 'each'} micro-batch of a step")
    return not fits


def _recomputation(
    course: Course, shapes: Shapes, free: float, choices: Sequence[Recomputation], known: dict[str, Any]
) -> Recomputation:
    policy, wanted = course.policy, course.config.model.activation_checkpointing
    if not policy.model.supports_gradient_checkpointing:
        if wanted not in ("auto", "none"):
            raise InputError(
                f'model.activation_checkpointing: {type(policy.model).__name__} does not support it; set it to "none"'
            )
        return "none"
    if wanted != "auto":
        return wanted
    if course.together:
        console.say("activation checkpointing: full (a step's batches go backward together, one layer after the other)")
        return "full"
    shapes = replace(shapes, tile=course.config.model.tile or 0)
    choices = [kind for kind in choices if not (shapes.tile and kind == "selective")]
    fitting = (kind for kind in choices if activations_of(shapes, _largest(course), kind) <= free)
    chosen: Recomputation = known.get("activation_checkpointing") or next(fitting, RECOMPUTATIONS[-1])
    console.say(f"activation checkpointing: {chosen} (planned for packs of {course.largest:,} tokens)")
    return chosen


def _largest(course: Course) -> Load:
    """A batch as large as any of the run, of tokens that all predict a response token."""
    return Load.at_most(course.largest, course.config, course.together)


def _tile(course: Course, shapes: Shapes, free: float, recomputation: Recomputation, known: dict[str, Any]) -> int:
    """Tokens that MLPs and norms compute at a time; a run that goes on has the tile of before, unless it is asked for another one."""
    wanted = course.config.model.tile
    if wanted is None and "activation_checkpointing" in known:  # a run of before had no tiles
        return int(known.get("tile", 0))
    found = tile_for(shapes, _largest(course), recomputation, wanted, free)
    if found and wanted is None:
        console.say(f"MLPs and norms compute {found:,} tokens at a time (planned for packs of {course.largest:,} tokens)")
    return found


def _chunk(course: Course, shapes: Shapes, free: float, recomputation: Recomputation, known: dict[str, Any]) -> int:
    """Targets that meet the vocabulary at a time."""
    if "activation_checkpointing" in known:  # a run of before had no choice
        return int(known.get("chunk", CHUNK))
    return chunk_for(shapes, _largest(course), recomputation, free, course.policy.device.type == "cuda")


def _gives_kernels(policy: Policy, began_with: bool) -> bool:
    """Give the model Liger's kernels, and say so in one line. Raises InputError if the run began with them and they are not there."""
    reason = liger.give_kernels(policy) if liger.is_usable(policy) else "liger-kernel is not installed, or the device is not the same"
    if reason and began_with:
        raise InputError(f"the run began with Liger's kernels and can continue only with them: {reason}; pip install 'tutelage[gpu]'")
    console.say(f"Liger's RMSNorm, RoPE and SwiGLU: {f'not used, {reason}' if reason else 'used, because layers are not compiled'}")
    return not reason


def _compiles(course: Course, matrix_rate: float | None, known: dict[str, Any]) -> bool:
    model = course.config.model
    if model.quantize != "none":
        console.say("compilation: off (compiled layers would keep their 4-bit weights in full)")
        return False
    if model.compile != "auto":
        return model.compile == "on"
    if "compile" in known:
        console.say(f"compilation: {'on' if known['compile'] else 'off'} (as before)")
        return bool(known["compile"])
    if model.activation_checkpointing == "selective" or matrix_rate is None:
        return False
    policy = course.policy
    tokens = course.prepared.tokens * course.total // course.epoch // course.world.size
    weights = sum(weight.numel() for weight in policy.model.parameters())
    seconds = 6 * weights * tokens / (USUAL_SHARE * matrix_rate)
    saved = COMPILED_GAIN[policy.device.type] * seconds
    earns = saved > 2 * COMPILE_SECONDS
    console.say(
        f"compilation: {'on' if earns else 'off'} (about {seconds / 60:.0f} min of training are planned; compiled layers would save"
        f" about {saved / 60:.1f} min of it, compiling costs about {COMPILE_SECONDS / 60:.1f})"
    )
    return earns
