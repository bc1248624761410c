"""The settings: one frozen model per section. The docstring under a field is its documentation, which ``--help`` prints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.config.plug_in import is_plug_in

PositiveInt = Annotated[int, Field(ge=1)]
DecayRate = Annotated[float, Field(ge=0, lt=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


MAY_CHANGE = "an unfinished run may go on with another value"
"""Marks settings that change where and how fast a run computes, but not what."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Section):
    id: str = "smollm2"
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
    """Keep activations in the host's memory until the backward pass (CUDA only)."""
    compile: Annotated[Literal["auto", "on", "off"], MAY_CHANGE] = "auto"
    """Compile the layers. auto: where the planned run is long enough to earn the compile time back, printed."""
    lora: Literal["none", "lora", "dora"] = "none"
    """Train all weights, or low-rank adapters (PEFT) over frozen ones, merged into them when the model is saved."""
    lora_rank: PositiveInt = 16
    """Rank of the adapters."""
    lora_alpha: PositiveInt = 32
    """The adapters' output is scaled by this over their rank."""
    lora_targets: list[str] = ["all-linear"]
    """Names of the layers that get adapters; all-linear: every linear layer but the head."""
    lora_seed: int = 42
    """Seed of the adapters' first values."""
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


class Source(Section):
    """Where rows come from, and how they are read."""

    path: str
    """As `data.train`."""
    split: str = "test"
    """As `data.train_split`."""
    hub_config: str | None = None
    """As `data.hub_config`."""
    shape: str = "auto"
    """As `data.shape`."""
    columns: dict[Literal["prompt", "response", "reference"], str] = {}
    """As `data.columns`."""
    where: str | None = None
    """As `data.where`."""
    prompt: str | None = None
    """As `data.prompt`. None: what training uses."""

    @model_validator(mode="after")
    def _refuse_two_ways_to_read(self) -> Source:
        _one_way_to_read("data.validation.", self.shape, self.columns)
        return self


def _one_way_to_read(section: str, shape: str, columns: dict[Any, str]) -> None:
    if shape != "auto" and not is_plug_in(shape):
        raise ValueError(f'{section}shape = "{shape}": write "auto", or a function of yours as "module:function"')
    if shape != "auto" and columns:
        raise ValueError(f'{section}shape = "{shape}" and {section}columns both say how rows are read; leave one of them out')


