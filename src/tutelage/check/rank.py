"""One rank of the doctor's two: ``python -m tutelage.check.rank QUESTION ANSWER``, started by `launch`."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.machines import prepare_process

if TYPE_CHECKING:
    import torch

    from tutelage.config import Config
    from tutelage.data import TokenizedExample
    from tutelage.machines import World


def gradient_of(config: Config, rows: list[TokenizedExample], world: World) -> torch.Tensor:
    """A sample of the gradient of the rows' step, one row at a time, by all ranks of a job on the CPU."""
    from tutelage.check.subject import gradients, sampled
    from tutelage.machines import full_tensor
    from tutelage.model import load_policy, load_tokenizer, step_batches
    from tutelage.resources import pair_cost
    from tutelage.training import accumulate_gradients

    policy = load_policy(config.model, load_tokenizer(config.model.id), world=world)
    policy.model.train()
    pad_id = None if policy.packs and config.train.pack else policy.pad_token_id
    batches = step_batches(rows, max(map(len, rows)), 1, pad_id, world.rank, world.size, pair_cost(policy))
    accumulate_gradients(policy, rows, batches, config, 0, world)
    return sampled([full_tensor(gradient) for gradient in gradients(policy.model)])


def main(question: Path, answer: Path) -> None:
    """Compute the gradient of the rows of QUESTION, and let rank 0 write a sample of it to ANSWER."""
    import torch

    from tutelage.config import parse_config
    from tutelage.data import TokenizedExample
    from tutelage.machines import join

    asked = json.loads(question.read_text(encoding="utf-8"))
    config = parse_config(tomllib.loads(asked["config"]))
    rows = [
        TokenizedExample(row["source"], tuple(row["prompt_ids"]), tuple(row["response_ids"]), row["ends"])
        for row in asked["rows"]
    ]
    with join("cpu", config.parallel.timeout) as world:
        sample = gradient_of(config, rows, world)
        if world.leads:
            torch.save(sample, answer)


if __name__ == "__main__":
    prepare_process()
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
