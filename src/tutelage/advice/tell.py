"""``tutelage plan``: will it fit, how long will it take, and what to change, each with its reason."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

from tutelage import console
from tutelage.advice.measure import Measured
from tutelage.advice.propose import Advice, Option
from tutelage.config import Config, edited, inline, parse_config, replaced
from tutelage.resources import MEANINGS, Estimate, Seat, engine_name, in_gib, is_asked_for, way_of

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

def reasons(advice: Advice) -> dict[str, tuple[Any, str]]:
    """(value, why) of each setting that a plan decides on, by its dotted name; nothing where nothing fits."""
    if advice.proposal is None:
        return {}
    changes, needs = advice.proposal
    config = replaced(advice.config, changes)
    state = sum(size for name, size in needs.training.items() if name != "activations")
    failed = [option.needs.peak for option in advice.others if not option.needs.fits]
    least = f"the leanest way above this one needs {in_gib(min(failed))}" if failed else "as configured"
    found: dict[str, tuple[Any, str]] = {}
    for name, value in zip(MEANINGS, way_of(config), strict=True):
        parts = [MEANINGS[name][value], f"{in_gib(state)} of weights, gradients and moments" if name == "model.precision" else ""]
        found[name] = value, "; ".join(filter(None, [*parts, least if value in GIVEN_UP else ""]))
    would = ", ".join(f"{less.kind} would need {in_gib(less.peak)}" for _, less in advice.less_again if not less.fits)
    otherwise = "about as fast, in less memory" if advice.less_again else "everything is kept, and nothing computed twice"
    found["model.activation_checkpointing"] = needs.kind, would or otherwise
    if config.model.activation_offload:
        found["model.activation_offload"] = True, "the inputs of layers wait in the host's memory; on the device they would not fit"
    if not advice.packs:
        padded = "rows are padded (train.pack is off, or the model's attention is not to be packed); the rows of a step stay"
        found["train.batch_size"] = config.train.batch_size, f"{padded}: {needs.load.tokens:,} tokens at a time"
        found["train.grad_accum"] = config.train.grad_accum, "so many times in a step"
        return found | _of_evaluation(advice, config, advice.proposal)
    if advice.doubled is None:
        why = "as configured: other sizes would not be faster"
    else:
        twice = advice.doubled.needs
        why = "larger packs would not be faster" if twice.fits else f"twice as many would need {in_gib(twice.peak)}"
    found["train.pack_tokens"] = advice.budget(advice.proposal), f"{_largest(advice, advice.proposal)} at once; {why}"
    return found | _of_evaluation(advice, config, advice.proposal)


def _largest(advice: Advice, option: Option) -> str:
    """What meets the model at once: how much a pack may hold, and what the largest one holds."""
    tokens, budget = option.needs.load.tokens, advice.budget(option)
    if not advice.packs:
        return f"{tokens:,} tokens"
    return f"{tokens:,} tokens" if tokens >= budget else f"up to {budget:,} tokens ({tokens:,} in the largest of the first packs)"


def changed(advice: Advice) -> dict[str, tuple[Any, str]]:
    """Those of `reasons` that a run would not decide by itself: nothing where it fits as it is."""
    if advice.proposal is None or (not advice.proposal.changes and advice.proposal.needs is advice.given.needs):
        return {}
    config, found = advice.config, {}
    for dotted, (value, why) in reasons(advice).items():
        section, _, key = dotted.partition(".")
        now = getattr(getattr(config, section), key)
        if dotted == "model.activation_checkpointing" and now == "auto":
            now = advice.by_itself.kind  # what "auto" comes to with the packs that are proposed
        elif dotted == "train.pack_tokens" and now is None:
            now = advice.budget(advice.given)
        elif now == "auto":
            now = value
        if now != value:
            found[dotted] = value, why
    return found


def fits_as_it_is(advice: Advice) -> bool:
    return advice.given.needs.fits and not changed(advice)


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
        "needs": in_gib(sum(proposal.needs.evaluation.values())),
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
    """What is proposed to be changed, as a TOML fragment, each line with its reason; "" where nothing is."""
    lines, last = [], ""
    for dotted, (value, why) in sorted(changed(advice).items()):
        section, _, key = dotted.partition(".")
        if section != last:
            lines += [*([""] if last else []), f"[{section}]"]
            last = section
        lines.append(f"{key} = {inline(value)}  # {why}")
    return "\n".join(lines) + "\n" if lines else ""


BY_PLAN = "# by tutelage plan, for "


def planned(advice: Advice, text: str = "") -> str:
    """A configuration with the proposal in it, each changed line with its reason.

    Args:
        text: the file that was planned for: its comments and its order stay. Settings that differ from it are written into it.
    """
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(BY_PLAN)]
    default = parse_config(tomllib.loads(text)).model_dump(mode="json")
    given = {
        f"{section}.{key}": value
        for section, values in advice.asked.model_dump(mode="json", exclude_unset=True).items()
        for key, value in values.items()
        if value != default[section][key]
    }
    found = changed(advice)
    values = {name: value for name, (value, _) in found.items()}
    remarks = {name: why for name, (_, why) in found.items()}
    return f"{BY_PLAN}{advice.estimator.device.name}\n" + edited("".join(lines), given | values, remarks)


def show(advice: Advice) -> None:
    """Print what the settings need as they are, and what is proposed to be changed."""
    device, gpus, allowed, rows = advice.estimator.device, advice.estimator.gpus, in_gib(advice.estimator.allowed), advice.rows
    several, each = (f", {gpus} of them", " each") if gpus > 1 else ("", "")
    console.paragraph(f"{device.name}{several}: {in_gib(device.memory)} of memory{each}, of which {allowed} are planned with")
    imagined = " are imagined, as it is not on this machine" if rows.imagined else ""
    console.paragraph(
        f"{rows.source}: {rows.total:,} rows{imagined}, {rows.training:,} of them trained on, of up to {advice.prepared.max_length:,}"
        f" tokens; {rows.validation:,} problems to validate on"
    )
    if advice.ranks > 1:
        console.paragraph(f"{advice.ranks} ranks share the state: start it with --launch {advice.ranks}; bytes are of one card")
    stays = fits_as_it_is(advice)
    columns = {"as it is" if stays else "as given": advice.given}
    if advice.proposal is not None and not stays:
        columns["proposed"] = advice.proposal
    needed = [option.needs for option in columns.values()]
    parts = [part for part in PARTS if any(needs.training.get(part) for needs in needed)]
    lines = [(f"training: {part}", *(in_gib(needs.training.get(part, 0.0)) for needs in needed)) for part in parts]
    lines += [(what, *(cell(advice, option) for option in columns.values())) for what, cell in LINES.items()]
    lines = [line for line in lines if any(cell != NOTHING for cell in line[1:])]
    console.table("The plan (reckoned, not measured)", ("", *columns), lines)
    if advice.measured is not None:
        console.say(_measured(advice.measured))
    if advice.others:
        console.table(
            "Ways to train that were tried first, each at its best",
            (*(name.partition(".")[2].replace("lora", "adapters") for name in MEANINGS), "peak", "fits"),
            [
                (*map(str, way_of(replaced(advice.config, changes))), in_gib(needs.peak), "yes" if needs.fits else "no")
                for changes, needs in advice.others
            ],
        )
    if advice.proposal is None:
        console.say(_why_nothing_fits(advice, allowed), style="bold red")
        return
    if stays:
        console.say("It fits as it is: nothing to change.", style="bold")
        return
    console.say("Proposed (the same rows in every step, so the same learning rate):\n", style="bold")
    for line in fragment(advice).splitlines():
        setting, _, why = line.partition("  # ")
        if why and console.is_narrower_than(line):
            console.paragraph(f"# {why}", indent="# ")
            line = setting
        console.say(line)


def _measured(trial: Measured) -> str:
    peak = "" if trial.peak_bytes is None else f", {in_gib(trial.peak_bytes)} at the peak"
    return (
        f"Measured with the settings of the last column: {trial.steps} steps of {trial.seconds:.2f} s,"
        f" {trial.tokens_per_second:,.0f} tokens per second{peak}. So training takes {console.duration(trial.training_seconds)}."
    )


def _why_nothing_fits(advice: Advice, allowed: str) -> str:
    trains = [option for option in advice.others if sum(option.needs.training.values()) <= advice.estimator.allowed]
    if not trains:
        return (
            f"Nothing that is known to the planner fits into {allowed}: a smaller model, a shorter data.max_length, or more cards"
            " (--gpus) would"
        )
    first, needs = trains[0]
    way = ", ".join(str(value) for value in way_of(replaced(advice.config, first)) if value not in ("step", False))
    return (
        f"Training alone would fit ({way}: {in_gib(sum(needs.training.values()))} of {allowed}); evaluation would not: it needs"
        f" {in_gib(sum(needs.evaluation.values()))} on one card, where all weights are needed to generate. A smaller model would fit"
    )


def seat_in_words(advice: Advice, needs: Estimate) -> str:
    return needs.seat.value.format(engine=engine_name(advice.config.eval))


def _sharing(seat: Seat) -> Callable[[Advice, Option], str]:
    """Says what an engine would have on the card that is trained on."""

    def line(_: Advice, option: Option) -> str:
        shared = option.needs.sharings.get(seat)
        if shared is None:
            return NOTHING
        least, room = sum(shared.needs.values()), in_gib(shared.room)
        if not shared.takes:
            return f"no: {in_gib(least)} of {room}"
        return f"{in_gib(shared.takes)} of {room}"

    return line


def _time(needs: Estimate, index: int) -> str:
    return NOTHING if needs.seconds is None else console.duration(needs.seconds[index])


def _rate(needs: Estimate) -> str:
    return NOTHING if needs.tokens_per_second is None else f"{needs.tokens_per_second:,.0f}"


def _waits(needs: Estimate) -> str:
    """What training waits for, where that is not what it computes."""
    beside = {name: taken for name, taken in needs.takes.items() if name != "optimizer"}
    slowest = max(beside, key=beside.__getitem__, default="products")
    return NOTHING if slowest == "products" else SLOWEST[slowest]


SLOWEST = {"launches": "the launches of its kernels", "network": "the network between the cards", "host": "copies to the host's memory"}
"""What a step may wait for, beside its products."""


def _starting(advice: Advice, option: Option) -> str:
    return NOTHING if option.needs.seconds is None or advice.starting < 1 else console.duration(advice.starting)


NOTHING = "–"
LINES: dict[str, Callable[[Advice, Option], str]] = {
    "training, at its peak": lambda _, option: in_gib(sum(option.needs.training.values())),
    "evaluation, at its peak": lambda _, option: in_gib(sum(option.needs.evaluation.values())),
    "evaluation runs": lambda advice, option: seat_in_words(advice, option.needs),
    "an engine beside training": _sharing(Seat.BESIDE),
    "an engine in turns with it": _sharing(Seat.IN_TURNS),
    "fits": lambda _, option: "yes" if option.needs.fits else "no",
    "activation checkpointing": lambda _, option: option.needs.kind,
    "tokens of a tile": lambda _, option: f"{option.needs.tile:,}" if option.needs.tile else NOTHING,
    "tokens of a pack": lambda advice, option: f"{advice.budget(option):,} at most" if advice.packs else NOTHING,
    "the largest batch": lambda _, option: f"{option.needs.load.tokens:,} tokens",
    "tokens per second": lambda _, option: _rate(option.needs),
    "starting takes": _starting,
    "training waits for": lambda _, option: _waits(option.needs),
    "training takes": lambda _, option: _time(option.needs, 0),
    "evaluations hold it up for": lambda _, option: _time(option.needs, 1),
}
"""What the table says of an option, line by line; lines that say nothing are left out."""
