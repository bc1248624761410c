"""The settings: one frozen model per section. The docstring under a field is its documentation, which ``--help`` prints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import model_validator

from tutelage.config.data_settings import DataConfig
from tutelage.config.section import (
    MAY_CHANGE,
    Count,
    DecayRate,
    Name,
    RowsAtOnce,
    RowsOrZero,
    Seconds,
    Section,
    Seed,
    Steps,
    StepsOrZero,
    Tokens,
    TokensOrZero,
    above,
    below,
    between,
)


class ModelConfig(Section):
    id: Name = "smollm2"
    """A Hugging Face directory or hub name, which "name@revision" pins; "smollm2" is the embedded SmolLM2-135M-Instruct."""
    device: Annotated[str, MAY_CHANGE] = "auto"
    """Where the policy trains: "auto" (the first GPU, else the CPU), "cpu", "cuda", "cuda:1", …"""
    precision: Literal["bf16-mixed", "bf16-sr", "fp32"] = "bf16-mixed"
    """bf16-mixed: float32 master weights, bfloat16 compute. bf16-sr: bfloat16 weights, updated with stochastic rounding, in about
    half the memory. fp32: float32 throughout."""
    activation_checkpointing: Annotated[Literal["auto", "none", "selective", "full"], MAY_CHANGE] = "auto"
    """What the backward pass computes again. selective: all but matrix products and attention; full: each layer, for about a third
    more time. auto: the first of none, selective and full that is planned to fit in memory, printed."""
    activation_offload: Annotated[bool, MAY_CHANGE] = False
    """Keep activations in the host's memory until the backward pass (CUDA only): with "full", the inputs of layers."""
    tile: Annotated[TokensOrZero | None, MAY_CHANGE] = None
    """Tokens that MLPs and norms compute at a time, for long rows: the same function, in far less memory. 0: all at once. None: all
    where that is planned to fit, else as many as fit, printed."""
    compile: Annotated[Literal["auto", "on", "off"], MAY_CHANGE] = "auto"
    """Compile the layers. auto: where the planned run is long enough to earn the compile time back, printed."""
    lora: Literal["none", "lora", "dora"] = "none"
    """Train all weights, or low-rank adapters (PEFT) over frozen ones, merged into them when the model is saved."""
    lora_rank: Annotated[int, between(1, 65_536, "wider than any layer")] = 16
    """Rank of the adapters."""
    lora_alpha: Count = 32
    """The adapters' output is scaled by this over their rank."""
    lora_targets: list[str] = ["all-linear"]
    """Names of the layers that get adapters; all-linear: every linear layer but the head."""
    lora_seed: Seed = 42
    """Seed of the adapters' first values."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4: the frozen weights under `lora` are 4-bit numbers (QLoRA, by bitsandbytes), a quarter of their memory. The model that is saved
    has those weights, made dense, and the adapters merged into them."""
    end_token: str | None = None
    """The token that ends a response: rows learn it, evaluation stops at it, the saved model holds it. None: the end of turn that the
    chat template writes where `data.prompt` is "chat", else the tokenizer's end token."""
    resize: bool = False
    """Give the embedding as many rows as the tokenizer has tokens, where it has fewer."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_would_not_train(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("activation_checkpointing"), bool):  # as runs wrote it once
            raw = raw | {"activation_checkpointing": "full" if raw["activation_checkpointing"] else "none"}
        if isinstance(raw, dict) and raw.get("precision") == "bf16":
            raise ValueError(
                "model.precision = bf16 is refused: plain bfloat16 weights lose every update below 1/256 of a weight, and training"
                " stalls; use bf16-sr (stochastic rounding, the same memory) or bf16-mixed (float32 masters)"
            )
        if isinstance(raw, dict) and raw.get("precision") == "bf16-sr" and raw.get("lora", "none") != "none":
            raise ValueError(
                "model.precision = bf16-sr with model.lora: adapters are float32, so there is nothing to round; use bf16-mixed,"
                " which holds the frozen weights in bfloat16"
            )
        return raw

    @model_validator(mode="after")
    def _refuse_what_cannot_be_quantized(self) -> ModelConfig:
        if self.quantize != "none" and self.lora != "lora":
            raise ValueError(
                f'model.quantize = "{self.quantize}" with model.lora = "{self.lora}": 4-bit weights are frozen, and what is trained over'
                ' them are low-rank adapters: write model.lora = "lora", or leave model.quantize out'
            )
        if self.quantize != "none" and self.compile == "on":
            raise ValueError(
                f'model.quantize = "{self.quantize}" with model.compile = "on": compiled layers would keep every weight in full; leave'
                " model.compile out"
            )
        return self

    def as_saved(self) -> ModelConfig:
        """That of the model that a run saves: its adapters are merged, and nothing is quantized."""
        return self.model_copy(update={"lora": "none", "quantize": "none"})


class TrainConfig(Section):
    lr: Annotated[float, above(0, 10, "a thousand times what trains")] = 2e-5
    """Peak learning rate."""
    batch_size: Annotated[RowsAtOnce, MAY_CHANGE] = 1
    """Rows of `data.max_length` that must fit in memory at once; how many shorter ones share a micro-batch is up to `pack`."""
    grad_accum: Annotated[Count, MAY_CHANGE] = 4
    """Micro-batches in one optimizer step; `batch_size` × `grad_accum` rows make up a step, however they are split."""
    num_epochs: Annotated[float, above(0, 10_000, "passes over the same rows")] = 2
    """Passes over the training rows; ignored when `num_steps` is given."""
    num_steps: Steps | None = None
    """Optimizer steps, instead of `num_epochs`."""
    clip_grad: Annotated[float, above(0, 1e12, "which clips nothing")] = 1.0
    """Largest L2 norm of the gradient; a larger one is scaled down to it."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warm-up: to zero along a cosine or a line, or not at all."""
    warmup_ratio: Annotated[float, below(0, 1)] = 0.03
    """Share of the optimizer steps over which the learning rate rises from zero."""
    weight_decay: Annotated[float, between(0, 1000, "a thousand times what is usual")] = 0.0
    """AdamW's decoupled weight decay, on matrices only."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """adamw: fused, or with stochastic rounding for bf16-sr. adamw-8bit: moments in blocks of 8-bit numbers, a quarter of the state."""
    update: Literal["step", "in_backward"] = "step"
    """When weights change. step: all of them, after the backward passes of a step. in_backward: each as soon as its gradient is
    complete, which is then freed, so that no full gradient is ever held. A gradient is clipped by the norm of the step before. Several
    batches of a step go backward together, one layer after the other; with several ranks a step is one batch (docs/scaling.md)."""
    optimizer_offload: Annotated[bool, MAY_CHANGE] = False
    """Keep the optimizer's moments in the host's memory. Pieces of them visit the device while it computes."""
    pack: Annotated[bool, MAY_CHANGE] = True
    """Lay the rows of a step out in packs where every shared prefix is computed once: exact, and faster than padded rows."""
    pack_tokens: Annotated[Tokens | None, MAY_CHANGE] = None
    """Largest pack in tokens. None: `batch_size` × `data.max_length`."""
    on_nonsense: Annotated[Literal["stop", "skip"], MAY_CHANGE] = "stop"
    """A step whose loss or gradient is not finite, or whose gradient is a spike, is never applied: its rows and a command that
    replays it are written down. stop: the run ends there, its state saved. skip: it goes on without that step."""
    on_oom: Annotated[Literal["stop", "adapt"], MAY_CHANGE] = "stop"
    """When the memory runs out in a step. stop: the run ends with what was predicted, what happened and the next setting down, its
    state saved. adapt: the step is computed again in batches half as large, and the run goes on with those: the same gradients, to
    rounding. With several ranks, or in the middle of an update, the run goes on from its last checkpoint in such batches."""
    max_skips: Annotated[Steps, MAY_CHANGE] = 5
    """After so many skipped steps the run stops all the same."""
    spike_ratio: Annotated[float, between(0, 1e12, "which nothing exceeds"), MAY_CHANGE] = 10.0
    """A gradient norm is a spike if it is so many times the median of the last 64 norms, and far outside of their spread;
    0: none is."""
    loss: str = "nll"
    """What a step minimises: "nll" (masked cross-entropy), "dft" (the same, each target weighted by its own probability), or
    "module:function", a function of (log_probs, weights, entropies) of the targets to their sum, at the cost of one more pass over the
    logits (docs/mathematics.md)."""
    loss_normalization: Literal["token", "sequence"] = "token"
    """What the summed loss of a step is divided by: its response tokens, or its rows (the specification's formula)."""
    seed: Seed = 42
    """Seed of the order of rows, of dropout, and of stochastic rounding."""

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step, of all ranks."""
        return self.batch_size * self.grad_accum


class EvalConfig(Section):
    every: StepsOrZero = 300
    """Evaluate after every so many optimizer steps; 0: only before and after training."""
    before: bool = True
    """Evaluate the untouched model first."""
    patience: Annotated[Count | None, MAY_CHANGE] = None
    """End the run where so many evaluations in a row were no better than the best one before them, by the accuracy of the panel;
    equal is not better, and the untouched model counts as one to be better than. None: the run has its planned length."""
    examples: RowsOrZero | None = None
    """The panel: validation problems that every evaluation asks, the same ones each time. 0: all; none: as `interval_width` needs, and
    all where these are most of them."""
    interval_width: Annotated[float, above(0, 0.999, "wider says nothing")] = 0.25
    """Widest 95 % interval of the panel's accuracy that will do; it sets the size of the panel where `examples` is none."""
    full: bool = True
    """Ask all validation problems, not the panel alone, before and after training."""
    backend: Annotated[str, MAY_CHANGE] = "auto"
    """What generates. vllm: an engine in a process of its own gets the weights before each evaluation. native: the training model
    itself. auto: vLLM where it is installed and fits, printed. Also another engine of the registry ("fake"), or
    "module:Class" of your own."""
    mode: Annotated[Literal["auto", "sync", "async"], MAY_CHANGE] = "auto"
    """async: training goes on while vLLM generates; results bear the step whose weights they used. sync: training waits.
    auto: async where vLLM has a device of its own."""
    when_busy: Annotated[Literal["wait", "skip", "queue"], MAY_CHANGE] = "wait"
    """When an evaluation is due while one is in flight (async): wait for that one, leave this one out (never the last), or keep a
    copy of the weights in the host's memory and evaluate it afterwards."""
    device: Annotated[str, MAY_CHANGE] = "auto"
    """Where vLLM runs: "cuda:1", "cpu", …; auto: a GPU that is not trained on, else the one that is, else the CPU."""
    gpu_memory_utilization: Annotated[float, above(0, 1, "all of it"), MAY_CHANGE] = 0.85
    """Share of a GPU's memory that vLLM may take; on the GPU that is trained on, at most what training leaves."""
    in_turns: Annotated[Literal["auto", "on", "off"], MAY_CHANGE] = "auto"
    """On the GPU that is trained on: let vLLM sleep, its memory given back, while training computes. auto: where both at once
    are not planned to fit."""
    offload_optimizer: Annotated[bool, MAY_CHANGE] = True
    """In turns, the optimizer's state waits in the host's memory while vLLM generates."""
    timeout: Annotated[Seconds, MAY_CHANGE] = 600.0
    """Seconds without a finished response after which vLLM counts as hung, and is restarted, once."""
    entropy: Literal["exact", "top-k", "off"] = "exact"
    """Token entropy of what vLLM generated: exact, by one packed pass of the policy; top-k: a lower bound from the 20 likeliest
    tokens that vLLM tells of; off. The native backend is always exact, or off."""
    max_new_tokens: Tokens = 512
    """Longest response in tokens; a response cut off there counts as a cap hit."""
    min_new_tokens: TokensOrZero = 0
    """Before so many tokens nothing ends a response."""
    stop: list[str] = []
    """Further strings that end a response, beside "</answer>"; each stays in the text."""
    samples: Annotated[int, between(1, 100_000, "responses per problem")] = 1
    """Responses per problem, each with a seed of its own: accuracy is their mean, pass@k and maj@k come with it."""
    temperature: Annotated[float, between(0, 1000, "where all tokens are equally likely")] = 0.0
    """0: greedy; otherwise sampling at this temperature."""
    top_p: Annotated[float, above(0, 1, "all of them")] = 1.0
    """Sample from the smallest set of tokens that holds this probability."""
    batch_size: Annotated[RowsAtOnce, MAY_CHANGE] = 64
    """Prompts generated together by the native engine."""
    reward: Literal["r1_zero", "question_only"] = "r1_zero"
    """The grader: think/answer tags, or the last \\boxed{}."""
    tolerance: Annotated[float, between(0, 0.1, "a tenth of the number")] = 0.0
    """A number whose distance to the number of its reference is at most this share of it is right. 0: as the grader says alone."""
    log_tokens: Annotated[bool, MAY_CHANGE] = True
    """Log entropy and negative log-likelihood of each token of every response, where `entropy` is exact: what the report shades
    them by. About four times the text in bytes."""
    seed: Seed = 42
    """Seed of the sampled evaluations and of the choice of validation problems."""

    def is_due(self, step: int, total: int) -> bool:
        """Whether the model is evaluated after `step` of `total` steps: before training if wanted, every `every` steps, at the end."""
        if step in (0, total):
            return step == total or self.before
        return self.every > 0 and step % self.every == 0

    @model_validator(mode="before")
    @classmethod
    def _read_what_older_runs_wrote(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "engine" in raw:
            rest = {key: value for key, value in raw.items() if key != "engine"}
            if raw["engine"] == "native":
                rest.pop("device", None)  # they named a second GPU whether they used it or not
            raw = {"backend": raw["engine"], "full": False, **rest}
        return raw

    @model_validator(mode="after")
    def _refuse_what_cannot_be(self) -> EvalConfig:
        if self.backend == "native" and self.mode == "async":
            raise ValueError(
                'eval.mode = "async" needs eval.backend = "vllm": the training model cannot train while it generates'
            )
        if self.backend == "native" and self.entropy == "top-k":
            raise ValueError('eval.entropy = "top-k" is a lower bound for vLLM; the native backend knows the exact entropy')
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("eval.min_new_tokens is larger than eval.max_new_tokens")
        if "" in self.stop:
            raise ValueError('eval.stop: "" would end every response at its start; leave it out')
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("eval.samples > 1 at eval.temperature = 0 would be the same response again; set a temperature")
        return self


class ParallelConfig(Section):
    """How several ranks work on one run (torchrun, or ``tutelage train --launch N``); nothing of it matters to one process."""

    shard: Annotated[Count | None, MAY_CHANGE] = None
    """Ranks that share one copy of weights, gradients and optimizer state (FSDP2). None: all of them. Fewer: several copies
    beside each other, such as one on each machine (HSDP); they must divide the number of ranks."""
    sync: Annotated[Literal["auto", "last", "always"], MAY_CHANGE] = "auto"
    """When ranks exchange gradients. last: after a step's last micro-batch only, which needs 4 bytes per weight on each rank
    meanwhile; always: after each; auto: last where that is planned to fit, printed."""
    timeout: Annotated[Seconds, MAY_CHANGE] = 1800.0
    """Seconds after which the job ends if no rank gets any further; the message names the rank that the others wait for."""


class RunConfig(Section):
    dir: Annotated[Name, MAY_CHANGE] = "runs/tutelage"
    """The run directory. An unfinished run there is continued; a finished one is never overwritten, but can be made longer."""
    save_every: Annotated[StepsOrZero | None, MAY_CHANGE] = None
    """Optimizer steps between checkpoints (weights and optimizer state). None: at each evaluation. 0: only when interrupted."""
    keep_last: Annotated[Count, MAY_CHANGE] = 2
    """How many of the newest checkpoints stay while the run goes on; when it is finished, they are removed, but for `keep_end`."""
    keep_end: Annotated[bool, MAY_CHANGE] = True
    """Keep the checkpoint of a finished run's end, so that the run can be made longer (`--train.num_epochs`): 12 bytes per trained
    weight, 16 with the model. None is kept where `save_every` is 0."""
    keep_best: Annotated[bool, MAY_CHANGE] = False
    """Keep the checkpoint with the best accuracy of the panel too, and keep it when the run is finished
    (`tutelage export RUN --step N`)."""
    price_per_hour: Annotated[Annotated[float, between(0, 1e12, "of any currency")] | None, MAY_CHANGE] = None
    """What an hour on this machine costs, in the currency of your choice; the report then says what the run cost."""
    currency: Annotated[str | None, MAY_CHANGE] = None
    """The currency of `price_per_hour` as the report writes it, such as "EUR" or "$". None: amounts stand alone."""
    tracking: Annotated[list[Literal["tensorboard", "wandb", "trackio", "mlflow"]], MAY_CHANGE] = []
    """Where the numbers go besides `metrics.jsonl`: any of these, as in --run.tracking '["tensorboard", "wandb"]'."""
    tracking_project: Annotated[str | None, MAY_CHANGE] = None
    """W&B's and Trackio's project, MLflow's experiment. None: what WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME says, else "tutelage"."""
    tracking_name: Annotated[str | None, MAY_CHANGE] = None
    """The run's name at the trackers; a sweep's trials have their own behind it. None: what WANDB_NAME says (at W&B), else the name of
    the run directory."""
    tracking_group: Annotated[str | None, MAY_CHANGE] = None
    """The group of runs that this one belongs to at W&B and Trackio; at MLflow its tag "group". None: what WANDB_RUN_GROUP says (at
    W&B), else none."""
    tracking_entity: Annotated[str | None, MAY_CHANGE] = None
    """W&B's entity: a user or a team. None: what WANDB_ENTITY says, else your own."""

    @model_validator(mode="before")
    @classmethod
    def _read_what_older_runs_wrote(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "tracker" in raw:  # one, or "none"
            rest = {key: value for key, value in raw.items() if key != "tracker"}
            raw = {"tracking": [] if raw["tracker"] == "none" else [raw["tracker"]], **rest}
        return raw

    @model_validator(mode="after")
    def _refuse_what_is_there_twice(self) -> RunConfig:
        for name in self.tracking:
            if self.tracking.count(name) > 1:
                raise ValueError(f"run.tracking names {name} more than once")
        return self


class Config(Section):
    """A full configuration: what `train_one_size` takes and ``config.toml`` holds."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    parallel: ParallelConfig = ParallelConfig()
    run: RunConfig = RunConfig()
