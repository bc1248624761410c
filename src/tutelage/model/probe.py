"""What is proven on a model before it is trained: that its head is understood, and that packs give its own numbers.

Two things are tried apart, for they fail for different reasons. The *structure* of the model is tried in float32 with plain masked
attention: sliding windows, soft-capping, recurrent layers and convolutions make packs differ, on any device. The *kernels* of the
device are tried forward and backward, in the precision that training computes in, against that plain attention.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tutelage import console
from tutelage.data import TokenizedExample, encode_prompt, encode_response
from tutelage.errors import InputError, first_line
from tutelage.machines import World, is_sharded, reshard
from tutelage.model import attention
from tutelage.model.batch import Batch, pack, pad
from tutelage.model.policy import Policy, evaluating, layers_of, score_batch

PROMPT = "Question: what is one and one?\nAnswer:"
RESPONSES = (" The sum of one and one is 2.", " It is two.", " One and one is 2, for 2 - 1 = 1.")
STRUCTURE_GAP = 1e-3
"""Nats by which a token's log-probability may differ in float32: rounding is below 1e-4, a leak changes tokens by 0.01 and more."""


@dataclass(frozen=True)
class Tolerance:
    """What a device's kernels may differ by: log-probabilities of single tokens in nats, gradients relative to their norm."""

    largest: float
    mean: float
    gradient: float


TOLERANCES = {torch.float32: Tolerance(1e-3, 1e-3, 1e-3), torch.bfloat16: Tolerance(0.75, 0.2, 0.35)}
"""Measured on SmolLM2 (30 layers) in bfloat16 on a CPU: a right kernel differs by 0.20 nats at most, 0.05 on average, and its
gradients by 0.13. A mask that leaks gives 1.4, 0.26 and 0.69; a scale that is a tenth off, gradients of 0.46; a backward pass without
the gradient of the keys, 0.67."""


def check_head(policy: Policy, model_id: str) -> None:
    """Hidden states through the head must give the model's own logits.

    Raises:
        InputError: the head does more than scale and cap, and is refused, not approximated; or the model does not compute numbers.
    """
    ids = torch.arange(1, 9, device=policy.device)[None] % policy.head.weight.shape[0]
    policy.model.eval()
    try:
        with torch.no_grad():
            ours = policy.head(policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
            theirs = policy.model(input_ids=ids, use_cache=False).logits.float()
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError, RuntimeError) as error:  # of what config.json says
        if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError) or "memory" in str(error):
            raise
        raise InputError(f"{model_id}: the model cannot compute: {first_line(error)}; look at its config.json") from None
    if not theirs.isfinite().all():
        raise InputError(
            f"{model_id}: the model's logits are not numbers (NaN or infinite), though its weights are: a weight or a setting of its"
            " config.json is out of all measure"
        )
    tolerance = 1e-4 if ours.dtype == policy.head.weight.dtype else 0.05 * theirs.abs().max().item()
    if not torch.allclose(ours, theirs, rtol=1e-4, atol=tolerance):
        raise InputError(
            f"{model_id}: the head of {type(policy.model).__name__} is not a linear layer with scaling or soft-capping,"
            " so its loss cannot be computed exactly"
        )


def prove_packable(policy: Policy, structure: str | None, world: World) -> None:
    """Let the policy pack if that is exact, and say so where it is not. On success the model keeps our attention.

    Args:
        structure: what `structure_against_packs` said of the same model, unsharded; None: it is asked here.

    Raises:
        InputError: an attention package of another version cannot be called.
    """
    model, own = policy.model, policy.model.config._attn_implementation
    reason = structure if structure is not None else structure_against_packs(policy)
    if not reason:
        attention.register()
        model.set_attn_implementation(attention.NAME)
        reason = _kernels_against_packs(policy)
    policy.packs = not world.any(bool(reason))
    if not policy.packs:
        model.set_attn_implementation(own)
        reason = reason or "no packs on another rank"
        console.say(
            f"{type(model).__name__} has {reason}: it is trained on padded rows, which is as exact but slower", style="yellow"
        )