class DataConfig(Section):
    train: str = "arithmetic"
    """Training rows: a file (JSONL, JSON, CSV, TSV, Parquet or Arrow, also with .gz or .zst), a directory of such files, a directory of
    `datasets.save_to_disk`, a hub name ("openai/gsm8k", or pinned: "openai/gsm8k@REVISION"), or "arithmetic" (built in)."""
    train_split: str = "train"
    """The split to take when `train` is a hub name, or a directory whose names say splits; there "all" takes all files."""
    validation: str | Source | None = None
    """Validation problems, named as `train` is, or a table of path, split, hub_config, shape, columns, where and prompt. None:
    `test_size` of the training problems are held out."""
    validation_split: str = "test"
    """As `train_split`, when `validation` is a name; a table has its own `split`."""
    hub_config: str | None = None
    """The configuration of a hub data set ("main" for openai/gsm8k)."""
    test_size: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training problems held out for validation when `validation` is None, each with all of its rows; 0 validates on
    training rows and says so."""
    shape: str = "auto"
    """How rows are read. auto: by the names of their columns, or by `columns`; or a function of yours, "module:function", from a row
    to a dict of prompt, response and reference, in a file of the current directory. It raises ValueError for a malformed row."""
    columns: dict[Literal["prompt", "response", "reference"], str] = {}
    """Which column holds the prompt, the response, the reference; what is left out is recognised by name. Paths reach into a row
    ("info.answer", "messages[-1].content"), "generations[*]" makes a row of each item, and a text with columns in braces joins them
    ("<think>\\n{thinking}\\n</think>\\n{attempt}")."""
    where: str | None = None
    """Keep only rows where this column or path is true; with "[*]", as in "correct[*]", the items of `columns` at those indices."""
    turns: Literal["last", "all"] = "all"
    """Of a conversation with several assistant turns: learn all of them, each after the history as the chat template shows it then,
    or the last one alone."""
    prompt: str = "r1_zero"
    """Prompt template: "r1_zero", "question_only", "plain", "none" (bare), "chat" (the tokenizer's), or a file with {question}. A
    prompt that holds a template already is not wrapped again."""
    template_arguments: dict[str, Any] = {}
    """Arguments of the tokenizer's chat template, such as { enable_thinking = true }; for `prompt` "chat" alone."""
    overlap: Literal["drop", "keep"] = "drop"
    """Training rows whose problem is a validation problem too, word for word or nearly: left out, or kept and counted."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Training rows that are equal to an earlier one: kept, or left out; they are counted either way."""
    filter: bool = True
    """Keep only training rows whose response earns answer_reward 1.0 against its reference."""
    size: PositiveInt | None = None
    """How many training rows to use: the first `size` of a seeded order, so that smaller sets lie inside larger ones. None: all."""
    max_length: PositiveInt | None = None
    """Longest prompt + response in tokens. None: the 99.5th percentile of the data, printed."""
    truncate: Literal["drop", "tail"] = "drop"
    """Longer rows are dropped and counted, or lose the tail of their response (and then teach no end token)."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A malformed row stops the run with its file, line and key, or is skipped and counted in the ledger."""
    seed: int = 42
    """Seed of the held-out split, and of the subset where that has none of its own."""
    subset_seed: int | None = None
    """Seed of the subset (`size`) alone; sweeps change it and keep the held-out problems. None: `seed`."""

    def of_training(self) -> Source:
        """Where training rows come from."""
        return Source(
            path=self.train, split=self.train_split, hub_config=self.hub_config, shape=self.shape, columns=self.columns,
            where=self.where, prompt=self.prompt,
        )  # fmt: skip

    def of_validation(self) -> Source | None:
        """Where validation rows come from; None: they are held out of the training rows.

        A validation that is named alone is read as the training rows are, where its rows have those columns.
        """
        if self.validation is None:
            return Source(path="arithmetic", split="validation", prompt=self.prompt) if self.train == "arithmetic" else None
        if isinstance(self.validation, Source):
            return self.validation.model_copy(update={"prompt": self.validation.prompt or self.prompt})
        return Source(
            path=self.validation, split=self.validation_split, hub_config=self.hub_config, shape=self.shape,
            columns=self.columns, prompt=self.prompt,
        )  # fmt: skip

    @model_validator(mode="after")
    def _refuse_two_ways_to_read(self) -> DataConfig:
        _one_way_to_read("data.", self.shape, self.columns)
        return self


class TrainConfig(Section):
    lr: float = Field(default=2e-5, gt=0)
    """Peak learning rate."""
    batch_size: Annotated[PositiveInt, MAY_CHANGE] = 1
    """Rows of `data.max_length` that must fit in memory at once; how many shorter ones share a micro-batch is up to `pack`."""
    grad_accum: Annotated[PositiveInt, MAY_CHANGE] = 4
    """Micro-batches in one optimizer step; `batch_size` × `grad_accum` rows make up a step, however they are split."""
    num_epochs: float = Field(default=2, gt=0)
    """Passes over the training rows; ignored when `num_steps` is given."""
    num_steps: PositiveInt | None = None
    """Optimizer steps, instead of `num_epochs`."""
    clip_grad: float = Field(default=1.0, gt=0)
    """Largest L2 norm of the gradient; a larger one is scaled down to it."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after warm-up: to zero along a cosine or a line, or not at all."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the optimizer steps over which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """adamw: fused, or with stochastic rounding for bf16-sr. adamw-8bit: moments in blocks of 8-bit numbers, a quarter of the state."""
    pack: Annotated[bool, MAY_CHANGE] = True
    """Lay the rows of a step out in packs where every shared prefix is computed once: exact, and faster than padded rows."""
    pack_tokens: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Largest pack in tokens. None: `batch_size` × `data.max_length`."""
    on_nonsense: Annotated[Literal["stop", "skip"], MAY_CHANGE] = "stop"
    """A step whose loss or gradient is not finite, or whose gradient is a spike, is never applied: its rows and a command that
    replays it are written down. stop: the run ends there, its state saved. skip: it goes on without that step."""
    on_oom: Annotated[Literal["stop", "adapt"], MAY_CHANGE] = "stop"
    """When the memory runs out in a step. stop: the run ends with what was predicted, what happened and the next setting down, its
    state saved. adapt: the step is computed again in batches half as large, and the run goes on with those: the same gradients, to
    rounding (in a single process)."""
    max_skips: Annotated[PositiveInt, MAY_CHANGE] = 5
    """After so many skipped steps the run stops all the same."""
    spike_ratio: Annotated[float, MAY_CHANGE] = Field(default=10.0, ge=0)
    """A gradient norm is a spike if it is so many times the median of the last 64 norms, and far outside of their spread;
    0: none is."""
    loss: str = "nll"
    """What a step minimises: "nll" (masked cross-entropy), or "module:function", a function of (log_probs, weights, entropies) of the
    targets to their sum, at the cost of one more pass over the logits (docs/mathematics.md)."""
    loss_normalization: Literal["token", "sequence"] = "token"
    """What the summed loss of a step is divided by: its response tokens, or its rows (the specification's formula)."""
    seed: int = 42
    """Seed of the order of rows, of dropout, and of stochastic rounding."""


class EvalConfig(Section):
    every: NonNegativeInt = 300
    """Evaluate after every so many optimizer steps; 0: only before and after training."""
    before: bool = True
    """Evaluate the untouched model first."""
    examples: NonNegativeInt | None = None
    """The panel: validation problems that every evaluation asks, the same ones each time. 0: all; none: as `interval_width` needs."""
    interval_width: float = Field(default=0.25, gt=0, lt=1)
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
    gpu_memory_utilization: Annotated[float, MAY_CHANGE] = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that vLLM may take; on the GPU that is trained on, at most what training leaves."""
    in_turns: Annotated[Literal["auto", "on", "off"], MAY_CHANGE] = "auto"
    """On the GPU that is trained on: let vLLM sleep, its memory given back, while training computes. auto: where both at once
    are not planned to fit."""
    offload_optimizer: Annotated[bool, MAY_CHANGE] = True
    """In turns, the optimizer's state waits in the host's memory while vLLM generates."""
    timeout: Annotated[float, MAY_CHANGE] = Field(default=600.0, gt=0, le=1_000_000)
    """Seconds without a finished response after which vLLM counts as hung, and is restarted, once."""
    entropy: Literal["exact", "top-k", "off"] = "exact"
    """Token entropy of what vLLM generated: exact, by one packed pass of the policy; top-k: a lower bound from the 20 likeliest
    tokens that vLLM tells of; off. The native backend is always exact, or off."""
    max_new_tokens: PositiveInt = 512
    """Longest response in tokens; a response cut off there counts as a cap hit."""
    min_new_tokens: NonNegativeInt = 0
    """Before so many tokens nothing ends a response."""
    stop: list[str] = []
    """Further strings that end a response, beside "</answer>"; each stays in the text."""
    samples: PositiveInt = 1
    """Responses per problem, each with a seed of its own: accuracy is their mean, pass@k and maj@k come with it."""
    temperature: float = Field(default=0.0, ge=0)
    """0: greedy; otherwise sampling at this temperature."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the smallest set of tokens that holds this probability."""
    batch_size: Annotated[PositiveInt, MAY_CHANGE] = 64
    """Prompts generated together by the native engine."""
    reward: Literal["r1_zero", "question_only"] = "r1_zero"
    """The grader: think/answer tags, or the last \\boxed{}."""
    log_tokens: Annotated[bool, MAY_CHANGE] = True
    """Log entropy and negative log-likelihood of each token of every response, where `entropy` is exact: what the report shades
    them by. About four times the text in bytes."""
    seed: int = 42
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

    shard: Annotated[PositiveInt | None, MAY_CHANGE] = None
    """Ranks that share one copy of weights, gradients and optimizer state (FSDP2). None: all of them. Fewer: several copies
    beside each other, such as one on each machine (HSDP); they must divide the number of ranks."""
    sync: Annotated[Literal["auto", "last", "always"], MAY_CHANGE] = "auto"
    """When ranks exchange gradients. last: after a step's last micro-batch only, which needs 4 bytes per weight on each rank
    meanwhile; always: after each; auto: last where that is planned to fit, printed."""
    timeout: Annotated[float, MAY_CHANGE] = Field(default=1800.0, gt=0)
    """Seconds after which the job ends if no rank gets any further; the message names the rank that the others wait for."""


class RunConfig(Section):
    dir: Annotated[str, MAY_CHANGE] = "runs/tutelage"
    """The run directory. A finished run there is never overwritten; an unfinished one is continued."""
    save_every: Annotated[NonNegativeInt | None, MAY_CHANGE] = None
    """Optimizer steps between checkpoints (weights and optimizer state). None: at each evaluation. 0: only when interrupted."""
    keep_last: Annotated[PositiveInt, MAY_CHANGE] = 2
    """How many of the newest checkpoints stay while the run goes on; when it is finished, they are removed."""
    keep_best: Annotated[bool, MAY_CHANGE] = False
    """Keep the checkpoint with the best accuracy of the panel too, and keep it when the run is finished
    (`tutelage export RUN --step N`)."""
    price_per_hour: Annotated[float | None, MAY_CHANGE] = Field(default=None, ge=0)
    """What an hour on this machine costs, in the currency of your choice; the report then says what the run cost."""
    tracking: Annotated[list[Literal["tensorboard", "wandb", "trackio", "mlflow"]], MAY_CHANGE] = []
    """Where the numbers go besides `metrics.jsonl`: any of these, as in --run.tracking '["tensorboard", "wandb"]'."""

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
