"""What a CUDA graph does, on a CPU: the operations of a step are recorded once, and computed again on the same memory."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Tape(TorchDispatchMode):
    """Records operations with their very arguments: a number that the host computed stays what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, result in self.calls:
                if any(argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments):
                    func(*args, **kwargs)
                    continue
                outputs = [each for each in torch.utils._pytree.tree_leaves(result) if isinstance(each, torch.Tensor)]
                inputs = [each for each in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
                memory = {each.untyped_storage().data_ptr() for each in inputs}
                if all(each.untyped_storage().data_ptr() in memory for each in outputs):  # a view has what it shows
                    continue
                again = torch.utils._pytree.tree_leaves(func(*args, **kwargs))
                for held, new in zip(outputs, (each for each in again if isinstance(each, torch.Tensor)), strict=True):
                    held.copy_(new)


class Tapes:
    """In place of `Captures`: the first call of a step computes, the second records, and from then on the tape is played.

    Attributes:
        made: a tape for each step that was called twice.
    """

    def __init__(self) -> None:
        self.made: list[Tape] = []
        self.warmed = self.played = 0

    def __call__(self, step: Any) -> Any:
        tape: Tape | None = None
        calls = 0

        def taped() -> None:
            nonlocal tape, calls
            calls += 1
            if calls == 1:
                self.warmed += 1
                step()
            elif tape is None:
                tape = Tape()
                with tape:
                    step()
                self.made.append(tape)
            else:
                self.played += 1
                tape.replay()

        return taped
