"""Load a Hugging Face model and its tokenizer; where and in what precision it computes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.config import Config, ModelConfig
from tutelage.data import Stops, end_token
from tutelage.errors import InputError
from tutelage.machines import ALONE, World, make_mesh, materialize, rank_device, send_weights
from tutelage.model import lora, quantized
from tutelage.model.directory import at_hand, cannot_load, is_directory, require_tokenizer, resolve
from tutelage.model.mapped import Files, files_of_weights, give_views, left_out_of, read_rows
from tutelage.model.policy import Policy, shard_policy
from tutelage.model.probe import check_head, in_float32_by_layer, prove_packable, structure_against_packs
from tutelage.model.weights import is_finite, not_a_number, weight_names


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
    if device.type != "cpu":
        return True
    # the operator is not there in a torch that was built without oneDNN, as for Apple's processors
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def for_device(config: ModelConfig, device: torch.device) -> ModelConfig:
    """The configuration as it can be on a device, where that is said: float32 in place of bfloat16 that a CPU does not have."""
    if config.precision == "fp32" or has_bfloat16(device):
        return config
    if config.precision == "bf16-sr":
        console.say("this CPU has no bfloat16 arithmetic, so model.precision = bf16-sr will be very slow here", style="yellow")
        return config
    console.say("this CPU has no bfloat16 arithmetic, so everything computes in float32: slower, and more precise")
    return config.model_copy(update={"precision": "fp32"})


def load_tokenizer(model_id: str) -> Any:
    """The tokenizer of a model, as it was published; a run's is `tokenizer_of`. Raises InputError if it cannot be had."""
    from transformers import AutoTokenizer

    console.quiet_libraries()
    path = resolve(model_id, weights=False)
    if is_directory(path):
        require_tokenizer(Path(path), model_id)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, mistral_format=False)  # whatever else is installed
    except Exception as error:  # transformers raises OSError, ValueError, KeyError … for a bad or missing tokenizer
        raise cannot_load("tokenizer", model_id, error) from None


def tokenizer_of(config: Config) -> Any:
    """The tokenizer of a configuration's model. Its end token is the one that ends a response: all else follows from it.

    Raises:
        InputError: it cannot be had, has more tokens than the model's embedding rows, or there is no such end token.
    """
    tokenizer = load_tokenizer(config.model.id)
    _rows(config.model, tokenizer, embedding_rows(config.model.id))  # before any row is read
    tokenizer.eos_token = end_token(tokenizer, config.data.prompt == "chat", config.model.end_token)
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
    model, left_out = _pretrained(config, tokenizer)
    quantized.quantize(model, config, device)
    policy = _policy(model, config, tokenizer, device, left_out)
    check_head(policy, config.id)
    if to_train:
        prove_packable(policy, None, world)
    lora.attach(policy.model, config)
    return policy


def _load_sharded(
    config: ModelConfig, tokenizer: Any, to_train: bool, world: World, shard_ranks: int | None, device: torch.device
) -> Policy:
    source: list[Any] = []  # the full model, on rank 0 and there on the CPU, or views of its files

    def read() -> tuple[Any, Any, str, str, Files | None]:
        model, left_out, files = _mapped(config, tokenizer) or (*_pretrained(config, tokenizer), None)
        source.append(model)
        on_cpu = _policy(model, config, tokenizer, torch.device("cpu"))
        with in_float32_by_layer(model):
            check_head(on_cpu, config.id)
        structure = structure_against_packs(on_cpu) if to_train else ""
        own = model.config, model.generation_config
        lora.attach(model, config)
        return *own, structure, left_out, files

    architecture, generation_config, structure, left_out, files = world.first(read)
    if files is not None and world.any(not all(file.is_file() for file in files.values())):
        files = None  # another machine has no such files
    model = _without_memory(architecture, _dtype(config))
    model.generation_config = generation_config
    policy = _policy(model, config, tokenizer, device, left_out)
    lora.attach(model, config)
    shard_policy(policy, make_mesh(device.type, world.size, shard_ranks))
    weights = {name: weight.to(_dtype(config)) for name, weight in source[0].state_dict().items()} if source and not files else {}
    materialize(
        model, device, functools.partial(read_rows, files=files) if files else functools.partial(send_weights, weights=weights)
    )
    source.clear()
    if to_train:
        prove_packable(policy, structure, world)
    return policy


def _mapped(config: ModelConfig, tokenizer: Any) -> tuple[Any, str, Files] | None:
    """The model as it was published, as views of its files; what it left out; and the files. None where it has to be read in full."""
    from transformers import AutoConfig, GenerationConfig

    path = resolve(config.id)
    folder = at_hand(path)
    if folder is None or config.lora != "none":
        return None
    try:
        architecture = AutoConfig.from_pretrained(path, trust_remote_code=False)
        model = _without_memory(architecture, _dtype(config))
        files = files_of_weights(model, folder)
        if files is None or len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            return None
        give_views(model, files)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
    except Exception as error:
        raise cannot_load("model", config.id, error) from None
    model.config.dtype = _dtype(config)  # the files may have another
    _check_finite(model, path, config.id)
    left_out = left_out_of(model, weight_names(folder) - set(model.state_dict()), path)
    if left_out:
        _say_once(f"{config.id}: {left_out}")
    return model, left_out, files


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
        architecture = AutoConfig.from_pretrained(resolve(config.id, weights=False), trust_remote_code=False)
        text = architecture.get_text_config()
        if tokenizer is not None or config.resize:
            text.vocab_size = _rows(config, tokenizer or load_tokenizer(config.id), text.vocab_size)
        model = _without_memory(architecture, _dtype(config))
    except InputError:
        raise
    except Exception as error:
        raise cannot_load("model", config.id, error) from None
    quantized.quantize(model, config, torch.device("meta"))
    lora.attach(model, config)
    stops = Stops.of(tokenizer) if tokenizer is not None else Stops(-1)
    return Policy(model, tokenizer, stops, device, config.precision, packs=True)


