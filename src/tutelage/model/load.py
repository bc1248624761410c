"""Load a Hugging Face model and its tokenizer; where and in what precision it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.config import ModelConfig
from tutelage.data import Stops
from tutelage.errors import InputError, first_line
from tutelage.machines import ALONE, World, make_mesh, materialize, rank_device
from tutelage.model import lora
from tutelage.model.embedded import EMBEDDED, embedded_model
from tutelage.model.policy import Policy, shard_policy
from tutelage.model.probe import check_head, prove_packable, structure_against_packs


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


def device_for(name: str, world: World) -> torch.device:
    """The device that this rank trains on. Raises InputError as `choose_device` and `rank_device`."""
    return choose_device(name) if world.size == 1 else rank_device(name, world.local_rank, world.local_size)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices itself; a CPU that does not is some fifty times slower at it than in float32."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def for_device(config: ModelConfig, device: torch.device) -> ModelConfig:
    """The configuration as it can be on a device, where that is said: float32 in place of bfloat16 that a CPU does not have."""
    if config.precision == "fp32" or has_bfloat16(device):
        return config
    if config.precision == "bf16-sr":
        console.say("this CPU has no bfloat16 arithmetic, so model.precision = bf16-sr will be very slow here", style="yellow")
        return config
    console.say("this CPU has no bfloat16 arithmetic: everything computes in float32, which is what bf16-mixed rounds from")
    return config.model_copy(update={"precision": "fp32"})


def load_tokenizer(model_id: str) -> Any:
    """The tokenizer of a model. Raises InputError if it cannot be had or has no end token."""
    from transformers import AutoTokenizer

    console.quiet_libraries()
    path = resolve(model_id, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError … for a bad or missing tokenizer
        raise _cannot_load("tokenizer", model_id, error) from None
    Stops.of(tokenizer)
    return tokenizer


def load_policy(
    config: ModelConfig,
    tokenizer: Any,
    to_train: bool = True,
    world: World = ALONE,
    shard_ranks: int | None = None,
    here: bool = True,
) -> Policy:
    """The model on its device, in float32 weights; bfloat16 ones for bf16-sr, and under LoRA unless all is float32.

    Several ranks share the weights, which rank 0 alone reads.

    Args:
        to_train: whether packs are tried on it, for training; without them it computes on padded rows.
        shard_ranks: how many ranks share one copy of the weights; None: all.
        here: whether it is to compute on this machine, and so in a precision that this machine has (`for_device`).

    Raises:
        InputError: it cannot be loaded or trained exactly; the message says why.
    """
    console.quiet_libraries()
    device = device_for(config.device, world)
    if here:
        config = world.first(lambda: for_device(config, device))
    if world.size > 1:
        return _load_sharded(config, tokenizer, to_train, world, shard_ranks, device)
    policy = _policy(_pretrained(config, tokenizer), config, tokenizer, device)
    check_head(policy, config.id)
    if to_train:
        prove_packable(policy, None, world)
    lora.attach(policy.model, config)
    return policy


def _load_sharded(
    config: ModelConfig, tokenizer: Any, to_train: bool, world: World, shard_ranks: int | None, device: torch.device
) -> Policy:
    source: list[Any] = []  # the full model, on rank 0 and there on the CPU

    def read() -> tuple[Any, Any, str]:
        model = _pretrained(config, tokenizer)
        source.append(model)
        on_cpu = _policy(model, config, tokenizer, torch.device("cpu"))
        check_head(on_cpu, config.id)
        structure = structure_against_packs(on_cpu) if to_train else ""
        own = model.config, model.generation_config
        lora.attach(model, config)
        return *own, structure

    architecture, generation_config, structure = world.first(read)
    model = _without_memory(architecture, _dtype(config))
    model.generation_config = generation_config
    policy = _policy(model, config, tokenizer, device)
    lora.attach(model, config)
    shard_policy(policy, make_mesh(device.type, world.size, shard_ranks))
    materialize(model, device, source[0].state_dict() if source else {})
    source.clear()
    if to_train:
        prove_packable(policy, structure, world)
    return policy


def outline(config: ModelConfig, tokenizer: Any, device: torch.device) -> Policy:
    """A policy whose weights have shapes only, for what can be reckoned from those; of the model, its configuration alone is read.

    Args:
        tokenizer: None where no text is looked at.

    Raises:
        InputError: the model is not there.
    """
    from transformers import AutoConfig

    console.quiet_libraries()
    try:
        model = _without_memory(AutoConfig.from_pretrained(resolve(config.id, weights=False), trust_remote_code=False), _dtype(config))
    except InputError:
        raise
    except Exception as error:
        raise _cannot_load("model", config.id, error) from None
    lora.attach(model, config)
    stops = Stops.of(tokenizer) if tokenizer is not None else Stops(-1)
    return Policy(model, tokenizer, stops, device, config.precision, packs=True)


def _dtype(config: ModelConfig) -> torch.dtype:
    halved = config.precision == "bf16-sr" or (config.lora != "none" and config.precision != "fp32")
    return torch.bfloat16 if halved else torch.float32


def _policy(model: Any, config: ModelConfig, tokenizer: Any, device: torch.device) -> Policy:
    """A model with memory on its device, one without where it is, as a policy."""
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.to(device)
    return Policy(model, tokenizer, Stops.of(tokenizer), device, config.precision)


def _pretrained(config: ModelConfig, tokenizer: Any) -> Any:
    """The model as it was published, on the CPU. Raises InputError if a weight is missing, or the tokenizer is of another model."""
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            resolve(config.id), dtype=_dtype(config), output_loading_info=True,
            use_safetensors=True, trust_remote_code=False,
        )  # fmt: skip
    except Exception as error:
        raise _cannot_load("model", config.id, error) from None
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:  # transformers would go on with random ones
        raise InputError(f"{config.id}: {len(lost)} weights are missing or of another shape, {lost[0]} among them")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(f"{config.id}: the tokenizer has {len(tokenizer)} tokens, the model's embedding only {rows}")
    return model


def _without_memory(architecture: Any, dtype: torch.dtype) -> Any:
    """A model whose parameters have a shape only; its buffers, which are computed and not loaded, are there."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(architecture, dtype=dtype)
    model.tie_weights()  # what has no memory was not recognised as the same
    return model


