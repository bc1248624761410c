"""``tutelage plan``: will it fit, how long will it take, and what to change, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from tutelage import console
from tutelage.advice.propose import Advice, Option, advise
from tutelage.config import Config, replaced
from tutelage.errors import InputError
from tutelage.resources import GIB, MEANINGS, Estimate, Seat, engine_name, in_gb, is_asked_for, way_of
from tutelage.runs import write_text

PARTS = ("weights", "copies", "gradients", "moments", "activations", "gathered", "engine asleep")
GIVEN_UP = {"bf16-sr", "adamw-8bit", "lora", "dora"}
"""Values that a way to train has for the sake of memory."""
SEATS: dict[Seat, dict[str, tuple[str, str]]] = {
    Seat.OWN_DEVICE: {
        "eval.backend": ("{backend}", "on a card of its own"),
        "eval.device": ("cuda:{ranks}", "the card that is not trained on"),
    },
    Seat.BESIDE: {"eval.backend": ("{backend}", "beside training, both at once need {needs}")},
    Seat.IN_TURNS: {
        "eval.backend": ("{backend}", "on the same card in turns with training: {needs}; {waits}"),
        "eval.in_turns": ("on", "both at once do not fit"),
    },
    Seat.NATIVE: {"eval.backend": ("native", "{why_native}; {needs}")},
}
"""What is proposed for each seat of an engine: the value of each setting, and why."""

SHARED = {Seat.BESIDE: "beside", Seat.IN_TURNS: "in_turns"}
"""The names of the seats on the card that is trained on, in what `--json` prints."""


def reasons(advice: Advice) -> dict[str, tuple[Any, str]]:
    """(value, why) of each setting of the proposal, by its dotted name; nothing where there is no proposal."""
    if advice.proposal is None:
        return {}
    changes, needs = advice.proposal
    config = replaced(advice.config, changes)
    state = sum(size for name, size in needs.training.items() if name != "activations")
    failed = [option.needs.peak for option in advice.others if not option.needs.fits]
    least = f"the leanest way above this one needs {in_gb(min(failed))}" if failed else "as configured"
    found: dict[str, tuple[Any, str]] = {}
    for name, value in zip(MEANINGS, way_of(config), strict=True):
        parts = [MEANINGS[name][value], f"{in_gb(state)} of weights, gradients and moments" if name == "model.precision" else ""]
        found[name] = value, "; ".join(filter(None, [*parts, least if value in GIVEN_UP else ""]))
    would = ", ".join(f"{less.kind} would need {in_gb(less.peak)}" for _, less in advice.less_again if not less.fits)
    otherwise = "about as fast, in less memory" if advice.less_again else "everything is kept, and nothing computed twice"
    found["model.activation_checkpointing"] = needs.kind, would or otherwise
    if advice.doubled is not None:
        twice = advice.doubled.needs
        larger = "larger packs would not be faster" if twice.fits else f"twice as many would need {in_gb(twice.peak)}"
        why = f"{needs.load.tokens:,} tokens at most meet the model at once; {larger}"
        found["train.pack_tokens"] = changes["train.pack_tokens"], why
    else:
        padded = "rows are padded (train.pack is off, or the model's attention is not to be packed); the rows of a step stay"
        found["train.batch_size"] = config.train.batch_size, f"{padded}: {needs.load.tokens:,} tokens at a time"
        found["train.grad_accum"] = config.train.grad_accum, "so many times in a step"
    return found | _of_evaluation(advice, config, advice.proposal)


def _of_evaluation(advice: Advice, config: Config, proposal: Option) -> dict[str, tuple[Any, str]]:
    settings, seat, name = config.eval, proposal.needs.seat, engine_name(config.eval)
    if settings.backend == "native":
        why_native = "as configured"
    elif advice.estimator.device.kind == "cpu":
        why_native = f"the training model itself; {name} is for GPUs, or for a CPU with memory and cores to spare"
    else:
        why_native = f"{name} does not fit beside the weights"
    facts = {
        "backend": settings.backend if is_asked_for(settings) else "vllm",
        "ranks": advice.ranks,
        "needs": in_gb(sum(proposal.needs.evaluation.values())),
        "waits": "the optimizer's state waits in the host's memory" if settings.offload_optimizer else "beside the optimizer's state",
        "why_native": why_native,
    }
    found = {key: (value.format(**facts), why.format(**facts)) for key, (value, why) in SEATS[seat].items()}
    if seat is Seat.IN_TURNS and settings.mode == "async":
        found["eval.mode"] = "sync", "in turns, training waits"
    if "eval.batch_size" in proposal.changes:
        return found | {"eval.batch_size": (settings.batch_size, "more responses at a time would not fit beside the moments")}
    return found


def fragment(advice: Advice) -> str:
    """The proposal as a TOML fragment, each line with its reason."""
    lines, last = [], ""
    for dotted, (value, why) in sorted(reasons(advice).items()):
        section, _, key = dotted.partition(".")
        if section != last:
            lines += [*([""] if last else []), f"[{section}]"]
            last = section
        lines.append(f"{key} = {tomli_w.dumps({'x': value}).partition(' = ')[2].strip()}  # {why}")
    return "\n".join(lines) + "\n"


def planned(advice: Advice) -> str:
    """The full configuration with the proposal in it, as TOML: what differs from the defaults, and the proposal with its reasons."""
    rest: dict[str, dict[str, Any]] = {}
    default, proposed = Config().model_dump(mode="json"), reasons(advice)
    for section, values in advice.config.model_dump(mode="json", exclude_none=True).items():
        for key, value in values.items():
            if f"{section}.{key}" not in proposed and value != default[section][key]:
                rest.setdefault(section, {})[key] = value
    text = fragment(advice)
    for section, values in rest.items():
        lines = tomli_w.dumps(values)
        head = f"[{section}]\n"
        text = text.replace(head, head + lines) if head in text else f"{text}\n{head}{lines}"
    return f"# by tutelage plan, for {advice.estimator.device.name}\n{text}"


def show(advice: Advice) -> None:
    """Print what the settings need as they are, the ways there are, and the proposal."""
    device, gpus, allowed = advice.estimator.device, advice.estimator.gpus, in_gb(advice.estimator.allowed)
    console.say(
        f"{device.name}{f', {gpus} of them' if gpus > 1 else ''}: {device.memory / GIB:.1f} GiB of memory each, of which {allowed} are"
        f" planned with; rows of up to {advice.prepared.max_length:,} tokens, {advice.prepared.rows:,} of them"
    )
    if advice.ranks > 1:
        console.say(f"{advice.ranks} ranks share the state: start it with --launch {advice.ranks}; bytes are of one card")
    columns = {"as given": advice.given} | ({"proposed": advice.proposal} if advice.proposal is not None else {})
    needed = [option.needs for option in columns.values()]
    parts = [part for part in PARTS if any(needs.training.get(part) for needs in needed)]
    rows = [(f"training: {part}", *(in_gb(needs.training.get(part, 0.0)) for needs in needed)) for part in parts]
    rows += [(what, *(cell(advice, needs) for needs in needed)) for what, cell in LINES.items()]
    console.table("The plan (reckoned)", ("", *columns), rows)
    if advice.others:
        console.table(
            "Other ways to train, each at its best",
            ("precision", "optimizer", "adapters", "peak", "fits", "training takes"),
            [
                (*way_of(replaced(advice.config, changes)), in_gb(needs.peak), "yes" if needs.fits else "no", _time(needs, 0))
                for changes, needs in advice.others
            ],
        )
    if advice.proposal is None:
        console.say(
            f"Nothing that is known to the planner fits into {allowed}: a smaller model, a shorter data.max_length, or more cards"
            " (--gpus) would", style="bold red",
        )  # fmt: skip
        return
    console.say("Proposed (the same rows in every step, so the same learning rate):\n", style="bold")
    console.say(fragment(advice))


def _seat(advice: Advice, needs: Estimate) -> str:
    return needs.seat.value.format(engine=engine_name(advice.config.eval))


def _sharing(seat: Seat) -> Callable[[Advice, Estimate], str]:
    """Says what an engine would have on the card that is trained on."""

    def line(_: Advice, needs: Estimate) -> str:
        shared = needs.sharings.get(seat)
        if shared is None:
            return "–"
        least, room = sum(shared.needs.values()), in_gb(shared.room)
        if not shared.takes:
            return f"needs {in_gb(least)}, {room} are left"
        return f"takes {in_gb(shared.takes)} of {room}, for {shared.cached_tokens:,} tokens"

    return line


def _time(needs: Estimate, index: int) -> str:
    return "–" if needs.seconds is None else console.duration(needs.seconds[index])


LINES: dict[str, Callable[[Advice, Estimate], str]] = {
    "training, at its peak": lambda _, needs: in_gb(sum(needs.training.values())),
    "evaluation, at its peak": lambda advice, needs: f"{in_gb(sum(needs.evaluation.values()))} ({_seat(advice, needs)})",
    "an engine beside training": _sharing(Seat.BESIDE),
    "an engine in turns with it": _sharing(Seat.IN_TURNS),
    "fits": lambda _, needs: "yes" if needs.fits else "no",
    "activation checkpointing": lambda _, needs: needs.kind,
    "largest batch": lambda _, needs: f"{needs.load.tokens:,} tokens",
    "tokens per second": lambda _, needs: "–" if needs.tokens_per_second is None else f"{needs.tokens_per_second:,.0f}",
    "training takes": lambda _, needs: _time(needs, 0),
    "evaluations hold it up for": lambda _, needs: _time(needs, 1),
}
"""What the table says of an estimate, line by line."""


def as_json(advice: Advice) -> dict[str, Any]:
    """What `--json` prints."""

    def of(option: Option) -> dict[str, Any]:
        changes, needs = option
        seconds = needs.seconds or (None, None)
        return {
            "settings": changes, "activation_checkpointing": needs.kind, "fits": needs.fits,
            "largest_batch_tokens": needs.load.tokens, "training_bytes": needs.training, "evaluation_bytes": needs.evaluation,
            "backend": _seat(advice, needs), "peak_bytes": needs.peak, "tokens_per_second": needs.tokens_per_second,
            "training_seconds": seconds[0], "evaluation_seconds": seconds[1],
            "engine": {SHARED[seat]: asdict(shared) for seat, shared in needs.sharings.items()},
        }  # fmt: skip

    return {
        "device": advice.estimator.device.name,
        "devices": advice.estimator.gpus,
        "ranks": advice.ranks,
        "usable_bytes": advice.estimator.allowed,
        "given": of(advice.given),
        "proposal": of(advice.proposal) if advice.proposal is not None else None,
        "reasons": {key: {"value": value, "why": why} for key, (value, why) in reasons(advice).items()},
        "others": [of(option) for option in advice.others],
    }


def plan_run(config: Config, device: str | None, gpus: int, length: int | None, trace: bool, out: Path | None = None) -> Advice:
    """`advise`, printed, and written to `out` as a configuration. Raises InputError as `advise`, and if `out` exists."""
    if out is not None and out.exists():
        raise InputError(f"{out} exists and is not overwritten; choose another --out")
    if out is not None and not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: {out.absolute().parent} is no directory")
    advice = advise(config, device, gpus, length, trace)
    show(advice)
    if out is not None and advice.proposal is not None:
        write_text(out, planned(advice))
        how = f" --launch {advice.ranks}" if advice.ranks > 1 else ""
        console.say(f"wrote {out}; to train so: tutelage train {out}{how}")
    return advice