def _dtype(config: ModelConfig) -> torch.dtype:
    halved = config.precision == "bf16-sr" or (config.lora != "none" and config.precision != "fp32")
    return torch.bfloat16 if halved else torch.float32


def _policy(model: Any, config: ModelConfig, tokenizer: Any, device: torch.device, left_out: str = "") -> Policy:
    """A model with memory on its device, one without where it is, as a policy."""
    if not any(parameter.is_meta for parameter in model.parameters()):
        model.to(device)
    return Policy(model, tokenizer, Stops.of(tokenizer), device, config.precision, left_out=left_out)


def _pretrained(config: ModelConfig, tokenizer: Any) -> tuple[Any, str]:
    """The model as it was published, on the CPU, with as many rows in its embedding as `model.resize` wants; and what it left out.

    Raises:
        InputError: a weight is missing, or the tokenizer is of another model.
    """
    from transformers import AutoModelForCausalLM

    path = resolve(config.id)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=_dtype(config), output_loading_info=True, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:
        raise cannot_load("model", config.id, error) from None
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:  # transformers would go on with random ones
        raise InputError(f"{config.id}: {len(lost)} weights are missing or of another shape, {lost[0]} among them")
    _check_finite(model, path, config.id)
    old = model.get_input_embeddings().weight.shape[0]
    rows = _rows(config, tokenizer, old)
    if rows > old:
        _add_rows(model, rows)
        untrained = "; model.lora does not train them" if config.lora != "none" else ""
        _say_once(f"{config.id}: the embedding gets {rows - old} rows more, each the mean of the {old} that it has{untrained}")
    left_out = left_out_of(model, report["unexpected_keys"], path)
    if left_out:
        _say_once(f"{config.id}: {left_out}")
    return model, left_out


def _check_finite(model: Any, path: str, model_id: str) -> None:
    """Raises InputError: a weight is not a number. Only then the files are looked through for its name."""
    broken = next(
        (name for name, weight in model.named_parameters() if weight.is_floating_point() and not is_finite(weight)), None
    )
    if broken is None:
        return
    folder = at_hand(path)
    found = (not_a_number(folder) if folder else "") or f"NaN weights: {broken} holds numbers that are not finite"
    raise InputError(f"{model_id}: {found}; fetch the model again, or take an earlier one")


@functools.cache
def _say_once(sentence: str) -> None:
    """Print what every loading of the same model would say again."""
    console.say(sentence, style="yellow")


def _rows(config: ModelConfig, tokenizer: Any, rows: int) -> int:
    """How many rows the embedding is to have, which has `rows`. Raises InputError where they are too few, and are not to be more."""
    if len(tokenizer) > rows and not config.resize:
        raise InputError(
            f"{config.id}: the tokenizer has {len(tokenizer)} tokens, the model's embedding only {rows} rows: set model.resize = true,"
            " which adds the rows that are missing, or give the model the tokenizer that it was published with"
        )
    return max(len(tokenizer), rows)


@torch.no_grad()
def _add_rows(model: Any, rows: int) -> None:
    """Give the embedding and the head so many rows; each new one is the mean of the old ones, so that it stands out nowhere."""
    old = model.get_input_embeddings().weight.shape[0]
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(rows, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for tensor in layer.parameters(recurse=False):
            tensor[old:] = tensor[:old].float().mean(dim=0).to(tensor.dtype)


def _without_memory(architecture: Any, dtype: torch.dtype) -> Any:
    """A model whose parameters have a shape only; its buffers, which are computed and not loaded, are there."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(architecture, dtype=dtype)
    model.tie_weights()  # what has no memory was not recognised as the same
    return model


def check_positions(policy: Policy, longest: int, what: str) -> None:
    """Raises InputError if sequences of `longest` tokens are more than the model has positions for."""
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(f"{what} is {longest} tokens, but the model has positions for {limit}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU, torch says so with a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def size_in_bytes(model: Any, trained: bool = False) -> int:
    """Bytes of all distinct parameters as they are saved, or of those alone that are trained. Those of a sharded model count in full."""
    weights = [weight for weight in model.parameters() if weight.requires_grad or not trained]
    dense = {
        id(module.weight): module.dtype.itemsize for module in model.modules() if isinstance(module, quantized.QuantizedLinear)
    }
    return sum(quantized.count_of(weight) * dense.get(id(weight), weight.element_size()) for weight in weights)


def embedding_rows(model_id: str) -> int:
    """How many rows the embedding of a model has as it was published, by its configuration. Raises InputError if it is not there."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(resolve(model_id, weights=False), trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:
        raise cannot_load("model", model_id, error) from None
    return int(config.get_text_config().vocab_size)
