"""What settings of a run need and take on a device: reckoned from shapes and from the lengths of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tutelage.config import Config, replaced
from tutelage.data import Example, Ledger, Prepared, TokenizedExample, panel_size
from tutelage.errors import InputError
from tutelage.model import RECOMPUTATIONS, Batch, Course, Policy, Recomputation, outline
from tutelage.resources import (
    HEADROOM,
    USUAL_SHARE,
    Device,
    Load,
    generation_seconds,
    memory,
    pair_cost,
    response_tokens,
    rows_asked,
    step_flops,
    traced_bytes,
)

LOOKED_AT, TOKENS_LOOKED_AT = 16, 100_000
"""Optimizer steps whose packs are laid out for a plan, and tokens of them; one step at least."""
AGAIN = {"none": 1.0, "selective": 1.06, "full": 4 / 3}
"""Operations of a step with what is computed again, beside those without."""
HALF_FILLED = 512
"""Tokens of a batch at which a GPU is reckoned to be used by half of what larger ones reach."""
IMAGINED_ROWS, IMAGINED_PROBLEMS = 1000, 500
"""What is planned for where rows of a given length stand for the data."""
TOGETHER_IN_VLLM = 256
"""Responses that vLLM is reckoned to generate at the same time."""


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


class Planner:
    """Reckons options for one device, model and data; models of shapes and packs are made once for each."""

    def __init__(self, config: Config, prepared: Prepared, tokenizer: Any, device: Device, gpus: int) -> None:
        self.config, self.prepared, self.tokenizer, self.device = config, prepared, tokenizer, device
        self.second = gpus > 1 and config.eval.backend != "native"  # the last GPU is vLLM's
        self.ranks = gpus - self.second
        self._policies: dict[str, Policy] = {}
        self._held: dict[tuple[str, str, str], tuple[dict[str, float], memory.Shapes]] = {}
        self._laid_out: dict[tuple[int, int, bool], list[tuple[list[TokenizedExample], list[Batch]]]] = {}

    def policy(self, config: Config) -> Policy:
        model = config.model
        key = repr((model.precision, model.lora, model.lora_rank))
        if key not in self._policies:
            policy = outline(model, self.tokenizer, self.device.torch_device)
            policy.packs = self.config.train.pack and packable(policy.model)
            self._policies[key] = policy
        return self._policies[key]

    def _course(self, config: Config) -> tuple[Load, float, float, int, float]:
        """(load, operations, tokens, steps, batches in a step) of the run as it is laid out, from the first of its steps."""
        policy = self.policy(config)
        course = Course(self.prepared, config, policy, pair_cost(policy))
        key = course.budget, config.train.batch_size, policy.packs
        if key not in self._laid_out:  # how rows are laid out does not depend on the way of training
            size = max(1, sum(map(len, course.examples(0))))
            count = min(course.total, course.epoch, LOOKED_AT, max(1, TOKENS_LOOKED_AT // size))
            self._laid_out[key] = [course.at(step) for step in range(count)]
        steps = self._laid_out[key]
        share = course.total / len(steps)
        operations = share * sum(step_flops(policy, batch) for _, batches in steps for batch in batches)
        tokens = share * sum(len(example) for examples, _ in steps for example in examples)
        together = sum(len(batches) for _, batches in steps) / len(steps)
        return Load.of([batches for _, batches in steps]), operations, tokens, course.total, together

    def option(self, changes: dict[str, Any], kind: Recomputation, trace: bool = False, may_change: bool = True) -> Option:
        """What the settings with some changes need and take.

        Args:
            may_change: whether fewer rows may be generated together where all of them do not fit.
        """
        config = replaced(self.config, changes)
        policy = self.policy(config)
        load, operations, tokens, steps, batches = self._course(config)
        training = traced_bytes(config, load, kind) if trace else self._training(policy, config, load, kind)
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
        busy = min(float(self.ranks), batches)  # a rank for which a step has no batch waits
        seconds = operations * AGAIN[kind] / (USUAL_SHARE * filled * rate * busy)
        # the optimizer reads and writes all that it holds, once in a step
        held = training["weights"] + training["gradients"] + training["moments"]
        seconds += steps * 2 * held / self.device.reads
        waiting = self._evaluation_seconds(policy, config, backend, steps, rate)
        return Option(changes, kind, load, backend, training, evaluation, fits, tokens / seconds, (seconds, waiting))

    def _training(self, policy: Policy, config: Config, load: Load, kind: Recomputation) -> dict[str, float]:
        """`memory.training_bytes`, what depends on the way of training alone being summed up once."""
        way = way_of(config)
        if way not in self._held:
            self._held[way] = memory.held_bytes(policy, config), memory.Shapes.of(policy)
        held, shapes = self._held[way]
        return {**held, "activations": memory.activations_of(shapes, load, kind)}

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
        if self.device.kind == "cpu":
            return "vLLM beside it", {**held, "vLLM": engine}
        if self.second and engine <= allowed:
            return "second card", held
        if config.eval.in_turns != "on" and sum(training.values()) + engine <= allowed:
            return "vLLM beside it", {**training, "vLLM": engine}
        waiting = {"weights": training["weights"]} if config.eval.offload_optimizer else held
        in_turns = {**waiting, "vLLM": engine}
        if self.ranks == 1 and (sum(in_turns.values()) <= allowed or config.eval.backend == "vllm"):
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
        kinds = RECOMPUTATIONS if wanted == "auto" else (wanted,)
        options = [self.option({}, kind, may_change=False) for kind in kinds]
        return next((option for option in options if option.fits), options[-1])

    def traced(self, option: Option) -> Option:
        """An option whose memory of training is traced rather than reckoned."""
        return self.option(option.changes, option.kind, trace=True, may_change=False)

    def best(self, changes: dict[str, Any]) -> Option:
        """The fastest of the sizes of packs and kinds of recomputation that fit; else the one that needs least."""
        longest, rows = self.prepared.max_length, self.config.train.batch_size * self.config.train.grad_accum
        sizes: list[dict[str, Any]] = [
            {"train.pack_tokens": longest * 2**power} for power in range(8) if 2**power <= max(1, rows)
        ]
        if not self.policy(self.config).packs:
            splits = [2**power for power in range(8) if rows % 2**power == 0]
            sizes = [{"train.batch_size": together, "train.grad_accum": rows // together} for together in splits]
        wanted = self.config.model.activation_checkpointing
        kinds = RECOMPUTATIONS if wanted == "auto" else (wanted, "selective", "full")
        options = [self.option({**changes, **size}, kind) for size in sizes for kind in dict.fromkeys(kinds)]
        fitting = [option for option in options if option.fits]
        if not fitting:
            return min(options, key=lambda option: option.peak)
        if fitting[0].seconds is None:
            return min(fitting, key=_unfilled)
        fastest = min(sum(option.seconds) for option in fitting if option.seconds)
        return min((o for o in fitting if o.seconds and sum(o.seconds) <= 1.01 * fastest), key=lambda option: option.peak)


def _unfilled(option: Option) -> tuple[float, float]:
    """Less is better where the speed is not known: what is computed again, and how badly batches fill a GPU; then bytes."""
    return AGAIN[option.kind] - option.load.tokens / (option.load.tokens + HALF_FILLED), option.peak


def packable(model: Any) -> bool:
    """Whether a model's configuration speaks of nothing that packs cannot have; a run tries it on the weights themselves."""
    config = model.config.get_text_config()
    windows = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) is not None
    windows = windows or "sliding_attention" in (getattr(config, "layer_types", None) or ())
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    dropout = max(float(getattr(config, name, 0.0) or 0.0) for name in ("attention_dropout", "attn_pdrop"))
    return bool(model._supports_attention_backend) and not (windows or capped or dropout)


