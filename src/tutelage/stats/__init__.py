"""Statistics of evaluations, as pure functions."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.stats.intervals import (
        clustered_interval,
        crossed_interval,
        exact_interval,
        problems_for_width,
        wilson_interval,
    )
    from tutelage.stats.paired import (
        Difference,
        compare,
        discordant_interval,
        holm,
        in_points,
        in_words,
        judged_together,
        mcnemar_exact,
        paired_interval,
    )
    from tutelage.stats.planning import detectable_difference, power_of, questions_for
    from tutelage.stats.quantiles import student_quantile
    from tutelage.stats.responses import majority_at_k, pass_at_k, powers_of_two
    from tutelage.stats.summaries import binned, mean

__getattr__, __dir__, __all__ = lazily(__name__)
