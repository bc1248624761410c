"""The way for CUDA: every step has the same shapes and reads nothing back, so that it is captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tutelage.evaluation.engine.capture import Captures, Step
from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.decoding import Columns, Growing, device_of, end_mask, pick
from tutelage.machines import is_sharded
from tutelage.model import attention

KeysAndValues = tuple[torch.Tensor, torch.Tensor]

ATTENTION = "tutelage-step"
"""The name of `attend_step` in transformers."""
BLOCK = 16
"""Tokens of each row between two looks of the host at what was generated."""
SHORTEST = 512
"""Columns of the cache at first, where responses may get longer; it doubles as they do."""
SHRINK = 4
"""A batch is made smaller when its rows are so many times as many as are needed: a smaller one wants a capture of its own."""


def obstacle(model: Any) -> str:
    """Why a model cannot decode with fixed shapes; "" if nothing speaks against it."""
    kind = type(model).__name__
    if not getattr(model, "_can_compile_fullgraph", False):
        return f"transformers does not say that {kind} can"
    if is_sharded(model):
        return "its weights are shared among ranks"
    if model.config._attn_implementation not in ("sdpa", "eager", attention.NAME):
        return f"its attention is {model.config._attn_implementation}"
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return f"{kind} keeps more, or less, than the keys and values of all tokens"
    return ""


def rows_held(requests: int) -> int:
    """The next power of two."""
    return 1 << (requests - 1).bit_length()


def columns_held(needed: int, longest: int) -> int:
    """Columns of a cache that must hold `needed` tokens, and at most `longest` later.

    Powers of two, so that there are few sizes; no more than the longest response wants, rounded up to an eighth of a power of two.
    """
    step = max(64, (1 << (longest - 1).bit_length()) // 8)
    return min(max(SHORTEST, rows_held(needed)), -(-longest // step) * step)


class _Layer(StaticLayer):
    """Keys and values of a layer, (rows, heads, columns, size) each, in memory whose shape may change.

    A step writes its column, in all rows, and attends to all columns; a mask says which ones count.
    """

    is_compileable = False

    def __init__(self, column: torch.Tensor) -> None:
        super().__init__(max_cache_len=0)
        self.column = column
        self.memory: dict[str, torch.Tensor] = {}

    def hold(self, keys: torch.Tensor, values: torch.Tensor, rows: int, columns: int) -> None:
        """Have these keys and values in the first rows and columns."""
        self.keys, self.values = self._held("keys", keys, rows, columns), self._held("values", values, rows, columns)
        self.is_initialized = True

    def _held(self, name: str, given: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        shape = (rows, given.shape[1], columns, given.shape[3])
        size = rows * given.shape[1] * columns * given.shape[3]
        if name not in self.memory or len(self.memory[name]) < size:
            self.memory.pop(name, None)
            self.__dict__.pop(name, None)  # the view of the old memory
            self.memory[name] = given.new_zeros(size)  # not empty: what the mask hides counts zero times, which NaN would survive
        held = self.memory[name][:size].view(shape)
        held[: len(given), :, : given.shape[2]] = given
        return held

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.index_copy_(2, self.column, key_states)
        self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values


def attend_step(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' SDPA function, which for one token of each row does not copy keys and values for each head that shares them:
    those heads are the queries of one product.

    Args:
        query: (rows, heads, tokens, size). key, value: (rows, shared heads, columns, size).

    Returns:
        ((rows, tokens, heads, size), None).
    """
    rows, heads, tokens, size = query.shape
    by_head = attention_mask is not None and attention_mask.shape[1] > 1
    if tokens > 1 or dropout or by_head or others.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )  # fmt: skip
    together = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    mixed = torch.nn.functional.scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scaling)
    return mixed.reshape(rows, 1, heads, value.shape[3]), None


AttentionInterface.register(ATTENTION, attend_step)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _emptied(cache: Cache) -> Iterator[KeysAndValues]:
    """Keys and values of each layer, which the cache forgets: so there are two copies of one layer at a time."""
    for layer in cache.layers:
        yield layer.keys, layer.values
        layer.keys = layer.values = None


