"""How long a run takes on a device: from the operations of its steps, and from the tokens of its evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.config import EvalConfig
from tutelage.data import Prepared, TokenizedExample
from tutelage.model import Batch, Costs, Course, Policy, Recomputation, head_size, quantized
from tutelage.resources.device import Device
from tutelage.resources.generation import numbers_of_a_key
from tutelage.resources.memory import Load, Shapes, gathers, kernel_name, shapes_and_weights

USUAL_SHARE = 0.4
"""The share of the matrix rate that layers and head are reckoned to reach in training, element-wise work included.

Attention has a share of its own. Step times and a profile that were measured on an H100 give 0.35, and 0.46 with compiled layers.
Fused kernels are reckoned to reach 0.7.
"""
AGAIN: dict[Recomputation, float] = {"none": 1.0, "selective": 1.06, "full": 4 / 3}
"""Operations of a step with what is computed again, beside those without."""
HALF_FILLED = 512
"""Tokens of a batch at which a GPU is reckoned to reach half of what larger batches reach."""
H100_PRODUCTS, H100_BYTES = 780e12, 3.0e12
"""Measured on an H100: operations per second of bfloat16 products, and bytes per second that a copy reads and writes."""
H100_ATTENTION = {"equal": 0.76e-3, "flash2": 1.52e-3, "varlen": 1.52e-3, "flex": 2.27e-3, "flash3": 0.76e-3}
"""Seconds of attention, forward and backward, of one layer: 4 rows of 2,048 tokens, 12 heads of 128, bfloat16, on an H100.

Measured are "equal" (SDPA, rows of one length that share nothing), "varlen" (torch's variable-length call, which is
FlashAttention 2) and "flex". "flash2" is reckoned as "varlen", and "flash3" as "equal". For other GPUs all are reckoned.
"""
STEP_ON_HOST, LAYER_ON_HOST = 0.15, 4e-3
"""Seconds that the host of a GPU needs for a step, and for each layer of each of its batches, forward and backward. Kernels that take
less wait for their launches. Reckoned: so a step of SmolLM2-135M with one batch takes 0.27 s; measured on an H100 were 0.2 s with
compiled layers and 0.5 s without."""
LINK_SHARE = 0.8
"""The share of a link's bytes per second that transfers are reckoned to reach. Not measured."""
LAYER_OF_A_TOKEN = 1e-4
"""Seconds of each layer in which a GPU makes one token of each response, at least: its kernels are small. Reckoned, not measured."""
FIRST_STEP = 12.0
"""Seconds that the first step of a process takes longer on a GPU; measured on an H100: 9–16 s."""
BYTES_LOADED = 1e9
"""Bytes of weights that are read from a disk and brought to a device in a second. Reckoned."""
LOOKED_AT, TOKENS_LOOKED_AT = 16, 100_000
"""Optimizer steps of a run that are laid out for a forecast, and tokens of them; one step at least."""
TOGETHER_IN_AN_ENGINE = 256
"""Responses that an engine such as vLLM is reckoned to generate at the same time."""

Step = tuple[Sequence[TokenizedExample], Sequence[Batch]]


@dataclass(frozen=True)
class Operations:
    """Floating-point operations, forward and backward, of each distinct token in the layers, of each target that meets the head, and of
    each pair of tokens that attend.

    A weight costs six for each token that meets it, or four where it is frozen and needs no gradient. A pair costs twelve for each
    unit of a head's width. Every expert of a mixture counts, chosen or not. What is computed again does not count.
    """

    token: int
    target: int
    pair: int

    @staticmethod
    def of(policy: Policy) -> Operations:
        config: Any = policy.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None) or 0  # a recurrent model has none
        apart = {id(policy.head.weight), id(policy.model.get_input_embeddings().weight)}
        layers = [weight for weight in policy.model.parameters() if weight.ndim >= 2 and id(weight) not in apart]
        pair = 12 * head_size(config) * heads * int(config.num_hidden_layers)
        return Operations(sum(map(_of_a_weight, layers)), _of_a_weight(policy.head.weight), pair)

    def of_batch(self, batch: Batch) -> float:
        tokens, targets = batch.input_ids.numel(), len(batch.sources)
        return float(self.token * tokens + self.target * targets + self.pair * batch.size.pairs)

    def as_products(self, batch: Batch, costs: Costs) -> float:
        """Operations of products that take as long as the batch: what is slower than products counts more, as `costs` say."""
        return self.token * costs.of(batch.size) + self.target * len(batch.sources)


