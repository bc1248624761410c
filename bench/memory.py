"""Peak memory of the loss against the number of tokens: our fused objective, and logits as a whole.

    python bench/memory.py [--vocabulary 151936] [--hidden 512] [--tokens 1024 2048 4096 8192]

Each point is a process of its own: hidden states in bfloat16 and a head's weight in float32, log-probabilities and entropies of all
labels forward, gradients of both backward. A chunk has 1,024 tokens, so fewer would need less. What is reported is the largest
resident memory beyond what the inputs take. The whole logits are left out where they would need more than `--most` GB.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from harness import alternate, answer, peak_rss, tabulate, write


def child(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from tutelage.model.scoring import Head, score
    from tutelage.model.specification import compute_entropy

    kind, count = side.split(" at ")
    tokens = int(count)
    weight = torch.randn(arguments.vocabulary, arguments.hidden, requires_grad=True)
    hidden = torch.randn(tokens, arguments.hidden, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(0, arguments.vocabulary, (tokens,))
    # what a product allocates once and for all is not the loss's
    torch.nn.functional.linear(hidden[:8].detach(), weight[:8].detach().bfloat16())
    before, started = peak_rss(), time.monotonic()
    if kind == "fused":
        score(hidden, Head(weight), labels, torch.ones(tokens), entropy=True).total.backward()
    else:
        logits = torch.nn.functional.linear(hidden, weight.bfloat16())
        with torch.no_grad():
            compute_entropy(logits)
        torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum").backward()
    return {"seconds": [time.monotonic() - started], "gb": peak_rss() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936, help="Qwen2.5's")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--most", type=float, default=16.0, help="GB that whole logits may take: five times their float32 size")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        answer(child(arguments.child, arguments))
        return
    sides = [f"fused at {tokens}" for tokens in arguments.tokens]
    sides += [f"whole at {tokens}" for tokens in arguments.tokens if 20e-9 * tokens * arguments.vocabulary <= arguments.most]
    measured = alternate(__file__, sides, 1)
    rows = []
    for tokens in arguments.tokens:
        fused, whole = (measured.get(f"{kind} at {tokens}") for kind in ("fused", "whole"))
        assert fused is not None
        rows.append({"tokens": tokens, "fused_gb": fused[0]["gb"], "whole_gb": whole[0]["gb"] if whole else None})
    tabulate(rows)
    peaks = [row["fused_gb"] for row in rows]
    result = {"arguments": vars(arguments), "points": rows, "largest_over_smallest_fused": max(peaks) / min(peaks)}
    print(f"largest over smallest peak of the fused objective: {result['largest_over_smallest_fused']:.2f}")
    write("memory", result)


if __name__ == "__main__":
    main()
