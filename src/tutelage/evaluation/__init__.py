"""Let a model solve problems, grade what it says, and log every generation; while it trains, too."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.evaluation import evaluate
    from tutelage.evaluation.certificate import MAX_GAP_FLOAT32, MEAN_GAP_BFLOAT16, Certificate, trainer_scores
    from tutelage.evaluation.draft import forget_drafts
    from tutelage.evaluation.engine import Completion, EngineError, Sampling, native, vllm
    from tutelage.evaluation.engines import PORTION, Engine, Handover, engine_for, init_vllm, load_policy_into_vllm_instance
    from tutelage.evaluation.evaluate import (
        add_entropies,
        entropy_kind,
        grade_examples,
        log_generations,
        log_generations_vllm,
        prompt_ids,
        sampling_of,
        solve,
        summarize,
    )
    from tutelage.evaluation.live import Evaluator

__getattr__, __dir__, __all__ = lazily(__name__)
