"""What a run needs and takes: bytes, seconds, and where an engine runs."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.resources.device import (
        Device,
        device_named,
        free_memory,
        joined_by,
        matrix_rate,
        memory_in_use,
        visible_name,
    )
    from tutelage.resources.estimate import Estimate, Estimator, device_here
    from tutelage.resources.fitting import chunk_for, tile_for
    from tutelage.resources.ladder import MEANINGS, exact_rungs, keeps, smaller_state, way_of, ways
    from tutelage.resources.memory import (
        HEADROOM,
        Load,
        Shapes,
        activations_of,
        held_bytes,
        in_gib,
        in_parts,
        state_to_come,
        training_bytes,
        weight_bytes,
    )
    from tutelage.resources.placement import (
        Placement,
        Seat,
        engine_device,
        engine_devices,
        engine_name,
        is_asked_for,
        place_engine,
    )
    from tutelage.resources.seconds import AGAIN, HALF_FILLED, USUAL_SHARE, costs_of, starting_seconds, step_flops

__getattr__, __dir__, __all__ = lazily(__name__)
