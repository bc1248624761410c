"""Low-rank adapters by PEFT (LoRA: Hu et al. 2021; DoRA: Liu et al. 2024), inside the model's own modules."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tutelage.errors import InputError, first_line
from tutelage.machines import full_parameters, full_tensor
from tutelage.model.quantized import QuantizedLinear, dense_weight

if TYPE_CHECKING:
    from tutelage.config import ModelConfig


def require() -> None:
    """Raises InputError where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise InputError("model.lora needs PEFT, which is not installed: pip install 'tutelage[lora]'")


def attach(model: Any, config: ModelConfig) -> None:
    """Give the model adapters, as configured, and freeze all else. Adapters are float32 whatever the weights under them are.

    Raises:
        InputError: PEFT is not installed; no layer has a name among `model.lora_targets`, or the embedding or the head has one.
    """
    if config.lora == "none":
        return
    require()
    from peft import LoraConfig, inject_adapter_in_model

    targets: Any = "all-linear" if config.lora_targets == ["all-linear"] else list(config.lora_targets)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=targets,
        use_dora=config.lora == "dora",
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(config.lora_seed)
            inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise InputError(f"model.lora_targets = {list(config.lora_targets)}: {first_line(error)}") from None
    if any(hasattr(layer, "base_layer") for layer in (model.get_output_embeddings(), model.get_input_embeddings())):
        raise InputError(
            f"model.lora_targets = {list(config.lora_targets)}: the embedding and the head get no adapters; leave them out"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merged_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a model under the names of one without adapters, each adapter merged into the weight under it.

    Quantized ones are given as the model computes with them, in the precision that they were loaded in. Merged ones
    are made one at a time, in float32, and rounded once to the precision of the weight; the model is left as it was.
    Of a sharded model, merged weights are full and the others sharded. All ranks go through them together.
    """
    adapted = {f"{name}.base_layer.weight": module for name, module in model.named_modules() if hasattr(module, "base_layer")}
    quantized = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    for name, tensor in model.state_dict().items():
        if name in adapted:
            tensor = merged_weight(adapted[name])
        elif name in quantized:
            tensor = dense_weight(quantized[name])
        if "lora_" not in name:
            yield name.replace(".base_layer.", "."), tensor


def merged_weight(module: Any) -> torch.Tensor:
    """The weight of one adapted layer. PEFT merges into a copy that stands in for the weight meanwhile, whatever interrupts it."""
    with full_parameters(module):
        weight, before, plain = module.base_layer.weight, module.base_layer.weight.data, dense_weight(module.base_layer)
        try:
            weight.data = plain.detach().float().clone()
            module.merge()
            merged: torch.Tensor = weight.data.to(plain.dtype)
        finally:
            weight.data = before
            module.merged_adapters.clear()
    return merged


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """The weights of all adapters by their names in the model, gathered where they are sharded; then all ranks take part."""
    return {name: full_tensor(tensor).detach().cpu() for name, tensor in model.state_dict().items() if "lora_" in name}


def save(model: Any, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write adapters as PEFT, and engines that take its adapters, read them: settings, and weights in float32.

    Args:
        weights: as `adapter_weights` gives them.
        folder: is made.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    settings = copy.copy(model.peft_config["default"])
    base = model.config._name_or_path
    settings.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    settings.inference_mode = True
    settings.save_pretrained(folder)
    named = get_peft_model_state_dict(model, state_dict=dict(weights))
    made = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in named.items()}
    save_file(made, folder / "adapter_model.safetensors", metadata={"format": "pt"})
