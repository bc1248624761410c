"""The model that is trained, how it computes, and what it is given."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.model import attention, lora, optim, packing
    from tutelage.model.course import Course
    from tutelage.model.load import (
        check_positions,
        choose_device,
        device_for,
        for_device,
        has_bfloat16,
        is_out_of_memory,
        load_policy,
        load_tokenizer,
        outline,
        resolve,
        save_model,
        size_in_bytes,
    )
    from tutelage.model.objective import (
        CHUNK,
        compute_entropy,
        get_response_log_probs,
        masked_normalize,
        sft_microbatch_train_step,
    )
    from tutelage.model.packing import Batch, pack, pad, step_batches
    from tutelage.model.policy import RECOMPUTATIONS, Policy, Recomputation, evaluating, score_batch

__getattr__, __dir__, __all__ = lazily(__name__)