def step_flops(policy: Policy, *batches: Batch) -> float:
    """The `Operations` of some batches."""
    return sum(map(Operations.of(policy).of_batch, batches))


def costs_of(policy: Policy) -> Costs:
    """What the parts of a step cost with the kernel that serves the policy's packs.

    On a CPU a pair costs its operations, and sharing costs nothing. On a GPU attention reaches a smaller share of the matrix rate
    than a layer (`H100_ATTENTION` beside `USUAL_SHARE`). FlexAttention computes every pack, and gathers nothing. For the other
    kernels SDPA computes equal rows, and a gathered key costs its bytes: it is read and written forward; backward its gradient is
    read, and added to a sum in float32. Nothing is measured here: ranks must choose the same layout, and a run that goes on must
    choose as before. The ratios between the rates are those of an H100.
    """
    operations, kernel = Operations.of(policy), kernel_name(policy)
    pair = operations.pair / operations.token
    if kernel == "cpu":
        return Costs(pair, pair)
    own = pair * USUAL_SHARE / _attention_share(kernel)
    if not gathers(kernel):
        return Costs(own, own, pack=float(HALF_FILLED))
    of_a_key = numbers_of_a_key(policy) * (3 * policy.compute_dtype.itemsize + 8)
    tokens_per_second = USUAL_SHARE * H100_PRODUCTS / operations.token
    equal = pair * USUAL_SHARE / _attention_share("equal")
    return Costs(own, equal, key=of_a_key / H100_BYTES * tokens_per_second, pack=float(HALF_FILLED))


def _attention_share(kernel: str) -> float:
    """The share of the matrix rate that attention reaches."""
    pairs = 4 * 2048 * 2049 // 2
    return 12 * 12 * 128 * pairs / (H100_ATTENTION[kernel] * H100_PRODUCTS)


def _bytes_read(weight: torch.Tensor, width: int) -> float:
    """Bytes that a product in numbers of `width` bytes moves of a weight. A quantized one is read, written dense, and read again."""
    if weight.dtype == torch.uint8:
        return weight.numel() + 2.0 * width * quantized.count_of(weight)
    return float(weight.numel() * min(weight.element_size(), width))


def _of_a_weight(weight: torch.Tensor) -> int:
    return quantized.count_of(weight) * (6 if weight.requires_grad else 4)


@dataclass(frozen=True)
class Work:
    """What the training of a run computes.

    Attributes:
        load: the largest batch.
        operations: of products that take as long as all steps, without what is computed again.
        tokens: of the rows, each counted; distinct: of the batches, those that rows share counted once.
        steps: optimizer steps; batches: of one, on average.
    """

    load: Load
    operations: float
    tokens: float
    distinct: float
    steps: int
    batches: float

    @staticmethod
    def of(course: Course, operations: Operations, costs: Costs, first: Sequence[Step]) -> Work:
        """The work of a run whose steps are all like its first ones."""
        share = course.total / len(first)
        batches = [batch for _, step in first for batch in step]
        return Work(
            Load.of([step for _, step in first], course.config),
            share * sum(operations.as_products(batch, costs) for batch in batches),
            share * sum(len(example) for examples, _ in first for example in examples),
            share * sum(batch.input_ids.numel() for batch in batches),
            course.total,
            len(batches) / len(first),
        )