def resolve(model_id: str, weights: bool = True) -> str:
    """A local directory as it is, the embedded default as its cached conversion, anything else as a hub name.

    ``name@revision`` is the local copy of that revision, fetched if need be, without its weights unless `weights`.
    """
    if model_id == EMBEDDED:
        return str(embedded_model())
    if model_id.startswith((".", "/", "~")) or Path(model_id).exists():
        path = Path(model_id).expanduser()
        if not (path / "config.json").is_file():
            raise InputError(f"{model_id}: no model there (a Hugging Face model directory holds config.json)")
        return str(path)
    name, at, revision = model_id.partition("@")
    if not at:
        return model_id
    from huggingface_hub import snapshot_download

    kinds = ["*.json", "*.txt", "*.model", "*.jinja", *(["*.safetensors"] if weights else [])]  # no pickle, and no code
    try:
        return snapshot_download(name, revision=revision, allow_patterns=kinds)
    except Exception as error:  # huggingface_hub raises many kinds
        raise _cannot_load("model", model_id, error) from None


def check_positions(policy: Policy, longest: int, what: str) -> None:
    """Raises InputError if sequences of `longest` tokens are more than the model has positions for."""
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(f"{what} is {longest} tokens, but the model has positions for {limit}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU, torch says so with a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def size_in_bytes(model: Any, trained: bool = False) -> int:
    """Bytes of all distinct parameters, or of those alone that are trained. Those of a sharded model count in full."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad or not trained)


def _cannot_load(what: str, model_id: str, error: Exception) -> InputError:
    return InputError(
        f"{model_id}: the {what} cannot be loaded; it is neither a model directory here nor on the Hugging Face hub in reach:"
        f" {first_line(error)}"
    )
