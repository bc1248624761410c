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
from tutelage.model.probe import TOLERANCES

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
        reason = _difference(before, _scores(policy), policy.compute_dtype)
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
    """Log-probabilities of some tokens, and the gradient of their sum by the hidden states that enter the first layer."""
    entering: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        entering.append(output.detach().requires_grad_())
        return entering[0]

    ids = tuple(range(1, min(65, policy.head.weight.shape[0])))
    rows = [TokenizedExample("probe", ids[:8], ids[8:])]
    trained = [weight for weight in policy.model.parameters() if weight.requires_grad]
    was_training = policy.model.training
    policy.model.eval()
    for weight in trained:  # their gradients are not looked at, and may not fit
        weight.requires_grad_(False)
    try:
        with torch.enable_grad(), policy.computing():  # after the hook of `computing`, so that what enters has the precision of layers
            handle = policy.model.get_input_embeddings().register_forward_hook(keep)
            try:
                batch = pack(rows) if policy.packs else pad(rows, policy.pad_token_id)
                scores = policy.score(batch, batch.weights.to(policy.device))
                scores.total.backward()
            finally:
                handle.remove()
    finally:
        for weight in trained:
            weight.requires_grad_(True)
        policy.model.train(was_training)
    gradient = entering[0].grad
    assert gradient is not None
    return scores.log_probs.detach(), gradient.float()


def _difference(before: tuple[torch.Tensor, torch.Tensor], after: tuple[torch.Tensor, torch.Tensor], dtype: torch.dtype) -> str:
    bound, gap = TOLERANCES[dtype], (after[0] - before[0]).abs()
    far = ((after[1] - before[1]).norm() / before[1].norm()).item()
    # written so that what is not a number differs
    if gap.max() <= bound.largest and gap.mean() <= bound.mean and far <= bound.gradient:
        return ""
    return f"they differ from the model's own (log-probabilities by up to {gap.max().item():.2g} nats, gradients by {100 * far:.2g} %)"
