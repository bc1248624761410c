"""Engines by name: the table of those that are shipped, and plug-ins (`module:Class`), for `eval.backend`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tutelage.config import is_plug_in, load_plug_in
from tutelage.errors import InputError
from tutelage.evaluation.engine import fake, vllm

AUTO = "vllm"
"""The engine that `eval.backend = "auto"` takes where it runs."""


def nothing(device: str) -> tuple[str, str]:
    """An engine that does not say what it needs runs anywhere."""
    return "", ""


@dataclass(frozen=True)
class Entry:
    """How an engine is made, and what is known of it before.

    Attributes:
        title: what messages call it.
        factory: ``module:Class``, made in the engine's process.
        missing: what keeps it from running on a kind of device ("cpu", "cuda"), and the remedy; two empty strings if nothing does.
        sleeps: whether it has `sleep` and `wake_up`.
        takes_params: whether it has `answer`, which takes vLLM's own SamplingParams.
        in_place: whether the model that has the weights answers by itself, in its own process: an evaluation then starts no engine.
    """

    title: str
    factory: str
    missing: Callable[[str], tuple[str, str]] = nothing
    sleeps: bool = True
    takes_params: bool = False
    in_place: bool = False


ENGINES = {
    "vllm": Entry("vLLM", "tutelage.evaluation.engine.vllm:VllmEngine", vllm.missing, takes_params=True),
    "native": Entry("the model itself", "tutelage.evaluation.engine.native:NativeEngine", in_place=True),
    "fake": Entry("the fake engine", "tutelage.evaluation.engine.fake:FakeEngine", fake.missing),
}


def entry_of(backend: str) -> Entry:
    """The entry of an engine that `eval.backend` names, or of the one that "auto" takes.

    Raises:
        InputError: there is no engine of that name, or the plug-in cannot be imported or lacks a method.
    """
    name = AUTO if backend == "auto" else backend
    if name in ENGINES:
        return ENGINES[name]
    if not is_plug_in(name):
        known = ", ".join(f'"{each}"' for each in ("auto", *ENGINES))
        raise InputError(f'eval.backend = "{name}": there is no such engine; choose {known}, or "module:Class" of your own')
    made = load_plug_in("eval.backend", name)
    lacks = [method for method in ("load", "generate", "score") if not callable(getattr(made, method, None))]
    if lacks:
        raise InputError(f'eval.backend = "{name}": it has no {", ".join(lacks)} (docs/evaluation.md, "An engine of your own")')
    sleeps = all(callable(getattr(made, method, None)) for method in ("sleep", "wake_up"))
    takes_params = callable(getattr(made, "answer", None))
    return Entry(name.partition(":")[2], name, getattr(made, "missing", nothing), sleeps, takes_params)


def reason(backend: str, device: str) -> str:
    """What keeps the engine of `eval.backend` from running on a kind of device ("cpu", "cuda"); "" if nothing does."""
    return entry_of(backend).missing(device)[0]


def require(backend: str, device: str) -> None:
    """Raises InputError, with the remedy, where `eval.backend` names an engine that cannot run on a kind of device, or none."""
    reason, remedy = entry_of(backend).missing(device)
    if reason and backend != "auto":
        raise InputError(f'{reason}: {remedy}; or evaluate with the training model itself: eval.backend = "native"')
