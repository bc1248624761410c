"""What each file of a run must hold so that what reads it can rely on it: a schema for each table and for each kind of line.

A schema names what is read, and no more: other keys are let through, and a key that runs of before did not write is not required.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

Count = Annotated[int, Field(ge=0, le=2**53)]
AtLeastOne = Annotated[int, Field(ge=1, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[Finite], Field(min_length=2, max_length=2)]
Text = Annotated[str, Field(min_length=1)]


class Table(TypedDict):
    """A table with keys beside those that are named; types are not converted."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]


# ── metrics.jsonl ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Line(Table):
    kind: Text
    step: Count


class Step(Line):
    """A line of kind "train"; losses and norms may be no number."""

    loss: float
    grad_norm: float
    seconds: Seconds
    response_tokens: Count
    nll: NotRequired[float | None]
    lr: NotRequired[float]
    tokens_per_second: NotRequired[Seconds]
    memory_gb: NotRequired[Finite | None]
    weights_changed: NotRequired[Share]
    skipped: NotRequired[str]


class Summary(Table):
    """What `tutelage.evaluation.summarize` makes."""

    examples: AtLeastOne
    samples: NotRequired[AtLeastOne]
    accuracy: Share
    accuracy_ci95: Interval
    format_rate: Share | None
    cap_hit_rate: Share
    avg_response_length: Finite | None
    avg_token_entropy: float | None
    entropy: NotRequired[str]


Parts = dict[Literal["weights", "waiting", "entropies", "grading", "unknown"], Seconds]


class Evaluation(Summary):
    """A line of kind "eval"."""

    kind: Literal["eval"]
    step: Count
    full: NotRequired[Summary]
    seconds: NotRequired[Seconds]
    training_seconds: NotRequired[Seconds]
    stood_still_seconds: NotRequired[Parts]
    sync_seconds: NotRequired[Seconds | None]
    generation_seconds: NotRequired[Seconds | None]
    grading_seconds: NotRequired[Seconds | None]
    certificate: NotRequired[dict[str, Any]]
    adopted_from: NotRequired[str]


class NoEvaluation(Line):
    """A line of kind "eval_failed" or "eval_lost"."""

    reason: NotRequired[str]
    seconds: NotRequired[Seconds]
    training_seconds: NotRequired[Seconds]
    stood_still_seconds: NotRequired[Parts]
    certificate: NotRequired[dict[str, Any]]


class Reason(Line):
    reason: str


class FailedEvaluation(NoEvaluation):
    reason: str  # type: ignore[misc]


class Changed(Line):
    """A line of kind "config_changed"."""

    changes: list[str]


class Prolonged(Line):
    """A line of kind "prolonged": the run was made longer after `step`; what its learning rate does then."""

    said: Text


class Damage(Line):
    """A line of kind "damaged": what was found damaged or missing when the run went on after `step`."""

    faults: list[str]


KINDS: Mapping[str, Any] = {
    "train": Step, "eval": Evaluation, "eval_failed": FailedEvaluation, "eval_lost": NoEvaluation, "save_failed": Reason,
    "engine_failed": Reason, "config_changed": Changed, "prolonged": Prolonged, "damaged": Damage,
}  # fmt: skip
"""The schema of a line of metrics, by its kind; that of other kinds is `Line`."""


# ── the other files ───────────────────────────────────────────────────────────────────────────────────────────────────


class Tokens(Table):
    characters: list[Count]
    entropy: list[float]
    nll: list[float]


class Generation(Table):
    """A line of generations.jsonl; one of `tutelage eval` has no step."""

    prompt: str
    response: str
    ground_truth: Any
    answer_reward: float
    format_reward: float | None
    length: Count
    token_entropy: float | None
    finish_reason: str
    step: NotRequired[Count]
    sample: NotRequired[Count]
    tokens: NotRequired[Tokens | None]


class Fate(Table):
    """A line of ledger.jsonl."""

    fate: str


class Shown(Table):
    """A row whose text is shown: in parts, or as it was read."""

    fate: str
    source: str
    why: NotRequired[str]
    prompt: NotRequired[str]
    response: NotRequired[str]
    reference: NotRequired[str | None]
    row: NotRequired[str]


class Example(Table):
    source: str
    prompt_tokens: Count
    tokens: list[str]


