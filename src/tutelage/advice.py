"""``tutelage plan``: will it fit, how long will it take, and what to change: reckoned from shapes and from the lengths of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch

from tutelage import console, memory
from tutelage.config import Config, replaced
from tutelage.course import Course
from tutelage.data import Example, Ledger
from tutelage.devices import GIB, Device, device_named, this_machine
from tutelage.errors import InputError
from tutelage.forecast import generation_seconds, response_tokens, rows_asked
from tutelage.memory import HEADROOM, Load
from tutelage.model import device_for, for_device, has_bfloat16, load_tokenizer, outline
from tutelage.packing import Batch
from tutelage.plan import USUAL_SHARE
from tutelage.policy import Policy, Recomputation
from tutelage.prepare import Prepared, panel_size, prepare
from tutelage.runlog import write_text
from tutelage.speed import pair_cost, step_flops
from tutelage.tokens import TokenizedExample
from tutelage.trace import traced_bytes
from tutelage.world import ALONE

LOOKED_AT, TOKENS_LOOKED_AT = 16, 100_000
"""Optimizer steps whose packs are laid out for a plan, and tokens of them; one step at least."""
KINDS: tuple[Recomputation, ...] = ("none", "selective", "full")
AGAIN = {"none": 1.0, "selective": 1.06, "full": 4 / 3}
"""Operations of a step with what is computed again, beside those without."""
HALF_FILLED = 512
"""Tokens of a batch at which a GPU is reckoned to be used by half of what larger ones reach."""
IMAGINED_ROWS, IMAGINED_PROBLEMS = 1000, 500
"""What is planned for where rows of a given length stand for the data."""
TOGETHER_IN_VLLM = 256
"""Responses that vLLM is reckoned to generate at the same time."""

PARTS = ("weights", "copies", "gradients", "moments", "activations")


@dataclass(frozen=True)
class Option:
    """Settings of a run on a device, and what they are reckoned to need and to take.

    Attributes:
        changes: settings that differ from those that were given, by their dotted names.
        kind: what is computed again.
        training, evaluation: bytes at the peak, by what they are for.
        fits: whether both are within what may be used.
        tokens_per_second: of the rows' own tokens; seconds: of training, and of what evaluations hold it up for. None: the
            device's speed is not known.
    """

    changes: dict[str, Any]
    kind: Recomputation
    load: Load
    backend: str
    training: dict[str, float]
    evaluation: dict[str, float]
    fits: bool
    tokens_per_second: float | None = None
    seconds: tuple[float, float] | None = None

    @property
    def peak(self) -> float:
        """Bytes of the larger of the two."""
        return max(sum(self.training.values()), sum(self.evaluation.values()))


@dataclass(frozen=True)
class Advice:
    """What `tutelage plan` says: the settings as they were given, and the best that fit, None where nothing does.

    Attributes:
        reasons: of each setting that is planned its value in the proposal and why, by its dotted name.
        others: the best of each other precision, optimizer and kind of training.
    """

    config: Config
    prepared: Prepared
    device: Device
    given: Option
    proposal: Option | None
    reasons: dict[str, tuple[Any, str]]
    others: list[Option]


class Planner:
    """Reckons options for one device, model and data; models of shapes and packs are made once for each."""

    def __init__(self, config: Config, prepared: Prepared, tokenizer: Any, device: Device, gpus: int) -> None:
        self.config, self.prepared, self.tokenizer, self.device = config, prepared, tokenizer, device
        self.ranks, self.second = max(1, gpus - 1), gpus > 1  # the last GPU is vLLM's
        self._policies: dict[str, Policy] = {}
        self._laid_out: dict[int, list[tuple[list[TokenizedExample], list[Batch]]]] = {}

    def policy(self, config: Config) -> Policy:
        model = config.model
        key = repr((model.precision, model.lora, model.lora_rank))
        if key not in self._policies:
            self._policies[key] = outline(model, self.tokenizer, self.device.torch_device)
        return self._policies[key]

    def _course(self, config: Config) -> tuple[Load, float, float, int]:
        """(load, operations, tokens, steps) of the run in packs, from the first of its steps."""
        policy = self.policy(config)
        course = Course(self.prepared, config, policy, pair_cost(policy))
        if course.budget not in self._laid_out:  # how rows are laid out does not depend on the way of training
            size = max(1, sum(map(len, course.examples(0))))
            count = min(course.total, course.epoch, LOOKED_AT, max(1, TOKENS_LOOKED_AT // size))
            self._laid_out[course.budget] = [course.at(step) for step in range(count)]
        steps = self._laid_out[course.budget]
        share = course.total / len(steps)
        operations = share * sum(step_flops(policy, batch) for _, batches in steps for batch in batches)
        tokens = share * sum(len(example) for examples, _ in steps for example in examples)
        return Load.of([batches for _, batches in steps]), operations, tokens, course.total

    def option(self, changes: dict[str, Any], kind: Recomputation, trace: bool = False, may_change: bool = True) -> Option:
        """What the settings with some changes need and take.

        Args:
            may_change: whether fewer rows may be generated together where all of them do not fit.
        """
        config = replaced(self.config, changes)
        policy = self.policy(config)
        load, operations, tokens, steps = self._course(config)
        training = traced_bytes(config, load, kind) if trace else memory.training_bytes(policy, config, load, kind)
        if self.ranks > 1:
            training = _shared(training, policy, self.ranks)
        allowed = HEADROOM * self.device.memory
        backend, evaluation = self._evaluation(policy, config, training)
        rows = config.eval.batch_size
        while may_change and backend == "native" and rows > 1 and sum(evaluation.values()) > allowed:
            rows //= 2
            changes = {**changes, "eval.batch_size": rows}
            config = replaced(self.config, changes)
            backend, evaluation = self._evaluation(policy, config, training)
        fits = max(sum(training.values()), sum(evaluation.values())) <= allowed
        rate = self.device.product_rate(policy.compute_dtype)
        if rate is None or self.device.reads is None:
            return Option(changes, kind, load, backend, training, evaluation, fits)
        filled = load.tokens / (load.tokens + HALF_FILLED) if self.device.kind == "cuda" else 1.0
        seconds = operations * AGAIN[kind] / (USUAL_SHARE * filled * rate * self.ranks)
        # the optimizer reads and writes all that it holds, once in a step
        held = training["weights"] + training["gradients"] + training["moments"]
        seconds += steps * 2 * held / self.device.reads
        waiting = self._evaluation_seconds(policy, config, backend, steps, rate)
        return Option(changes, kind, load, backend, training, evaluation, fits, tokens / seconds, (seconds, waiting))

    def _evaluation(self, policy: Policy, config: Config, training: dict[str, float]) -> tuple[str, dict[str, float]]:
        """(who generates, bytes at the peak of an evaluation on the device that trains, by what they are for)."""
        longest = self.prepared.longest_prompt + config.eval.max_new_tokens
        held = {"weights": training["weights"], "moments": training["moments"]}
        rows = min(config.eval.batch_size, max(1, self.prepared.panel * config.eval.samples))
        native = {**held, "generation": memory.native_bytes(policy, rows, self.prepared.longest_prompt, longest)}
        engine = memory.engine_bytes(policy, longest)
        allowed = HEADROOM * self.device.memory
        if config.eval.backend == "native" or (self.device.kind == "cpu" and config.eval.backend == "auto"):
            return "native", native
        if self.second and engine <= allowed:
            return "second card", held
        waiting = {"weights": training["weights"]} if config.eval.offload_optimizer else held
        in_turns = {**waiting, "vLLM": engine}
        if sum(in_turns.values()) <= allowed or config.eval.backend == "vllm":
            return "in turns", in_turns
        return "native", native

    def _evaluation_seconds(self, policy: Policy, config: Config, backend: str, steps: int, rate: float) -> float:
        assert self.device.reads is not None
        if backend == "second card":
            return 0.0
        together = config.eval.batch_size if backend == "native" else TOGETHER_IN_VLLM
        asked = rows_asked(self.prepared, config.eval, steps)
        tokens = {step: response_tokens(self.prepared, config.eval) if step else config.eval.max_new_tokens for step in asked}
        return sum(
            generation_seconds(policy, rows, tokens[step], together, rate, self.device.reads) for step, rows in asked.items()
        )

    def as_given(self) -> Option:
        """The settings as they are; of "auto" recomputation, the first kind that fits."""
        wanted = self.config.model.activation_checkpointing
        kinds = KINDS if wanted == "auto" else (wanted,)
        options = [self.option({}, kind, may_change=False) for kind in kinds]
        return next((option for option in options if option.fits), options[-1])

    def traced(self, option: Option) -> Option:
        """An option whose memory of training is traced rather than reckoned."""
        return self.option(option.changes, option.kind, trace=True, may_change=False)

    def best(self, changes: dict[str, Any]) -> Option:
        """The fastest of the sizes of packs and kinds of recomputation that fit; else the one that needs least."""
        longest, rows = self.prepared.max_length, self.config.train.batch_size * self.config.train.grad_accum
        budgets = [longest * 2**power for power in range(8) if power == 0 or 2**power <= rows]
        wanted = self.config.model.activation_checkpointing
        kinds = KINDS if wanted == "auto" else (wanted, "selective", "full")
        options = [
            self.option({**changes, "train.pack_tokens": budget}, kind) for budget in budgets for kind in dict.fromkeys(kinds)
        ]
        fitting = [option for option in options if option.fits]
        if not fitting:
            return min(options, key=lambda option: option.peak)
        return min(fitting, key=_slowness)


def _slowness(option: Option) -> tuple[float, float]:
    """Less is better: seconds, to within a hundredth; then, or where the speed is not known, what is computed again, then bytes."""
    if option.seconds is None:
        return AGAIN[option.kind] - option.load.tokens / (option.load.tokens + HALF_FILLED), option.peak
    return round(sum(option.seconds), 2 - len(str(int(sum(option.seconds))))), option.peak


def _shared(needed: dict[str, float], policy: Policy, ranks: int) -> dict[str, float]:
    """What each of several ranks needs: its part of the state, and what is whole while it computes (two layers, embedding, head)."""
    shapes = memory.Shapes.of(policy)
    state = {name: size if name == "activations" else size / ranks for name, size in needed.items() if name != "copies"}
    head = (1 if shapes.tied else 2) * shapes.vocabulary * shapes.hidden
    layer = sum(w.numel() for w in policy.model.parameters()) - head
    return {**state, "gathered": shapes.width * (head + 2.0 * layer / shapes.depth)}


def _ways(config: Config, device: Device, ranks: int) -> Iterator[dict[str, Any]]:
    """Ways to train, those first that change least of what is learnt: float32 masters, stochastic rounding, 8-bit moments, adapters."""
    yield {}
    if config.model.lora != "none":
        return
    if device.kind == "cuda":
        for precision, optimizer in (("bf16-mixed", "adamw"), ("bf16-sr", "adamw"), ("bf16-sr", "adamw-8bit")):
            if optimizer == "adamw" or ranks == 1:
                yield {"model.precision": precision, "train.optimizer": optimizer}
    # an adapter's frozen weights are bfloat16 under bf16-mixed
    lora = {"model.lora": "lora", "train.optimizer": "adamw"}
    yield {**lora, "model.precision": "bf16-mixed"} if device.kind == "cuda" else lora


def advise(
    config: Config, device_name: str | None = None, gpus: int = 1, length: int | None = None, trace: bool = False
) -> Advice:
    """What a run needs and takes on a device, and the settings to use there.

    The proposal is, of the first way of training that fits (`_ways`), the fastest size of packs and kind of recomputation. It
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
    if device.kind == "cpu":
        config = config.model_copy(update={"model": for_device(config.model, torch.device("cpu"))})
    if length is not None:
        tokenizer, prepared = None, imagined(config, length)
    else:
        tokenizer = load_tokenizer(config.model.id)
        prepared = prepare(config, tokenizer)
    planner = Planner(config, prepared, tokenizer, device, gpus)
    given = planner.as_given()
    best: dict[str, Option] = {}
    for changes in _ways(config, device, planner.ranks):
        best.setdefault(repr(way_of(replaced(config, changes))), planner.best(changes))
    chosen = next((key for key, option in best.items() if option.fits), None)
    others = [option for key, option in best.items() if key != chosen]
    if chosen is None:
        return Advice(config, prepared, device, planner.traced(given) if trace else given, None, {}, others)
    proposal = best[chosen]
    reasons = _reasons(planner, proposal, others)
    if trace:
        given, proposal = planner.traced(given), planner.traced(proposal)
    return Advice(config, prepared, device, given, proposal, reasons, others)


