"""What a run needs and takes: bytes, seconds, and where an engine runs."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.resources import forecast, memory
    from tutelage.resources.devices import GIB, Device, device_named, this_machine
    from tutelage.resources.forecast import generation_seconds, response_tokens, rows_asked
    from tutelage.resources.memory import HEADROOM, Load, activation_bytes, free_memory, state_to_come, weight_bytes
    from tutelage.resources.placement import Placement, engine_device, engine_devices, place_engine
    from tutelage.resources.speed import USUAL_SHARE, matrix_rate, memory_in_use, pair_cost, step_flops
    from tutelage.resources.trace import traced_bytes

__getattr__, __dir__, __all__ = lazily(__name__)
