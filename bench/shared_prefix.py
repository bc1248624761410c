"""What sharing buys: a step in packs beside the same step on padded rows, against the share of tokens that rows share.

    python bench/shared_prefix.py [--rows 8] [--length 256] [--repeats 3]

SmolLM2-135M on rows of random ids. First all rows share a prefix of 0–90 % of their length. Then problems of 1–8 solutions each,
half of every row being its problem. Then turns of conversations, one turn each or three, whose thoughts the history does not show.
The two layouts alternate within one process; the gain is the ratio of their medians.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

from harness import tabulate, write


def rows_sharing(count: int, length: int, shared: int, group: int, vocabulary: int) -> list[Any]:
    """Rows of `length` random ids; each `group` of them share their first `shared`, which are their prompt (one id at least)."""
    from tutelage.data.tokens import TokenizedExample

    draw = random.Random(0)

    def ids(how_many: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(how_many)]

    rows = []
    for number in range(count):
        if number % group == 0:
            prefix = ids(shared)
        whole = [*prefix, *ids(length - shared)]
        prompt = max(shared, 1)
        rows.append(TokenizedExample(str(number), tuple(whole[:prompt]), tuple(whole[prompt:])))
    return rows


def turns_of(count: int, length: int, turns: int, vocabulary: int) -> list[Any]:
    """Conversations of random ids: a row for each turn, `count` in all.

    A turn is a question, a thought and an answer; later turns are shown the question and the answer. The last row of a
    conversation has `length` ids, half of which are its thought.
    """
    from tutelage.data.tokens import TokenizedExample

    draw = random.Random(0)

    def ids(how_many: int) -> tuple[int, ...]:
        return tuple(draw.randrange(vocabulary) for _ in range(how_many))

    said = max(1, length // 2 // (2 * turns))
    rows, history = [], ()
    for index in range(count):
        history = (*(history if index % turns else ()), *ids(said))
        answer = ids(said)
        rows.append(TokenizedExample(str(index), history, (*ids(length // 2), *answer)))
        history = (*history, *answer)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    from tutelage.machines.process import prepare_process

    prepare_process()
    from tutelage.config import parse_config
    from tutelage.model.load import load_policy, load_tokenizer
    from tutelage.model.order import step_batches
    from tutelage.training.step import accumulate_gradients

    config = parse_config({"model": {"id": arguments.model, "device": "cpu"}})
    policy = load_policy(config.model, load_tokenizer(arguments.model))
    policy.model.train()
    vocabulary = policy.head.weight.shape[0]

    def gain(rows: list[Any]) -> dict[str, Any]:
        layouts = {
            "packed": step_batches(rows, 10**6, len(rows)),
            "padded": step_batches(rows, 10**6, len(rows), policy.pad_token_id),
        }
        seconds: dict[str, list[float]] = {name: [] for name in layouts}
        for repeat in range(arguments.repeats + 1):
            for name in layouts if repeat % 2 else reversed(layouts):
                started = time.monotonic()
                accumulate_gradients(policy, rows, layouts[name], config, repeat)
                if repeat:  # the first of each is a warm-up
                    seconds[name].append(time.monotonic() - started)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        tokens = {name: sum(batch.input_ids.numel() for batch in batches) for name, batches in layouts.items()}
        return {
            "tokens": tokens["padded"],
            "distinct": tokens["packed"],
            "packed_seconds": medians["packed"],
            "padded_seconds": medians["padded"],
            "gain": medians["padded"] / medians["packed"],
        }

    by_share = []
    for percent in (0, 10, 30, 50, 70, 90):
        shared = arguments.length * percent // 100
        by_share.append(
            {
                "shared_percent": percent,
                **gain(rows_sharing(arguments.rows, arguments.length, shared, arguments.rows, vocabulary)),
            }
        )
    tabulate(by_share)
    by_group = []
    for group in (1, 2, 4, 8):
        rows = rows_sharing(arguments.rows, arguments.length, arguments.length // 2, group, vocabulary)
        by_group.append({"solutions_per_problem": group, **gain(rows)})
    tabulate(by_group)
    by_turns = []
    for turns in (1, 3):
        rows = turns_of(-(-arguments.rows // turns) * turns, arguments.length, turns, vocabulary)
        by_turns.append({"turns": turns, **gain(rows)})
    tabulate(by_turns)
    write("shared_prefix", {"arguments": vars(arguments), "by_share": by_share, "by_solutions": by_group, "by_turns": by_turns})


if __name__ == "__main__":
    main()
