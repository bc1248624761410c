"""The files of a model's weights: which ones they are, and why they are not read. What loads a directory asks here first.

The index is read first, as it says which files are opened. It may name files of safetensors beside it by their plain names, and nothing
else: transformers would read a pickle that it names, and follow a path out of the directory. A link in the directory is followed, for
the cache of the hub is made of such.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.errors import first_line, some_of

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
LFS = b"version https://git-lfs"
"""How the file begins that git leaves in the place of a large one which was not fetched."""
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How a pickle of torch's begins."""
SHOWN = 3
"""How many missing files a message names."""
LARGEST_JSON = 1 << 28
"""Bytes of a JSON file that is read at once, and of the header of a file of safetensors."""
AGAIN = "fetch the directory again (`hf download` goes on where it stopped)"


class UnreadableError(ValueError):
    """A file of JSON that cannot be read; the message names it and says why."""


def read_object(file: Path) -> dict[str, Any]:
    """A file that holds a JSON object. Raises UnreadableError."""
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise UnreadableError(f"{file.name} has {file.stat().st_size / 1e9:.1f} GB, and is read up to {LARGEST_JSON / 1e9:.1f} GB")
        read = json.loads(file.read_text(encoding="utf-8"))
    except UnreadableError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{file.name} cannot be read: {first_line(error)}") from None
    if not isinstance(read, dict):
        raise UnreadableError(f"{file.name} holds no JSON object, but {_a(read)}")
    return read


def why_not(folder: Path, config: dict[str, Any], weights: bool, complete: bool) -> str:
    """Why the weights of a directory are not loaded; "" if they are.

    Args:
        config: what config.json says.
        weights: whether they are to be loaded. A directory without any will do where they are not.
        complete: whether the directory holds all that there is, as a part of the hub's cache may not.
    """
    try:
        shards = _indexed(folder)
    except UnreadableError as error:
        return str(error)
    reason = _named_by(config, folder)
    if reason or not complete:
        return reason
    reason = _without_safetensors(folder, shards, weights) or _two_readings(folder, shards) or _unfinished(folder, shards, weights)
    if not reason and weights and shards is not None and not isinstance(read_object(folder / INDEX).get("metadata"), dict):
        return f'{INDEX} has no "metadata", which transformers wants there; write "metadata": {{}} into it'
    return reason


def _indexed(folder: Path) -> dict[str, str] | None:
    """The file of each tensor by the index; None where there is no index. Raises UnreadableError, also for what it must not name."""
    if not (folder / INDEX).is_file():
        return None
    read = read_object(folder / INDEX)
    shards = read.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UnreadableError(f'{INDEX} has no "weight_map", which says which file holds which tensor; {AGAIN}')
    for tensor, name in shards.items():
        if fault := _fault_of_name(name):
            raise UnreadableError(f"{INDEX}: weight_map[{quoted(tensor)}] is {quoted(name)}, {fault}")
    return shards


def _fault_of_name(name: Any) -> str:
    if not isinstance(name, str):
        return "not the name of a file"
    if "/" in name or "\\" in name or "\0" in name or name.startswith("."):
        return "which is no plain name of a file in the directory, and nothing else is followed"
    if not name.endswith(".safetensors"):
        return "and only safetensors are read (a pickle can run code when it is read); name a file of safetensors there"
    return ""


def quoted(value: Any, most: int = 120) -> str:
    """A value as JSON, of so many characters at most."""
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _a(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), type(value).__name__)


def _named_by(config: dict[str, Any], folder: Path) -> str:
    """Whether config.json sends transformers, but no other reader, to a file of its own choice."""
    named = config.get("transformers_weights")
    if named is None or named == (WEIGHTS if (folder / WEIGHTS).is_file() else INDEX):
        return ""
    return f"config.json: transformers_weights is {quoted(named)}; only {WEIGHTS} and what {INDEX} names are read: take the key out"


def _without_safetensors(folder: Path, shards: dict[str, str] | None, weights: bool) -> str:
    """Weights of another format, or under other names. A directory without any weights will do where none are wanted."""
    if shards is not None or (folder / WEIGHTS).is_file():
        return ""
    named = sorted(file.name for file in folder.glob("*.safetensors") if file.is_file())
    if len(named) > 1:
        return (
            f"its weights are in {len(named)} files of safetensors ({some_of(named, SHOWN)}), and {INDEX}, which says which file"
            f" holds which tensor, is not there; {AGAIN}"
        )
    if named:
        return f"it holds no {WEIGHTS}, but {named[0]}; a model in one file has it under the name {WEIGHTS}"
    pickled = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(kind))
    pickled = [name for name in pickled if name not in ("training_args.bin", "optimizer.pt", "scheduler.pt")]
    if pickled:
        return (
            f"its weights are pickled ({pickled[0]}), which can run code when they are read, so they are not read here; convert them"
            " to safetensors on a machine where you trust the file: `from transformers import AutoModelForCausalLM as Auto;"
            f' Auto.from_pretrained("{folder}").save_pretrained("NEW", safe_serialization=True)`, copy the tokenizer\'s files to NEW,'
            ' and set model.id = "NEW"'
        )
    other = sorted(file.name for kind in ("*.gguf", "*.h5", "*.msgpack", "*.onnx") for file in folder.glob(kind))
    if other:
        return f"its weights are in {other[0]} alone, and only safetensors are read; set model.id to the original in safetensors"
    return "the directory holds no weights (model.safetensors)" if weights else ""


