"""``tutelage plan``: will it fit, how long will it take, and what to change, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch

from tutelage import console
from tutelage.advice.planner import AGAIN, Option, Planner, imagined, way_of, ways
from tutelage.config import Config, replaced
from tutelage.data import Prepared, prepare
from tutelage.errors import InputError
from tutelage.machines import ALONE
from tutelage.model import RECOMPUTATIONS, check_positions, device_for, for_device, has_bfloat16, load_tokenizer
from tutelage.resources import GIB, HEADROOM, Device, device_named, this_machine
from tutelage.runs import write_text

PARTS = ("weights", "copies", "gradients", "moments", "activations", "gathered")


@dataclass(frozen=True)
class Advice:
    """What `tutelage plan` says: the settings as they were given, and the best that fit, None where nothing does.

    Attributes:
        gpus, ranks: how many such devices, and how many of them train together.
        reasons: of each setting that is planned its value in the proposal and why, by its dotted name.
        others: the best of each other precision, optimizer and kind of training.
    """

    config: Config
    prepared: Prepared
    device: Device
    gpus: int
    ranks: int
    given: Option
    proposal: Option | None
    reasons: dict[str, tuple[Any, str]]
    others: list[Option]


def advise(
    config: Config, device_name: str | None = None, gpus: int = 1, length: int | None = None, trace: bool = False
) -> Advice:
    """What a run needs and takes on a device, and the settings to use there.

    The proposal is, of the first way of training that fits (`planner.ways`), the fastest size of packs and kind of recomputation. It
    never changes which rows make up a step.

    Args:
        device_name: as `devices.device_named`; None: the device of the configuration on this machine.
        gpus: how many such devices the machine has. With several, the last one is vLLM's, and the others share the weights.
        length: plan for rows of so many tokens, without looking at data or tokenizer.
        trace: trace the memory of training for the settings given and for the proposal.

    Raises:
        InputError: the device, the model's configuration or the data are not there.
    """
    if gpus < 1:
        raise InputError(f"--gpus {gpus}: at least one is needed")
    device = device_named(device_name) if device_name is not None else _here(config)
    if device.kind == "cpu" and gpus > 1:
        raise InputError(f"--gpus {gpus}: the device is a CPU")
    if device.kind == "cpu":
        config = config.model_copy(update={"model": for_device(config.model, torch.device("cpu"))})
    if length is not None:
        tokenizer, prepared = None, imagined(config, length)
    else:
        tokenizer = load_tokenizer(config.model.id)
        prepared = prepare(config, tokenizer)
    planner = Planner(config, prepared, tokenizer, device, gpus)
    policy = planner.policy(config)
    check_positions(policy, prepared.max_length, "data.max_length")
    if length is None:
        check_positions(policy, prepared.longest_prompt + config.eval.max_new_tokens, "the longest prompt + eval.max_new_tokens")
    given = planner.as_given()
    best: dict[str, Option] = {}
    for changes in ways(config, device, planner.ranks):
        best.setdefault(repr(way_of(replaced(config, changes))), planner.best(changes))
    chosen = next((key for key, option in best.items() if option.fits), None)
    others = [option for key, option in best.items() if key != chosen]
    if chosen is None:
        return Advice(config, prepared, device, gpus, planner.ranks, planner.traced(given) if trace else given, None, {}, others)
    proposal = best[chosen]
    reasons = _reasons(planner, proposal, others)
    if trace:
        given, proposal = planner.traced(given), planner.traced(proposal)
        if not proposal.fits:
            raise InputError(
                "the trace of what was to be proposed needs more than the device has; leave out --trace, or plan for less"
            )
    return Advice(config, prepared, device, gpus, planner.ranks, given, proposal, reasons, others)


def _here(config: Config) -> Device:
    device = device_for(config.model.device, ALONE)
    return this_machine(device, has_bfloat16(device) and config.model.precision != "fp32")


def _reasons(planner: Planner, proposal: Option, others: Sequence[Option]) -> dict[str, tuple[Any, str]]:
    """(value, why) of each setting of the proposal, by its dotted name."""
    config = replaced(planner.config, proposal.changes)
    precision, optimizer, lora = way_of(config)
    state = sum(size for name, size in proposal.training.items() if name != "activations")
    better = [option for option in others if not option.fits]
    least = f"the leanest way above this one needs {gb(min(option.peak for option in better))}" if better else ""
    why_precision = {
        "bf16-mixed": f"float32 masters, bfloat16 compute: weights, gradients and moments are {gb(state)}",
        "bf16-sr": f"bfloat16 weights, stochastically rounded: {gb(state)} of state; {least or 'as configured'}",
        "fp32": "float32 throughout: " + ("as configured" if planner.device.kind == "cuda" else "what this CPU computes in"),
    }[precision]
    reasons: dict[str, tuple[Any, str]] = {"model.precision": (precision, why_precision)}
    alone = [kind for kind in RECOMPUTATIONS if AGAIN[kind] < AGAIN[proposal.kind]]
    less = [(kind, planner.option(proposal.changes, kind)) for kind in alone]
    would = ", ".join(f"{kind} would need {gb(option.peak)}" for kind, option in less if not option.fits)
    otherwise = "about as fast, in less memory" if alone else "everything is kept, and nothing computed twice"
    reasons["model.activation_checkpointing"] = (proposal.kind, would or otherwise)
    trained = "all weights are trained" if lora == "none" else least or "as configured"
    reasons["model.lora"] = (lora, trained)
    reasons["train.optimizer"] = (
        (optimizer, "moments in full precision")
        if optimizer == "adamw"
        else (optimizer, f"moments in 8-bit blocks; {least or 'as configured'}")
    )
    if not planner.policy(config).packs:
        padded = "rows are padded (train.pack is off, or the model's attention is not to be packed); the rows of a step stay"
        reasons["train.batch_size"] = (config.train.batch_size, f"{padded}: {proposal.load.tokens:,} tokens at a time")
        reasons["train.grad_accum"] = (config.train.grad_accum, "so many times in a step")
        return reasons | _of_evaluation(planner, config, proposal)
    budget = config.train.pack_tokens or config.train.batch_size * planner.prepared.max_length
    twice = planner.option({**proposal.changes, "train.pack_tokens": 2 * budget}, proposal.kind)
    larger = f"twice as many would need {gb(twice.peak)}" if not twice.fits else "larger packs would not be faster"
    reasons["train.pack_tokens"] = (budget, f"{proposal.load.tokens:,} tokens at most meet the model at once; {larger}")
    return reasons | _of_evaluation(planner, config, proposal)


def _of_evaluation(planner: Planner, config: Config, proposal: Option) -> dict[str, tuple[Any, str]]:
    if proposal.backend == "second card":
        device = f"cuda:{planner.ranks}"
        return {
            "eval.backend": ("vllm", "on the other card, while training goes on"),
            "eval.device": (device, "the card that is not trained on"),
        }
    if proposal.backend == "in turns":
        rest = (
            "the optimizer's state waits in the host's memory"
            if config.eval.offload_optimizer
            else "beside the optimizer's state"
        )
        mode = {"eval.mode": ("sync", "in turns, training waits")} if config.eval.mode == "async" else {}
        return {
            "eval.backend": ("vllm", f"on the same card in turns with training: {gb(sum(proposal.evaluation.values()))}; {rest}"),
            "eval.in_turns": ("on", "both at once do not fit"),
            **mode,
        }
    if proposal.backend == "vLLM beside it":
        return {"eval.backend": ("vllm", f"beside training, which both together fit: {gb(sum(proposal.evaluation.values()))}")}
    why = "as configured" if config.eval.backend == "native" else "vLLM does not fit beside the weights"
    if planner.device.kind == "cpu" and config.eval.backend != "native":
        why = "the training model itself; vLLM is for GPUs, or for a CPU with memory and cores to spare"
    reasons: dict[str, tuple[Any, str]] = {"eval.backend": ("native", f"{why}; {gb(sum(proposal.evaluation.values()))}")}
    if "eval.batch_size" in proposal.changes:
        reasons["eval.batch_size"] = (config.eval.batch_size, "more responses at a time would not fit beside the moments")
    return reasons


def gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def fragment(advice: Advice) -> str:
    """The proposal as a TOML fragment, each line with its reason."""
    lines, last = [], ""
    for dotted, (value, why) in sorted(advice.reasons.items()):
        section, _, key = dotted.partition(".")
        if section != last:
            lines += [*([""] if last else []), f"[{section}]"]
            last = section
        lines.append(f"{key} = {tomli_w.dumps({'x': value}).partition(' = ')[2].strip()}  # {why}")
    return "\n".join(lines) + "\n"


def planned(advice: Advice) -> str:
    """The whole configuration with the proposal in it, as TOML: what differs from the defaults, and the proposal with its reasons."""
    rest: dict[str, dict[str, Any]] = {}
    default = Config().model_dump(mode="json")
    for section, values in advice.config.model_dump(mode="json", exclude_none=True).items():
        for key, value in values.items():
            if f"{section}.{key}" not in advice.reasons and value != default[section][key]:
                rest.setdefault(section, {})[key] = value
    text = fragment(advice)
    for section, values in rest.items():
        lines = tomli_w.dumps(values)
        head = f"[{section}]\n"
        text = text.replace(head, head + lines) if head in text else f"{text}\n{head}{lines}"
    return f"# by tutelage plan, for {advice.device.name}\n{text}"


def show(advice: Advice) -> None:
    """Print what the settings need as they are, the ways there are, and the proposal."""
    device, options = advice.device, [("as given", advice.given)]
    if advice.proposal is not None:
        options.append(("proposed", advice.proposal))
    names = [name for name in PARTS if any(name in option.training for _, option in options)]
    allowed = HEADROOM * device.memory
    console.say(
        f"{device.name}{f', {advice.gpus} of them' if advice.gpus > 1 else ''}: {device.memory / GIB:.1f} GiB of memory each, of which"
        f" {gb(allowed)} are planned with; rows of up to"
        f" {advice.prepared.max_length:,} tokens, {len(advice.prepared.train):,} of them"
    )
    rows: list[tuple[str, ...]] = [
        (f"training: {name}", *(gb(option.training.get(name, 0.0)) for _, option in options)) for name in names
    ]
    rows.append(("training, at its peak", *(gb(sum(option.training.values())) for _, option in options)))
    rows.append(
        ("evaluation, at its peak", *(f"{gb(sum(option.evaluation.values()))} ({option.backend})" for _, option in options))
    )
    rows.append(("fits", *("yes" if option.fits else "no" for _, option in options)))
    rows.append(("activation checkpointing", *(option.kind for _, option in options)))
    rows.append(("largest batch", *(f"{option.load.tokens:,} tokens" for _, option in options)))
    rows.append(("tokens per second", *(_speed(option) for _, option in options)))
    rows.append(("training takes", *(_time(option, 0) for _, option in options)))
    rows.append(("evaluations hold it up for", *(_time(option, 1) for _, option in options)))
    if advice.ranks > 1:
        console.say(f"{advice.ranks} ranks share the state: start it with --launch {advice.ranks}; bytes are of one card")
    console.table("The plan (reckoned)", ("", *(name for name, _ in options)), rows)
    if advice.others:
        console.table(
            "Other ways to train, each at its best",
            ("precision", "optimizer", "adapters", "peak", "fits", "training takes"),
            [
                (
                    *way_of(replaced(advice.config, option.changes)),
                    gb(option.peak),
                    "yes" if option.fits else "no",
                    _time(option, 0),
                )
                for option in advice.others
            ],
        )
    if advice.proposal is None:
        console.say(
            f"Nothing that is known to the planner fits into {gb(allowed)}: a smaller model, a shorter data.max_length, or more cards"
            " (--gpus) would", style="bold red",
        )  # fmt: skip
        return
    console.say("Proposed (the same rows in every step, so the same learning rate):\n", style="bold")
    console.say(fragment(advice))


def _speed(option: Option) -> str:
    return "–" if option.tokens_per_second is None else f"{option.tokens_per_second:,.0f}"


def _time(option: Option, index: int) -> str:
    return "–" if option.seconds is None else console.duration(option.seconds[index])


def as_json(advice: Advice) -> dict[str, Any]:
    """What `--json` prints."""

    def of(option: Option) -> dict[str, Any]:
        seconds = option.seconds or (None, None)
        return {
            "settings": option.changes, "activation_checkpointing": option.kind, "fits": option.fits,
            "largest_batch_tokens": option.load.tokens, "training_bytes": option.training, "evaluation_bytes": option.evaluation,
            "backend": option.backend, "peak_bytes": option.peak, "tokens_per_second": option.tokens_per_second,
            "training_seconds": seconds[0], "evaluation_seconds": seconds[1],
        }  # fmt: skip

    return {
        "device": advice.device.name,
        "devices": advice.gpus,
        "ranks": advice.ranks,
        "usable_bytes": HEADROOM * advice.device.memory,
        "given": of(advice.given),
        "proposal": of(advice.proposal) if advice.proposal is not None else None,
        "reasons": {key: {"value": value, "why": why} for key, (value, why) in advice.reasons.items()},
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
