"""What generates: one contract, and the engines that keep it."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.evaluation.engine import native, vllm
    from tutelage.evaluation.engine.contract import Completion, Sampling
    from tutelage.evaluation.engine.process import EngineError, Remote
    from tutelage.evaluation.engine.snapshot import Snapshot, take

__getattr__, __dir__, __all__ = lazily(__name__)
