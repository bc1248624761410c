"""Which directory a model's name means, and what it holds: kinds that are not loaded are named before anything is read."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

from tutelage.errors import InputError, first_line
from tutelage.machines import SEAL, fault_of
from tutelage.model import sizes
from tutelage.model.embedded import EMBEDDED, embedded_model
from tutelage.model.weights import INDEX, WEIGHTS, UnreadableError, beside_the_model, is_pointer, read_object, why_not

TOKENIZERS = (".model", ".spm", ".tiktoken", ".bpe", ".codes")
"""How files of older tokenizers end."""


def resolve(model_id: str, weights: bool = True, by_engine: bool = False) -> str:
    """A local directory as it is, the embedded default as its cached conversion, anything else as a hub name.

    ``name@revision`` is the local copy of that revision, fetched if need be, without its weights unless `weights`.

    Args:
        weights: whether its weights are wanted.
        by_engine: whether an engine reads them, which may take every file of safetensors that is there.

    Raises:
        InputError: it cannot be had, or is of a kind that is not loaded (`require_loadable`).
    """
    if model_id == EMBEDDED:
        return str(embedded_model())
    if not model_id.strip() or "\0" in model_id:
        raise InputError(f"model.id is {model_id!r}: name a model directory, or a model on the Hugging Face hub")
    if model_id.startswith((".", "/", "~")) or _exists(model_id):
        path = Path(model_id).expanduser()
        if not is_directory(path):
            raise InputError(f"{model_id}: no model there ({'a file' if _exists(str(path)) else 'nothing'}, not a directory)")
        require_undamaged(path)
        require_loadable(path, model_id, weights)
        if by_engine and (reason := beside_the_model(path)):
            raise InputError(f"{model_id}: {reason}")
        return str(path)
    name, at, revision = model_id.partition("@")
    if not at:
        if weights:
            _fetch_small(model_id)
        cached = at_hand(model_id)
        if cached is not None:
            require_loadable(cached, model_id, weights, complete=False)
        return model_id
    from huggingface_hub import snapshot_download

    kinds = ["*.json", "*.txt", "*.model", "*.jinja", *(["*.safetensors"] if weights else [])]  # no pickle, and no code
    try:
        fetched = snapshot_download(name, revision=revision, allow_patterns=kinds)
    except Exception as error:  # huggingface_hub raises many kinds
        raise cannot_load("model", model_id, error) from None
    require_loadable(Path(fetched), model_id, weights)
    return fetched


def _exists(name: str) -> bool:
    return os.path.exists(name)  # noqa: PTH110  Path's raises for a name that is too long


def is_directory(path: str | Path) -> bool:
    """Whether there is such a directory; there is none of a name that is too long, of which `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def _fetch_small(name: str) -> None:
    """Have what says how a model of the hub is read in the cache, before its weights are fetched; offline, what is there stays."""
    from transformers.utils import cached_file

    for file in ("config.json", INDEX):
        with contextlib.suppress(Exception):  # huggingface_hub raises many kinds, and loading has words for them
            cached_file(name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)


def at_hand(model_id: str) -> Path | None:
    """The directory of a model: the given one, or what the hub's cache holds of a name; None: nothing."""
    path = Path(model_id).expanduser()
    if is_directory(path):
        return path
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("config.json", "adapter_config.json"):
        try:
            found = try_to_load_from_cache(model_id, file)
        except HFValidationError:  # neither a path nor a name
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def require_loadable(folder: Path, model_id: str, weights: bool, complete: bool = True) -> None:
    """Refuse, in words, a directory of a kind that is not loaded. Only small files, and the heads of large ones, are read.

    Args:
        weights: whether its weights are to be loaded.
        complete: whether `folder` holds all that there is, as a part of the hub's cache may not.

    Raises:
        InputError: it is no causal language model in safetensors; the message says what it is, and what to do.
    """
    try:
        reason = _adapter(folder) or ("" if (folder / "config.json").is_file() else _no_config(folder))
        if not reason:
            config = read_object(folder / "config.json")
            reason = _quantized(folder, config) or sizes.fault(config) or _custom(config) or _encoder(config)
            reason = reason or why_not(folder, config, weights, complete)
            if weights and complete:
                reason = reason or sizes.beyond_weights(config, folder)
    except UnreadableError as error:
        reason = str(error)
    if reason:
        raise InputError(f"{model_id}: the model cannot be loaded: {reason}")


def require_undamaged(folder: Path) -> None:
    """Refuse a model that a run saved and whose files are no longer as they were saved; they are read once in a process.

    A directory without checksums, such as a model from elsewhere, is not looked at.

    Raises:
        InputError: a file is damaged; the message names it.
    """
    seal = folder / SEAL
    fault = _fault_since(folder, seal.stat().st_mtime_ns) if seal.is_file() else ""
    if fault:
        raise InputError(
            f"{folder}: the model is damaged: {fault}. If you changed it on purpose, remove {seal}; else take it from a copy, or"
            " export it again"
        )


@functools.cache
def _fault_since(folder: Path, written: int) -> str:
    """`fault_of` a folder that was sealed at a time."""
    return fault_of(folder)


def require_tokenizer(folder: Path, model_id: str) -> None:
    """Refuse, in words, a model directory without a tokenizer. Raises InputError."""
    names = {file.name for file in folder.iterdir()}
    if not any(name.startswith(("tokenizer", "vocab", "merges", "tekken")) or name.endswith(TOKENIZERS) for name in names):
        raise InputError(
            f"{model_id}: the tokenizer cannot be loaded: the directory holds none (tokenizer.json); copy it there from the base model,"
            " AutoTokenizer.from_pretrained(BASE).save_pretrained(DIRECTORY)"
        )
    hollow = [name for name in ("tokenizer.json", "tokenizer.model") if name in names and is_pointer(folder / name)]
    if hollow:
        raise InputError(f"{model_id}: the tokenizer cannot be loaded: {hollow[0]} is a pointer of Git LFS; run `git lfs pull` there")


def cannot_load(what: str, model_id: str, error: Exception) -> InputError:
    """What loading a directory, or a name that the hub may know, came to. Of a name, what is in the cache may say more."""
    folder = at_hand(model_id)
    if folder is not None and not is_directory(Path(model_id).expanduser()):
        try:
            require_loadable(folder, model_id, weights=what == "model")
        except InputError as reason:
            return InputError(f"{reason} ({first_line(error)})")
    where = "" if folder is not None else " it is neither a model directory here nor on the Hugging Face hub in reach:"
    return InputError(f"{model_id}: the {what} cannot be loaded:{where} {first_line(error)}")


def _adapter(folder: Path) -> str:
    """Whether the directory holds an adapter, which transformers would put into a model of its own choice."""
    if not (folder / "adapter_config.json").is_file():
        return ""
    base = read_object(folder / "adapter_config.json").get("base_model_name_or_path") or "a base model"
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return (
            f"the directory holds an adapter of {base} (adapter_config.json) beside weights of a model; if it is merged into them"
            " already, move adapter_config.json elsewhere"
        )
    return (
        f"the directory holds an adapter of {base} (adapter_config.json), not a model; merge it first:"
        f' `from peft import AutoPeftModelForCausalLM as Auto; Auto.from_pretrained("{folder}").merge_and_unload()'
        '.save_pretrained("MERGED")`, save the tokenizer of the base model there, too, and set model.id = "MERGED"'
    )


