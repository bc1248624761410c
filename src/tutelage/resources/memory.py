"""What a step, and an evaluation, need at their peak, reckoned from shapes: by formula at once, or traced (`trace`).

The formula follows this implementation, tensor by tensor; `tests/test_memory.py` holds it against traces of the real code, and
against what real processes took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from tutelage.config import Config
from tutelage.machines import is_sharded, local_part
from tutelage.model import IN_FLIGHT, Batch, Policy, Recomputation, head_size, optim, quantized

GIB = float(1 << 30)
HEADROOM = 0.9
"""The share of free memory that a plan may use: a GPU's context and fragments of its allocator take the rest."""
ON_THE_WAY = IN_FLIGHT + 1
"""Tensors on a device of those that wait in the host's memory: the one that is wanted, and those that are on their way."""


def in_gib(size: float) -> str:
    """``2.1 GiB``; what is below zero is nothing."""
    return f"{max(size, 0.0) / GIB:.1f} GiB"


def in_parts(needed: Mapping[str, float]) -> str:
    """``2.10 GiB (weights 0.54, …)`` of bytes by name."""
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in needed.items() if size)
    return f"{sum(needed.values()) / GIB:.2f} GiB ({parts})"


@dataclass(frozen=True)
class Load:
    """What meets the model at once.

    Attributes:
        tokens: of the largest batch, those that rows share counted once; targets: how many of them predict a response token.
        several: whether a step has several batches, so that gradients of the earlier ones are there beside the last one.
        freed: whether each gradient is freed as soon as it is complete (`train.update = "in_backward"`).
        together: tokens of all batches of a step that go backward together, so that inputs of layers are kept of all; 0: they do not.
        keys: that attention by paths gathers, as `Size.keys`. None: not known; reckoned as twice the tokens, which is more than
            four solutions under a prompt of their length need.
    """

    tokens: int
    targets: int
    several: bool = True
    keys: int | None = None
    freed: bool = False
    together: int = 0

    @property
    def gathered(self) -> int:
        """Keys that attention by paths gathers at most."""
        return 2 * self.tokens if self.keys is None else self.keys

    @staticmethod
    def of(steps: Iterable[Sequence[Batch]], config: Config | None = None) -> Load:
        """That of the largest batch of some steps, with the most keys that any batch gathers.

        Args:
            config: of the run; None: gradients are kept for a step.
        """
        steps = list(steps)
        batches = [batch for step in steps for batch in step]
        largest = max(batches, key=lambda batch: batch.input_ids.numel())
        several, keys = any(len(step) > 1 for step in steps), max(batch.size.keys for batch in batches)
        freed = config is not None and frees(config)
        together = max(sum(batch.input_ids.numel() for batch in step) for step in steps) if freed and several else 0
        return Load(largest.input_ids.numel(), len(largest.sources), several and not freed, keys, freed, together)

    @staticmethod
    def at_most(tokens: int, config: Config, together: int = 0) -> Load:
        """A batch of so many tokens that all predict a response token, in a run of this configuration."""
        return Load(tokens, tokens, several=not frees(config), freed=frees(config), together=together)