def structure_against_packs(policy: Policy) -> str:
    """What in the model's structure makes packs differ from its own rows; nothing if nothing does.

    Rows packed together must give, token by token, what each row gives alone under the model's own attention. The model has its
    weights in memory, unsharded. They may be bfloat16: each layer computes in float32 while it is passed.
    """
    model, own = policy.model, policy.model.config._attn_implementation
    if not model._supports_attention_backend:
        return "attention of its own kind"
    rows = _rows(policy)
    with torch.no_grad(), evaluating(model), in_float32_by_layer(model):
        alone = torch.cat([_log_probs(policy, pad([row], 0), {}) for row in rows])
        attention.register()
        model.set_attn_implementation(attention.NAME)
        try:
            batch = pack(rows)
            packed = _log_probs(policy, batch, _dense(policy, batch))[torch.cat(batch.of_examples)]
            model.train()  # dropout within attention shows only then
            _log_probs(policy, batch, _dense(policy, batch))
        except attention.UnsupportedAttention as unsupported:
            return str(unsupported)
        except TypeError as error:
            if "layout" in str(error):  # a forward pass that does not hand keyword arguments on to its attention
                return "attention of its own kind"
            raise
        finally:
            model.set_attn_implementation(own)
    largest = (packed - alone).abs().max().item()
    if largest <= STRUCTURE_GAP:
        return ""
    return f"layers that carry state from token to token, or a mask of its own (a token of a pack is {largest:.2g} nats off)"


def _kernels_against_packs(policy: Policy) -> str:
    """What keeps the kernel of the device from serving packs; nothing if nothing does.

    Raises:
        InputError: a package's kernel cannot be called as this version calls it.
    """
    kernel = policy.kernel
    policy.model.train()
    try:
        for batch in _one_of_each_layout(policy):
            batch = batch.filled(kernel.multiple)
            ours, theirs = (with_gradient(policy, batch, layout) for layout in (None, _dense_layout(policy, batch)))
            if gap := gap_beyond_rounding(ours, theirs, policy.compute_dtype):
                return f"kernels on {policy.device} that differ from plain masked attention ({kernel}: {gap})"
    except TypeError as error:
        raise InputError(
            f"the kernel for packed attention on {policy.device}, {kernel}, takes other arguments than this version of Tutelage"
            f" gives: {error}; install another version of it (of flash-attn, or none), or train on padded rows: train.pack = false"
        ) from None
    except Exception as error:
        if not _is_of_a_compiler(error):  # memory that ran out, an illegal access: they say nothing about packs
            raise
        return (
            f"no kernel for packed attention that compiles on {policy.device} ({kernel}: {type(error).__name__}:"
            f" {first_line(error)})"
        )
    finally:
        policy.model.zero_grad(set_to_none=True)
        policy.model.eval()
        reshard(policy.model)
    return ""


def _one_of_each_layout(policy: Policy) -> list[Batch]:
    """Packs of rows that share a prefix, of rows that share nothing, and of rows of one length that share nothing.

    One pack for each layout that the kernel has for them.
    """
    rows = _rows(policy)
    # each begins with another token of the prompt; a prompt of one token has but one such row
    apart = [replace(row, prompt_ids=row.prompt_ids[index:]) for index, row in enumerate(rows) if index < len(row.prompt_ids)]
    apart = list({row.prompt_ids[0]: row for row in apart}.values())
    shortest = min(len(row.response_ids) + len(row.prompt_ids) for row in apart)
    equal = [
        replace(row, response_ids=row.response_ids[: shortest - len(row.prompt_ids)])
        for row in apart
        if len(row.prompt_ids) < shortest
    ]
    layouts: dict[Any, Batch] = {}
    for together in (rows, apart, equal):
        batch = pack(together)
        assert batch.ends is not None
        filled = batch.filled(policy.kernel.multiple)
        assert filled.ends is not None
        layout = attention.layout_of(filled.ends, policy.kernel)
        layouts.setdefault((type(layout), getattr(layout, "keys", None) is None), batch)
    return list(layouts.values())


def _is_of_a_compiler(error: BaseException) -> bool:
    """Whether an error was raised by torch's compilers or by Triton, and says something of the kernel.

    A compiler hands on what it met as `inner_exception`: memory that ran out, or a fault of the device, is no verdict.
    """
    met = (error, getattr(error, "inner_exception", None), error.__cause__)
    if any(isinstance(one, torch.OutOfMemoryError | torch.AcceleratorError) for one in met):
        return False
    homes = {".".join(kind.__module__.split(".")[:2]) for kind in type(error).__mro__}
    return any(home.startswith(("torch._dynamo", "torch._inductor", "triton")) for home in homes)


