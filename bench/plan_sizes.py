"""The table of sizes and cards in docs/scaling.md: what trains there, by the planner's formulas. Nothing is computed.

    python bench/plan_sizes.py [--length 4096] [--rows 64]

For each size and set of cards: the first way to train all weights that fits, with the fastest kind of checkpointing, or adapters. All
cards train; evaluation is left out. A step has `--rows` rows of `--length` tokens, and a pack holds one. So an update in the backward
pass, where a step is one pack of each card, is tried where `--rows` are no more than the cards: `--rows 1 --length 2048 --most 1`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from harness import tabulate, write

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8, "head_dim": 128,
    "tie_word_embeddings": False, "max_position_embeddings": 131_072,
}  # fmt: skip
QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151_936, "max_position_embeddings": 131_072,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "1.5B": {
        **QWEN, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "8B": {**LLAMA, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "32B": {
        **QWEN, "hidden_size": 5120, "intermediate_size": 27_648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
    "70B": {**LLAMA, "hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "num_attention_heads": 64},
}  # fmt: skip
CARDS = [("rtx4090", 1, None), ("h100", 1, None), ("h200", 1, None), ("h100", 8, None), ("h100", 16, "400gb"), ("h100", 64, "400gb")]
"""Names, how many, and what joins them."""


def planned(size: str, card: str, count: int, network: str | None, length: int, rows: int) -> dict[str, Any]:
    """A row of the table; without figures where nothing fits."""
    from tutelage.advice.imagine import Rows, imagined
    from tutelage.config import parse_config, replaced
    from tutelage.model import RECOMPUTATIONS
    from tutelage.resources import Estimator, device_named, joined_by, way_of, ways

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(SIZES[size]))
        train = {"batch_size": 1, "grad_accum": rows, "num_steps": 100}
        config = parse_config({"model": {"id": folder}, "train": train, "eval": {"backend": "native"}})
        estimator = Estimator(None, joined_by(device_named(card), network), count)
        prepared = imagined(config, length, Rows("", rows, rows, 1, imagined=True))
        for changes in ways(config, "cuda"):
            if changes.get("train.update") == "in_backward" and rows > count:  # a step is one pack of each card
                continue
            options = [estimator.estimate(replaced(config, changes), prepared, kind) for kind in RECOMPUTATIONS]
            options = [each for each in options if sum(each.training.values()) <= estimator.allowed]
            if options:
                best = min(options, key=lambda each: sum(each.takes.values()))
                way = ", ".join(str(value) for value in way_of(replaced(config, changes)) if value not in ("none", False, "step"))
                takes = {name: seconds / 100 for name, seconds in best.takes.items()}
                return {
                    "size": size, "cards": f"{count} × {card}", "way": way, "checkpointing": best.kind,
                    "gib": sum(best.training.values()) / 2**30, "tokens_per_second": best.tokens_per_second,
                    "step_products": takes["products"], "step_network": takes.get("network"), "bytes": best.training,
                }  # fmt: skip
    return {
        "size": size, "cards": f"{count} × {card}", "way": "does not fit", "checkpointing": "", "gib": None, "tokens_per_second": None,
        "step_products": None, "step_network": None, "bytes": None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--most", type=int, default=64, help="cards at most")
    arguments = parser.parse_args()
    cards = [each for each in CARDS if each[1] <= arguments.most]
    rows = [planned(size, *each, arguments.length, arguments.rows) for size in arguments.sizes for each in cards]
    tabulate([{name: value for name, value in row.items() if name != "bytes"} for row in rows])
    write("plan_sizes", {"machine": "reckoned, not measured", "length": arguments.length, "rows": arguments.rows, "table": rows})


if __name__ == "__main__":
    main()
