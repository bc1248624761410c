"""The model that is trained, and how it computes: precision, packs, scoring, activations, compilation."""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from tutelage.data import Stops, TokenizedExample
from tutelage.machines import is_sharded, shard
from tutelage.model import attention
from tutelage.model.batch import Batch, pack, pack_labels, pad, padded_batch
from tutelage.model.masters import copies_of
from tutelage.model.offload import Host, Offload
from tutelage.model.packs import lay_out_packs
from tutelage.model.scoring import CHUNK, Factor, Head, Manner, Scores, score
from tutelage.model.tiled import mlps_that_tile, tile
from tutelage.model.trie import SortedRows

Recomputation = Literal["none", "selective", "full"]
RECOMPUTATIONS: tuple[Recomputation, ...] = get_args(Recomputation)
"""From the fastest to the one that needs least memory."""
SCORED_AT_ONCE = 8192
"""Tokens of responses that go through the model together when they are scored, about."""

Compute = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
"""`score_batch` of a model, without its first argument."""


@dataclass(eq=False)
class Policy:
    """The model that is trained, with what belongs to it. It changes in place: `recompute`, `compile` and its attributes say how.

    Attributes:
        precision: as `model.precision` of the configuration.
        packs: whether rows that share prefixes may be packed, which `prove_packable` decides.
        offload: keep what the backward pass needs in the memory of the host, which is `host`.
        compiled: whether layers are compiled, and on a GPU the element-wise part of the head.
        chunk: targets that meet the vocabulary at a time.
        tile: tokens that MLPs and norms compute at a time; 0: all.
        recomputation: what the backward pass computes again.
        always_sync: whether ranks exchange gradients after each micro-batch, or after a step's last one.
        left_out: a sentence on the tensors of its checkpoint that the model has no part for; "" where there are none.
        compute: what scores a batch: `score_batch` of the model, or, of a sharded model, its method of that name.
    """

    model: Any
    tokenizer: Any
    stops: Stops
    device: torch.device
    precision: str
    packs: bool = False
    offload: bool = False
    recomputation: Recomputation = "none"
    always_sync: bool = False
    compiled: bool = False
    chunk: int = CHUNK
    tile: int = field(default=0, init=False)
    host: Host = field(default_factory=Host, init=False)
    left_out: str = ""
    compute: Compute = field(init=False)
    _is_computing: bool = field(default=False, init=False)
    _head: torch.Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.compute = functools.partial(score_batch, self.model)

    @property
    def head(self) -> Head:
        """The model's head as it is now; of a sharded model, the full weight exists only while it computes."""
        return head_of(self.model)

    @property
    def pad_token_id(self) -> int:
        """What padded rows are filled with; the end token where there is no other."""
        pad_token_id = self.tokenizer.pad_token_id if self.tokenizer is not None else None
        return int(pad_token_id if pad_token_id is not None else self.stops.end_token_id)

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    @property
    def manner(self) -> Manner:
        """How the head is computed now."""
        return Manner(self.chunk, self.compiled and self.device.type == "cuda", self._head)

    @property
    def kernel(self) -> attention.Kernel:
        """What computes the attention of packs."""
        return attention.kernel_for(self.device, self.compute_dtype, head_size(self.model.config.get_text_config()))

    @contextlib.contextmanager
    def computing(self, with_head: bool = False) -> Iterator[None]:
        """Within it, the model computes in its precision. `score` and its backward pass belong inside.

        For bf16-mixed, every float32 weight is replaced by a bfloat16 copy, made once for all batches of a step. What the backward
        pass finds for a copy is added to the gradient of its master at once, in float32 (`copies_of`). The embedding is looked up in
        float32, because the gradients of one of its rows are many, and its output is cast. The head is copied for `score`, which
        gives its gradient in float32.

        Args:
            with_head: also replace the head, for generation, which calls the model's own head.
        """
        if self.precision != "bf16-mixed":
            yield
            return
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        as_they_are = (embedding,) if with_head else (embedding, head)
        handle = embedding.register_forward_hook(lambda module, arguments, output: output.to(torch.bfloat16))
        masters = [
            (module, name, parameter)
            for module in self.model.modules()
            if all(module is not other for other in as_they_are)
            for name, parameter in module._parameters.items()
            # sharded ones are gathered as bfloat16 by themselves
            if parameter is not None and parameter.dtype == torch.float32 and not isinstance(parameter, DTensor)
        ]
        try:
            self._is_computing = True
            if not with_head and not is_sharded(self.model):
                self._head = head.weight.detach().to(torch.bfloat16)
            distinct = list({id(parameter): parameter for _, _, parameter in masters}.values())
            # one copy of a weight that several modules share: its gradient is complete once
            copies = dict(zip(map(id, distinct), copies_of(distinct), strict=True))
            for module, name, parameter in masters:
                module._parameters[name] = copies[id(parameter)]
            yield
        finally:
            self._is_computing, self._head = False, None
            handle.remove()
            for module, name, parameter in masters:
                module._parameters[name] = parameter

    def score(
        self,
        batch: Batch,
        weights: torch.Tensor | None = None,
        entropy: bool = False,
        layout: attention.Layout | None = None,
        factor: Factor | None = None,
    ) -> Scores:
        """`scoring.score` of a batch's targets, whose positions alone meet the vocabulary. Call it within `computing`.

        Args:
            factor: as in `Manner`.
            layout: of a pack, instead of the one that the device's kernels read.
        """
        assert self._is_computing or self.precision != "bf16-mixed", "Policy.score is called outside of Policy.computing"
        inputs: dict[str, Any] = {"use_cache": False}
        batch = batch.ready(self.kernel) if layout is None else batch.to(self.device)
        layout = layout or batch.layout
        if layout is not None:
            # transformers makes no mask of its own where it is given one of four dimensions
            mask = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.device)
            inputs |= {"layout": layout, "attention_mask": mask}
            inputs["position_ids"] = batch.position_ids
        inputs["input_ids"] = batch.input_ids
        weights = None if weights is None else weights.to(self.device, non_blocking=True)
        manner = replace(self.manner, factor=factor)
        with self.offloading():
            total, log_probs, entropies = self.compute(inputs, batch.sources, batch.labels, weights, entropy, manner)
        return Scores(total, log_probs, entropies)

    def score_rows(self, input_ids: torch.Tensor, labels: torch.Tensor, entropy: bool = False) -> Scores:
        """`scoring.score` of every label of right-padded rows, both (rows, width), packed where the model allows."""
        again = self.model.is_gradient_checkpointing or self.tile
        if torch.is_grad_enabled() and self.precision == "bf16-mixed" and again:
            raise ValueError(
                "with bf16-mixed and activation checkpointing, or tiles, call `score` and the backward pass within `computing`"
            )
        everywhere = torch.ones_like(labels, dtype=torch.bool)
        batch = pack_labels(input_ids, labels) if self.packs else padded_batch(input_ids, labels, everywhere)
        with self.computing():
            return self.score(batch, entropy=entropy)

    def score_responses(self, examples: Sequence[TokenizedExample]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(log-probabilities, entropies) of each example's response tokens, on the CPU, as the model computes in evaluation."""
        found: list[tuple[torch.Tensor, torch.Tensor]] = [(torch.empty(0), torch.empty(0))] * len(examples)
        spoken = [(index, example) for index, example in enumerate(examples) if example.response_ids]
        if not spoken:
            return found
        rows = [example for _, example in spoken]
        groups = _packed(rows) if self.packs else _by_length(rows)
        with evaluating(self.model), torch.no_grad(), self.computing():
            for members in groups:
                chosen = [rows[index] for index in members]
                batch = pack(chosen) if self.packs else pad(chosen, self.pad_token_id)
                scores = self.score(batch, entropy=True)
                assert scores.entropies is not None
                log_probs, entropies = scores.log_probs.cpu(), scores.entropies.cpu()
                for index, targets in zip(members, batch.of_examples, strict=True):
                    found[spoken[index][0]] = log_probs[targets], entropies[targets]
        return found

    @contextlib.contextmanager
    def holding(self, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Within it the model has other weights, by the names that `lora.merged_weights` gives them, and adapters rest.

        Nothing is copied but to another device.
        """
        own = []
        for prefix, module in self.model.named_modules():
            for name, parameter in module._parameters.items():
                full = f"{prefix}.{name}".replace(".base_layer.", ".")
                if parameter is not None and "lora_" not in full:
                    own.append((module, name, parameter, weights[full]))
        adapted = [module for module in self.model.modules() if hasattr(module, "_disable_adapters")]
        try:
            for module, name, _, other in own:
                module._parameters[name] = other.to(self.device)
            for module in adapted:
                module._disable_adapters = True
            yield
        finally:
            for module, name, parameter, _ in own:
                module._parameters[name] = parameter
            for module in adapted:
                module._disable_adapters = False

    def offloading(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, what a forward pass keeps waits in the host's memory, if it is to."""
        if not self.offload:
            return contextlib.nullcontext()
        return Offload(self.device, itertools.chain(self.model.parameters(), self.model.buffers()), self.host).hooks()

    def recompute(self, what: Recomputation) -> None:
        """Activation checkpointing (Chen et al. 2016): what each layer's backward pass computes again."""
        self.recomputation = what
        if what == "none":
            if self.model.is_gradient_checkpointing:
                self.model.gradient_checkpointing_disable()
            return
        options: dict[str, Any] = {"use_reentrant": False}
        if what == "selective":
            options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep_products)
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    @property
    def has_tiles(self) -> bool:
        """Whether the MLP of each layer can compute some tokens at a time."""
        return mlps_that_tile(layers_of(self.model))

    def compute_by_tiles(self, tokens: int) -> None:
        """Let MLPs and norms compute so many tokens at a time; 0: all. Call it when the model's modules are what they will be."""
        tile(self.model, layers_of(self.model), tokens)
        self.tile = tokens

    def compile(self) -> None:
        """Compile each layer by itself: one compilation serves all of them, and lengths are dynamic."""
        self.compiled = True
        for layer in layers_of(self.model):
            layer.compile(dynamic=True)


def head_size(config: Any) -> int:
    """The width of an attention head, by the configuration of a model's text."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // (getattr(config, "num_attention_heads", None) or 1))


def layers_of(model: Any) -> list[Any]:
    """The decoder layers of a model of transformers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def shard_policy(policy: Policy, mesh: Any) -> None:
    """Shard the policy's model, whose weights need no memory yet, over the ranks of a mesh (see `machines.shard`)."""
    compute_dtype = policy.compute_dtype if policy.precision == "bf16-mixed" else None
    model = policy.model
    model.score_batch = types.MethodType(score_batch, model)  # a method, so that FSDP gathers the head before it is called
    shard(model, mesh, layers_of(model), compute_dtype, forward="score_batch")
    policy.compute = model.score_batch


def score_batch(
    model: Any,
    inputs: dict[str, Any],
    sources: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    entropy: bool,
    manner: Manner | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(total, log-probabilities, entropies) of a batch's targets, as in `Scores`.

    Args:
        inputs: the keyword arguments of the model.
        sources, labels, weights: (targets,), as in `Batch`.
    """
    hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1).index_select(0, sources)
    head = replace(head_of(model), cast=None if manner is None else manner.cast)
    scores = score(hidden, head, labels, weights, entropy, manner)
    return scores.total, scores.log_probs, scores.entropies


def _packed(examples: Sequence[TokenizedExample]) -> list[list[int]]:
    """Indices of examples in groups whose packs hold at most `SCORED_AT_ONCE` distinct tokens."""
    return [rows.order.tolist() for rows in lay_out_packs(SortedRows.of_examples(examples), SCORED_AT_ONCE)]


def _by_length(examples: Sequence[TokenizedExample]) -> list[list[int]]:
    """Indices of examples in groups of like length, whose padded rows hold at most `SCORED_AT_ONCE` tokens."""
    groups: list[list[int]] = []
    for index in sorted(range(len(examples)), key=lambda index: -len(examples[index])):
        if not groups or (len(groups[-1]) + 1) * len(examples[groups[-1][0]]) > SCORED_AT_ONCE:
            groups.append([])
        groups[-1].append(index)
    return groups


def _keep_products(ctx: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Matrix products and attention are kept; what is cheap is computed again."""
    return CheckpointPolicy.MUST_SAVE if operation.name() in _PRODUCTS else CheckpointPolicy.PREFER_RECOMPUTE


_PRODUCTS = frozenset({"aten::mm", "aten::addmm"}) | attention.OPERATIONS
"""What selective recomputation keeps, by the names of torch's operations: a package that is not installed has none."""


def head_of(model: Any) -> Head:
    """The head of a causal language model: its output layer, with the scale and the cap that its configuration names."""
    linear, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(linear.weight, getattr(linear, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """In evaluation mode, and uncompiled: layers compiled for training would be compiled anew for each length of the cache."""
    was_training = model.training
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        model.train(was_training)
