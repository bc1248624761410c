"""AdamW for bfloat16 weights, rounded stochastically, and for moments in blocks of 8-bit numbers: one Triton kernel, or plain torch."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.model.adamw.by_weight import ByWeight, piece_bytes
    from tutelage.model.adamw.ferry import ROOMS
    from tutelage.model.adamw.optimizer import AdamW, moment_bytes

__getattr__, __dir__, __all__ = lazily(__name__)
