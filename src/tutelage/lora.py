"""Low-rank adapters by PEFT (LoRA: Hu et al. 2021; DoRA: Liu et al. 2024), inside the model's own modules."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch

from tutelage.errors import InputError

if TYPE_CHECKING:
    from tutelage.config import ModelConfig


def require() -> None:
    """Raises InputError where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise InputError("model.lora needs PEFT, which is not installed: pip install 'tutelage[lora]'")


def attach(model: Any, config: ModelConfig) -> None:
    """Give the model adapters, as configured, and freeze all else. Adapters are float32 whatever the weights under them are.

    Raises:
        InputError: PEFT is not installed, or no layer of the model has a name among `model.lora_targets`.
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
        raise InputError(f"model.lora_targets = {list(config.lora_targets)}: {str(error).splitlines()[0]}") from None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merged_state(model: Any) -> dict[str, torch.Tensor]:
    """The state of a model with its adapters merged into the weights under them, under the names of a model without any.

    The model itself is left as it was, to the bit.
    """
    state: dict[str, torch.Tensor] = model.state_dict()
    if not any("lora_" in name for name in state):
        return state
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if "lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            weight: Any = module.get_base_layer().weight
            before = weight.detach().clone()
            module.merge()
            merged[f"{name}.weight"] = weight.detach().clone()
            module.merged_adapters.clear()
            with torch.no_grad():
                weight.copy_(before)
    return merged
