"""Liger Kernel's fused RMSNorm, RoPE and SwiGLU (Hsu et al. 2024), for layers that are not compiled."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch

from tutelage.data import TokenizedExample
from tutelage.errors import first_line
from tutelage.machines import is_sharded
from tutelage.model.batch import pack, pad
from tutelage.model.policy import Policy
from tutelage.model.probe import gap_beyond_rounding, with_gradient

PACKAGE = "liger_kernel"
WANTED = {"rope": True, "rms_norm": True, "swiglu": True, "geglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}
"""What is asked of its patches, as far as the one for a model knows the argument: the head is ours."""
ROPE = "apply_rotary_pos_emb"
"""The function of transformers' model files that the patches replace; modules are patched one by one."""


def is_usable(policy: Policy) -> bool:
    """Whether the policy could be given the kernels: on CUDA, unsharded, with the package installed."""
    return policy.device.type == "cuda" and not is_sharded(policy.model) and importlib.util.find_spec(PACKAGE) is not None


def give_kernels(policy: Policy) -> str:
    """Give the model of a policy Liger's kernels, if they compute what its own modules do; "" or why the model stays as it is.

    Log-probabilities and the gradient of the hidden states that enter the first layer must agree with those of before, within what
    is allowed of kernels for attention.
    """
    model = policy.model
    if policy.device.type == "cuda":
        torch.cuda.set_device(policy.device)  # where Liger's kernels are launched, wherever their tensors are
    try:
        patches = importlib.import_module(f"{PACKAGE}.transformers.monkey_patch")
        patch: Callable[..., None] | None = patches.MODEL_TYPE_TO_APPLY_LIGER_FN.get(model.config.model_type)
    except (ImportError, AttributeError) as error:  # of a version that wants another transformers, or names things otherwise
        return f"the package cannot be used ({type(error).__name__}: {first_line(error)})"
    if patch is None:
        return f"it has no kernels for {model.config.model_type}"
    files = sys.modules[type(model).__module__]
    names, attributes = dict(vars(files)), [(module, dict(vars(module))) for module in model.modules()]
    before = _scores(policy)
    patch(model=model, **{name: value for name, value in WANTED.items() if name in inspect.signature(patch).parameters})
    # other models of this process, on a CPU perhaps, stay as they are: theirs are the classes of the file, and tensors elsewhere
    fused, own = vars(files).get(ROPE), names.get(ROPE)
    vars(files).update(names)
    if fused is not None and own is not None and fused is not own:
        setattr(files, ROPE, _on_device(policy.device, fused, own))
    try:
        gap = gap_beyond_rounding(_scores(policy), before, policy.compute_dtype)
        reason = f"they differ from the model's own ({gap})" if gap else ""
    except Exception as error:  # Triton's compiler, a kernel's own check: whatever it is, the model's own modules compute
        reason = f"they fail ({type(error).__name__}: {first_line(error)})"
    if reason:
        vars(files).update(names)
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
    return reason


def _on_device(device: torch.device, fused: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    def rotate(q: torch.Tensor, *others: Any, **options: Any) -> Any:
        return (fused if q.device == device else own)(q, *others, **options)

    return rotate


def _scores(policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """`with_gradient` of some tokens, in evaluation mode."""
    ids = tuple(range(1, min(65, policy.head.weight.shape[0])))
    rows = [TokenizedExample("probe", ids[:8], ids[8:])]
    was_training = policy.model.training
    policy.model.eval()
    try:
        return with_gradient(policy, pack(rows) if policy.packs else pad(rows, policy.pad_token_id))
    finally:
        policy.model.train(was_training)
