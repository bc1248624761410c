"""``tutelage plan --trace``: the memory of a training step by running its code on tensors without memory."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from tutelage.config import Config
from tutelage.errors import InputError, first_line
from tutelage.machines import local_part, make_mesh
from tutelage.model import Host, Layered, Policy, Recomputation, attention, outline, quantized, shard_policy
from tutelage.resources import memory
from tutelage.resources.memory import Load, Shapes


class Tracker(TorchDispatchMode):
    """The bytes of all storages that operations have made and that are still alive, and the most there ever were.

    torch's own MemTracker wants the parameters of a module to be leaves, which the copies of bf16-mixed are not. FSDP gives up a layer's
    full weights by making their storages small, which is no operation: storages that are made empty are measured again and again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()
        self._may_shrink: list[tuple[weakref.ref[Any], list[int]]] = []

    def see(self, tensor: torch.Tensor, may_shrink: bool = False) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            size = [storage.nbytes()]
            self._known[storage] = size
            self._count(size[0])
            weakref.finalize(storage, self._gone, size)
            if may_shrink:
                self._may_shrink.append((weakref.ref(storage), size))

    def _count(self, more: int) -> None:
        self.alive += more
        self.peak = max(self.peak, self.alive)

    def _gone(self, size: list[int]) -> None:
        self.alive -= size[0]
        size[0] = 0

    def _measure_again(self) -> None:
        still = []
        for reference, size in self._may_shrink:
            storage = reference()
            if storage is not None:
                still.append((reference, size))
                if (now := storage.nbytes()) != size[0]:
                    more, size[0] = now - size[0], now
                    self._count(more)
            del storage
        self._may_shrink = still

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        results = operation(*arguments, **(options or {}))
        self._measure_again()
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self.see(result, may_shrink=operation in _EMPTY)
        return results


_EMPTY = {torch.ops.aten.empty.memory_format, torch.ops.aten.new_empty.default, torch.ops.aten.empty_like.default}


class NoMemory(Host):
    """Stands for the host's memory, which is not counted."""

    def put(self, tensor: torch.Tensor) -> Any:
        return tensor.shape, tensor.dtype

    def like(self, there: Any, device: torch.device) -> torch.Tensor:
        shape, dtype = there
        return torch.empty(shape, dtype=dtype, device=device)

    def get(self, there: Any, made: torch.Tensor) -> None:
        """Nothing is copied."""


def traced_bytes(
    config: Config, load: Load, kind: Recomputation, shapes: Shapes | None = None, ranks: int = 1
) -> dict[str, float]:
    """What `memory.training_bytes` reckons, traced: the forward and backward pass of two batches of the real code, by the operations of a
    CPU; of one batch, where a step has no more; of as many equal ones as go backward together. Nothing is computed, and no weight is read.

    Attention's own working memory is not seen; moments are reckoned. Of several ranks, the first is traced with FSDP's own code:
    its parts, what is gathered, and the gradients that are exchanged after each batch. Nothing is sent.

    Args:
        shapes: says the tile, the chunk, whether activations wait in the host's memory, and whether attention gathers the keys of
            all paths, as some kernels do where rows share a prefix. None: none of it, and the usual chunk.
        ranks: that share the weights.

    Raises:
        InputError: the model cannot be traced, or not be had.
    """
    policy = outline(config.model, None, torch.device("cpu"))
    shapes = shapes or Shapes.of(policy)
    known = memory.held_bytes(policy, config)
    if ranks > 1:
        known = memory.sharded_bytes(known, policy, ranks)
    try:
        if ranks == 1:
            peak = _traced(policy, load, kind, shapes)
        else:
            with _imagined_ranks(ranks) as mesh:
                peak = _traced(policy, load, kind, shapes, mesh)
    except Exception as error:  # models do what they like with tensors; not all of it can be faked
        reason = first_line(error)
        raise InputError(
            f"{config.model.id}: {type(policy.model).__name__} cannot be traced ({reason}); leave out --trace"
        ) from None
    return {**known, "activations": max(0.0, peak - sum(known.values()) + known["moments"] + known.get("pieces", 0.0))}


@contextlib.contextmanager
def _imagined_ranks(ranks: int) -> Iterator[Any]:
    """Within it this process is the first of so many ranks that answer nothing; their mesh."""
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore  # torch has no other; where it is gone, the trace says so

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield make_mesh("cpu", ranks, None)
    finally:
        distributed.destroy_process_group()


def _traced(policy: Policy, load: Load, kind: Recomputation, shapes: Shapes, mesh: Any = None) -> int:
    """The most bytes of tensors that were alive at once, moments aside."""
    with FakeTensorMode(allow_non_fake_inputs=mesh is not None):  # the mesh is none
        _make_fake(policy.model)
        attention.register()
        policy.model.set_attn_implementation(attention.NAME)
        policy.model.train()
        policy.recompute(kind)
        if mesh is not None:
            shard_policy(policy, mesh)
        policy.compute_by_tiles(shapes.tile)
        policy.chunk, policy.offload, policy.host = shapes.chunk, shapes.offload, NoMemory()
        tracker = Tracker()
        for tensor in (*policy.model.parameters(), *quantized.beside(policy.model)):
            tracker.see(local_part(tensor))
            if mesh is None and tensor.requires_grad and load.freed and not load.together:
                tensor.register_post_accumulate_grad_hook(_free)
        layered = Layered(policy) if load.together else None
        with tracker, policy.computing():
            for _ in range(load.together // load.tokens or 1 + load.several):
                with policy.offloading(), contextlib.nullcontext() if layered is None else layered.forward():
                    total, _, _ = policy.compute(*_inputs(load, load.gathered if shapes.gathered else 0), policy.manner)
                    if layered is not None:
                        (-total).backward()
                if layered is None:
                    (-total).backward()
                del total
            if layered is not None:
                layered.backward(_free)
    return tracker.peak


def _free(weight: torch.Tensor) -> None:
    """What an update in the backward pass does with a gradient in the end."""
    weight.grad = None


def _make_fake(model: Any) -> None:
    """Give the parameters and buffers of a model fake tensors on the CPU; those that were the same stay so."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = made.get(id(weight))
                if fake is None:
                    values = torch.empty(weight.shape, dtype=weight.dtype)
                    fake = made[id(weight)] = torch.nn.Parameter(values, requires_grad=weight.requires_grad)
                module._parameters[name] = fake
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _Paths(attention.CpuLayout):
    """Attention of the same shapes as a variable-length call: copies of the keys and values of `above`, all paths, are kept."""

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        key, value = (tensor.index_select(2, self.above) for tensor in (key, value))
        return super().attend(query, key, value, scaling)


def _inputs(load: Load, keys: int) -> tuple[Any, ...]:
    """What `Policy.score` hands to `score_batch` for a pack; `keys` are gathered, where there are any."""
    ids = torch.zeros((1, load.tokens), dtype=torch.long)
    blocks = torch.zeros((-(-load.tokens // attention.QUERY_BLOCK), 5), dtype=torch.long)
    if keys:
        layout: attention.Layout = _Paths(blocks, torch.zeros(keys, dtype=torch.long))
    else:
        layout = attention.CpuLayout(blocks, torch.zeros((0, 2), dtype=torch.long))
    mask = torch.ones((1, 1, 1, 1), dtype=torch.bool)
    inputs = {"input_ids": ids, "position_ids": ids.clone(), "layout": layout, "attention_mask": mask, "use_cache": False}
    targets = torch.zeros(load.targets, dtype=torch.long)
    return inputs, targets, targets.clone(), torch.zeros(load.targets), False