@dataclass(frozen=True)
class Shapes:
    """The numbers of a model that its activations depend on.

    Attributes:
        hidden, intermediate, vocabulary, depth: sizes of a hidden state and of the MLP's, entries of the head, decoder layers.
        attended: query + key + value + output of the attention, for a token.
        gathered: key + value, for a key that attention by paths gathers; 0 where the kernel gathers none.
        width: bytes of a number that is computed with; stored: of a weight of the head.
        trained_in_layers: bytes of the weights that are trained, but for head and embedding. own: weights without adapters.
        tied: head and embedding are the same weight. learns_head: it is trained.
        adapters: rank of the adapters, 0 without.
        dense: numbers of the largest quantized weight, which is dense while a product needs it; 0 where none is quantized.
        chunk: targets that meet the vocabulary at a time.
        tile: tokens that MLPs and norms compute at a time; 0: all. has_tiles: whether the model can.
        offload: whether what is kept waits in the host's memory. shared: whether several ranks share the weights.
    """

    hidden: int
    intermediate: int
    vocabulary: int
    depth: int
    attended: int
    gathered: int
    width: int
    stored: int
    trained_in_layers: float
    own: int
    tied: bool
    learns_head: bool
    mixed: bool
    adapters: int
    dense: int
    chunk: int
    tile: int = 0
    has_tiles: bool = True
    offload: bool = False
    shared: bool = False

    @staticmethod
    def of(policy: Policy) -> Shapes:
        config: Any = policy.model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None) or 1
        size = head_size(config)
        keys = getattr(config, "num_key_value_heads", None) or heads
        head, embedding, kernel = policy.head.weight, policy.model.get_input_embeddings().weight, kernel_name(policy)
        others = [weight for weight in policy.model.parameters() if weight is not head and weight is not embedding]
        ranks = [module.r[name] for module in policy.model.modules() if hasattr(module, "lora_A") for name in module.lora_A]
        return Shapes(
            hidden=config.hidden_size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            vocabulary=head.shape[0],
            depth=config.num_hidden_layers,
            # FlexAttention's output is copied once more
            attended=2 * (heads + keys) * size + (heads * size if kernel == "flex" else 0),
            gathered=2 * keys * size if gathers(kernel) else 0,
            width=policy.compute_dtype.itemsize,
            stored=head.element_size(),
            trained_in_layers=float(sum(weight.numel() * weight.element_size() for weight in others if weight.requires_grad)),
            own=sum(quantized.count_of(weight) for name, weight in policy.model.named_parameters() if "lora_" not in name),
            tied=head is embedding,
            learns_head=head.requires_grad,
            mixed=policy.precision == "bf16-mixed",
            adapters=max(ranks, default=0),
            dense=quantized.largest_dense(policy.model),
            chunk=policy.chunk,
            tile=policy.tile,
            has_tiles=policy.has_tiles,
            offload=policy.offload,
            shared=is_sharded(policy.model),
        )


_OUTLINES: WeakKeyDictionary[Policy, tuple[Shapes, list[torch.nn.Parameter]]] = WeakKeyDictionary()


def shapes_and_weights(policy: Policy) -> tuple[Shapes, list[torch.nn.Parameter]]:
    """The shapes and the parameters of a policy; of an outline, which a plan asks again and again, found once."""
    if policy in _OUTLINES:
        return _OUTLINES[policy]
    found = Shapes.of(policy), list(policy.model.parameters())
    if all(weight.is_meta for weight in found[1]):
        _OUTLINES[policy] = found
    return found


def kernel_name(policy: Policy) -> str:
    """The kernel that serves the policy's packs; where its GPU is not on this machine, torch's own for the precision."""
    if policy.device.type == "cuda" and not torch.cuda.is_available():
        return "flex" if policy.compute_dtype == torch.float32 else "varlen"
    return policy.kernel.name


def gathers(kernel: str) -> bool:
    """Whether a kernel gathers the keys of all paths where rows share a prefix."""
    return kernel not in ("cpu", "flex")


def weight_bytes(policy: Policy) -> float:
    """Bytes of all weights; of sharded ones, of this rank's part."""
    held = (*policy.model.parameters(), *quantized.beside(policy.model))
    return float(sum(local_part(weight).numel() * weight.element_size() for weight in held))


def state_bytes(policy: Policy, config: Config) -> dict[str, float]:
    """Bytes of what training adds to the loaded weights, by name: gradients, moments, and bfloat16 copies under bf16-mixed.

    Of sharded weights, for this rank's part. Moments in the host's memory are on a GPU a piece at a time, by name `pieces`; for a CPU
    both are the same memory. Gradients that are freed in the backward pass count as activations.
    """
    head, embedding = policy.head.weight, policy.model.get_input_embeddings().weight
    needed = {"gradients": 0.0, "moments": 0.0, "copies": 0.0}
    if config.train.optimizer_offload:
        needed["pieces"] = float(optim.bytes_of_pieces(policy.model, config))
    elsewhere = config.train.optimizer_offload and policy.device.type == "cuda"
    for weight in policy.model.parameters():
        size, count = weight.element_size(), local_part(weight).numel()
        # the embedding is looked up in float32
        if policy.precision == "bf16-mixed" and size == 4 and (weight is head or weight is not embedding):
            needed["copies"] += 2.0 * count
        if weight.requires_grad:
            needed["gradients"] += 0 if frees(config) else count * size
            needed["moments"] += 4 if elsewhere else optim.bytes_of_state(weight, config)
    return needed


