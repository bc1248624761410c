"""What a run needs and takes on a device, before anything is trained: from shapes and from the lengths of the rows, never from weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tutelage.config import Config, ModelConfig, replaced
from tutelage.data import Prepared
from tutelage.machines import ALONE
from tutelage.model import CHUNK, RECOMPUTATIONS, Costs, Course, Policy, Recomputation, device_for, has_bfloat16, outline
from tutelage.resources import generation, memory
from tutelage.resources.device import Device, this_machine
from tutelage.resources.fitting import chunk_for, tile_for
from tutelage.resources.ladder import way_of
from tutelage.resources.memory import HEADROOM, Load
from tutelage.resources.placement import Seat, Sharing, engine_name, is_asked_for, rooms, seat_of, sharings
from tutelage.resources.seconds import (
    TOGETHER_IN_AN_ENGINE,
    Operations,
    Pace,
    Step,
    Work,
    again_of,
    costs_of,
    evaluation_seconds,
    first_steps,
    total_of,
    traffic_of,
    training_seconds,
)
from tutelage.resources.trace import traced_bytes


@dataclass(frozen=True)
class Estimate:
    """What a run is reckoned to need and to take.

    Attributes:
        kind: what is computed again.
        load: the largest batch.
        seat: where responses are generated.
        training, evaluation: bytes at the peak on one device that trains, by name.
        fits: whether both are within what may be used.
        tokens_per_second: of the rows' own tokens.
        seconds: of training, and of what evaluations hold it up for. None: the device's speed is not known.
        sharings: what an engine would have on the GPU that is trained on, beside training and in turns; nothing on a CPU.
        tile: tokens that MLPs and norms compute at a time, 0: all; chunk: targets that meet the vocabulary at a time.
        takes: seconds of training by what takes them.
    """

    kind: Recomputation
    load: Load
    seat: Seat
    training: dict[str, float]
    evaluation: dict[str, float]
    fits: bool
    tokens_per_second: float | None = None
    seconds: tuple[float, float] | None = None
    sharings: dict[Seat, Sharing] = field(default_factory=dict)
    tile: int = 0
    chunk: int = CHUNK
    takes: dict[str, float] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        """Bytes of the larger of the two."""
        return max(sum(self.training.values()), sum(self.evaluation.values()))


@dataclass(frozen=True)
class Way:
    """What is the same for all runs that train in one way: the model's shapes, the bytes that training holds, operations, costs."""

    policy: Policy
    held: dict[str, float]
    shapes: memory.Shapes
    operations: Operations
    costs: Costs