def _shared(needed: dict[str, float], policy: Policy, ranks: int) -> dict[str, float]:
    """What each of several ranks needs: its part of the state, and what is whole while it computes (two layers, embedding, head)."""
    shapes = memory.Shapes.of(policy)
    state = {name: size if name == "activations" else size / ranks for name, size in needed.items() if name != "copies"}
    head = (1 if shapes.tied else 2) * shapes.vocabulary * shapes.hidden
    layer = sum(w.numel() for w in policy.model.parameters()) - head
    return {**state, "gathered": shapes.width * (head + 2.0 * layer / shapes.depth)}


def ways(config: Config, device: Device, ranks: int) -> Iterator[dict[str, Any]]:
    """Ways to train, those first that change least of what is learnt: float32 masters, stochastic rounding, 8-bit moments, adapters."""
    if ranks == 1 or config.train.optimizer == "adamw":  # 8-bit moments cannot be shared yet
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


def way_of(config: Config) -> tuple[str, str, str]:
    """(precision, optimizer, adapters) of a configuration."""
    return config.model.precision, config.train.optimizer, config.model.lora


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
        train=rows, validation=problems if config.eval.full else problems[:panel], ledger=Ledger(row.source for row in rows),
        lengths=[length] * count, max_length=length, max_length_was_chosen=False, template="", panel=panel, longest_prompt=prompt,
    )  # fmt: skip
