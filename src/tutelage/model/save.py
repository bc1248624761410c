"""Save a policy as a Hugging Face model directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from tutelage.errors import RunError
from tutelage.machines import ALONE, Sealed, World, checksum_of_file, full_tensor, why_not_written, write_seal
from tutelage.model import lora
from tutelage.model.policy import Policy

ADAPTER = "adapter"
"""The folder in a saved model that holds its adapters by themselves, where they are merged into its weights."""
SHARD_SIZE = "5GB"
"""Largest file of weights in a saved model."""


def save_model(policy: Policy, target: Path, card: str, world: World = ALONE) -> None:
    """A Hugging Face directory with weights, tokenizer, stop token and model card, renamed into place when complete.

    Adapters are merged, and also written by themselves, into the folder `ADAPTER`.

    Sharded weights are gathered one by one, and written by rank 0.

    Raises:
        RunError: it cannot be written (a full disk); nothing half-written is left.
    """
    world.long_task("saving the model")
    first_names = _first_names(policy.model)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in lora.merged_weights(policy.model):
        first = first_names.get(name, name)
        if first in weights:
            weights[name] = weights[first]  # tied: written once
        elif world.size == 1:
            weights[name] = tensor
        else:
            gathered = full_tensor(tensor)
            weights[name] = gathered.detach().cpu() if world.leads else torch.empty(0)
    adapters = lora.adapter_weights(policy.model)
    world.first(lambda: _write_model(policy, weights, adapters, target, card))


def _first_names(model: Any) -> dict[str, str]:
    """Of each parameter with several names, the first one by each of them."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(parameter), name) for name, parameter in model.named_parameters(remove_duplicate=False)}


def _write_model(
    policy: Policy, weights: dict[str, torch.Tensor], adapters: dict[str, torch.Tensor], target: Path, card: str
) -> None:
    from transformers import GenerationConfig

    folder = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    model = policy.model
    # made anew: a base model's own sampling defaults are not what was evaluated here
    model.generation_config = GenerationConfig(
        bos_token_id=policy.tokenizer.bos_token_id,
        eos_token_id=policy.stops.end_token_id,
        pad_token_id=policy.tokenizer.pad_token_id,
        do_sample=False,
    )
    model.config.use_cache = True
    for config in (model.config, model.config.get_text_config()):
        config.eos_token_id = policy.stops.end_token_id
    try:
        model.save_pretrained(folder, state_dict=weights, max_shard_size=SHARD_SIZE)
        policy.tokenizer.save_pretrained(folder)
        if adapters:
            lora.save(model, adapters, folder / ADAPTER)
        (folder / "README.md").write_text(card + _left_out(policy), encoding="utf-8")
        files = [path for path in sorted(folder.rglob("*")) if path.parent == folder and path.is_file() and path.name != "README.md"]
        write_seal(folder, {path.name: Sealed(path.stat().st_size, checksum_of_file(path)) for path in files})
        shutil.rmtree(target, ignore_errors=True)  # of a run that died before it could say that it was finished
        folder.rename(target)
    except Exception as error:  # safetensors reports a full disk with an error of its own
        shutil.rmtree(folder, ignore_errors=True)
        size = sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in weights.values()}.values())
        reason = why_not_written(error, target.parent, size)
        raise RunError(f"{target}: the model could not be written: {reason}") from None


def _left_out(policy: Policy) -> str:
    """What the model card says of the checkpoint's tensors that this model has no part for."""
    return f"\nOf the model that it was trained from, {policy.left_out}.\n" if policy.left_out else ""
