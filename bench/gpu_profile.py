"""Where the card's time in a training step goes: kernels by what they are for, and the share of the step in which the card is busy."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = (
    ("element-wise", r"^triton_(poi|red|per|for)_"),  # compiled; their names list what is fused, casts among it
    ("attention", r"flash|fmha|attention|attn|sdpa|flex"),
    ("products", r"gemm|cutlass|nvjet|cublas|xmma|triton_tem|aten::(mm|bmm|addmm)$"),
    ("copies and casts", r"memcpy|memset|copy"),
    ("optimizer", r"adam|multi_tensor|lpnorm|stochastic"),
    ("gathers", r"index|gather|scatter|embedding"),
    ("element-wise", r"triton|elementwise|vectorized|reduce_kernel|softmax|aten::|CompiledFxGraph"),
)
"""What a kernel is for, by its name; the first pattern that is found decides."""
RANGES = {"head": "head", "Optimizer.step": "optimizer"}
"""What a kernel is for, by how the name of the range begins that it runs in; this comes before its own name."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of a step, with its start and duration in microseconds, and the name of the range that it runs in."""

    name: str
    start: float
    duration: float
    range: str = ""

    @property
    def kind(self) -> str:
        of_range = next((kind for name, kind in RANGES.items() if self.range.startswith(name)), None)
        return of_range or next((kind for kind, names in KINDS if re.search(names, self.name, re.IGNORECASE)), "other")


def kernels_of(profile: Any, on_card: bool) -> list[Kernel]:
    """The kernels that a profile of torch saw; on a CPU its operators, by their own time, which start nowhere."""
    if not on_card:
        return [Kernel(event.key, 0.0, event.self_cpu_time_total) for event in profile.key_averages()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profile.export_chrome_trace(str(path))
        return kernels_in(json.loads(path.read_text())["traceEvents"])


def kernels_in(events: Iterable[dict[str, Any]]) -> list[Kernel]:
    """The kernels of a trace, each with the range on the card that it lies in."""
    events = list(events)
    ranges = [event for event in events if event.get("cat") == "gpu_user_annotation" and event["name"].startswith(tuple(RANGES))]

    def range_of(start: float) -> str:
        return next((each["name"] for each in ranges if each["ts"] <= start < each["ts"] + each["dur"]), "")

    kinds = ("kernel", "gpu_memcpy", "gpu_memset")
    found = [event for event in events if event.get("cat") in kinds]
    return [Kernel(event["name"], event["ts"], event["dur"], range_of(event["ts"])) for event in found]


def busy_microseconds(kernels: Sequence[Kernel]) -> float:
    """For how long at least one kernel runs."""
    busy, until = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda kernel: kernel.start):
        stop = kernel.start + kernel.duration
        busy += max(0.0, stop - max(until, kernel.start))
        until = max(until, stop)
    return busy


def summary(kernels: Sequence[Kernel], step_seconds: float, on_card: bool, most: int = 12) -> dict[str, Any]:
    """Milliseconds of a step by what kernels are for, and by kernel; with the share of the step in which the card is busy.

    Args:
        step_seconds: of a step without the profiler, which makes the host slower but not the kernels.
        on_card: whether the kernels are a card's; else the busy share is None.
        most: so many kernels are named.
    """
    by_kind: dict[str, float] = {}
    by_name: dict[str, tuple[float, int]] = {}
    for kernel in kernels:
        by_kind[kernel.kind] = by_kind.get(kernel.kind, 0.0) + kernel.duration / 1e3
        spent, calls = by_name.get(kernel.name, (0.0, 0))
        by_name[kernel.name] = spent + kernel.duration / 1e3, calls + 1
    largest = sorted(by_name.items(), key=lambda item: -item[1][0])[:most]
    return {
        "busy_share": round(min(1.0, busy_microseconds(kernels) / 1e6 / step_seconds), 4) if on_card else None,
        "step_ms": round(1e3 * step_seconds, 1),
        "kernels_ms": round(sum(by_kind.values()), 1),
        "by_kind_ms": {kind: round(spent, 2) for kind, spent in sorted(by_kind.items(), key=lambda item: -item[1])},
        "largest": [{"kernel": name[:120], "ms": round(spent, 2), "calls": calls} for name, (spent, calls) in largest],
    }
