"""What the checksums of a checkpoint cost: saves by the product's writer and by torch's own, in turns, of the same tensors.

    python bench/checksums.py                # 1.6 GB, as SmolLM2-135M with AdamW has; ten saves by each side
    python bench/checksums.py --gigabytes 0.1 --times 3

Both sides write the files to the disk (fsync). The order of the sides changes in each round. The ratio of a round is the time of
the product's writer over the time of torch's; the median over the rounds counts. A disk's own times vary by more than the
checksums cost, so the checksums are timed apart, too: `checksum_share` is their time over that of the median save.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import write

os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def seconds_of_a_save(state: dict[str, Any], folder: Path, side: str) -> float:
    from torch.distributed.checkpoint import FileSystemWriter, save

    from tutelage.runs.summing import take_checksums, writer_to

    folder.mkdir()
    started = time.monotonic()
    writer = writer_to(folder) if side == "with checksums" else FileSystemWriter(folder, sync_files=True)
    save(state, storage_writer=writer, no_dist=True)
    if side == "with checksums":
        take_checksums(folder)
    return time.monotonic() - started


def seconds_of_checksums(state: dict[str, Any]) -> float:
    from tutelage.machines.seal import checksum_of

    started = time.monotonic()
    for tensor in state.values():
        checksum_of(tensor.numpy())
    return time.monotonic() - started


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.6)
    parser.add_argument("--times", type=int, default=10, help="saves by each side")
    parser.add_argument("--folder", help="where to write (default: the folder of temporary files)")
    arguments = parser.parse_args()
    count = round(arguments.gigabytes * 1e9 / 4 / 100)
    state = {f"tensor-{index}": torch.randn(count) for index in range(100)}
    sides = ("with checksums", "without")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="tutelage-checksums-", dir=arguments.folder) as name:
        for number in range(arguments.times):
            for side in sides[:: 1 if number % 2 else -1]:
                folder = Path(name) / "save"
                seconds[side].append(seconds_of_a_save(state, folder, side))
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
            print({side: round(values[-1], 3) for side, values in seconds.items()}, flush=True)
    alone = [seconds_of_checksums(state) for _ in range(arguments.times)]
    share = statistics.median(alone) / statistics.median(seconds["without"])
    ratios = [ours / plain for ours, plain in zip(*seconds.values(), strict=True)]
    found = {
        "gigabytes": arguments.gigabytes, "seconds": seconds, "ratios": ratios, "median_ratio": statistics.median(ratios),
        "checksums_alone": alone, "checksum_share": share,
    }  # fmt: skip
    print(
        f"median ratio {found['median_ratio']:.3f}, of {min(ratios):.3f} … {max(ratios):.3f}; checksums alone {share:.1%} of a save"
    )
    write("checksums", found)


if __name__ == "__main__":
    main()
