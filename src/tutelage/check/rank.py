"""One rank of the doctor's two: ``python -m tutelage.check.rank QUESTION ANSWER``, started by `launch`."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

from tutelage.machines import prepare_process


def main(question: Path, answer: Path) -> None:
    """Compute the gradient of the rows of QUESTION, and let rank 0 write a sample of it to ANSWER."""
    import torch

    from tutelage.check.computing import gradient_of
    from tutelage.config import parse_config
    from tutelage.data import TokenizedExample
    from tutelage.machines import join

    asked = json.loads(question.read_text(encoding="utf-8"))
    config = parse_config(tomllib.loads(asked["config"]))
    rows = [
        TokenizedExample(row["source"], tuple(row["prompt_ids"]), tuple(row["response_ids"]), row["ends"], row["weight"])
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