def _two_readings(folder: Path, shards: dict[str, str] | None) -> str:
    """Whether transformers, which takes the one file, and vLLM, which follows the index, would load different weights."""
    if shards is None or not (folder / WEIGHTS).is_file() or set(shards.values()) == {WEIGHTS}:
        return ""
    other = min(set(shards.values()) - {WEIGHTS})
    return (
        f"the directory holds both {WEIGHTS} and {INDEX}, which names other files ({other}): some programs read the one, and some the"
        " other; move the one that is not meant elsewhere"
    )


def beside_the_model(folder: Path) -> str:
    """Why an engine that reads every file of safetensors, as vLLM does where there is no index, would read more than the model."""
    named = sorted(file.name for file in folder.glob("*.safetensors") if file.name != WEIGHTS)
    if (folder / INDEX).is_file() or not named:
        return ""
    return f"beside {WEIGHTS} stands {named[0]}, which an engine would read as a part of the model: move it elsewhere"


def _unfinished(folder: Path, shards: dict[str, str] | None, weights: bool) -> str:
    """Files of weights that are not there, or not complete."""
    names = sorted(set(shards.values())) if shards is not None else [WEIGHTS]
    missing = [name for name in names if shards is not None and not (folder / name).is_file()]
    if missing and (weights or len(missing) < len(names)):  # all of them: perhaps nobody wants them
        return (
            f"an unfinished download: {len(missing)} of the {len(names)} files that {INDEX} names are not there"
            f" ({some_of(missing, SHOWN)}); {AGAIN}"
        )
    tensors: set[str] = set()
    for file in (folder / name for name in names):
        if file.is_file():
            header, fault = _header(file)
            if fault:
                return f"{file.name} {fault}"
            tensors |= set(header)
    lost = sorted(set(shards or ()) - tensors) if not missing else []
    if lost:
        return f"{INDEX}: weight_map names the tensor {quoted(lost[0])}, which is in none of its files; {AGAIN}"
    return ""


def is_pointer(file: Path) -> bool:
    """Whether git left a pointer in the place of a large file."""
    if not file.is_file():  # a pipe would be waited for
        return False
    with file.open("rb") as opened:
        return opened.read(len(LFS)) == LFS


def _header(file: Path) -> tuple[dict[str, Any], str]:
    """(what a file of safetensors says of its tensors, by name; what is wrong with it, or "")."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        begins = opened.read(max(8, len(LFS)))
        if begins == LFS:
            return {}, f"is a pointer of Git LFS, not the weights; run `git lfs pull` in {file.parent}"
        if begins.startswith(PICKLES):
            return {}, "is a pickle, whatever its name says, and only safetensors are read"
        length = int(struct.unpack("<Q", begins[:8].ljust(8, b"\0"))[0])
        if not 2 <= length <= LARGEST_JSON:
            return {}, "is no file of safetensors: it does not begin with the length of a header"
        opened.seek(8)
        text = opened.read(length)
    if 8 + length > size:
        return {}, f"ends too early, as an unfinished download does; {AGAIN}"
    try:
        header: dict[str, Any] = json.loads(text)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [int(entry["data_offsets"][1]) for entry in tensors.values()]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return {}, "is no file of safetensors: its header cannot be read"
    if 8 + length + max(ends, default=0) > size:
        return {}, f"ends too early, as an unfinished download does; {AGAIN}"
    return tensors, ""


def headers(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(file, what it says of its tensors by name) of each file of a model's weights that is there. Raises UnreadableError."""
    shards = _indexed(folder)
    for name in [WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(set((shards or {}).values())):
        if (folder / name).is_file():
            yield folder / name, _header(folder / name)[0]


def weight_names(folder: Path) -> set[str]:
    """The names of a checkpoint's tensors."""
    return {name for _, tensors in headers(folder) for name in tensors}


def not_a_number(folder: Path) -> str:
    """The first tensor of a model's weights that holds a NaN or an infinity, in words, with its file; "" if none does."""
    import torch
    from safetensors import safe_open

    for file, tensors in headers(folder):
        with safe_open(file, "pt") as opened:
            for name in sorted(tensors):
                tensor = opened.get_tensor(name)
                if tensor.is_floating_point() and not is_finite(tensor):
                    kind = "NaN" if torch.isnan(tensor.float()).any() else "infinity"
                    return f"{kind} weights: {quoted(name)} in {file.name} holds numbers that are not finite"
    return ""


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers of a tensor are finite, found in one pass without a copy."""
    if tensor.numel() == 0:
        return True
    least, most = tensor.detach().aminmax()  # of which one at least is NaN where a number is
    return bool(least.isfinite() and most.isfinite())
