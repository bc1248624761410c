"""What training steps really take: run as a process of its own, which prints for each case the bytes it grew by, and what was reckoned."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path

IMPORTED = (
    "numpy", "transformers.models.llama.modeling_llama", "tutelage.data", "tutelage.training.step", "tutelage.resources.memory",
)  # fmt: skip


def resident(what: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[what].split()[0])


def main(warm: str, cases: list[list]) -> None:
    """Each case in a process that is forked when everything is imported and nothing has been computed."""
    import torch

    import tutelage.model.load

    for module in IMPORTED:
        importlib.import_module(module)
    tutelage.model.load.has_bfloat16 = lambda device: True
    for case in cases:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(2)
            print(json.dumps(_measured(warm, *case)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"failed: {case}")


def _measured(warm: str, directory: str, precision: str, kind: str, lengths: list[int], rows: int) -> dict[str, object]:
    _step(warm, precision, kind, [40, 30], rows)  # libraries, threads and compiled code are there then
    _products_of(directory, max(lengths))
    gc.collect()
    before = resident("VmRSS")
    reckoned = _step(directory, precision, kind, lengths, rows)
    return {"grown": resident("VmHWM") - before, "reckoned": reckoned}


def _products_of(directory: str, tokens: int) -> None:
    """Multiply matrices as large as the model's: a library keeps buffers for them, larger ones on some processors than on others."""
    import torch

    sizes = json.loads((Path(directory) / "config.json").read_text())
    for width in (sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]):
        for dtype in (torch.float32, torch.bfloat16):
            hidden, weight = torch.ones(tokens, sizes["hidden_size"], dtype=dtype), torch.ones(sizes["hidden_size"], width, dtype=dtype)
            (hidden @ weight) @ weight.T


def _step(directory: str, precision: str, kind: str, lengths: list[int], rows: int) -> dict[str, float]:
    """Two steps on a model, the second of which the high-water mark is of; what was reckoned for it."""
    import numpy as np
    import torch

    from tutelage.config import parse_config
    from tutelage.data import Prepared, Template, TokenizedExample
    from tutelage.model import optim
    from tutelage.model.load import load_policy, load_tokenizer
    from tutelage.model.order import Course
    from tutelage.resources import memory
    from tutelage.training.step import accumulate_gradients, update_weights

    settings = {"id": directory, "device": "cpu", "precision": precision}
    config = parse_config({"model": settings, "train": {"optimizer": "adamw", "grad_accum": rows, "pack_tokens": max(lengths)}})
    generator = torch.Generator().manual_seed(0)
    examples = []
    for number in range(2 * rows):
        ids = torch.randint(1, 250, (lengths[number % len(lengths)],), generator=generator).tolist()
        examples.append(TokenizedExample(str(number), tuple(ids[: len(ids) // 4]), tuple(ids[len(ids) // 4 :])))
    prepared = Prepared(
        train=examples, validation=[], ledger=None, lengths=np.array([len(example) for example in examples]), max_length=max(lengths),
        max_length_was_chosen=False, template=Template(), panel=0, longest_prompt=0,
    )  # fmt: skip
    policy = load_policy(config.model, load_tokenizer(directory))
    policy.recompute(kind)  # type: ignore[arg-type]
    policy.model.train()
    made = optim.make_optimizer(policy.model, config)
    course = Course(prepared, config, policy)
    accumulate_gradients(policy, *course.at(0), config, 0)
    update_weights(policy, made, 1e-3)
    Path("/proc/self/clear_refs").write_text("5")
    accumulate_gradients(policy, *course.at(1), config, 1)
    return memory.training_bytes(policy, config, memory.Load.of([course.at(1)[1]]), kind)  # type: ignore[arg-type]


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(*json.loads(sys.argv[1]))
