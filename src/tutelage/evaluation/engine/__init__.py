"""What generates: one contract, a table of the engines that keep it, and the processes they run in."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.evaluation.engine import native, registry
    from tutelage.evaluation.engine.contract import Completion, Sampling
    from tutelage.evaluation.engine.handle import (
        EngineHandle,
        Handover,
        engine_setting,
        hand_over,
    )
    from tutelage.evaluation.engine.instance import init_vllm, instance_of, load_policy_into_vllm_instance
    from tutelage.evaluation.engine.process import EngineError
    from tutelage.evaluation.engine.snapshot import Snapshot

__getattr__, __dir__, __all__ = lazily(__name__)