class OfSource(Table):
    """What is trained on of a source; `weights` are the least and the largest."""

    source: str
    rows: Count
    tokens: Count
    response_tokens: Count
    weight: Finite
    weights: Annotated[list[Finite], Field(min_length=2, max_length=2)]
    share: Finite


class Data(Table):
    sha256: Text
    rows: NotRequired[Count]
    fates: NotRequired[dict[str, Count]]
    sources: NotRequired[list[OfSource]]
    lengths: NotRequired[list[Annotated[list[Count], Field(min_length=2, max_length=2)]]]
    max_length: NotRequired[Count]
    max_length_was_chosen: NotRequired[bool]
    unread: NotRequired[list[str]]
    notes: NotRequired[list[str]]
    example: NotRequired[Example]
    shown: NotRequired[list[Shown]]


class Machine(Table):
    system: str
    processor: str
    cores: Count | None
    memory_gb: Finite | None
    gpus: list[str]


class Git(Table):
    commit: str
    branch: str
    changed_files: list[str]


class Environment(Table):
    command: list[str]
    earlier_commands: NotRequired[list[list[str]]]
    python: str
    packages: dict[str, str]
    machine: Machine
    kernel: NotRequired[str | None]
    git: NotRequired[Git | None]


class Plan(Table):
    """What "auto" decided before the first step."""

    activation_checkpointing: Literal["none", "selective", "full"]
    compile: NotRequired[bool]
    chunk: NotRequired[AtLeastOne]
    tile: NotRequired[Count]
    liger: NotRequired[bool]
    ranks: NotRequired[AtLeastOne]
    precision: NotRequired[Literal["fp32", "bf16-mixed", "bf16-sr"]]
    parts: NotRequired[AtLeastOne]
    always_sync: NotRequired[bool]


class Stopped(Table):
    """How a run was ended before its planned length by `eval.patience`."""

    patience: AtLeastOne
    planned_steps: Count
    best_step: Count
    best_accuracy: Share
    best_accuracy_ci95: Interval


class Result(Table):
    steps: Count
    evaluations: NotRequired[list[Evaluation]]
    stopped: NotRequired[Stopped]


class Evaluated(Summary):
    """summary.json of `tutelage eval`."""

    model: str
    data: str
    backend: NotRequired[str]
    certificates: NotRequired[list[dict[str, Any]]]


class KnownFile(Table):
    sha256: Text
    size: Count
    values: NotRequired[dict[str, Any]]


class Identity(Table):
    """The model that a run was begun with, as `tutelage.model.identity_of` describes it."""

    model: str
    revision: str | None
    files: dict[str, KnownFile]


class Pointed(Table):
    trial: Annotated[str, Field(pattern=r"^[^/\x00]*[^/\x00.][^/\x00]*$")]
    kind: Literal["raw", "filtered", "control"]
    size: Count | None
    rows: Count
    seed: int
    steps: Count
    tokens: Count
    varied: dict[str, str]


class Session(Table):
    started: Finite
    seconds: Finite
    finished: list[str]
    failed: dict[str, str]


class Varied(Table):
    """The design of a sweep, as it is printed."""

    sizes: list[Count | None]
    kinds: list[str]
    seeds: AtLeastOne
    equal: Literal["epochs", "steps", "tokens"]
    lrs: list[Finite]
    vary: list[Annotated[list[str | list[str]], Field(min_length=2, max_length=2)]]


class Sweep(Table):
    design: Varied
    points: list[Pointed]
    sessions: Annotated[list[Session], Field(min_length=1)]
    baselines: dict[str, str]
    pools: NotRequired[dict[str, str]]
    templates: NotRequired[dict[str, str]]
    models: NotRequired[dict[str, Identity]]
    price_per_hour: Finite | None


@functools.cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema, config=None if hasattr(schema, "__total__") else ConfigDict(strict=True))


def fault_of(schema: Any, value: Any) -> str:
    """What keeps a value from being what a schema says, in a few words; "" if nothing does."""
    if not isinstance(value, dict):
        return f"{_kind_of(value)} in the place of a table"
    try:
        _adapter(schema).validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            return f"it lacks {key}"
        return f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r:.60}"
    return ""


def fault_of_line(value: Any) -> str:
    """As `fault_of`, of a line of metrics."""
    return fault_of(Line, value) or fault_of(KINDS.get(value["kind"], Line), value)


def _kind_of(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
