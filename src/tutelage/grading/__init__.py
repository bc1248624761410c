"""Is this response right? Format first, then the answer, in layers from cheap to expensive; nothing is ever executed.

A grade is right, wrong or undecided (a limit was met). A filter counts undecided apart from wrong. Limits count work, so that a grade
does not depend on how busy the machine is. This folder knows nothing of training, and importing it costs little: what it offers is
loaded when it is first used, and the symbolic layers run in processes of their own.
"""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.grading.calculating.work import OUT_OF_TIME
    from tutelage.grading.equality import Verdict, grade, grade_all
    from tutelage.grading.rewards import (
        grade_response,
        grade_responses,
        question_only_reward_fn,
        r1_zero_reward_fn,
        reward_fn_response_vs_gt,
        rewards_of,
    )
    from tutelage.grading.serving.cache import VerdictCache, grader_version
    from tutelage.grading.serving.pool import start_workers
    from tutelage.grading.taking.answers import answer_of, boxed_answer, final_after_marks, solution_answer, tagged_answer
    from tutelage.grading.taking.format import boxes
    from tutelage.grading.taking.references import GroundTruth, Reference, reference_of, reference_text

__getattr__, __dir__, __all__ = lazily(__name__)
