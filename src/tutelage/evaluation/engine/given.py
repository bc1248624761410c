"""A `vllm.LLM` that somebody made in this process, as an engine: with the face of one in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tutelage.evaluation.engine.handle import EngineHandle, EngineSetting
from tutelage.evaluation.engine.process import EngineError
from tutelage.evaluation.engine.snapshot import Snapshot
from tutelage.evaluation.engine.vllm import VllmEngine

HANDLE = "_tutelage_handle"
"""The attribute of an LLM that holds its handle, which knows the weights that were loaded last. Both end together."""


def is_llm(given: Any) -> bool:
    """Whether this is a `vllm.LLM`, by what is asked of one: vLLM is not imported to find out."""
    return all(hasattr(given, name) for name in ("llm_engine", "generate", "collective_rpc", "reset_prefix_cache"))


def handle_of(llm: Any) -> EngineHandle:
    """The handle of a `vllm.LLM`, the same one each time."""
    held: EngineHandle | None = getattr(llm, HANDLE, None)
    if held is None:
        model = llm.llm_engine.model_config
        dtype = str(model.dtype).removeprefix("torch.")
        setting = EngineSetting(model.model, torch.device("cpu"), dtype=dtype, backend="vllm", max_model_len=model.max_model_len)
        held = EngineHandle(setting, Given(GivenEngine(llm)))
        setattr(llm, HANDLE, held)
    return held


class GivenEngine(VllmEngine):
    """An LLM that this tool has not made: its engine may be in a process of its own."""

    def __init__(self, llm: Any) -> None:
        self.take(llm)

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        executor = getattr(self.llm.llm_engine, "model_executor", None)
        if hasattr(executor, "driver_worker"):  # the one worker is an object of this process
            super().load(weights)
        else:
            self._load_from_disk(weights)

    def _load_from_disk(self, weights: dict[str, torch.Tensor]) -> None:
        """vLLM sends neither tensors nor functions to another process unless it is told to: its workers read a file."""
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory(prefix="tutelage-weights-") as directory:
            save_file(weights, Path(directory) / "model.safetensors")
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": directory})
        self.forget()


class Given:
    """The face of `process.Remote`. The engine is somebody else's: it is neither started nor ended here."""

    running, closed = True, False

    def __init__(self, engine: GivenEngine) -> None:
        self.engine = engine

    def call(
        self,
        method: str,
        *arguments: Any,
        on_progress: Callable[[int], None] | None = None,
        snapshot: Snapshot | None = None,
        **options: Any,
    ) -> Any:
        weights = () if snapshot is None else (snapshot.tensors(),)
        reports = {} if on_progress is None else {"on_finished": on_progress}
        return getattr(self.engine, method)(*weights, *arguments, **options, **reports)

    def start(self, variables: Any = None) -> None:
        raise EngineError("a vllm.LLM of your own is started by making it")

    def end(self) -> None:
        """It goes on: whoever made it ends it."""

    close = end
