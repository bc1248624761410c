"""The ranks of a job, the weights that they share, processes and threads, and jobs on other machines."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.machines import fanout
    from tutelage.machines.fanout import run_map
    from tutelage.machines.launcher import AGAIN, launch
    from tutelage.machines.process import (
        available_cores,
        cache_directory,
        end_with,
        machine_memory,
        prepare_process,
        uninterrupted,
    )
    from tutelage.machines.request import (
        BEFORE_TRAINING,
        POLITE_SIGNALS,
        Asked,
        StopWanted,
        asked_in_vain,
        importing,
        listen,
        listening,
        nothing_left_to_stop,
        stay_deaf,
    )
    from tutelage.machines.seal import (
        SEAL,
        Sealed,
        bytes_in_words,
        checksum_of,
        checksum_of_file,
        fault_of,
        files_of,
        sealed,
        summed,
        sync_folder,
        unsealed,
        why_not_written,
        write_seal,
    )
    from tutelage.machines.sharding import (
        first_row,
        full_parameters,
        full_tensor,
        gathered,
        is_sharded,
        local_part,
        make_mesh,
        materialize,
        reshard,
        send_weights,
        shard,
    )
    from tutelage.machines.transfer import to_device
    from tutelage.machines.workers import is_worker, over_cores
    from tutelage.machines.world import ALONE, World, agreed, join, of_a_collective, rank_device

__getattr__, __dir__, __all__ = lazily(__name__)
