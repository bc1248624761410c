"""Where an engine runs: on a device of its own, beside training, in turns with it, or not at all."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from tutelage import console
from tutelage.config import EvalConfig
from tutelage.errors import InputError
from tutelage.model import Course, Policy, Recomputation, choose_device, optim
from tutelage.resources.device import free_memory
from tutelage.resources.generation import ENGINE_ASLEEP, engine_bytes, engine_key_bytes, engine_parts
from tutelage.resources.memory import (
    HEADROOM,
    Load,
    activation_bytes,
    in_gib,
    state_bytes,
)


class Seat(enum.Enum):
    """Where responses are generated; the values are what is printed."""

    NATIVE = "native"
    """By the training model itself."""
    OWN_DEVICE = "second card"
    """By an engine on a device that is not trained on."""
    BESIDE = "{engine} beside it"
    """By an engine on the device that is trained on, whose memory holds both at once."""
    IN_TURNS = "in turns"
    """By an engine on the device that is trained on, which sleeps while training computes."""


def engine_name(config: EvalConfig) -> str:
    """The name of the engine for messages: vLLM, unless `eval.backend` names another one."""
    return "vLLM" if config.backend in ("auto", "native", "vllm") else config.backend


def is_asked_for(config: EvalConfig) -> bool:
    """Whether `eval.backend` asks for an engine, which then must run."""
    return config.backend not in ("auto", "native")


def rooms(
    config: EvalConfig, kind: str, ranks: int, free: float, training: Mapping[str, float], own: float | None = None
) -> dict[Seat, float]:
    """Bytes that an engine may take in each seat that the settings allow, the better seat first.

    Args:
        kind: of the device that is trained on, "cuda" or "cpu".
        ranks: how many train together; several cannot take turns with an engine.
        free: bytes on the device that is trained on, for training and the engine together.
        training: bytes of training at its peak, by name as `memory.training_bytes`, as far as they are taken from `free`.
        own: bytes for the engine on a device that is not trained on. None: there is none.
    """
    if own is not None:
        return {Seat.OWN_DEVICE: own}
    turns = config.in_turns if kind == "cuda" else "off"  # a CPU's memory cannot be taken from a sleeping engine
    found = {}
    if turns != "on":
        found[Seat.BESIDE] = free - sum(training.values())
    if turns != "off" and ranks == 1:
        # between two steps there are neither gradients nor copies nor activations
        moments = 0.0 if config.offload_optimizer else training["moments"]
        found[Seat.IN_TURNS] = free - training.get("weights", 0.0) - moments
    return found


@dataclass(frozen=True)
class Sharing:
    """An engine on the device that is trained on, in one seat.

    Attributes:
        needs: bytes at least, by name as `generation.engine_parts`.
        room: bytes that it may take.
        takes: bytes that it takes while it generates: the share that `eval.gpu_memory_utilization` asks for, if there is room for
            it, else the room. 0: it does not fit.
        cached_tokens: of which its cache holds keys and values then.
        while_training: bytes that it holds while training computes.
        host: bytes of the host's memory: the copy of the weights, and in turns the engine's own and the optimizer's state.
    """

    needs: dict[str, float]
    room: float
    takes: float
    cached_tokens: int
    while_training: float
    host: float


def sharings(
    policy: Policy, config: EvalConfig, device_bytes: float, ranks: int, longest: int, training: Mapping[str, float]
) -> dict[Seat, Sharing]:
    """What an engine would have beside training and in turns with it, whichever of the two `eval.in_turns` asks for.

    Args:
        device_bytes: the memory of the device, a GPU.
        training: bytes of training at its peak, by name as `memory.training_bytes`.
    """
    needs, of_a_token = engine_parts(policy, longest), engine_key_bytes(policy)
    found = rooms(config.model_copy(update={"in_turns": "auto"}), "cuda", ranks, HEADROOM * device_bytes, training)
    shared = {}
    for seat, room in found.items():
        fits = sum(needs.values()) <= room
        takes = min(room, config.gpu_memory_utilization * device_bytes) if fits else 0.0
        cached = int((takes - needs["weights"] - needs["overhead"]) / of_a_token) if fits and of_a_token else 0
        moments = training["moments"] if config.offload_optimizer else 0.0
        asleep = (ENGINE_ASLEEP, 2 * needs["weights"] + moments) if seat is Seat.IN_TURNS else (takes, needs["weights"])
        shared[seat] = Sharing(needs, room, takes, cached, *asleep)
    return shared


def seat_of(need: float, rooms: Mapping[Seat, float]) -> Seat:
    """The best seat with room for an engine of `need` bytes, else that of the training model."""
    return next((seat for seat, room in rooms.items() if need <= room), Seat.NATIVE)


def engine_device(name: str, trains_on: torch.device, ranks: int = 1) -> torch.device:
    """The device of `eval.device`; "auto" is a GPU that is not trained on, else the one that is, else the CPU.

    `ranks` of a job train on as many GPUs, from `trains_on` on.
    """
    if name != "auto":
        return choose_device(name)
    if trains_on.type == "cuda":
        taken = range(trains_on.index, trains_on.index + ranks)
        others = [index for index in range(torch.cuda.device_count()) if index not in taken]
        return torch.device("cuda", others[0]) if others else trains_on
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def engine_devices(config: EvalConfig) -> list[torch.device]:
    """Where engines run that need not share: on every GPU in sight, unless `eval.device` names one; else on the CPU."""
    if config.device != "auto":
        return [choose_device(config.device)]
    if torch.cuda.is_available():
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [torch.device("cpu")]


@dataclass(frozen=True)
class Placement:
    """Where an engine runs, how much of the device's memory it may take, and whether training goes on meanwhile."""

    device: torch.device
    in_turns: bool
    gpu_memory_utilization: float
    asynchronous: bool