def _no_config(folder: Path) -> str:
    """What a directory without config.json is."""
    if (folder / "config.toml").is_file():
        saved = folder / "model"
        return f'it is a run directory; set model.id = "{saved}"' if saved.is_dir() else "it is a run directory without a saved model"
    gguf = sorted(file.name for file in folder.glob("*.gguf"))
    if gguf:
        return (
            f"the directory holds GGUF alone ({gguf[0]}), weights that were rounded for running, not for training; set model.id to the"
            " original in safetensors that it was made from"
        )
    return "no model there (a Hugging Face model directory holds config.json)"


def _quantized(folder: Path, config: dict[str, Any]) -> str:
    text = config.get("text_config")
    found = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    old = folder / "quantize_config.json"  # of GPTQ, before config.json told
    if not found and not old.is_file():
        return ""
    method = (found.get("quant_method") if isinstance(found, dict) else None) or ("gptq" if not found else "of an unnamed method")
    return f"its weights are quantized ({method}), and cannot be trained; set model.id to the unquantized original"


def _custom(config: dict[str, Any]) -> str:
    """Whether only code of the repository's own knows the model. Where transformers knows it too, that code is not needed."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    code = config.get("auto_map")
    architectures = config.get("architectures") or []
    known = config.get("model_type") in CONFIG_MAPPING_NAMES and all(hasattr(transformers, name) for name in architectures)
    if not code or known:
        return ""
    return (
        f"it needs code of its own repository (auto_map in config.json, model_type {config.get('model_type')!r}), which is"
        " trust_remote_code and is never run; set model.id to a model that transformers itself has"
    )


def _encoder(config: dict[str, Any]) -> str:
    """Whether the model does not continue text: no causal language model, or an encoder that could only be made to look like one."""
    from transformers.models.auto import modeling_auto as auto

    kind, architectures = config.get("model_type"), list(config.get("architectures") or [])
    causal, masked = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if kind is None or kind not in auto.CONFIG_MAPPING_NAMES:
        return ""  # transformers has its own words for that
    decodes = config.get("is_decoder") or any("CausalLM" in name or "LMHead" in name for name in architectures)
    if kind in causal and not config.get("is_encoder_decoder") and (kind not in masked or decodes):
        return ""
    sort = "an encoder and a decoder" if config.get("is_encoder_decoder") else "an encoder" if kind in masked else "no text decoder"
    named = f"{architectures[0]}, " if architectures else ""
    return (
        f"config.json describes {sort} ({named}model_type {kind}), not a causal language model, which continues a text;"
        " set model.id to one (…ForCausalLM)"
    )
