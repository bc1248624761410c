"""What a device can do: the figures of some GPUs by name, or those that are measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tutelage.errors import InputError
from tutelage.resources.memory import free_memory
from tutelage.resources.speed import matrix_rate, memory_rate

GIB = float(1 << 30)


@dataclass(frozen=True)
class Device:
    """A device that is planned for.

    Attributes:
        kind: what torch calls such a device.
        memory: bytes that a program can have.
        products: floating-point operations per second of matrix products in bfloat16 and in float32; None: not known.
        reads: bytes per second from its memory; None: not known.
    """

    name: str
    kind: str
    memory: float
    products: tuple[float, float] | None = None
    reads: float | None = None

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda", 0) if self.kind == "cuda" else torch.device("cpu")

    def product_rate(self, dtype: torch.dtype) -> float | None:
        """Operations per second of matrix products in a precision."""
        return None if self.products is None else self.products[dtype == torch.float32]


# dense products in bfloat16 with float32 sums, and in plain float32, by the makers' data sheets; memory as CUDA reports it
KNOWN = {
    "a10g": Device("NVIDIA A10G", "cuda", 22.4 * GIB, (70e12, 31.2e12), 600e9),
    "l4": Device("NVIDIA L4", "cuda", 22.0 * GIB, (121e12, 30.3e12), 300e9),
    "a100-40": Device("NVIDIA A100 40 GB", "cuda", 39.4 * GIB, (312e12, 19.5e12), 1555e9),
    "h100": Device("NVIDIA H100 80 GB SXM", "cuda", 79.0 * GIB, (989e12, 67e12), 3350e9),
    "rtx4090": Device("NVIDIA GeForce RTX 4090", "cuda", 23.5 * GIB, (165e12, 82.6e12), 1008e9),
}


def device_named(name: str) -> Device:
    """A known GPU, this machine's CPU ("cpu"), or a GPU of so many GiB ("24", "24GiB"), whose speed is not known.

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


def this_machine(device: torch.device, bfloat16: bool = True) -> Device:
    """What a device of this machine can do, measured now.

    Args:
        bfloat16: whether to measure it; a CPU without it takes long.
    """
    whole = float(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else free_memory(device)
    wide = matrix_rate(device, torch.float32)
    rates = (matrix_rate(device, torch.bfloat16) if bfloat16 else wide, wide)
    return Device(f"{device} of this machine", device.type, whole, rates, memory_rate(device))
