"""The weights of a model, mapped from its files: each rank reads the rows that it holds, and no process reads all into its memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from tutelage.machines import first_row, local_part
from tutelage.model.directory import at_hand
from tutelage.model.weights import headers, weight_names

Files = Mapping[str, Path]
"""The file of safetensors that holds a weight, by the weight's name in the model."""


def files_of_weights(model: Any, folder: Path) -> Files | None:
    """The files of a model's weights, where they hold each by the model's own name, in its shape, and all in one precision.

    None: weights have to be converted, which transformers does when it loads a model in full.
    """
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    except ImportError:  # of another version
        return None
    if any(get_checkpoint_conversion_mapping(name) for name in (type(model).__name__, model.config.model_type)):
        return None
    there = {name: (file, tensor) for file, tensors in headers(folder) for name, tensor in tensors.items()}
    weights = dict(model.named_parameters())
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if not weights.keys() <= there.keys() or set(model.state_dict()) - shared:  # other state is read as it was
        return None
    if any(list(weight.shape) != there[name][1]["shape"] for name, weight in weights.items()):
        return None
    if len({there[name][1]["dtype"] for name in weights}) > 1:
        return None
    return {name: there[name][0] for name in weights}


@contextmanager
def _opened(files: Files) -> Iterator[dict[Path, Any]]:
    from safetensors import safe_open

    with ExitStack() as all_of_them:
        yield {file: all_of_them.enter_context(safe_open(file, "pt")) for file in set(files.values())}


def give_views(model: Any, files: Files) -> None:
    """Give a model without memory its weights as views of the files, in their precision: pages that the system may drop again."""
    with _opened(files) as opened:
        views = {name: opened[file].get_tensor(name) for name, file in files.items()}
    model.load_state_dict(views, strict=False, assign=True)
    model.tie_weights()


@torch.no_grad()
def read_rows(model: Any, files: Files) -> None:
    """Fill the parameters of a model, of a sharded one this rank's rows of each, from the files."""
    with _opened(files) as opened:
        for name, parameter in model.named_parameters():
            rows, held = opened[files[name]].get_slice(name), local_part(parameter)
            first = first_row(parameter)
            if held.numel():
                held.copy_(rows[first : first + held.shape[0]] if held.ndim else rows[...])


def left_out_of(model: Any, unexpected: set[str], path: str) -> str:
    """A sentence on the tensors of a checkpoint that the loaded model has no part for, some of which loading passes over in silence.

    Buffers that older versions stored and that are computed now do not count.

    Args:
        unexpected: the names that loading reports.
        path: of the checkpoint, or its name on the hub.
    """
    folder, silent = at_hand(path), getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    passed = {name for name in (weight_names(folder) if folder else ()) if any(re.search(pattern, name) for pattern in silent)}
    own = {name for name, _ in model.named_buffers()} | set(model.state_dict())
    computed = ("inv_freq", "position_ids", "masked_bias")
    names = sorted(name for name in passed | set(unexpected) if name not in own and name.rpartition(".")[2] not in computed)
    if not names:
        return ""
    parts = Counter(".".join(name.split(".")[: 2 if name.startswith("model.") else 1]) for name in names)
    shown = ", ".join(f"{part}.…" for part, _ in parts.most_common(3)) + (" and others" if len(parts) > 3 else "")
    one = len(names) == 1
    return (
        f"{len(names)} tensor{'' if one else 's'} of the checkpoint ({shown}) belong{'s' if one else ''} to no part of"
        f" {type(model).__name__}: {'it is' if one else 'they are'} neither trained nor saved"
    )