class Static:
    """Decoding with fixed shapes: `rows` rows, some of them idle, and a cache of `columns` columns, `filled` so far.

    The step of one token reads and writes tensors that stay where they are: of each row its last `token`, the `position` of that,
    and the `mask` of its columns (0, or -inf); of all, the `column` to write, the `slot` of the block, and how many tokens were `made`.

    Args:
        capture: what makes a step of a shape fast; default: a graph on CUDA, and elsewhere nothing.
    """

    block = BLOCK

    def __init__(self, model: Any, sampling: Sampling, ends: set[int], capture: Callable[[Step], Step] | None = None) -> None:
        self.model, self.sampling, self.ends, device = model, sampling, ends, device_of(model)
        self.captures = Captures(device) if capture is None and device.type == "cuda" else None
        self.capture = capture or self.captures or (lambda step: step)
        self.steps: dict[tuple[int, int], Step] = {}
        self.capacity = self.most_rows = 0
        self.column, self.slot, self.made = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(3))
        layers = model.config.get_text_config().num_hidden_layers
        self.cache = Cache(layers=[_Layer(self.column) for _ in range(layers)])
        self.first: torch.Tensor | None = None  # logits that the prompts left behind
        self.own_attention = model.config._attn_implementation
        if self.own_attention != "eager" and model._supports_attention_backend:
            model.set_attn_implementation(ATTENTION)
        self.is_end = torch.zeros(0)  # of each token of the vocabulary, once its size is known

    def begin(self, prompts: Sequence[Sequence[int]]) -> None:
        prefill = Growing(self.model, self.sampling, self.ends)
        prefill.begin(prompts)
        self.first = prefill.forward()
        if not len(self.is_end):  # once: steps know its address
            self.is_end = end_mask(self.ends, self.first)
        self.live = list(range(len(prompts)))
        self.filled, self.longest = prefill.ids.shape[1], prefill.ids.shape[1] + self.sampling.max_new_tokens
        self.made.zero_()
        mask = torch.where(prefill.mask.bool(), 0.0, -torch.inf).to(prefill.cache.layers[0].keys.dtype)
        position = prefill.positions[:, -1:] + 1
        self._lay_out(rows_held(len(prompts)), torch.zeros_like(position), position, mask, _emptied(prefill.cache))

    def _lay_out(
        self, rows: int, token: torch.Tensor, position: torch.Tensor, mask: torch.Tensor, kept: Iterator[KeysAndValues]
    ) -> None:
        """Hold the first of `rows` rows as given, the others idle, with columns for the next block at least.

        Args:
            kept: of each layer, (given rows, heads, filled, size).
        """
        columns = columns_held(min(self.filled + BLOCK, self.longest), self.longest)
        count, device = len(token), token.device
        if rows > self.most_rows or rows * columns > self.capacity:
            self._drop_steps()  # they know the addresses of what is made anew now
            self.most_rows, self.capacity = max(rows, self.most_rows), max(rows * columns, self.capacity)
            self.token, self.position = (torch.zeros((self.most_rows, 1), dtype=torch.int64, device=device) for _ in range(2))
            self.uniforms = torch.zeros((self.most_rows, BLOCK), dtype=torch.float64, device=device)
            self.said = torch.zeros((3, self.most_rows, BLOCK), dtype=torch.float64, device=device)
            self.masks = mask.new_zeros(self.capacity)
        self.rows, self.columns = rows, columns
        for held, given in ((self.token, token), (self.position, position)):
            held.zero_()
            held[:count] = given
        self.mask = self.masks[: rows * columns].view(rows, 1, 1, columns).fill_(-torch.inf)
        self.mask[:count, 0, 0, : self.filled] = mask
        for layer in self.cache.layers:
            layer.hold(*next(kept), rows, columns)
        self.column.fill_(self.filled)

    def advance(self, count: int, uniforms: list[list[float]] | None) -> Columns:
        steps = count - (self.first is not None)
        if self.filled + steps > self.columns:
            self._select(rows_held(len(self.live)))
        if uniforms is not None:
            drawn = torch.zeros((self.rows, count), dtype=torch.float64)
            drawn[self.live] = torch.tensor(uniforms, dtype=torch.float64)
            self.uniforms[: self.rows, :count].copy_(drawn)
        self.slot.zero_()
        if self.first is not None:
            self._settle(self.first)
            self.first = None
        for _ in range(steps):
            shape = self.rows, self.columns
            if shape not in self.steps:
                self.steps[shape] = self.capture(self._step)
            self.steps[shape]()
        self.filled += steps
        tokens, entropies, log_probs = self.said[:, : self.rows, :count].tolist()  # the one wait of a block
        return (
            [[int(token) for token in tokens[row]] for row in self.live],
            [entropies[row] for row in self.live],
            [log_probs[row] for row in self.live],
        )

    def _step(self) -> None:
        """One more token of each row."""
        self.mask.index_fill_(3, self.column, 0.0)
        output = self.model(
            input_ids=self.token[: self.rows], attention_mask=self.mask, position_ids=self.position[: self.rows],
            past_key_values=self.cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        self.column.add_(1)
        self.position.add_(1)
        self._settle(output.logits[:, -1])

    def _settle(self, logits: torch.Tensor) -> None:
        """Choose the next token of each of the first rows, and note it in the slot of the block."""
        count = len(logits)
        self.made.add_(1)
        forbidden = self.is_end & (self.made <= self.sampling.min_new_tokens) if self.sampling.min_new_tokens else None
        draws = self.uniforms[:count].index_select(1, self.slot).squeeze(1) if self.sampling.temperature else None
        picked = pick(logits, self.sampling, forbidden, draws)
        self.token[:count, 0].copy_(picked[0])
        self.said[:, :count].index_copy_(2, self.slot, torch.stack([part.double() for part in picked])[:, :, None])
        self.slot.add_(1)

    def keep(self, rows: Sequence[int]) -> None:
        self.live = [self.live[row] for row in rows]
        if self.live and SHRINK * rows_held(len(self.live)) <= self.rows:
            self._select(rows_held(len(self.live)))

    def _select(self, rows: int) -> None:
        """Lay out the live rows alone, as the first of `rows`."""
        index = torch.tensor(self.live, device=self.token.device)
        parts = (tuple(part[:, :, : self.filled][index] for part in (each.keys, each.values)) for each in self.cache.layers)
        self._lay_out(rows, self.token[index], self.position[index], self.mask[index, 0, 0, : self.filled], parts)
        self.live = list(range(len(self.live)))

    def _drop_steps(self) -> None:
        self.steps.clear()
        if self.captures is not None:
            self.captures.forget()

    def close(self) -> None:
        if self.model.config._attn_implementation != self.own_attention:
            self.model.set_attn_implementation(self.own_attention)
        had_graphs = self.captures is not None and self.captures.pool is not None
        self._drop_steps()
        vars(self).clear()  # whoever still has this object has no memory with it
        if had_graphs:
            torch.cuda.empty_cache()  # training cannot use the memory of a pool of graphs
