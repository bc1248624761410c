"""What happens to runs and to inputs: kills, full disks, flipped bits, two writers, hostile files, wrong commands. Does it hold?

    python bench/faults.py                          # all kinds, a tiny random model: at most ten minutes on two cores
    python bench/faults.py --only kills templates --seed 1
    python bench/faults.py --list

A case holds if nothing is lost, no number is wrong without a word, no traceback is printed, and the exit code is the documented
one (`fault_lab.judge`). Writes bench/results/faults.json: `tried`, `held`, `by_kind`, and each case that did not hold.
Cases for which there was no time are counted as `left_out`. `--seed` draws the moments of kills and which bits flip.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_damage
import fault_inputs
import fault_kills
import fault_usage
from fault_lab import Case, Lab
from harness import path_of, write

KINDS: dict[str, Callable[[Lab], Iterator[Case]]] = {
    **fault_kills.KINDS, **fault_damage.KINDS, **fault_inputs.KINDS, **fault_usage.KINDS,
}  # fmt: skip
"""The kinds, in the order in which they run. Each yields its cases."""


def measure(lab: Lab, kinds: list[str], minutes: float, most: int | None = None) -> dict[str, Any]:
    """Try all cases of some kinds.

    Args:
        most: at most so many cases of each kind.
    """
    end = time.monotonic() + 60 * minutes
    by_kind: dict[str, dict[str, Any]] = {}
    failures: list[dict[str, str]] = []
    cut: list[str] = []
    for kind in kinds:
        started, tried, held = time.monotonic(), 0, 0
        for case in KINDS[kind](lab):
            tried += 1
            held += not case.problem
            if case.problem:
                failures.append({"kind": kind, "tried": case.what, "expected": case.expected, "got": case.problem})
                print(f"  {kind}: {case.what}: {case.problem}", flush=True)
            if time.monotonic() > end:
                cut.append(kind)
            if tried == most or time.monotonic() > end:
                break
        by_kind[kind] = {"tried": tried, "held": held, "seconds": round(time.monotonic() - started, 1)}
        print("RESULT" + json.dumps({"kind": kind, **by_kind[kind]}), flush=True)
        if time.monotonic() > end:
            break
    tried, held = (sum(found[what] for found in by_kind.values()) for what in ("tried", "held"))
    left_out = [kind for kind in kinds if kind not in by_kind]
    return {"tried": tried, "held": held, "by_kind": by_kind, "did_not_hold": failures, "cut": cut, "left_out": left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=list(KINDS), metavar="KIND", default=list(KINDS), help="kinds to try (--list)"
    )
    parser.add_argument("--list", action="store_true", help="print the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0, help="no case is begun after so many")
    parser.add_argument("--add", action="store_true", help="keep what the file of results has of other kinds")
    parser.add_argument("--most", type=int, help="at most so many cases of each kind")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{name}: {' '.join((kind.__doc__ or '').split())}" for name, kind in KINDS.items()))
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tutelage-faults-") as name:
        lab = Lab(Path(name), given.seed)
        found = measure(lab, given.only, given.minutes - (time.monotonic() - started) / 60, given.most)
    found |= {"seed": given.seed, "seconds": round(time.monotonic() - started)}
    if given.add:
        found = together(json.loads(path_of("faults").read_text(encoding="utf-8")), found)
    print(f"{found['held']} of {found['tried']} held")
    write("faults", found)


def together(earlier: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Results of two runs: of a kind that both tried, those of the second one."""
    by_kind = {
        kind: {**earlier["by_kind"], **found["by_kind"]}[kind]
        for kind in KINDS
        if kind in {**earlier["by_kind"], **found["by_kind"]}
    }
    failures = [case for case in earlier["did_not_hold"] if case["kind"] not in found["by_kind"]] + found["did_not_hold"]
    cut = [kind for kind in earlier["cut"] if kind not in found["by_kind"]] + found["cut"]
    return {
        "tried": sum(each["tried"] for each in by_kind.values()),
        "held": sum(each["held"] for each in by_kind.values()),
        "by_kind": by_kind,
        "did_not_hold": failures,
        "cut": cut,
        "left_out": [kind for kind in KINDS if kind not in by_kind],
        "seed": found["seed"],
        "seconds": earlier["seconds"] + found["seconds"],
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
