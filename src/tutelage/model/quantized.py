"""Linear layers whose frozen weights are 4-bit numbers (NF4; QLoRA: Dettmers et al. 2023), by the kernels of bitsandbytes.

A weight is cut into blocks of 64 numbers. Each number is one of 16 levels, times the largest magnitude of its block; those magnitudes
are 8-bit numbers themselves: 4.13 bits a weight. A weight has its precision again for as long as a product needs it, forward and
backward. So the numbers of a layer are those of a plain one whose weight is `dense`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.config import ModelConfig

BLOCK, OUTER_BLOCK = 64, 256
"""Numbers that share a magnitude; magnitudes that share one in turn."""


def require() -> None:
    """Raises InputError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("model.quantize needs bitsandbytes, which is not installed: pip install 'tutelage[qlora]'")


def quantize(model: Any, config: ModelConfig, device: torch.device) -> None:
    """Quantize every linear layer of the model but the head, as configured, on a device, where the layers then are.

    One layer at a time is on the device in full. Layers without memory get the shapes alone.

    Raises:
        InputError: bitsandbytes is not installed; the model has no linear layer beside its head.
    """
    if config.quantize == "none":
        return
    if device.type != "meta":
        require()
    head = model.get_output_embeddings()
    found = [
        (parent, name, module)
        for parent in model.modules()
        for name, module in parent.named_children()
        if type(module) is torch.nn.Linear and module is not head
    ]
    if not found:
        raise InputError(f'model.quantize = "{config.quantize}": {type(model).__name__} has no linear layers beside its head')
    for parent, name, module in found:
        setattr(parent, name, QuantizedLinear(module, device))


class QuantizedLinear(torch.nn.Linear):
    """A linear layer over a frozen weight in 4-bit numbers.

    Attributes:
        weight: two numbers a byte, (numbers / 2, 1) uint8. A floating-point weight in its place, of the usual shape, is used as it is.
        magnitudes: of each block, uint8. outer: of the magnitudes' blocks; levels: what a magnitude's byte means; offset: their mean.
        dtype: the precision that the weight had.
    """

    def __init__(self, plain: torch.nn.Linear, device: torch.device) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
        self.dtype, self.bias = plain.weight.dtype, plain.bias
        codes, magnitudes, outer, levels, offset = _shapes(plain) if plain.weight.is_meta else _quantized(plain, device)
        self.weight = torch.nn.Parameter(codes, requires_grad=False)
        for name, tensor in (("magnitudes", magnitudes), ("outer", outer), ("levels", levels), ("offset", offset)):
            self.register_buffer(name, tensor, persistent=False)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight in full: (out_features, in_features)."""
        return _dense(self._parts(), (self.out_features, self.in_features), dtype)

    def _parts(self) -> tuple[Any, ...]:
        return self.weight, self.magnitudes, self.outer, self.levels, self.offset

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.weight.is_floating_point():
            return linear(input, self.weight, self.bias)
        product: torch.Tensor = _Product.apply(input, (self.out_features, self.in_features), *self._parts())
        return product if self.bias is None else product + self.bias


class _Product(torch.autograd.Function):
    """A product with a quantized weight, which is made dense once more in the backward pass and never kept."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, shape: tuple[int, int], *parts: torch.Tensor) -> torch.Tensor:
        ctx.shape = shape
        ctx.save_for_backward(*parts)
        return linear(input, _dense(parts, shape, input.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradient @ _dense(ctx.saved_tensors, ctx.shape, gradient.dtype), *(None,) * 6


def dense_weight(module: Any) -> torch.Tensor:
    """The weight of a linear layer as it computes with it, in the precision that it was loaded in."""
    weight: torch.Tensor = module.weight
    return module.dense(module.dtype) if isinstance(module, QuantizedLinear) and not weight.is_floating_point() else weight


def count_of(weight: torch.Tensor) -> int:
    """How many numbers of a model a parameter holds: two for each byte of a quantized one."""
    return weight.numel() * (2 if weight.dtype == torch.uint8 else 1)


def beside(model: Any) -> list[torch.Tensor]:
    """What quantized layers hold beside their parameters: magnitudes of blocks, and what those mean."""
    return [buffer for module in model.modules() if isinstance(module, QuantizedLinear) for buffer in module.buffers()]


def largest_dense(model: Any) -> int:
    """Numbers of the largest quantized weight, which is dense while a product needs it; 0 where none is quantized."""
    return max(
        (module.out_features * module.in_features for module in model.modules() if isinstance(module, QuantizedLinear)), default=0
    )


def _quantized(plain: torch.nn.Linear, device: torch.device) -> tuple[torch.Tensor, ...]:
    from bitsandbytes import functional

    weight = plain.weight.detach().to(device).contiguous()
    codes, state = functional.quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    return codes, state.absmax, state.state2.absmax, state.state2.code, state.offset


def _shapes(plain: torch.nn.Linear) -> tuple[torch.Tensor, ...]:
    """What `_quantized` gives of a weight without memory."""
    count = plain.weight.numel()
    blocks = -(-count // BLOCK)
    single, byte = torch.float32, torch.uint8
    shaped = [
        ((-(-count // 2), 1), byte),
        ((blocks,), byte),
        ((-(-blocks // OUTER_BLOCK),), single),
        ((256,), single),
        ((), single),
    ]
    return tuple(torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in shaped)


def _dense(parts: Sequence[torch.Tensor], shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """The weight that codes, magnitudes, and what `QuantizedLinear` holds besides stand for."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    codes, magnitudes, outer, levels, offset = parts
    of_magnitudes = QuantState(absmax=outer, code=levels, blocksize=OUTER_BLOCK, dtype=torch.float32)
    state = QuantState(magnitudes, torch.Size(shape), None, BLOCK, "nf4", dtype, offset, of_magnitudes)
    return dequantize_4bit(codes, state)
