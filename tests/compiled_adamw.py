"""Compile the Triton kernel for a card that need not be there; prints, for each kind, how wide its loads and stores are."""

from __future__ import annotations

import json
import re
from collections import Counter

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tutelage.model.adamw import kernel

POINTERS = {"weights": 0, "gradients": 0, "firsts": 1, "seconds": 1, "guesses": "*u8", "keys": "*i32"}
SCALARS = {"index": "i32", "start": "i32", "count": "i32", "gain1": "fp32", "gain2": "fp32", "decay": "fp32"}


def accesses(weight: str, moment: str, card: int) -> dict[str, int]:
    names = [parameter.name for parameter in kernel._kernel.params if not parameter.is_constexpr]
    kinds = {name: kind if isinstance(kind, str) else (weight, moment)[kind] for name, kind in POINTERS.items()}
    signature = {name: SCALARS.get(name) or kinds.get(name, "*fp32") for name in names}
    constants = {
        "EVEN": True, "CODED": moment == "*u8", "ROUND_WEIGHT": weight == "*bf16", "ROUND_MOMENTS": moment == "*bf16",
        "ROWS": kernel.ELEMENTS // 256, "WIDTH": 256,
    }  # fmt: skip
    aligned = {(index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if name not in SCALARS}
    source = ASTSource(kernel._kernel, signature | dict.fromkeys(constants, "constexpr"), constants, aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", card, 32)).asm["ptx"]
    return Counter("wide" if wide else "narrow" for wide in re.findall(r"(?:ld|st)\.global(\.v[248])?", ptx))


if __name__ == "__main__":
    kinds = [("*fp32", "*fp32"), ("*bf16", "*bf16"), ("*bf16", "*fp32"), ("*fp32", "*u8"), ("*bf16", "*u8")]
    found = {f"{weight} {moment} {card}": accesses(weight, moment, card) for weight, moment in kinds for card in (80, 90)}
    given = kernel._kernel.params
    constants = [parameter.name for parameter in given if parameter.is_constexpr]
    print(json.dumps({**found, "constants": constants, "whatever their value": [p.name for p in given if p.do_not_specialize]}))
