"""What ``tutelage plan --json`` prints; docs/howto/plan.md says what each key means."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tutelage.advice.propose import Advice, Option
from tutelage.advice.tell import changed, fits_as_it_is, reasons, seat_in_words
from tutelage.resources import Seat

SHARED = {Seat.BESIDE: "beside", Seat.IN_TURNS: "in_turns"}
"""The names of the seats on the card that is trained on, in what `--json` prints."""


def as_json(advice: Advice) -> dict[str, Any]:
    """What `--json` prints."""

    def of(option: Option) -> dict[str, Any]:
        changes, needs = option
        seconds = needs.seconds or (None, None)
        return {
            "settings": changes, "activation_checkpointing": needs.kind, "fits": needs.fits, "tile": needs.tile, "chunk": needs.chunk,
            "pack_tokens": advice.budget(option) if advice.packs else None,
            "largest_batch_tokens": needs.load.tokens, "training_bytes": needs.training, "evaluation_bytes": needs.evaluation,
            "backend": seat_in_words(advice, needs), "peak_bytes": needs.peak, "tokens_per_second": needs.tokens_per_second,
            "starting_seconds": advice.starting if needs.seconds else None,
            "training_seconds": seconds[0], "evaluation_seconds": seconds[1], "seconds_by_part": needs.takes,
            "engine": {SHARED[seat]: asdict(shared) for seat, shared in needs.sharings.items()},
        }  # fmt: skip

    return {
        "device": advice.estimator.device.name,
        "devices": advice.estimator.gpus,
        "ranks": advice.ranks,
        "usable_bytes": advice.estimator.allowed,
        "rows": advice.rows._asdict(),
        "fits_as_it_is": fits_as_it_is(advice),
        "link_bytes_per_second": advice.estimator.device.link if advice.ranks > 1 else None,
        "measured": None if advice.measured is None else advice.measured._asdict(),
        "given": of(advice.given),
        "proposal": of(advice.proposal) if advice.proposal is not None else None,
        "reasons": {
            key: {"value": value, "why": why, "changed": key in changed(advice)} for key, (value, why) in reasons(advice).items()
        },
        "others": [of(option) for option in advice.others],
    }