def first_steps(course: Course) -> list[Step]:
    """The first optimizer steps of a run, laid out, as many as a forecast looks at; the batches are on the CPU."""
    size = max(1, sum(map(len, course.examples(0))))
    count = min(course.total, course.epoch, LOOKED_AT, max(1, TOKENS_LOOKED_AT // size))
    rows = [course.examples(step) for step in range(count)]
    return [(examples, course.batches(examples)) for examples in rows]


def starting_seconds(policy: Policy, device: Device) -> float:
    """Seconds that a run takes before its steps are as fast as the later ones: weights are loaded, the first step allocates."""
    weights = 2.0 * sum(quantized.count_of(weight) for weight in policy.model.parameters())
    return weights / BYTES_LOADED + (FIRST_STEP if device.kind == "cuda" else 0.0)


def layers_of(policy: Policy) -> int:
    return int(policy.model.config.get_text_config().num_hidden_layers)


@dataclass(frozen=True)
class Pace:
    """How a run computes what it computes.

    Attributes:
        again: operations with what is computed again, beside those without.
        layers: decoder layers of the model.
        ranks: devices that share the weights. traffic: bytes that each receives for a batch.
        to_host: bytes that go to the host's memory, and come back, for each distinct token.
    """

    again: float
    layers: int
    ranks: int = 1
    traffic: float = 0.0
    to_host: float = 0.0


def again_of(kind: Recomputation, s: Shapes, work: Work, operations: Operations) -> float:
    """Operations of a step with what is computed again, beside those without.

    Where everything else is kept, tiles compute the MLPs' forward pass again. With full recomputation they add nothing: a layer that is
    computed again stops before its last tiles.
    """
    if kind != "none" or not 0 < s.tile < work.load.tokens:
        return AGAIN[kind]
    of_mlps = 3 * 2 * s.hidden * s.intermediate * s.depth * work.distinct
    return 1.0 + min(1 / 3, of_mlps / work.operations)


def traffic_of(policy: Policy, s: Shapes, ranks: int, always: bool) -> float:
    """Bytes that a rank receives for a batch: the layers twice in the precision of computing, embedding and head once in their own,
    and gradients in float32, where they are exchanged after each batch."""
    if ranks == 1:
        return 0.0
    head = (1 if s.tied else 2) * s.vocabulary * s.hidden
    _, weights = shapes_and_weights(policy)
    layers = sum(weight.numel() for weight in weights) - head
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    return (ranks - 1) / ranks * (2.0 * s.width * layers + s.stored * head + 4.0 * trained * always)


def training_seconds(work: Work, pace: Pace, held: float, device: Device, dtype: torch.dtype) -> dict[str, float] | None:
    """Seconds of all optimizer steps by what takes them, of which `total_of` makes a sum; None where the device's speed is not known.

    Args:
        held: bytes of weights, gradients and moments, all of which the optimizer reads and writes once in a step.
        dtype: of the matrix products.
    """
    rate = device.product_rate(dtype)
    if rate is None or device.reads is None:
        return None
    busy = min(float(pace.ranks), work.batches)  # a rank for which a step has no batch waits
    found = {"products": work.operations * pace.again / (USUAL_SHARE * rate * busy)}
    if device.kind == "cuda":
        found["launches"] = work.steps * (STEP_ON_HOST + pace.layers * LAYER_ON_HOST * pace.again * work.batches / busy)
    if pace.traffic:
        found["network"] = work.steps * work.batches / busy * pace.traffic / (LINK_SHARE * device.link)
    if pace.to_host:
        found["host"] = work.distinct / busy * pace.to_host / (LINK_SHARE * device.host)
    return found | {"optimizer": work.steps * 2 * held / device.reads}


def total_of(seconds: Mapping[str, float]) -> float:
    """What computes, launches, sends and copies at the same time takes as long as the slowest of them; the optimizer comes behind."""
    return max(taken for name, taken in seconds.items() if name != "optimizer") + seconds["optimizer"]


def evaluation_seconds(policy: Policy, config: EvalConfig, prepared: Prepared, total: int, device: Device, together: int) -> float | None:
    """Seconds in which the responses of all evaluations of a run are generated; None where the device's speed is not known.

    Every token of a batch takes as long as its matrix products, or as reading all weights from memory, whichever is longer; on a GPU
    at least `LAYER_OF_A_TOKEN` a layer. A trained model's responses are reckoned to be as long as the longest worked solution, at most
    as they may be; those of the untouched model may all be cut off at the cap.

    Args:
        total: optimizer steps.
        together: responses that are generated at the same time.
    """
    rate = device.product_rate(policy.compute_dtype)
    if rate is None or device.reads is None:
        return None
    _, weights = shapes_and_weights(policy)
    operations = 2.0 * sum(quantized.count_of(weight) for weight in weights)
    reading = sum(_bytes_read(weight, policy.compute_dtype.itemsize) for weight in weights) / device.reads
    least = max(reading, LAYER_OF_A_TOKEN * layers_of(policy) if device.kind == "cuda" else 0.0)
    trained = min(prepared.longest_response, config.max_new_tokens)
    seconds = 0.0
    for step in range(total + 1):
        if config.is_due(step, total):
            rows = config.samples * (len(prepared.validation) if step in (0, total) else prepared.panel)
            batch, tokens = min(rows, together), trained if step else config.max_new_tokens
            seconds += -(-rows // batch) * tokens * max(operations * batch / rate, least)
    return seconds
