"""Where vLLM runs: on a device of its own, beside training, in turns with it, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tutelage import console
from tutelage.config import Config, EvalConfig
from tutelage.errors import InputError
from tutelage.model import Policy, Recomputation, choose_device, optim
from tutelage.resources.memory import HEADROOM, Load, activation_bytes, engine_bytes, free_memory, state_to_come


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
    """Where vLLM runs: on a device of its own, beside training, or in turns with it."""

    device: torch.device
    in_turns: bool
    gpu_memory_utilization: float
    asynchronous: bool


def place_engine(
    policy: Policy, config: Config, optimizer: torch.optim.Optimizer, pack_tokens: int, longest: int, ranks: int,
    missing: Callable[[str], str],
) -> Placement | None:
    """Where vLLM is to run, or None where the policy generates by itself; says what was decided and why.

    Args:
        pack_tokens: of the largest pack that is trained on.
        longest: prompt + response in tokens, at most.
        ranks: how many train on this machine.
        missing: says what keeps the engine from running on a kind of device, nothing if nothing does.

    Raises:
        InputError: vLLM was asked for and is not installed or does not fit; or "async" where they compute in turns.
    """
    wanted = config.eval.backend
    if wanted == "native":
        return None
    device = engine_device(config.eval.device, policy.device, ranks)
    found = missing(device.type) or _fit(policy, config, optimizer, device, pack_tokens, longest)
    if device.type == "cuda" == policy.device.type and policy.device.index < device.index < policy.device.index + ranks:
        found = f"another rank trains on {device}"
    if ranks > 1 and not isinstance(found, str) and found[1]:
        found = f"several ranks cannot take turns with it, and beside them {device} is too small"
    if isinstance(found, str):
        if wanted == "vllm":
            raise InputError(
                f'eval.backend = "vllm": {found}; make room, or choose another eval.device, or eval.backend = "native"'
            )
        waits = "; training waits for it, whatever eval.mode says" if config.eval.mode == "async" else ""
        console.say(f"evaluation: by the training model itself ({found}){waits}")
        return None
    share, in_turns = found
    asynchronous = config.eval.mode == "async" or (config.eval.mode == "auto" and device != policy.device)
    if asynchronous and in_turns:
        raise InputError(
            f'eval.mode = "async": on {device} training and vLLM compute in turns, as eval.in_turns says or the memory wants; use'
            ' eval.mode = "sync", or another eval.device'
        )
    how = "in turns with training" if in_turns else "while training goes on" if asynchronous else "while training waits"
    console.say(f"evaluation: by vLLM on {device}, {how}")
    return Placement(device, in_turns, share, asynchronous)


def _fit(
    policy: Policy, config: Config, optimizer: torch.optim.Optimizer, device: torch.device, pack_tokens: int, longest: int
) -> tuple[float, bool] | str:
    """(share of the GPU's memory, whether in turns), or why vLLM does not fit."""
    need = engine_bytes(policy, longest)
    wanted = config.eval.gpu_memory_utilization
    kept: Recomputation = "selective" if policy.model.is_gradient_checkpointing else "none"
    there = optim.state_bytes(optimizer)  # of a run that goes on
    to_come = max(0.0, state_to_come(policy, config) - there) + activation_bytes(policy, Load(pack_tokens, pack_tokens), kept)
    if device.type == "cpu":
        free = free_memory(device) - (to_come if policy.device.type == "cpu" else 0)
        return (wanted, False) if need <= free else f"it needs {_gb(need)}, and training leaves {_gb(free)} of memory"
    whole = float(torch.cuda.mem_get_info(device)[1])
    free = free_memory(device)
    if device != policy.device:
        room = min(wanted * whole, HEADROOM * free)
        return (room / whole, False) if need <= room else f"it needs {_gb(need)}, and {device} has {_gb(room)} for it"
    beside, turns = HEADROOM * free - to_come, HEADROOM * free + there
    if config.eval.in_turns != "on" and need <= beside:
        return min(wanted, beside / whole), False
    if not config.eval.offload_optimizer:
        turns -= to_come + there
    if config.eval.in_turns != "off" and need <= turns:
        return min(wanted, turns / whole), True
    return f"it needs {_gb(need)}, and training leaves {_gb(beside)} of {device}, {_gb(turns)} in turns"


def _gb(size: float) -> str:
    return f"{max(size, 0) / 1e9:.1f} GB"
