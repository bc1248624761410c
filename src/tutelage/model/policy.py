"""The model that is trained, and how it computes: precision, packs, the fused objective, activations, compilation."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from tutelage import console
from tutelage.data import Stops, TokenizedExample, encode_prompt, encode_response
from tutelage.errors import InputError
from tutelage.machines import is_sharded, reshard, shard
from tutelage.model import attention
from tutelage.model.objective import Head, Scores, score
from tutelage.model.packing import Batch, pack, pack_labels, pad, padded_batch, plan_packs

SCORING = "score_batch"
"""The name under which a sharded model has `score_batch` for a method."""

Recomputation = Literal["none", "selective", "full"]
RECOMPUTATIONS: tuple[Recomputation, ...] = get_args(Recomputation)
"""From the fastest to the one that needs least memory."""


@dataclass(frozen=True)
class Policy:
    """The model that is trained, with what belongs to it.

    Attributes:
        precision: as `model.precision` of the configuration.
        packs: whether rows that share prefixes may be packed, which `keep_if_packable` proves.
        offload: keep what the backward pass needs in the memory of the host.
        compiled: whether layers are compiled.
        recomputation: what the backward pass computes again.
        always_sync: whether ranks exchange gradients after each micro-batch, or after a step's last one.
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

    @property
    def head(self) -> Head:
        """The model's head as it is now; of a sharded model, its whole weight only while that computes."""
        return head_of(self.model)

    @property
    def pad_token_id(self) -> int:
        """What padded rows are filled with; the end token where there is no other."""
        pad_token_id = self.tokenizer.pad_token_id if self.tokenizer is not None else None
        return int(pad_token_id if pad_token_id is not None else self.stops.end_token_id)

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    @contextlib.contextmanager
    def computing(self, with_head: bool = False) -> Iterator[None]:
        """Within it, the model computes in its precision; a backward pass belongs inside. Generation needs the model's head too.

        For bf16-mixed every float32 weight is replaced by a bfloat16 copy with the float32 master behind it in the graph, so
        that gradients arrive, and add up, in float32. The embedding is looked up in float32, for one token's gradients are
        many, and its output cast; `score` casts the head by itself. The copies are made once for all batches of a step.
        """
        if self.precision != "bf16-mixed":
            yield
            return
        embedding = self.model.get_input_embeddings()
        as_they_are = (embedding,) if with_head else (embedding, self.model.get_output_embeddings())
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
            for module, name, parameter in masters:
                module._parameters[name] = parameter.to(torch.bfloat16)
            yield
        finally:
            handle.remove()
            for module, name, parameter in masters:
                module._parameters[name] = parameter

    def score(self, batch: Batch, weights: torch.Tensor | None = None, entropy: bool = False) -> Scores:
        """`objective.score` of a batch's targets, whose positions alone meet the vocabulary. Call it within `computing`."""
        batch = batch.filled(attention.multiple(self.device))
        layout = None if batch.ends is None else attention.layout(batch.ends, self.device, self.compute_dtype)
        batch = batch.to(self.device)
        packed = {}
        if layout is not None:
            # transformers makes no mask of its own where it is given one of four dimensions
            mask = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.device)
            packed = {"position_ids": batch.position_ids, "layout": layout, "attention_mask": mask}
        inputs = {"input_ids": batch.input_ids, "use_cache": False, **packed}
        weights = None if weights is None else weights.to(self.device, non_blocking=True)
        compute = getattr(self.model, SCORING, None) or functools.partial(score_batch, self.model)
        with self._offloading() if self.offload else contextlib.nullcontext():
            total, log_probs, entropies = compute(inputs, batch.sources, batch.labels, weights, entropy)
        return Scores(total, log_probs, entropies)

    def score_rows(self, input_ids: torch.Tensor, labels: torch.Tensor, entropy: bool = False) -> Scores:
        """`objective.score` of every label of right-padded rows, both (rows, width), packed where the model allows."""
        if torch.is_grad_enabled() and self.precision == "bf16-mixed" and self.model.is_gradient_checkpointing:
            raise ValueError(
                "with bf16-mixed and activation checkpointing, call `score` and the backward pass within `computing`"
            )
        everywhere = torch.ones_like(labels, dtype=torch.bool)
        batch = pack_labels(input_ids, labels) if self.packs else padded_batch(input_ids, labels, everywhere)
        with self.computing():
            return self.score(batch, entropy=entropy)

    def score_responses(
        self, examples: Sequence[TokenizedExample], budget: int = 8192
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(log-probabilities, entropies) of each example's response tokens, on the CPU, as the model computes in evaluation.

        At most about `budget` tokens go through the model together.
        """
        found: list[tuple[torch.Tensor, torch.Tensor]] = [(torch.empty(0), torch.empty(0))] * len(examples)
        spoken = [number for number, example in enumerate(examples) if example.response_ids]
        if not spoken:
            return found
        groups = (
            plan_packs([examples[number] for number in spoken], budget) if self.packs else _by_length(examples, spoken, budget)
        )
        with evaluating(self.model), torch.no_grad(), self.computing():
            for group in groups:
                members = [spoken[place] for place in group] if self.packs else group
                rows = [examples[number] for number in members]
                batch = pack(rows) if self.packs else pad(rows, self.pad_token_id)
                scores = self.score(batch, entropy=True)
                assert scores.entropies is not None
                log_probs, entropies = scores.log_probs.cpu(), scores.entropies.cpu()
                for number, targets in zip(members, batch.of_examples, strict=True):
                    found[number] = log_probs[targets], entropies[targets]
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

    def _offloading(self) -> contextlib.AbstractContextManager[Any]:
        """What the backward pass needs waits in the host's memory, but for weights, which stay on the device anyway."""
        weights = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}

        def leave(tensor: torch.Tensor) -> torch.Tensor | tuple[torch.device, torch.Tensor]:
            if tensor.untyped_storage().data_ptr() in weights:
                return tensor
            there = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            return tensor.device, there.copy_(tensor, non_blocking=tensor.is_cuda)

        def fetch(left: torch.Tensor | tuple[torch.device, torch.Tensor]) -> torch.Tensor:
            return left if isinstance(left, torch.Tensor) else left[1].to(left[0], non_blocking=True)

        return torch.autograd.graph.saved_tensors_hooks(leave, fetch)

    def recompute(self, what: Recomputation) -> None:
        """Activation checkpointing (Chen et al. 2016): what each layer's backward pass computes again."""
        if what == "none":
            if self.model.is_gradient_checkpointing:
                self.model.gradient_checkpointing_disable()
            return
        options: dict[str, Any] = {"use_reentrant": False}
        if what == "selective":
            options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep_products)
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    def compile(self) -> None:
        """Compile each layer by itself: one compilation serves all of them, and lengths are dynamic."""
        for layer in layers_of(self.model):
            layer.compile(dynamic=True)


