"""A GGUF file of an exported model, by the converter of llama.cpp, which no wheel carries."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tutelage.errors import InputError, RunError

TYPES = ("f32", "f16", "bf16", "q8_0")
"""What the converter can write by itself; fewer bits are made of its file by llama-quantize."""
SCRIPT = "convert_hf_to_gguf.py"
ON_PATH = (SCRIPT, "llama-convert-hf-to-gguf")
MAGIC = b"GGUF"


def converter(given: Path | None) -> list[str]:
    """The command that converts: the one that is given, else the one on PATH.

    Args:
        given: the script, a program, or a copy of llama.cpp.

    Raises:
        InputError: there is none.
    """
    path = given / SCRIPT if given is not None and given.is_dir() else given
    if path is None:
        found = next((found for name in ON_PATH if (found := shutil.which(name))), None)
        if found is None:
            raise InputError(
                f"--gguf needs the converter of llama.cpp, and no {' or '.join(ON_PATH)} is on PATH: git clone --depth 1"
                f" https://github.com/ggml-org/llama.cpp, then add --gguf-converter llama.cpp/{SCRIPT}"
            )
        path = Path(found)
    if not path.is_file():
        raise InputError(f"--gguf-converter {given}: there is no {path}; name {SCRIPT} of llama.cpp, or the folder that holds it")
    return [sys.executable, str(path)] if path.suffix == ".py" else [str(path)]


def convert(command: list[str], model: Path, kind: str, name: str) -> Path:
    """Write a GGUF file into a model directory; its path.

    Args:
        command: as `converter` gives it.
        kind: of `TYPES`.
        name: of the file, before its kind.

    Raises:
        RunError: the converter fails, which it says why; nothing half-written is left.
    """
    from tutelage import console

    target = model / f"{name}-{kind}.gguf"
    beside = target.with_name(f".{target.name}.tmp")
    try:
        with console.progress(f"writing {target.name}"):
            done = subprocess.run(
                [*command, str(model), "--outfile", str(beside), "--outtype", kind], capture_output=True, text=True
            )
        written = beside.open("rb").read(len(MAGIC)) == MAGIC if beside.is_file() else False
        if done.returncode or not written:
            said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            reason = said[-1].strip() if said else f"exit code {done.returncode}"
            raise RunError(f"{model} was exported, but not converted: {Path(command[-1]).name}: {reason}")
        beside.rename(target)
    except OSError as error:
        raise RunError(f"{model} was exported, but not converted: {Path(command[-1]).name}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return target
