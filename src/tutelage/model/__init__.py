"""The model that is trained, how it computes, and what it is given."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.model import attention, liger, lora, optim, quantized
    from tutelage.model.adamw import ByWeight
    from tutelage.model.batch import Batch, pack, pad
    from tutelage.model.change import ChangeMeter
    from tutelage.model.directory import require_undamaged, resolve
    from tutelage.model.exact import in_float32
    from tutelage.model.identity import identity_of
    from tutelage.model.layered import Layered
    from tutelage.model.load import (
        check_positions,
        choose_device,
        device_for,
        embedding_rows,
        for_device,
        has_bfloat16,
        is_out_of_memory,
        load_policy,
        load_tokenizer,
        outline,
        size_in_bytes,
        tokenizer_of,
    )
    from tutelage.model.losses import Fused, Loss, loss_named
    from tutelage.model.offload import IN_FLIGHT, Host
    from tutelage.model.order import Course, one_pack, step_batches, steps_per_epoch, total_steps
    from tutelage.model.packs import Costs
    from tutelage.model.policy import RECOMPUTATIONS, Policy, Recomputation, evaluating, head_size, shard_policy
    from tutelage.model.save import ADAPTER, save_model
    from tutelage.model.scoring import CHUNK, LARGE_CHUNK
    from tutelage.model.specification import (
        compute_entropy,
        get_response_log_probs,
        masked_mean,
        masked_normalize,
        sft_microbatch_train_step,
    )
    from tutelage.model.tiled import TILES

__getattr__, __dir__, __all__ = lazily(__name__)
