"""A model's own answers as training rows: several responses a problem, graded, the right and distinct ones kept."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.evaluation.sample.form import Form
    from tutelage.evaluation.sample.problems import problems_to_sample
    from tutelage.evaluation.sample.run import sample_problems
    from tutelage.evaluation.sample.wanted import Wanted

__getattr__, __dir__, __all__ = lazily(__name__)