def place_engine(course: Course, optimizer: torch.optim.Optimizer, missing: Callable[[str], str]) -> Placement | None:
    """Where an engine is to run, by the memory that is free now, or None where the policy generates by itself; says what was decided.

    Args:
        missing: says what keeps the engine from running on a kind of device, nothing if nothing does.

    Raises:
        InputError: an engine was asked for and is not installed or does not fit; or "async" where they compute in turns.
    """
    policy, config, ranks = course.policy, course.config, course.world.local_size
    if config.eval.backend == "native":
        return None
    name, device, trains_on = engine_name(config.eval), engine_device(config.eval.device, policy.device, ranks), policy.device
    seat, found, objection = Seat.NATIVE, {}, missing(device.type)
    if not objection and device.type == "cuda" == trains_on.type and trains_on.index < device.index < trains_on.index + ranks:
        objection = f"another rank trains on {device}"
    if not objection:
        need, found = engine_bytes(policy, course.longest), _rooms_now(course, optimizer, device)
        seat, objection = seat_of(need, found), _too_small(need, found, device, ranks)
    if seat is Seat.NATIVE:
        if is_asked_for(config.eval):
            raise InputError(
                f'eval.backend = "{config.eval.backend}": {objection}; make room, or choose another eval.device, or eval.backend ='
                ' "native"'
            )
        waits = "; training waits for it, whatever eval.mode says" if config.eval.mode == "async" else ""
        console.say(f"evaluation: by the training model itself ({objection}){waits}")
        return None
    in_turns = seat is Seat.IN_TURNS
    asynchronous = config.eval.mode == "async" or (config.eval.mode == "auto" and device != trains_on)
    if asynchronous and in_turns:
        raise InputError(
            f'eval.mode = "async": on {device} training and {name} compute in turns, as eval.in_turns says or the memory wants; use'
            ' eval.mode = "sync", or another eval.device'
        )
    how = "in turns with training" if in_turns else "while training goes on" if asynchronous else "while training waits"
    console.say(f"evaluation: by {name} on {device}, {how}")
    wanted = config.eval.gpu_memory_utilization
    share = wanted if device.type == "cpu" else min(wanted, found[seat] / torch.cuda.mem_get_info(device)[1])
    return Placement(device, in_turns, share, asynchronous)


def _rooms_now(course: Course, optimizer: torch.optim.Optimizer, device: torch.device) -> dict[Seat, float]:
    """`rooms` in the memory that is free now, where the model is loaded; of a run that goes on, moments are there, too."""
    policy, config, ranks = course.policy, course.config, course.world.local_size
    free = free_memory(device) * (HEADROOM if device.type == "cuda" else 1.0)
    if device != policy.device:
        wanted = config.eval.gpu_memory_utilization * torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else free
        return rooms(config.eval, policy.device.type, ranks, free, {}, own=min(free, wanted))
    kept: Recomputation = "selective" if policy.model.is_gradient_checkpointing else "none"
    training = {**state_bytes(policy, config), "activations": activation_bytes(policy, Load.at_most(course.largest, config), kept)}
    return rooms(config.eval, device.type, ranks, free + optim.state_bytes(optimizer), training)


def _too_small(need: float, found: Mapping[Seat, float], device: torch.device, ranks: int) -> str:
    """Why an engine of `need` bytes has none of the seats."""
    if Seat.OWN_DEVICE in found:
        return f"it needs {in_gib(need)}, and {device} has {in_gib(found[Seat.OWN_DEVICE])} for it"
    if ranks > 1:
        return f"several ranks cannot take turns with it, and beside them {device} is too small"
    rooms = {Seat.BESIDE: f"of {device}'s memory", Seat.IN_TURNS: "in turns"}
    left = ", ".join(f"{in_gib(room)} {rooms[seat]}" for seat, room in found.items())
    return f"it needs {in_gib(need)}, and training leaves {left}"
