"""What a device can do: the figures of some GPUs by name, or those of this machine, measured."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tutelage.errors import InputError
from tutelage.machines import machine_memory
from tutelage.resources.memory import GIB

LONGEST_PRODUCT = 1.0
"""Seconds: a matrix product that would take longer is not measured."""
MOST_FOR_A_RATE = 0.25
"""The share of free memory that measuring a rate may hold."""


PCIE_3, PCIE_4, PCIE_5 = 12e9, 25e9, 50e9
"""Bytes per second of a slot of 16 lanes in one direction, with what its protocol takes."""


@dataclass(frozen=True)
class Device:
    """A device that is planned for.

    Attributes:
        kind: torch's name of the type, "cuda" or "cpu".
        memory: bytes that a program can have.
        products: floating-point operations per second of matrix products in bfloat16 and in float32. None: not known.
        reads: bytes per second from its memory. None: not known.
        link: bytes per second that a card sends to another one of its machine while it receives as many.
        host: bytes per second from a card to the host's memory, or back.
    """

    name: str
    kind: str
    memory: float
    products: tuple[float, float] | None = None
    reads: float | None = None
    link: float = PCIE_4
    host: float = PCIE_4

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda", 0) if self.kind == "cuda" else torch.device("cpu")

    def product_rate(self, dtype: torch.dtype) -> float | None:
        """Operations per second of matrix products in a precision."""
        return None if self.products is None else self.products[dtype == torch.float32]


# dense products in bfloat16 with float32 sums, and in plain float32, by the makers' data sheets; memory as CUDA reports it; NVLink in
# one direction. A T4 has no bfloat16 in its matrix units
KNOWN = {
    "t4": Device("NVIDIA T4", "cuda", 14.6 * GIB, (8.1e12, 8.1e12), 320e9, PCIE_3, PCIE_3),
    "a10g": Device("NVIDIA A10G", "cuda", 22.4 * GIB, (70e12, 31.2e12), 600e9),
    "l4": Device("NVIDIA L4", "cuda", 22.0 * GIB, (121e12, 30.3e12), 300e9),
    "l40s": Device("NVIDIA L40S", "cuda", 44.4 * GIB, (362e12, 91.6e12), 864e9),
    "a100-40": Device("NVIDIA A100 40 GB", "cuda", 39.4 * GIB, (312e12, 19.5e12), 1555e9, 300e9),
    "a100-80": Device("NVIDIA A100 80 GB SXM", "cuda", 79.2 * GIB, (312e12, 19.5e12), 2039e9, 300e9),
    "h100": Device("NVIDIA H100 80 GB SXM", "cuda", 79.0 * GIB, (989e12, 67e12), 3350e9, 450e9, PCIE_5),
    "h200": Device("NVIDIA H200 SXM", "cuda", 139.7 * GIB, (989e12, 67e12), 4800e9, 450e9, PCIE_5),
    "b200": Device("NVIDIA B200 SXM", "cuda", 178.3 * GIB, (2250e12, 75e12), 7700e9, 900e9, PCIE_5),
    "rtx3090": Device("NVIDIA GeForce RTX 3090", "cuda", 23.5 * GIB, (71e12, 35.6e12), 936e9),
    "rtx4090": Device("NVIDIA GeForce RTX 4090", "cuda", 23.5 * GIB, (165e12, 82.6e12), 1008e9),
    "rtx5090": Device("NVIDIA GeForce RTX 5090", "cuda", 31.3 * GIB, (209e12, 104.8e12), 1792e9, PCIE_5, PCIE_5),
}
NETWORKS = {"pcie": PCIE_4, "100gb": 12.5e9, "400gb": 50e9}
"""Bytes per second of each card, by what joins the cards: a PCIe 4 slot, or a network adapter of so many gigabits for each card."""


def device_named(name: str) -> Device:
    """A known GPU, this machine's CPU ("cpu"), or a GPU of some GiB ("24", "24GiB"), whose speed is not known.

    Raises:
        InputError: neither of these.
    """
    wanted = name.lower()
    if wanted in KNOWN:
        return KNOWN[wanted]
    if wanted == "cpu":
        return this_machine(torch.device("cpu"), bfloat16=False)
    try:
        size = float(wanted.removesuffix("gib").removesuffix("gb"))
    except ValueError:
        size = 0.0
    if not 0 < size < 10_000:
        raise InputError(f"--device {name}: write one of {', '.join(KNOWN)}, cpu, or the GiB of a GPU's memory, such as 24")
    return Device(f"a GPU of {size:g} GiB", "cuda", size * GIB)


def joined_by(device: Device, network: str | None) -> Device:
    """The device with another link between cards; None, or "nvlink": its own.

    Raises:
        InputError: the network is not known, or the card has no NVLink.
    """
    if network is None:
        return device
    if network == "nvlink":
        if device.link <= PCIE_5:
            raise InputError(f"--network nvlink: no NVLink of {device.name} is known to the planner; write one of {', '.join(NETWORKS)}")
        return device
    if network not in NETWORKS:
        raise InputError(f"--network {network}: write one of nvlink, {', '.join(NETWORKS)}")
    return replace(device, link=NETWORKS[network])


def this_machine(device: torch.device, bfloat16: bool = True) -> Device:
    """What a device of this machine can do, measured now.

    Args:
        bfloat16: whether to measure it; a CPU without bfloat16 arithmetic takes long.
    """
    memory = float(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else free_memory(device)
    wide = matrix_rate(device, torch.float32)
    narrow = matrix_rate(device, torch.bfloat16) if bfloat16 else wide
    rates = (narrow, wide) if narrow is not None and wide is not None else None
    return Device(f"{device} of this machine", device.type, memory, rates, memory_rate(device))


@functools.cache
def matrix_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float | None:
    """Floating-point operations per second of a large matrix product on a device: the best of a few. None: no memory for it.

    Matrices become larger until they would not fit into `MOST_FOR_A_RATE` of the free memory, or a product would take long: a CPU may
    have no instructions for a type.
    """
    room, rate = MOST_FOR_A_RATE * free_memory(device), None
    for size in (256, 1024, 2048, 4096, 8192)[: None if device.type == "cuda" else 3]:
        operations = 2.0 * size**3
        too_long = rate is not None and operations / rate > LONGEST_PRODUCT
        if too_long or 3 * size**2 * dtype.itemsize > room:  # two factors and their product
            break
        seconds = _shortest(device, functools.partial(torch.randn, size, size, dtype=dtype, device=device), 2, torch.mm)
        rate = rate if seconds is None else operations / seconds
    return rate


@functools.cache
def memory_rate(device: torch.device) -> float | None:
    """Bytes per second that a sum reads from a device's memory: the best of a few. None: no memory for it."""
    size = int(min(1 << 30 if device.type == "cuda" else 1 << 27, MOST_FOR_A_RATE * free_memory(device)))
    if size < 1 << 20:
        return None
    seconds = _shortest(device, lambda: torch.ones(size // 4, device=device), 1, torch.sum)
    return None if seconds is None else size / seconds


def _shortest(device: torch.device, make: Callable[[], torch.Tensor], count: int, work: Callable[..., object]) -> float | None:
    """Seconds of the fastest of four calls of `work` with `count` tensors, whose memory is given back. None: a call failed."""
    best, inputs = float("inf"), []
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    try:
        inputs = [make() for _ in range(count)]
        for _ in range(4):
            synchronize()
            started = time.perf_counter()
            work(*inputs)
            synchronize()
            best = min(best, time.perf_counter() - started)
        return best
    except (RuntimeError, MemoryError):  # a rate is worth no run; a device that is really broken fails at the next operation too
        return None
    finally:
        inputs.clear()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device now. A system that does not say how much is free (macOS) is taken to have all its memory free;
    infinite where it does not say that either."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        allowed = total * torch.cuda.get_per_process_memory_fraction(device)
        return min(float(free), allowed - torch.cuda.memory_allocated(device))
    known = [float(machine_memory() or "inf")]
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        known.append(1024.0 * int(lines["MemAvailable"].split()[0]))
    with contextlib.suppress(OSError, KeyError, ValueError):  # a container's own limit, where there is one
        group = Path("/sys/fs/cgroup")
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        known.append(float((group / "memory.max").read_text()) - float(used["anon"]))
    return min(known)


def memory_in_use(device: torch.device) -> float | None:
    """GB: of a GPU the most that was allocated since this was last asked; on a CPU what the process has in memory now, where the
    system tells."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return round(peak / 1e9, 3)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e9, 3)


def visible_name(index: int) -> str:
    """The name in CUDA_VISIBLE_DEVICES of the GPU that this process knows as `index`.

    Raises:
        InputError: CUDA_VISIBLE_DEVICES names fewer GPUs.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        return str(index)
    names = [name.strip() for name in visible.split(",")]
    if index >= len(names):
        raise InputError(f"CUDA_VISIBLE_DEVICES = {visible} names no GPU number {index}")
    return names[index]
