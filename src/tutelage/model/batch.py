"""How the tokens of rows are laid out for the model: in a pack, where every shared prefix stands once, or in padded rows.

A pack is a trie of token ids in depth-first order. A token's position is its depth. One integer per token is the whole attention
mask: token q may attend to token k iff ``k <= q < ends[k]``, where ``ends[k]`` is where the subtree under k ends. The rule is
exact: each token sees the tokens of its own row before it, and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tutelage.data import TokenizedExample, pad_and_shift
from tutelage.machines import to_device
from tutelage.model import attention
from tutelage.model.trie import Size, SortedRows, Trie, build_trie, rows_and_depths


@dataclass(frozen=True)
class Batch:
    """Tokens that go through the model together, and what they are to predict.

    A target is a response token that is learnt: the hidden state of token `sources[i]` (an index into the flattened `input_ids`)
    predicts `labels[i]`. It counts `weights[i]` in the loss: the sum of the weights of the rows that share the prediction.

    Attributes:
        input_ids, position_ids: (rows, width) int64; a pack is one row of tokens.
        ends: (tokens,) int64, where each token's subtree ends, for a pack; None for rows that are right-padded.
        sources, labels: (targets,) int64.
        weights: (targets,) float32.
        counts: (targets,) float32, how many rows share each prediction; None: `weights` says it, because each row counts one.
        of_examples: for each example, in the order given, the targets of its response tokens.
        size: what is computed, counted when the batch is made: nothing has to read it from a device.
        layout: of a pack, once it is `ready` for a kernel.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    ends: torch.Tensor | None
    sources: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    of_examples: tuple[torch.Tensor, ...]
    size: Size
    layout: attention.Layout | None = None
    counts: torch.Tensor | None = None

    def ready(self, kernel: attention.Kernel) -> Batch:
        """The batch as the model takes it: filled up, with its layout, and on the kernel's device.

        A batch that is ready stays as it is. Copies to a GPU start in pinned memory and do not block, so a thread makes the next
        batches while a step computes.
        """
        if self.ends is None or self.layout is not None:
            return self.to(kernel.device)
        filled = self.filled(kernel.multiple)
        assert filled.ends is not None
        return replace(filled, layout=attention.layout_of(filled.ends, kernel)).to(kernel.device)

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors there; `of_examples`, which the model never needs, stays."""
        moved: dict[str, Any] = {
            name: to_device(value, device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)

    def filled(self, multiple: int) -> Batch:
        """The pack, its length filled up to a multiple with tokens that see only themselves and predict nothing."""
        if self.ends is None or self.input_ids.shape[1] % multiple == 0:
            return self
        length = self.input_ids.shape[1]
        more = multiple - length % multiple
        nothing = torch.zeros((1, more), dtype=torch.long)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, nothing], dim=1),
            position_ids=torch.cat([self.position_ids, nothing], dim=1),
            ends=torch.cat([self.ends, torch.arange(length, length + more) + 1]),
            size=Size(self.size.tokens + more, self.size.pairs + more, self.size.keys, equal=False),
        )


def pack(examples: Sequence[TokenizedExample], shares: bool = True) -> Batch:
    """The examples as one pack.

    Args:
        shares: whether a prefix that examples share stands once. Otherwise each example stands by itself; losses and gradients
            are the same.

    Raises:
        ValueError: an example has no prompt token, so nothing could predict its first response token.
    """
    rows = SortedRows.of_examples(examples)
    return pack_rows(rows if shares else rows.apart())


def pack_rows(rows: SortedRows) -> Batch:
    """The rows as one pack; `of_examples` is in the order in which the rows were given."""
    trie = Trie.of(rows)
    row, depth = rows_and_depths(rows.lengths)
    learnt = depth >= rows.prompts[row]
    predicted = trie.paths[learnt]
    source = np.zeros(len(trie.ids), np.int64)  # of each token the one before it in its rows
    source[predicted] = trie.paths[np.flatnonzero(learnt) - 1]
    counts = np.bincount(predicted, minlength=len(trie.ids))
    tokens = np.flatnonzero(counts)
    target = np.cumsum(counts > 0) - 1
    counted = torch.from_numpy(counts[tokens].astype(np.float32))
    weighed = None if rows.weights is None else np.bincount(predicted, rows.weights[row[learnt]], len(trie.ids))
    return _of_trie(
        trie,
        sources=torch.from_numpy(source[tokens]),
        labels=torch.from_numpy(trie.ids[tokens]),
        weights=counted if weighed is None else torch.from_numpy(weighed[tokens].astype(np.float32)),
        counts=None if weighed is None else counted,
        of_examples=tuple(map(torch.from_numpy, trie.by_row(target[predicted], rows.lengths - rows.prompts))),
    )


def pack_labels(input_ids: torch.Tensor, labels: torch.Tensor) -> Batch:
    """Rows of ids, each predicting its own row of labels, as one pack: both (rows, width), the targets row by row."""
    trie = build_trie(input_ids.tolist())
    return _of_trie(
        trie,
        sources=torch.from_numpy(np.concatenate(trie.by_row(trie.paths))),
        labels=labels.flatten(),
        weights=torch.ones(labels.numel()),
        of_examples=tuple(torch.arange(labels.numel()).view(labels.shape)),
    )


def _of_trie(trie: Trie, **targets: Any) -> Batch:
    """The tokens of a trie as a pack with these targets."""
    return Batch(
        input_ids=torch.from_numpy(trie.ids)[None],
        position_ids=torch.from_numpy(trie.depths)[None],
        ends=torch.from_numpy(trie.ends),
        size=trie.rows.size,
        **targets,
    )


def pad(examples: Sequence[TokenizedExample], pad_id: int) -> Batch:
    """The examples as right-padded rows, for models whose attention cannot be packed.

    Padding needs no attention mask: causal attention of a real token never looks to the right, where padding stands.
    """
    tensors = pad_and_shift([(example.prompt_ids, example.response_ids) for example in examples], pad_id)
    batch = padded_batch(tensors["input_ids"], tensors["labels"], tensors["response_mask"])
    if all(example.weight == 1 for example in examples):
        return batch
    weights = torch.tensor([example.weight for example in examples])
    return replace(batch, weights=weights.repeat_interleave(tensors["response_mask"].sum(1)), counts=batch.weights)


def padded_batch(input_ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> Batch:
    """Right-padded rows as a batch whose targets are the labels under the mask; all three (rows, width)."""
    rows, width = mask.shape
    target = mask.flatten().cumsum(0).view_as(mask) - 1
    return Batch(
        input_ids=input_ids,
        position_ids=torch.arange(width).expand_as(mask),
        ends=None,
        sources=mask.flatten().nonzero().flatten(),
        labels=labels[mask],
        weights=torch.ones(int(mask.sum())),
        of_examples=tuple(target[row][mask[row]] for row in range(rows)),
        size=Size(rows * width, rows * width * (width + 1) // 2, 0, equal=True),
    )
