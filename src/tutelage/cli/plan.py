"""``tutelage plan``: will it fit, how long will it take, what to change."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from tutelage.cli.command import OVERRIDES, Commands, Outcome, add_command, add_config, integer


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "plan", run, "will it fit, how long will it take, what to change: before anything is computed",
        takes_settings=True,
        description=f"Reckons memory and time of a run on a device, from the model's configuration and the rows' lengths. {OVERRIDES}",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument(
        "--device",
        help="t4, a10g, l4, l40s, a100-40, a100-80, h100, h200, b200, rtx3090, rtx4090, rtx5090, cpu, or the GiB of a GPU (default:"
        " where it would run on this machine)",
    )
    parser.add_argument(
        "--gpus", type=integer(1, 10_000), default=1, help="how many of them; with several, the last one is vLLM's (default 1)"
    )
    parser.add_argument(
        "--network", choices=("nvlink", "pcie", "100gb", "400gb"),
        help="what joins the cards: Gbit/s of each card's own adapter, or their slots (default: the cards' own)",
    )  # fmt: skip
    parser.add_argument(
        "--measure", action="store_true", help="compute real steps on this machine for 20 seconds, with the settings that are proposed"
    )
    parser.add_argument(
        "--length", type=integer(1, 10**8), metavar="TOKENS", help="plan for rows of so many tokens, without data or tokenizer"
    )
    parser.add_argument(
        "--trace", action="store_true", help="run the step's code on tensors without memory, rather than the formula"
    )
    parser.add_argument("--out", type=Path, help="write the configuration with the proposal in it to this file")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage import console
    from tutelage.config import load_config
    from tutelage.machines import importing

    config = load_config(arguments.config, arguments.overrides)
    with console.progress("starting"), importing():
        from tutelage.advice import Asked, as_json, plan_run
        from tutelage.runs import owned
    with contextlib.nullcontext() if arguments.out is None else owned(arguments.out):
        file = Path(arguments.config) if arguments.config else None
        asked = Asked(
            arguments.device, arguments.gpus, arguments.length, arguments.trace, arguments.network, arguments.measure
        )
        found = plan_run(config, asked, arguments.out, file)
    advice = as_json(found)
    return Outcome(advice, exit_code=int(advice["proposal"] is None))
