"""The training loop: how a run starts, makes its steps, and ends."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.training.loop import Result, evaluate_untrained, fine_tune
    from tutelage.training.replay import replay_step
    from tutelage.training.specification import train_one_size
    from tutelage.training.start import set_up
    from tutelage.training.step import accumulate_gradients, update_weights

__getattr__, __dir__, __all__ = lazily(__name__)
