"""Weights over the ranks of a job, by FSDP2 (`fully_shard`; Zhao et al. 2023): who holds which part, and when all of it.

Each decoder layer is a group, and what lies outside of them (embedding, head) is the root's. A rank holds its part of every
weight, gradient and optimizer state; the full weights of a group exist while it computes. Gradients are summed over ranks, never
averaged: the loss is divided once, by the denominator of the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, Shard


def is_sharded(model: Any) -> bool:
    return isinstance(model, FSDPModule)


def shard(model: Any, mesh: Any, layers: list[Any], compute_dtype: torch.dtype | None, forward: str) -> None:
    """Give each rank its part of every parameter.

    Args:
        mesh: one dimension (FSDP), or two, of which the first holds copies (HSDP).
        layers: the modules that are gathered one after the other.
        compute_dtype: what float32 masters compute in, but for the embedding and the head, which stay float32 like the gradients
            that ranks exchange; None: everything computes in its own precision.
        forward: the name of the model's method that computes what is trained, in which the root has its full weights.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():  # the last norm, mostly
        if module not in ends and id(module) not in inside and module._parameters:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32))
    for group in groups(model):
        # both: a divisor alone uses an operation that gloo does not know, and that NCCL has got wrong
        group.set_gradient_divide_factor(1.0)
        group.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, forward)


def groups(model: Any) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def make_mesh(device_type: str, size: int, shard_ranks: int | None) -> Any:
    """The mesh of `size` ranks of which `shard_ranks` share one copy of the weights; None: all of them."""
    from torch.distributed.device_mesh import init_device_mesh

    if shard_ranks in (None, size):
        return init_device_mesh(device_type, (size,), mesh_dim_names=("shard",))
    return init_device_mesh(device_type, (size // shard_ranks, shard_ranks), mesh_dim_names=("replicate", "shard"))


def materialize(model: Any, device: torch.device, fill: Callable[[Any], None]) -> None:
    """Give a sharded model memory, and let `fill` give it its weights.

    Buffers are the model's own: they were computed when it was made, and are no weights.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device=device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.tie_weights()
    fill(model)


def send_weights(model: Any, weights: dict[str, Any]) -> None:
    """Fill a sharded model with full weights, which rank 0 has; the others pass {}. They are sent one at a time, and never held twice."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))


def reshard(model: Any) -> None:
    """Give up the root's full weights, which a forward pass without a backward pass leaves in place of the shards."""
    if is_sharded(model):
        model.reshard()


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Within it every rank has all weights, in the precision that layers compute in, and computes without waiting for others.

    All ranks enter and leave together.
    """
    if not is_sharded(model):
        yield
        return
    for group in groups(model):
        group.unshard()
        group.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for group in groups(model):
            if group is not model:
                group.set_reshard_after_forward(True, recurse=False)
            group.reshard()


@contextlib.contextmanager
def full_parameters(module: Any) -> Iterator[None]:
    """Within it a module has its full parameters, in their own precision. All ranks enter together; nothing may compute."""
    parts = [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner._parameters.items()
        if isinstance(parameter, DTensor)
    ]
    try:
        for owner, name, parameter in parts:
            owner._parameters[name] = torch.nn.Parameter(parameter.full_tensor(), parameter.requires_grad)
        yield
    finally:
        for owner, name, parameter in parts:
            owner._parameters[name] = parameter


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, gathered if it is sharded; then all ranks take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def first_row(tensor: torch.Tensor) -> int:
    """The index, in the full tensor, of the first row that this rank holds of it."""
    if not isinstance(tensor, DTensor):
        return 0
    first, rows = 0, tensor.shape[0] if tensor.ndim else 1
    for dimension, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            continue
        if not (isinstance(placement, Shard) and placement.dim == 0) or first:
            raise NotImplementedError(f"a tensor that is split as {tensor.placements} has no first row of a rank")
        each = -(-rows // tensor.device_mesh.size(dimension))  # as torch.chunk splits
        first = min(rows, each * tensor.device_mesh.get_local_rank(dimension))
    return first


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
