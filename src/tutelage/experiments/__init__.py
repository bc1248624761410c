"""Many runs: sweeps over sizes, data, seeds and settings, and rounds of sampling and training."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.experiments.design import SETS_ITSELF, Design, parse_rates, parse_sizes, parse_vary
    from tutelage.experiments.improve import Improvement, predict_improve, run_improve
    from tutelage.experiments.sweep import predict_sweep, run_sweep

__getattr__, __dir__, __all__ = lazily(__name__)