def way_of(config: Config) -> tuple[str, str, str]:
    """(precision, optimizer, adapters) of a configuration."""
    return config.model.precision, config.train.optimizer, config.model.lora


def _here(config: Config) -> Device:
    device = device_for(config.model.device, ALONE)
    return this_machine(device, has_bfloat16(device) and config.model.precision != "fp32")


def imagined(config: Config, length: int) -> Prepared:
    """Rows of a given length, of which no two share anything, in place of data: a fifth of each is the prompt.

    Raises:
        InputError: too short for a prompt and a response.
    """
    if length < 2:
        raise InputError(f"--length {length}: a row has at least two tokens")
    prompt = max(1, length // 5)
    count = config.data.size or IMAGINED_ROWS
    rows = [TokenizedExample(f"row {number}", (number,) * prompt, (number,) * (length - prompt)) for number in range(count)]
    problems = [Example("", "", "", f"problem {number}") for number in range(IMAGINED_PROBLEMS)]
    panel = panel_size(config.eval, len(problems))
    return Prepared(
        rows, problems if config.eval.full else problems[:panel], Ledger(row.source for row in rows), [length] * count, length,
        False, "", panel, prompt,
    )  # fmt: skip


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
    alone = [kind for kind in KINDS if AGAIN[kind] < AGAIN[proposal.kind]]
    would = ", ".join(f"{kind} would need {gb(planner.option(proposal.changes, kind).peak)}" for kind in alone)
    reasons["model.activation_checkpointing"] = (proposal.kind, would or "everything is kept, and nothing computed twice")
    trained = "all weights are trained" if lora == "none" else least or "as configured"
    reasons["model.lora"] = (lora, trained)
    reasons["train.optimizer"] = (
        (optimizer, "moments in full precision")
        if optimizer == "adamw"
        else (optimizer, f"moments in 8-bit blocks; {least or 'as configured'}")
    )
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
        return {
            "eval.backend": ("vllm", f"on the same card in turns with training: {gb(sum(proposal.evaluation.values()))}; {rest}"),
            "eval.in_turns": ("on", "both at once are not planned for"),
        }
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
    names = [name for name in (*PARTS, "gathered") if any(name in option.training for _, option in options)]
    allowed = HEADROOM * device.memory
    console.say(
        f"{device.name}: {device.memory / GIB:.1f} GiB of memory, of which {gb(allowed)} are planned with; rows of up to"
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
    advice = advise(config, device, gpus, length, trace)
    show(advice)
    if out is not None and advice.proposal is not None:
        write_text(out, planned(advice))
        console.say(f"wrote {out}; to train so: tutelage train {out}")
    return advice
