"""Load and save a Hugging Face model and its tokenizer; where and in what precision it computes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from tutelage import console, lora
from tutelage.config import ModelConfig
from tutelage.embedded import EMBEDDED, embedded_model
from tutelage.errors import InputError, RunError
from tutelage.policy import Policy, check_head, head_of, keep_if_packable
from tutelage.tokens import Stops


def choose_device(name: str) -> torch.device:
    """The device of a name, "auto" being the first GPU or else the CPU.

    Raises:
        InputError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f'{name!r} is not a device: write "auto", "cpu", "cuda" or "cuda:1"') from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(
            f'device {name!r} is not there: this machine has {count} CUDA GPU{"" if count == 1 else "s"}; use "auto" or "cpu"'
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f'device {name!r} is not supported: use "cpu" or "cuda"')
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def load_tokenizer(model_id: str) -> Any:
    """The tokenizer of a model. Raises InputError if it cannot be had or has no end token."""
    from transformers import AutoTokenizer

    console.quiet_transformers()
    path = resolve(model_id)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError … for a bad or missing tokenizer
        raise _cannot_load("tokenizer", model_id, error) from None
    Stops.of(tokenizer)
    return tokenizer


def load_policy(config: ModelConfig, tokenizer: Any, to_train: bool = True) -> Policy:
    """The model on its device, in float32 weights; bfloat16 ones for bf16-sr, and under LoRA unless all is float32.

    Only what is loaded `to_train` is tried in packs.

    Raises:
        InputError: it cannot be loaded or trained exactly; the message says why.
    """
    from transformers import AutoModelForCausalLM

    console.quiet_transformers()
    device, path = choose_device(config.device), resolve(config.id)
    halved = config.precision == "bf16-sr" or (config.lora != "none" and config.precision != "fp32")
    dtype = torch.bfloat16 if halved else torch.float32
    try:
        model, report = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True)
    except Exception as error:
        raise _cannot_load("model", config.id, error) from None
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:  # transformers would go on with random ones
        raise InputError(f"{config.id}: {len(lost)} weights are missing or of another shape, {lost[0]} among them")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(f"{config.id}: the tokenizer has {len(tokenizer)} tokens, the model's embedding only {rows}")
    model.to(device)
    policy = Policy(model, tokenizer, Stops.of(tokenizer), device, config.precision, head_of(model))
    check_head(policy, config.id)
    policy = keep_if_packable(policy) if to_train else policy
    lora.attach(model, config)
    return policy


def resolve(model_id: str) -> str:
    """A local directory as it is, the embedded default as its cached conversion, anything else as a hub name."""
    if model_id == EMBEDDED:
        return str(embedded_model())
    if model_id.startswith((".", "/", "~")) or Path(model_id).exists():
        path = Path(model_id).expanduser()
        if not (path / "config.json").is_file():
            raise InputError(f"{model_id}: no model there (a Hugging Face model directory holds config.json)")
        return str(path)
    return model_id


def save_model(policy: Policy, target: Path, card: str) -> None:
    """A Hugging Face directory with weights, tokenizer, stop token and model card, renamed into place when complete.

    Raises:
        RunError: it cannot be written (a full disk); nothing half-written is left.
    """
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
    try:
        model.save_pretrained(folder, state_dict=dict(lora.merged_weights(model)))
        policy.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # of a run that died before it could say that it was finished
        folder.rename(target)
    except Exception as error:  # safetensors reports a full disk with an error of its own
        shutil.rmtree(folder, ignore_errors=True)
        raise RunError(f"{target}: the model could not be written: {error}") from None


def check_positions(policy: Policy, longest: int, what: str) -> None:
    """Raises InputError if sequences of `longest` tokens are more than the model has positions for."""
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(f"{what} is {longest} tokens, but the model has positions for {limit}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU, torch says so with a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def size_in_bytes(model: Any, trained: bool = False) -> int:
    """Bytes of all distinct parameters, or of those alone that are trained."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad or not trained)


def _cannot_load(what: str, model_id: str, error: Exception) -> InputError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"{model_id}: the {what} cannot be loaded; it is neither a model directory here nor on the Hugging Face hub in reach: {lines[0]}"
    )
