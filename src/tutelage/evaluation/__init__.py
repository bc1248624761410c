"""Let a model solve problems, grade what it says, and log every generation; while it trains, too."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.evaluation.certificate import MAX_GAP_FLOAT32
    from tutelage.evaluation.draft import forget_drafts
    from tutelage.evaluation.engine import (
        Completion,
        EngineError,
        EngineHandle,
        Sampling,
        engine_setting,
        hand_over,
        init_vllm,
        load_policy_into_vllm_instance,
        native,
        registry,
    )
    from tutelage.evaluation.generations import log_generations, log_generations_vllm
    from tutelage.evaluation.grade import REWARD_FUNCTIONS, summarize
    from tutelage.evaluation.live import evaluator_for
    from tutelage.evaluation.parts import evaluate_parts, parts_of
    from tutelage.evaluation.sample import Form, Wanted, problems_to_sample, sample_problems
    from tutelage.evaluation.solve import Job, prompt_ids, sampling_of
    from tutelage.evaluation.spread import settled, solve_here, with_absolute_paths
    from tutelage.evaluation.validation import Evaluator

__getattr__, __dir__, __all__ = lazily(__name__)
