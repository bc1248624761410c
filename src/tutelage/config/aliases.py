"""What settings of other tools are called here: TRL and Transformers, Axolotl, LLaMA-Factory, Unsloth, torchtune."""

from __future__ import annotations

ALIASES = {
    "model.id": "model model_name model_name_or_path base_model pretrained_model_name_or_path",
    "model.precision": "bf16 fp16 torch_dtype dtype pure_bf16 mixed_precision",
    "model.device": "device_map use_cpu no_cuda",
    "model.compile": "torch_compile",
    "model.activation_checkpointing": "gradient_checkpointing use_gradient_checkpointing enable_activation_checkpointing",
    "model.lora": "use_peft adapter finetuning_type use_lora",
    "model.lora_rank": "lora_r r lora_rank",
    "model.lora_alpha": "lora_alpha",
    "model.lora_targets": "lora_target_modules target_modules lora_target",
    "model.lora_seed": "random_state",
    "model.quantize": "load_in_4bit bnb_4bit_quant_type quantization_bit",
    "model.end_token": "eos_token pad_to_eos",
    "data.train": "dataset dataset_name datasets train_file train_dataset dataset_path",
    "data.train_split": "dataset_train_split train_on_split",
    "data.validation": "eval_dataset eval_file test_datasets validation_file val_data",
    "data.validation_split": "dataset_test_split",
    "data.hub_config": "dataset_config dataset_config_name subset",
    "data.test_size": "val_set_size val_size validation_split_percentage",
    "data.max_length": "max_length max_seq_length max_seq_len sequence_len cutoff_len model_max_length seq_length",
    "data.size": "max_samples max_train_samples",
    "data.prompt": "template chat_template prompt_template",
    "data.template_arguments": "chat_template_kwargs",
    "data.columns": "dataset_text_field field_instruction field_output column_mapping",
    "data.turns": "roles_to_train assistant_only_loss",
    "data.seed": "data_seed",
    "train.lr": "learning_rate lr max_lr base_lr",
    "train.batch_size": "per_device_train_batch_size micro_batch_size train_batch_size per_gpu_train_batch_size",
    "train.grad_accum": "gradient_accumulation_steps grad_accumulation_steps",
    "train.num_epochs": "num_train_epochs num_epochs epochs",
    "train.num_steps": "max_steps total_steps train_steps",
    "train.schedule": "lr_scheduler_type lr_scheduler scheduler",
    "train.warmup_ratio": "warmup_ratio warmup_steps num_warmup_steps",
    "train.weight_decay": "weight_decay",
    "train.clip_grad": "max_grad_norm gradient_clipping clip_grad_norm gradient_clip_val",
    "train.betas": "adam_beta1 adam_beta2 adam_betas",
    "train.optimizer": "optim",
    "train.pack": "packing sample_packing use_packing neat_packing",
    "train.loss": "loss_type",
    "train.seed": "seed",
    "eval.every": "eval_steps eval_strategy evaluation_strategy evals_per_epoch eval_interval",
    "eval.before": "eval_on_start",
    "eval.patience": "early_stopping_patience",
    "eval.batch_size": "per_device_eval_batch_size eval_batch_size",
    "eval.max_new_tokens": "max_new_tokens max_completion_length max_tokens",
    "eval.temperature": "temperature",
    "eval.gpu_memory_utilization": "vllm_gpu_memory_utilization gpu_memory_utilization",
    "run.dir": "output_dir out_dir save_dir",
    "run.save_every": "save_steps save_strategy save_interval",
    "run.keep_last": "save_total_limit",
    "run.keep_best": "load_best_model_at_end",
    "run.keep_end": "save_only_model",
    "run.tracking": "report_to logger use_wandb",
    "run.tracking_name": "run_name wandb_name wandb_run_id",
    "run.tracking_project": "wandb_project project_name",
    "run.tracking_entity": "wandb_entity",
    "parallel.shard": "fsdp deepspeed fsdp_config",
}
"""Settings with the names that other tools have for the same thing. Not all of them mean quite the same: `MIND` says where."""

MIND = {
    "train.batch_size": "rows of a micro-batch of all ranks together",
    "train.warmup_ratio": "a share of the steps, not their count",
    "train.betas": "both numbers in a list",
    "data.test_size": "a share of the problems",
    "train.pack": "always exact, and on",
    "model.quantize": '"nf4", with model.lora = "lora"',
    "run.keep_end": "the opposite: false keeps the model alone",
    "run.tracking": "a list",
    "parallel.shard": "set by itself: FSDP2 over all ranks of `--launch N`",
}

ELSEWHERE = {
    name: what
    for names, what in (
        ("bnb_4bit_compute_dtype", "model.precision says in what all computes"),
        ("load_in_8bit", 'frozen weights are in 4 bits (model.quantize = "nf4"), or in bfloat16'),
        ("lora_dropout", "LoRA has no dropout here"),
        ("completion_only_loss train_on_inputs train_on_prompt mask_prompt", "the prompt never carries loss"),
        ("logging_steps log_steps log_every_n_steps", "each step is logged in metrics.jsonl"),
        ("push_to_hub hub_model_id", "a trained model is exported by `tutelage export`"),
        ("use_liger_kernel use_liger use_unsloth", "the head and the loss are fused always"),
        ("group_by_length", "packs leave no padding, so rows need no sorting"),
        ("neftune_noise_alpha", "noise on embeddings is not here"),
        ("attn_implementation flash_attention flash_attn use_flash_attention_2", "the attention kernel is chosen, and printed"),
        ("ddp_timeout", "parallel.timeout says after how long a job ends where no rank gets any further"),
    )
    for name in names.split()
}
"""Settings of other tools that have none here, and why."""

_OURS = {name: key for key, names in ALIASES.items() for name in names.split()}


def of_another_tool(name: str) -> str:
    """What a setting of another tool is here, in words: ``in Tutelage: train.lr``; "" for a name that none has.

    Args:
        name: without a section, in snake case or with hyphens.
    """
    name = name.lower().replace("-", "_")
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    key = _OURS.get(name)
    if key is None:
        return ""
    return f"in Tutelage: {key}" + (f" ({MIND[key]})" if key in MIND else "")