class Estimator:
    """Estimates of runs of one tokenizer on devices of one kind.

    Args:
        gpus: how many such devices there are. With several, an engine has the last one, and the others train.
        shares: whether those that train share the weights as ranks of one job; else one of them trains.
    """

    def __init__(self, tokenizer: Any, device: Device, gpus: int = 1, shares: bool = True) -> None:
        self.tokenizer, self.device, self.gpus, self.shares = tokenizer, device, gpus, shares
        self._ways: dict[str, Way] = {}
        self._prepared: Prepared | None = None
        self._steps: dict[tuple[Any, ...], list[Step]] = {}

    @property
    def allowed(self) -> float:
        """Bytes of a device that may be used."""
        return HEADROOM * self.device.memory

    def ranks(self, config: Config) -> int:
        """How many devices train."""
        return self.gpus - self._has_second(config) if self.shares else 1

    def _has_second(self, config: Config) -> bool:
        return self.gpus > 1 and config.eval.backend != "native"

    def policy(self, config: Config) -> Policy:
        """A model of shapes, as the run trains it."""
        return self._way(config).policy

    def _way(self, config: Config) -> Way:
        model = config.model
        key = repr((model.id, *way_of(config), model.quantize, model.lora_rank, model.lora_targets, config.train.pack))
        if key not in self._ways:
            policy = outlined(config, self.tokenizer, self.device.torch_device)
            held, shapes = memory.held_bytes(policy, config), memory.Shapes.of(policy)
            self._ways[key] = Way(policy, held, shapes, Operations.of(policy), costs_of(policy))
        return self._ways[key]

    def _work(self, config: Config, prepared: Prepared, way: Way) -> Work:
        """What the run computes; rows that are laid out once serve every way of training."""
        course = Course(prepared, config, way.policy, way.costs)
        if prepared is not self._prepared:
            self._prepared, self._steps = prepared, {}
        train = config.train
        costs = way.costs if way.costs.of_sharing else None  # else they change nothing of one rank's packs
        key = course.budget, train.batch_size, train.grad_accum, train.seed, course.total, way.policy.packs, costs
        if key not in self._steps:
            self._steps[key] = first_steps(course)
        return Work.of(course, way.operations, way.costs, self._steps[key])

    def given(self, config: Config, prepared: Prepared) -> Estimate:
        """What the settings as they are need and take; of "auto" recomputation, the first kind that fits for training."""
        wanted = config.model.activation_checkpointing
        if wanted != "auto":
            return self.estimate(config, prepared, wanted)
        at_once = config if config.model.tile is not None else replaced(config, {"model.tile": 0})  # a run tiles last of all
        kinds = [kind for kind in RECOMPUTATIONS if not (at_once.model.tile and kind == "selective")]
        estimates = (self.estimate(at_once, prepared, kind) for kind in kinds)
        fitting = next((each for each in estimates if sum(each.training.values()) <= self.allowed), None)
        return fitting or self.estimate(config, prepared, RECOMPUTATIONS[-1])

    def estimate(self, config: Config, prepared: Prepared, kind: Recomputation, trace: bool = False) -> Estimate:
        """What a run needs and takes with one kind of recomputation.

        Args:
            trace: trace the memory of training in place of the formula.

        Raises:
            InputError: the model is not there, or cannot be traced.
        """
        way, ranks = self._way(config), self.ranks(config)
        work = self._work(config, prepared, way)
        load = work.load if ranks == 1 else replace(work.load, together=0)  # a step is one batch of each rank there
        kind = "full" if load.together else kind  # each layer is computed again
        shapes = self._fitted(way, config, load, kind, ranks)
        activations = {"activations": memory.activations_of(shapes, load, kind)}
        training = way.held | activations
        if ranks > 1:
            training = memory.sharded_bytes(training, way.policy, ranks)
        if trace:
            training = traced_bytes(config, load, kind, shapes, ranks)
        seat, evaluation = self._seated(way.policy, config, prepared, training)
        shared = self._shared(way.policy, config, prepared, training)
        if seat is Seat.IN_TURNS:
            training = training | {"engine asleep": shared[seat].while_training}
        fits = max(sum(training.values()), sum(evaluation.values())) <= self.allowed
        fits = fits and not (seat is Seat.NATIVE and is_asked_for(config.eval))
        held = training["weights"] + training["gradients"] + training["moments"]
        pace = self._pace(way, config, work, kind, shapes)
        takes = training_seconds(work, pace, held, self.device, way.policy.compute_dtype)
        together = config.eval.batch_size if seat is Seat.NATIVE else TOGETHER_IN_AN_ENGINE
        waiting = evaluation_seconds(way.policy, config.eval, prepared, work.steps, self.device, together)
        found = Estimate(kind, load, seat, training, evaluation, fits, sharings=shared, tile=shapes.tile, chunk=shapes.chunk)
        if takes is None or waiting is None:
            return found
        if seat is Seat.OWN_DEVICE and config.eval.mode != "sync":
            waiting = 0.0
        seconds = total_of(takes)
        return replace(found, tokens_per_second=work.tokens / seconds, seconds=(seconds, waiting), takes=takes)

    def _fitted(self, way: Way, config: Config, load: Load, kind: Recomputation, ranks: int) -> memory.Shapes:
        """The shapes with the tile and the head's chunk that a run would take, in the memory that its state leaves."""
        held = way.held if ranks == 1 else memory.sharded_bytes(way.held, way.policy, ranks)
        free = self.allowed - sum(held.values())
        shapes = replace(way.shapes, offload=config.model.activation_offload, shared=ranks > 1)
        shapes = replace(shapes, tile=tile_for(shapes, load, kind, config.model.tile, free))
        return replace(shapes, chunk=chunk_for(shapes, load, kind, free, on_gpu=False))

    def _pace(self, way: Way, config: Config, work: Work, kind: Recomputation, shapes: memory.Shapes) -> Pace:
        ranks, always = self.ranks(config), config.parallel.sync != "last"
        to_host = 2.0 * shapes.depth * shapes.hidden * shapes.width * shapes.offload
        again = again_of(kind, shapes, work, way.operations)
        return Pace(again, shapes.depth, ranks, traffic_of(way.policy, shapes, ranks, always), to_host)

    def _shared(
        self, policy: Policy, config: Config, prepared: Prepared, training: dict[str, float]
    ) -> dict[Seat, Sharing]:
        if self.device.kind != "cuda":
            return {}
        longest = prepared.longest_prompt + config.eval.max_new_tokens
        return sharings(policy, config.eval, self.device.memory, self.ranks(config), longest, training)

    def _seated(
        self, policy: Policy, config: Config, prepared: Prepared, training: dict[str, float]
    ) -> tuple[Seat, dict[str, float]]:
        """Where responses are generated, and the bytes of an evaluation at its peak on the device that trains.

        vLLM is taken to be there on a GPU, and on a CPU where it is asked for.
        """
        settings, longest = config.eval, prepared.longest_prompt + config.eval.max_new_tokens
        engine, found = 0.0, {}
        if is_asked_for(settings) or (settings.backend == "auto" and self.device.kind == "cuda"):
            engine, own = generation.engine_bytes(policy, longest), self.allowed if self._has_second(config) else None
            found = rooms(settings, self.device.kind, self.ranks(config), self.allowed, training, own)
        seat = seat_of(engine, found)
        if seat is Seat.NATIVE and is_asked_for(settings):  # does not fit: what it needs where it needs least
            seat = next(reversed(found), Seat.NATIVE)
        held = {"weights": training["weights"], "moments": training["moments"]}
        if seat is Seat.NATIVE:
            rows = min(settings.batch_size, max(1, prepared.panel * settings.samples))
            if self.ranks(config) > 1 and not memory.shapes_and_weights(policy)[0].mixed:  # whose copies count as generation
                held["gathered"] = float(policy.compute_dtype.itemsize * memory.shapes_and_weights(policy)[0].own)
            held["generation"] = generation.native_bytes(policy, rows, prepared.longest_prompt, longest)
            return seat, held
        needs = {engine_name(settings): engine}
        if seat is Seat.OWN_DEVICE:  # whose memory counts alone where the engine does not fit
            return seat, held if engine <= self.allowed else needs
        if seat is Seat.IN_TURNS:
            return seat, ({"weights": training["weights"]} if settings.offload_optimizer else held) | needs
        return seat, training | needs


def outlined(config: Config, tokenizer: Any, device: torch.device) -> Policy:
    """A policy of shapes that packs rows where the run would, as far as the model's configuration says."""
    policy = outline(config.model, tokenizer, device)
    policy.packs = config.train.pack and packable(policy.model)
    return policy


def packable(model: Any) -> bool:
    """Whether a model's configuration speaks of nothing that packs cannot have; a run tries it on the weights themselves."""
    config = model.config.get_text_config()
    windows = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) is not None
    windows = windows or "sliding_attention" in (getattr(config, "layer_types", None) or ())
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    dropout = max(float(getattr(config, name, 0.0) or 0.0) for name in ("attention_dropout", "attn_pdrop"))
    return bool(model._supports_attention_backend) and not (windows or capped or dropout)


def device_here(config: ModelConfig) -> Device:
    """The device of a configuration on this machine. Raises InputError if it is not there."""
    device = device_for(config.device, ALONE)
    return this_machine(device, has_bfloat16(device) and config.precision != "fp32")