def layers_of(model: Any) -> list[Any]:
    """The decoder layers of a model of transformers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def shard_policy(policy: Policy, mesh: Any) -> None:
    """Shard the policy's model, whose weights need no memory yet, over the ranks of a mesh (see `sharding`)."""
    compute_dtype = policy.compute_dtype if policy.precision == "bf16-mixed" else None
    setattr(policy.model, SCORING, types.MethodType(score_batch, policy.model))
    shard(policy.model, mesh, layers_of(policy.model), compute_dtype, SCORING)


def score_batch(
    model: Any, inputs: dict[str, Any], sources: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(total, log-probabilities, entropies) of a batch's targets, as in `Scores`.

    A sharded model has this for a method (`SCORING`), within which its head is whole.
    """
    hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1).index_select(0, sources)
    scores = score(hidden, head_of(model), labels, weights, entropy)
    return scores.total, scores.log_probs, scores.entropies


def _by_length(examples: Sequence[TokenizedExample], numbers: Sequence[int], budget: int) -> list[list[int]]:
    """Groups of examples of like length, whose padded rows hold at most `budget` tokens."""
    groups: list[list[int]] = []
    for number in sorted(numbers, key=lambda number: -len(examples[number])):
        if not groups or (len(groups[-1]) + 1) * len(examples[groups[-1][0]]) > budget:
            groups.append([])
        groups[-1].append(number)
    return groups


def _keep_products(ctx: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Matrix products and attention are kept; what is cheap is computed again."""
    return CheckpointPolicy.MUST_SAVE if operation in _products() else CheckpointPolicy.PREFER_RECOMPUTE


@functools.cache
def _products() -> frozenset[Any]:
    import torch.nn.attention.varlen  # registers its operation

    aten = torch.ops.aten
    return frozenset(
        {
            aten.mm.default,
            aten.addmm.default,
            torch.ops.tutelage.packed_attention.default,
            torch.ops.torch_attn._varlen_attn.default,
        }
        | {aten._scaled_dot_product_flash_attention.default, aten._scaled_dot_product_efficient_attention.default}
        | {aten._scaled_dot_product_flash_attention_for_cpu.default}
    )


def head_of(model: Any) -> Head:
    """The head of a causal language model: its output layer, with the scale and the cap that its configuration names."""
    linear, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(linear.weight, getattr(linear, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


def check_head(policy: Policy, model_id: str) -> None:
    """Hidden states through the head must give the model's own logits; a head that does more is refused, not approximated."""
    ids = torch.arange(1, 9, device=policy.device)[None] % policy.head.weight.shape[0]
    policy.model.eval()
    with torch.no_grad():
        ours = policy.head(policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        theirs = policy.model(input_ids=ids, use_cache=False).logits.float()
    tolerance = 1e-4 if ours.dtype == policy.head.weight.dtype else 0.05 * theirs.abs().max().item()
    if not torch.allclose(ours, theirs, rtol=1e-4, atol=tolerance):
        raise InputError(
            f"{model_id}: the head of {type(policy.model).__name__} is not a linear layer with scaling or soft-capping,"
            " so its loss cannot be computed exactly"
        )


def keep_if_packable(policy: Policy) -> Policy:
    """The policy, packing if packs give this model's own hidden states; proven on it, and said where they do not.

    Two rows with a prefix in common, packed, must give what each gives alone under the model's own attention: a sliding window,
    soft-capping, attention biases and recurrent layers all fail here. On success the model keeps our attention.
    """
    model, own = policy.model, policy.model.config._attn_implementation
    prompt, responses = "Question: what is one and one?\nAnswer:", (" The sum of one and one is 2.", " It is two.")
    prompt_ids = tuple(encode_prompt(policy.tokenizer, prompt))
    rows = [TokenizedExample("probe", prompt_ids, tuple(encode_response(policy.tokenizer, text))) for text in responses]
    # what computes in bfloat16 can only be compared to its own rounding, far below what a leak changes
    halved = policy.head.weight.dtype != torch.float32 or (is_sharded(model) and policy.compute_dtype != torch.float32)
    tolerance = 0.25 if halved else 1e-3
    reason = ""
    with torch.no_grad():
        alone = torch.cat([policy.score(pad([row], 0)).log_probs for row in rows])
        try:
            if not model._supports_attention_backend:
                raise attention.UnsupportedAttention("attention of its own kind")
            attention.register()
            model.set_attn_implementation(attention.NAME)
            batch = pack(rows)
            packed = policy.score(batch).log_probs[torch.cat(batch.of_examples)]
            if (packed - alone).abs().mean() > tolerance:
                reason = "layers that carry state from token to token, or a mask of its own"
            model.train()  # dropout within attention shows only then
            for rows_together in (rows, rows[:1]):  # with a prefix to share, and without: on a GPU, two back ends
                with policy.computing():
                    policy.score(pack(rows_together))
        except attention.UnsupportedAttention as unsupported:
            reason = str(unsupported)
        except TypeError:  # a forward pass that hands nothing on
            reason = "attention of its own kind"
        except RuntimeError as error:
            if policy.device.type == "cpu":
                raise
            reason = f"no kernel for packed attention here ({str(error).splitlines()[0]})"
    model.eval()
    reshard(model)
    if reason:
        model.set_attn_implementation(own)
        console.say(
            f"{type(model).__name__} has {reason}: it is trained on padded rows, which is as exact but slower",
            style="yellow",
        )
    return replace(policy, packs=not reason)


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