def frees(config: Config) -> bool:
    """Whether each gradient is freed in the backward pass."""
    return config.train.update == "in_backward"


def held_bytes(policy: Policy, config: Config) -> dict[str, float]:
    """Bytes that training holds whatever the batch, by name: the weights and `state_bytes`."""
    return {"weights": weight_bytes(policy), **state_bytes(policy, config)}


def state_to_come(policy: Policy, config: Config) -> float:
    """The sum of `state_bytes`."""
    return sum(state_bytes(policy, config).values())


def activation_bytes(policy: Policy, load: Load, kind: Recomputation) -> float:
    """`activations_of` the policy's shapes."""
    return activations_of(Shapes.of(policy), load, kind)


def activations_of(s: Shapes, load: Load, kind: Recomputation) -> float:
    """Bytes that a batch needs beyond weights, their copies, moments and gradients, at the peak of its forward and backward pass.

    The largest of what is alive at five moments: when the last chunk of targets meets the vocabulary, when its gradient is cast
    to the precision of the weight, in the backward pass of the last layer, in that of the first one, and when the gradient of the
    embedding joins that of the head.
    """
    if load.together:
        return _together(s, load)
    if s.shared:  # a rank's own gradients are parts, which do not come into being while activations go
        load = replace(load, several=True)
    kept, first, again, flowing, last_norm = _of_layers(s, load, kind)
    head, ends = s.vocabulary * s.hidden, 1 if s.tied else 2
    layer = s.width * (s.own - ends * head) / s.depth if s.shared else 0.0
    # of several ranks: a cast for each batch, where no copy serves a step, while no layer is there; a layer's gradient, and as it is sent
    cast = float(s.width * head if s.shared and s.stored != s.width else 0) - 2 * layer
    sent = 4.0 * s.trained_in_layers / s.stored / s.depth if s.shared else 0.0
    embedding = float(head * s.stored * s.learns_head)
    grown = 0.0 if load.several or load.freed else s.trained_in_layers
    every_gradient = s.trained_in_layers + ends * embedding
    if load.freed:
        # the gradient of one matrix, beside that of its bfloat16 copy
        flowing += 6.0 * s.hidden * s.intermediate if s.mixed and s.trained_in_layers else 0.0
        every_gradient = 0.0
    of_head = 0.0 if (load.several or load.freed) and not s.tied else embedding
    moments = [
        kept + last_norm + _head_bytes(s, load) + cast,
        kept + last_norm + head * (6.0 if s.learns_head and s.stored == 2 else 0.0) + cast,
        sent + kept + of_head + again + flowing,
        layer + sent + grown + first + (embedding if s.shared else of_head) + again + flowing,
        grown + (3 if s.tied else 2 - (load.several or load.freed)) * embedding,
    ]
    if s.shared and s.learns_head:  # gradients of embedding and head, and both as they are sent in float32
        moments.append(ends * head * (s.stored + 4.0) - 2 * layer)
    # with a single batch gradients come into being while activations go
    return max(moments) if load.several else max(0.0, max(moments) - every_gradient)


def _together(s: Shapes, load: Load) -> float:
    """`activations_of` batches that go backward together, at the peak of the last head, of a layer with its gradient, of the embedding."""
    one, between = _of_layers(s, load, "full"), float(load.together * s.width * s.hidden)
    kept = between + (ON_THE_WAY * load.tokens * s.width * s.hidden if s.offload else s.depth * between)
    embedding = float(s.vocabulary * s.hidden * s.stored * s.learns_head)
    of_layer = s.trained_in_layers / s.depth + (2.0 * s.hidden * s.intermediate if s.mixed and s.trained_in_layers else 0.0)
    cast = s.vocabulary * s.hidden * (6.0 if s.learns_head and s.stored == 2 else 0.0)
    return max(
        kept + one.last_norm + embedding + max(_head_bytes(s, load), cast),
        kept + one.again + one.flowing + of_layer + (embedding if s.tied else 0.0),
        between + 2 * embedding,
    )


