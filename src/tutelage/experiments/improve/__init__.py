"""Rounds of sampling and training: a model solves problems, its right answers are trained on, and the result is measured."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.experiments.improve.forecast import predict_improve
    from tutelage.experiments.improve.loop import run_improve
    from tutelage.experiments.improve.wished import Improvement

__getattr__, __dir__, __all__ = lazily(__name__)
