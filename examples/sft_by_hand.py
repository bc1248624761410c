"""Supervised fine-tuning by hand: a loop of your own, out of the specification's functions.

SmolLM2-135M learns to solve the word problems of the built-in task. On a CPU:

    python examples/sft_by_hand.py               # a few minutes
    python examples/sft_by_hand.py --steps 2     # does it run?

`tutelage train recipes/arithmetic.toml` does the same faster, and keeps what it measured. docs/howto/own_loop.md explains each part.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

from tutelage import (
    build_text_pairs,
    filter_correct_dataset,
    get_response_log_probs,
    load_data,
    log_generations,
    masked_normalize,
    r1_zero_reward_fn,
    sft_microbatch_train_step,
    tokenize_prompt_and_output,
)
from tutelage.model import resolve  # "smollm2" is not on the hub: this is the directory of the embedded model


def main() -> None:
    options = argparse.ArgumentParser(description="Supervised fine-tuning by hand, on the built-in task.")
    options.add_argument("--model", default="smollm2", help="the embedded model, a directory, or a name on the hub")
    options.add_argument("--steps", type=int, default=20, help="optimizer steps")
    options.add_argument("--batch-size", type=int, default=4, help="rows of a micro-batch")
    options.add_argument("--grad-accum", type=int, default=2, help="micro-batches of a step")
    options.add_argument("--lr", type=float, default=1.5e-4)
    options.add_argument("--problems", type=int, default=32, help="problems that are held out and solved")
    given = options.parse_args()

    # The rows: hold some out, keep the training rows whose solution reaches the reference, and take prompt and response apart.
    data = load_data(subset=512, seed=42, test_size=0.1)
    train = [build_text_pairs(row) for row in filter_correct_dataset(data["train"], seed=42)]
    held_out = [build_text_pairs(row) for row in data["test"]][: given.problems]

    model = AutoModelForCausalLM.from_pretrained(resolve(given.model), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(resolve(given.model))
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.lr, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=given.steps // 10, num_training_steps=given.steps)

    before = solve(model, tokenizer, held_out)
    print(f"before training: {percent(before)} of {len(held_out)} problems are solved")

    model.train()
    rows = endless(train)
    for step in range(1, given.steps + 1):
        loss, nats, entropy, tokens = 0.0, 0.0, 0.0, 0  # of this step: sums over its micro-batches
        for _ in range(given.grad_accum):
            pairs = [next(rows) for _ in range(given.batch_size)]
            prompts, responses = [pair["prompt"] for pair in pairs], [pair["response"] for pair in pairs]
            batch = tokenize_prompt_and_output(prompts, responses, tokenizer)
            mask = batch["response_mask"]  # True where the label is a token of the response: only those are learnt
            scored = get_response_log_probs(model, batch["input_ids"], batch["labels"], return_token_entropy=True, with_grad=True)
            part, facts = sft_microbatch_train_step(scored["log_probs"], mask, given.grad_accum)  # adds to the gradients
            loss += part.item()
            nats += facts["masked_ce_sum"].item()
            tokens += facts["num_response_tokens"].item()
            entropy += masked_normalize(scored["token_entropy"], mask).item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        per_token = f"per token {nats / tokens:.3f}, entropy {entropy / tokens:.3f}"
        print(f"step {step}: loss {loss:.2f}, {per_token}, gradient {norm:.0f}", flush=True)

    after = solve(model, tokenizer, held_out)
    print(f"after training: {percent(after)} of {len(held_out)} problems are solved (before: {percent(before)})")
    print("the first of them:", after["records"][0]["response"])


def solve(model: Any, tokenizer: Any, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """The model's own answers to the problems, without randomness, graded."""
    return log_generations(
        model,
        tokenizer,
        prompts=[pair["prompt"] for pair in pairs],
        ground_truths=[pair["reference"] for pair in pairs],
        reward_fn=r1_zero_reward_fn,
        max_new_tokens=80,
        temperature=0.0,
        batch_size=32,
    )


def endless(rows: list[Any]) -> Iterator[Any]:
    """The rows in a random order, and in another one each time that all were seen."""
    order = random.Random(42)
    while True:
        yield from order.sample(rows, len(rows))


def percent(log: dict[str, Any]) -> str:
    return f"{log['summary']['accuracy']:.0%}"


if __name__ == "__main__":
    main()