class _Layers(NamedTuple):
    """Bytes of activations.

    Attributes:
        kept: on the device, for all layers; first: for the first layer alone, when the others are done.
        again: what one layer computes again. flowing: what passes through a layer in its backward pass.
        last_norm: kept by the norm behind the layers, with the hidden states of the targets.
    """

    kept: float
    first: float
    again: float
    flowing: float
    last_norm: float


def _of_layers(s: Shapes, load: Load, kind: Recomputation) -> _Layers:
    h, w, tokens, tiled = s.hidden, s.width, load.tokens, 0 < s.tile < load.tokens
    norm = (12 if w == 4 else 8) * h  # in float32: input, normed, output; else a float32 copy of the input beside those two
    # the copies of keys and values are kept in place of the tokens' own
    copies = max(0, load.gathered - tokens) * w * s.gathered
    products = w * (s.attended + 2 * h + 2 * s.intermediate) * (2 if s.adapters else 1)
    layer = 2 * norm + w * (s.attended + 4 * s.intermediate + 7 * s.adapters)
    flowing: float = tokens * w * (2 * s.intermediate + 2 * h) + (0 if s.mixed else w * h * s.intermediate * s.learns_head)
    if tiled:  # inputs and outputs alone; within a tile what a layer's MLP keeps and passes on, beside sums of its gradients
        norm, layer = 2 * w * h, w * (4 * h + s.attended + 4 * s.adapters)
        weights = 3.0 * h * s.intermediate * (4 + w) * s.learns_head
        of_mlp = s.tile * w * (6 * s.intermediate + 4 * h) + weights
        # when the gradient reaches attention, input and output of the second norm are gone
        flowing = tokens * w * 2 * h + max(of_mlp, tokens * w * (s.attended - 2 * h))
    flowing += w * s.dense
    every, entering = tokens * layer + copies, float(tokens * w * h)
    first = {"none": every, "selective": entering + tokens * products, "full": entering}[kind]
    again = {"none": 0.0, "selective": max(every - tokens * products, 2.0 * tokens * norm), "full": every}[kind]
    kept = s.depth * first
    if s.offload and kind == "none":  # tensors on their way, the largest of them, and what is made beside them
        largest = tokens * w * (h if tiled else s.intermediate)
        first = kept = min(kept, ON_THE_WAY * largest + (0 if tiled else largest))
    elif s.offload:  # what selective recomputation keeps of products stays
        kept -= max(0, s.depth - ON_THE_WAY) * entering
    return _Layers(kept, first, again, flowing, tokens * norm + load.targets * h * w)


def _head_bytes(s: Shapes, load: Load) -> float:
    """What `scoring.score` holds at its peak: a chunk's logits twice in float32, or the gradient of a chunk's logits beside its
    product with the hidden states; the head's gradient in float32; that of the hidden states."""
    chunk, head = min(s.chunk, load.targets), s.vocabulary * s.hidden
    second = min(chunk, load.targets - chunk)  # the gradient of the head comes into being with the first chunk
    # a product in half precision stands beside the float32 gradient that it is added to
    product = s.width * (chunk * s.vocabulary + (head if s.learns_head and s.width == 2 else 0))
    beside = 4.0 * head * s.learns_head + max(8.0 * second * s.vocabulary, product)
    return max(8.0 * chunk * s.vocabulary, beside) + load.targets * s.hidden * s.width


def training_bytes(policy: Policy, config: Config, load: Load, kind: Recomputation) -> dict[str, float]:
    """Bytes at the peak of a training step, by name; `activations` as `activation_bytes`."""
    return {**held_bytes(policy, config), "activations": activation_bytes(policy, load, kind)}


def sharded_bytes(needed: Mapping[str, float], policy: Policy, ranks: int) -> dict[str, float]:
    """What each of several ranks needs where one alone would need `needed`: its part of the state, and what is full while it computes
    (two layers; embedding and head, which are gathered in their own precision), by name `gathered`."""
    shapes, weights = shapes_and_weights(policy)
    own = ("activations", "pieces")
    state = {name: size if name in own else size / ranks for name, size in needed.items() if name != "copies"}
    head = (1 if shapes.tied else 2) * shapes.vocabulary * shapes.hidden
    layers = sum(weight.numel() for weight in weights) - head
    return {**state, "gathered": shapes.stored * head + shapes.width * 2.0 * layers / shapes.depth}
