"""``tutelage plan``: what is asked, what is printed, and what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tutelage import console
from tutelage.advice.measure import measured
from tutelage.advice.propose import Advice, Asked, advise
from tutelage.advice.tell import planned, show
from tutelage.config import Config, replaced
from tutelage.errors import InputError
from tutelage.runs import write_text


def plan_run(config: Config, asked: Asked, out: Path | None = None, file: Path | None = None) -> Advice:
    """`advise`, printed, and written to `out` as a configuration.

    Args:
        file: where the configuration was read from; None: it is all defaults and settings of the command line.

    Raises:
        InputError: as `advise`, or `out` exists, or steps can be measured on another machine alone.
    """
    if out is not None and out.exists():
        raise InputError(f"{out} exists and is not overwritten; choose another --out")
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: {out.absolute().parent} is no directory")
    if asked.measure and (asked.device is not None or asked.length is not None or asked.gpus > 1):
        raise InputError("--measure computes real steps of your rows on this machine: leave out --device, --length and --gpus")
    text = file.read_text(encoding="utf-8") if file is not None else ""
    advice = advise(config, asked)
    if asked.measure and advice.proposal is not None:
        changes, needs = advice.proposal
        tokenizer = advice.estimator.tokenizer
        advice = replace(advice, measured=measured(replaced(advice.config, changes), advice.prepared, tokenizer, needs))
    show(advice)
    if out is not None and advice.proposal is not None:
        write_text(out, planned(advice, text))
        how = f" --launch {advice.ranks}" if advice.ranks > 1 else ""
        console.say(f"wrote {out}; to train so: tutelage train {out}{how}")
    return advice