def _rows(policy: Policy) -> list[TokenizedExample]:
    """Responses to one prompt, of different lengths: a pack of them has a seam after the prompt and one after each row."""
    prompt_ids = tuple(encode_prompt(policy.tokenizer, PROMPT))
    return [TokenizedExample("probe", prompt_ids, tuple(encode_response(policy.tokenizer, text))) for text in RESPONSES]


def _log_probs(policy: Policy, batch: Batch, packed: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities of a batch's targets as the model computes with the weights that it has."""
    batch = batch.to(policy.device)
    inputs = {"input_ids": batch.input_ids, "use_cache": False, **packed}
    return score_batch(policy.model, inputs, batch.sources, batch.labels, None, False)[1]


def _dense_layout(policy: Policy, batch: Batch) -> attention.DenseLayout:
    assert batch.ends is not None
    return attention.DenseLayout(attention.dense_mask(batch.ends).to(policy.device))


def _dense(policy: Policy, batch: Batch) -> dict[str, Any]:
    """The model's arguments for a pack under plain masked attention."""
    return {
        "layout": _dense_layout(policy, batch),
        "position_ids": batch.position_ids.to(policy.device),
        # transformers makes no mask of its own where it is given one of four dimensions
        "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool, device=policy.device),
    }


def with_gradient(policy: Policy, batch: Batch, layout: attention.Layout | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of a batch, and the gradient of their sum by the hidden states that enter the first layer."""
    entering: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        entering.append(output.detach().requires_grad_())
        return entering[0]

    devices = [policy.device] if policy.device.type == "cuda" else []
    handle = policy.model.get_input_embeddings().register_forward_hook(keep)
    try:
        with _frozen(policy.model), torch.enable_grad(), policy.computing(), torch.random.fork_rng(devices):
            torch.manual_seed(0)  # of dropout outside of attention
            scores = policy.score(batch, batch.weights, layout=layout)
            scores.total.backward()
    finally:
        handle.remove()
    assert entering[0].grad is not None
    return scores.log_probs.detach(), entering[0].grad.float()


def gap_beyond_rounding(
    ours: tuple[torch.Tensor, torch.Tensor], theirs: tuple[torch.Tensor, torch.Tensor], dtype: torch.dtype
) -> str:
    """How far two results of `with_gradient` differ, if by more than what is computed in `dtype` may; else ""."""
    bound, gap = TOLERANCES[dtype], (ours[0] - theirs[0]).abs()
    far = ((ours[1] - theirs[1]).norm() / theirs[1].norm()).item()
    # written so that a NaN does not pass
    if gap.max() <= bound.largest and gap.mean() <= bound.mean and far <= bound.gradient:
        return ""
    return f"log-probabilities by up to {gap.max().item():.2g} nats, gradients by {100 * far:.2g} %"


@contextlib.contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Within it no weight wants a gradient: attention's is enough, and those of all weights may not fit.

    FSDP makes its gathered weights once, and they keep what the first pass wants of them: a sharded model stays as it is.
    """
    trained = [] if is_sharded(model) else [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


@contextlib.contextmanager
def in_float32_by_layer(model: Any) -> Iterator[None]:
    """Within it, each layer (and each module outside of layers) has its half-precision weights in float32 while it is passed."""
    layers = layers_of(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    outside = [module for module in model.modules() if id(module) not in inside and module._parameters]
    handles = []
    for unit in (*layers, *outside):
        owners = list(unit.modules()) if unit in layers else [unit]
        held: list[tuple[dict[str, Any], str, Any]] = []

        def widen(*_: Any, owners: Sequence[Any] = owners, held: list[Any] = held) -> None:
            for owner in owners:
                for values in (owner._parameters, owner._buffers):
                    for name, value in values.items():
                        if value is not None and value.dtype in (torch.bfloat16, torch.float16):
                            held.append((values, name, value))
                            wide = value.detach().float()
                            values[name] = torch.nn.Parameter(wide, False) if values is owner._parameters else wide

        def restore(*_: Any, held: list[Any] = held) -> None:
            while held:
                values, name, value = held.pop()
                values[name] = value

        handles += [unit.register_forward_pre_hook(widen), unit.register_forward_hook(restore, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
