"""The trainer's numerical claims, on a tiny model: the split into micro-batches changes nothing, a resumed run is the same run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tutelage.data import prepare
from tutelage.data.tokens import pad_and_shift
from tutelage.errors import InputError, RunError
from tutelage.machines.world import StopWanted, World
from tutelage.model.load import load_policy
from tutelage.model.order import step_batches
from tutelage.model.specification import get_response_log_probs, sft_microbatch_train_step
from tutelage.report import facts
from tutelage.runs import Reading
from tutelage.training import fine_tune, train_one_size
from tutelage.training.ending import Interrupted
from tutelage.training.loop import prefetched
from tutelage.training.step import accumulate_gradients


def batches_of(policy, examples, config, budget=None, pad_id=None):
    return step_batches(examples, budget or 10**6, config.train.batch_size, pad_id)


def gradients_of(
    make_config, tokenizer, batch_size: int, grad_accum: int, layout=None, **changes
) -> tuple[float, float, dict[str, torch.Tensor]]:
    config = make_config(train__batch_size=batch_size, train__grad_accum=grad_accum, train__clip_grad=1e9, **changes)
    policy = load_policy(config.model, tokenizer)
    examples = prepare(config, tokenizer).train[:8]
    if config.model.activation_checkpointing != "auto":
        policy.recompute(config.model.activation_checkpointing)
    step = accumulate_gradients(policy, examples, batches_of(policy, examples, config, **layout or {}), config, step=0)
    return step.loss, step.grad_norm, {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters()}


@pytest.mark.parametrize("normalization", ["token", "sequence"])
@pytest.mark.parametrize(("batch_size", "grad_accum"), [(8, 1), (2, 4), (3, 3)])
def test_the_gradient_does_not_depend_on_the_split_into_micro_batches(
    make_config, tokenizer, normalization, batch_size, grad_accum
):
    padded = {"pad_id": 0}
    one = gradients_of(make_config, tokenizer, 1, 8, padded, train__loss_normalization=normalization)
    other = gradients_of(make_config, tokenizer, batch_size, grad_accum, padded, train__loss_normalization=normalization)
    assert other[0] == pytest.approx(one[0], rel=1e-6) and other[1] == pytest.approx(one[1], rel=1e-5)
    for name, gradient in one[2].items():
        torch.testing.assert_close(other[2][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("normalization", ["token", "sequence"])
@pytest.mark.parametrize("budget", [10**6, 200, 1])
def test_packed_is_unpacked(make_config, tokenizer, normalization, budget):
    padded = gradients_of(make_config, tokenizer, 1, 8, {"pad_id": 0}, train__loss_normalization=normalization)
    packed = gradients_of(make_config, tokenizer, 1, 8, {"budget": budget}, train__loss_normalization=normalization)
    assert packed[0] == pytest.approx(padded[0], rel=1e-6) and packed[1] == pytest.approx(padded[1], rel=1e-5)
    for name, gradient in padded[2].items():
        torch.testing.assert_close(packed[2][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("what", ["selective", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16-sr"])
def test_activation_checkpointing_changes_nothing(make_config, tokenizer, what, precision):
    plain = gradients_of(make_config, tokenizer, 4, 2, model__precision=precision)
    recomputed = gradients_of(
        make_config, tokenizer, 4, 2, model__precision=precision, model__activation_checkpointing=what
    )  # fmt: skip
    assert recomputed[0] == plain[0]
    for name, gradient in plain[2].items():
        torch.testing.assert_close(recomputed[2][name], gradient)


def test_sequence_normalization_is_the_specifications_step(make_config, tokenizer):
    """2 × 4 rows through the specification's own functions, against the trainer."""
    config = make_config(train__batch_size=2, train__grad_accum=4, train__clip_grad=1e9, train__loss_normalization="sequence")
    policy = load_policy(config.model, tokenizer)
    examples = sorted(prepare(config, tokenizer).train[:8], key=len, reverse=True)
    losses = []
    for start in range(0, 8, 2):
        batch = pad_and_shift([(row.prompt_ids, row.response_ids) for row in examples[start : start + 2]], 0)
        log_probs = get_response_log_probs(policy.model, batch["input_ids"], batch["labels"], with_grad=True)["log_probs"]
        losses.append(sft_microbatch_train_step(log_probs, batch["response_mask"], 4)[0].item())
    theirs = {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters()}
    loss = accumulate_gradients(policy, examples, batches_of(policy, examples, config), config, step=0).loss
    assert loss == pytest.approx(sum(losses), rel=1e-6)
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-4, atol=1e-6)


def test_the_token_loss_is_the_mean_over_response_tokens(make_config, tokenizer):
    config = make_config()
    policy = load_policy(config.model, tokenizer)
    examples = prepare(config, tokenizer).train[:8]
    step = accumulate_gradients(policy, examples, batches_of(policy, examples, config), config, step=0)
    batch = pad_and_shift([(row.prompt_ids, row.response_ids) for row in examples], 0)
    log_probs = get_response_log_probs(policy.model, batch["input_ids"], batch["labels"])["log_probs"][batch["response_mask"]]
    assert step.response_tokens == len(log_probs) == sum(len(row.response_ids) for row in examples)
    assert step.loss == pytest.approx(-log_probs.mean().item(), rel=1e-5)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(lines: list[dict]) -> list[dict]:
    of_time = ("time", "tokens_per_second", "matrix_share", "memory_gb")
    return [{key: value for key, value in line.items() if key not in of_time and not key.endswith("seconds")} for line in lines]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "model" / "model.safetensors")


def test_a_run_directory_explains_itself_and_its_model_loads_anywhere(make_config, tokenizer, monkeypatch, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    result = fine_tune(make_config())
    run = result.directory
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {
        "config.toml", "environment.json", "identity.json", "plan.json", "prompt.txt", "template.json", "data.json", "ledger.jsonl", "metrics.jsonl", "generations.jsonl", "model", "result.json",
        "report.html", "checkpoints",
    }  # fmt: skip
    metrics = lines_of(run / "metrics.jsonl")
    assert [line["step"] for line in metrics if line["kind"] == "train"] == [1, 2, 3, 4]
    assert [line["step"] for line in metrics if line["kind"] == "eval"] == [0, 2, 4]
    records = lines_of(run / "generations.jsonl")
    assert [record["step"] for record in records] == [0] * 4 + [2] * 4 + [4] * 4
    assert [record["prompt"] for record in records[:4]] == [record["prompt"] for record in records[4:8]]
    fates = [fate["fate"] for fate in lines_of(run / "ledger.jsonl") if fate["fate"] != "unread"]
    assert len(fates) == 48 and fates.count("validation") == 10
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["machine"]["cores"] and environment["git"] is not None
    model, reloaded = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    assert GenerationConfig.from_pretrained(run / "model").eos_token_id == tokenizer.eos_token_id == reloaded.eos_token_id
    assert model.config.use_cache
    output = model.generate(**reloaded("Ava has", return_tensors="pt"), max_new_tokens=3)
    assert output.shape[1] > 2
    card = (run / "model" / "README.md").read_text()
    assert "after 4 optimizer steps" in card and "| 4 |" in card
    monkeypatch.chdir(run / "model")
    capsys.readouterr()
    exec(card.split("```python")[1].split("```")[0].replace("max_new_tokens=", "max_new_tokens=4 or "), {})
    assert capsys.readouterr().out, "what the model has said"


def test_training_lowers_the_loss_of_what_it_trains_on(make_config):
    result = fine_tune(
        make_config(train__num_steps=30, train__lr=1e-2, eval__every=0, eval__before=False, model__precision="bf16-mixed")
    )
    losses = [line["loss"] for line in lines_of(result.directory / "metrics.jsonl") if line["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]


def test_evaluating_does_not_change_training(make_config, tmp_path):
    plain = fine_tune(make_config(eval__every=0, eval__before=False, run__dir=str(tmp_path / "a")))
    watched = fine_tune(make_config(eval__every=1, eval__temperature=1.0, run__dir=str(tmp_path / "b")))
    ours, theirs = weights_of(plain.directory), weights_of(watched.directory)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_same_run(whole: Path, parts: Path) -> None:
    """The same weights, losses, gradient norms and generations, bit for bit, each step once."""
    ours, theirs = weights_of(whole), weights_of(parts)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("metrics.jsonl", "generations.jsonl", "ledger.jsonl"):
        assert without_times(lines_of(whole / name)) == without_times(lines_of(parts / name))


def interrupt_at_call(monkeypatch, name: str, call: int, signal_number: int = signal.SIGINT) -> None:
    """Ctrl-C in the middle of a call of a function that training calls."""
    from tutelage.evaluation import validation
    from tutelage.training import fit as oom
    from tutelage.training import loop as train
    from tutelage.training import taken

    room = {"solve": validation, "accumulate_gradients": oom, "update_weights": taken}.get(name, train)
    original, calls = getattr(room, name), []

    def interrupting(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            os.kill(os.getpid(), signal_number)
        return original(*arguments, **options)

    monkeypatch.setattr(room, name, interrupting)


@pytest.mark.parametrize(
    ("name", "call", "step"),
    [
        ("accumulate_gradients", 1, 0),  # after the first evaluation
        ("accumulate_gradients", 4, 3),
        ("update_weights", 4, 4),  # in the middle of the update: the step is finished first
        ("solve", 1, 0),  # during the evaluation before training
        ("solve", 2, 4),  # during one on the way
        ("solve", 3, 6),  # during the last
    ],
)
def test_an_interrupted_run_continues_to_the_same_end_bit_for_bit(make_config, tmp_path, monkeypatch, name, call, step):
    changes = {"train__num_steps": 6, "eval__every": 4, "run__save_every": 0}
    whole = fine_tune(make_config(run__dir=str(tmp_path / "whole"), **changes)).directory
    config = make_config(run__dir=str(tmp_path / "parts"), **changes)
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, name, call)
        with pytest.raises(Interrupted, match=rf"after step {step} of 6.*\n.*tutelage train .*config\.toml"):
            fine_tune(config)
    assert not (tmp_path / "parts" / "result.json").exists()
    assert_same_run(whole, fine_tune(config).directory)
    assert not (tmp_path / "parts" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("needs", "how"),
    [
        ("torch", {"model__precision": "bf16-sr"}),
        ("torch", {"model__precision": "bf16-sr", "train__optimizer": "adamw-8bit"}),
        ("peft", {"model__precision": "bf16-mixed", "model__lora": "dora", "model__lora_rank": 2}),
        ("torch", {"train__pack": False}),
    ],
)
@pytest.mark.slow
def test_whatever_the_precision_an_interrupted_run_is_the_same_run(make_config, tmp_path, monkeypatch, needs, how):
    pytest.importorskip(needs)
    changes = {"train__num_steps": 4, "eval__every": 0, "run__save_every": 0, **how}
    whole = fine_tune(make_config(run__dir=str(tmp_path / "whole"), **changes)).directory
    config = make_config(run__dir=str(tmp_path / "parts"), **changes)
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 3)
        with pytest.raises(Interrupted):
            fine_tune(config)
    assert_same_run(whole, fine_tune(config).directory)


def test_each_step_tells_where_its_time_went(make_config):
    lines = lines_of(fine_tune(make_config()).directory / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "train"]
    for line in steps:
        parts = [line[f"{part}_seconds"] for part in ("data", "forward_backward", "optimizer")]
        assert sum(parts) == pytest.approx(line["seconds"], abs=0.001) and line["tokens_per_second"] > 0
        assert line["matrix_share"] > 0 and line["distinct_tokens"] > 0
    counted = [line["weights_changed"] for line in steps if "weights_changed" in line]
    assert 0 < min(counted) <= max(counted) <= 1 and {"weights_changed"} <= steps[0].keys() & steps[-1].keys()


def test_the_rate_of_the_device_is_measured_before_training_and_kept(make_config, monkeypatch):
    """Measured in the middle of a step, it would take memory and time that others need."""
    from tutelage.training import start, taken

    order = []
    rate, update = start.matrix_rate, taken.update_weights
    monkeypatch.setattr(start, "matrix_rate", lambda *given: order.append("rate") or rate(*given))
    monkeypatch.setattr(taken, "update_weights", lambda *given: order.append("update") or update(*given))
    directory = fine_tune(make_config(train__num_steps=2, eval__before=False, model__compile="off")).directory
    assert order == ["rate", "update", "update"]
    environment = json.loads((directory / "environment.json").read_text())
    assert environment["matrix_flops_per_second"] > 1e8 and environment["command"]


@pytest.mark.parametrize(("pack", "kernel"), [(True, "blocks of queries on the CPU"), (False, None)])
def test_a_run_writes_down_which_kernel_computes_its_packs(make_config, pack, kernel):
    directory = fine_tune(make_config(train__num_steps=1, train__pack=pack, eval__before=False)).directory
    assert json.loads((directory / "environment.json").read_text())["kernel"] == kernel
    assert ("attention within packs" in dict(facts.environment(Reading(directory)))) == pack


def test_a_rate_that_could_not_be_measured_costs_the_share_alone(make_config, monkeypatch):
    monkeypatch.setattr("tutelage.training.start.matrix_rate", lambda *_: None)
    directory = fine_tune(make_config(train__num_steps=1, eval__before=False)).directory
    (step,) = (line for line in lines_of(directory / "metrics.jsonl") if line["kind"] == "train")
    assert step["matrix_share"] is None and step["loss"] > 0


def test_batches_made_ahead_come_in_order_and_their_errors_are_not_lost():
    made = []

    def make(step):
        made.append(step)
        if step == 3:
            raise ValueError("step 3 is bad")
        return step

    with prefetched(make, range(5)) as ahead:
        assert [next(ahead), next(ahead), next(ahead)] == [0, 1, 2]
        with pytest.raises(ValueError, match="step 3 is bad"):
            next(ahead)
    with prefetched(make, range(2)) as ahead:
        assert next(ahead) == 0  # and a loop that stops early leaves nothing running


class Killed(BaseException):
    """Nothing catches this: what a SIGKILL leaves behind."""


@pytest.mark.parametrize(("name", "call"), [("update_weights", 4), ("solve", 2)])
def test_a_killed_run_continues_from_its_last_checkpoint(make_config, tmp_path, monkeypatch, name, call):
    whole = fine_tune(make_config(run__dir=str(tmp_path / "whole"))).directory
    config = make_config(run__dir=str(tmp_path / "parts"))  # a checkpoint at step 2

    from tutelage.evaluation import validation
    from tutelage.training import loop as train
    from tutelage.training import taken

    room = {"solve": validation, "update_weights": taken}.get(name, train)
    original, calls = getattr(room, name), []

    def dying(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(room, name, dying)
        with pytest.raises(Killed):
            fine_tune(config)
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000002"]
    assert_same_run(whole, fine_tune(config).directory)


def test_an_unfinished_run_refuses_another_configuration(make_config, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 2)
        with pytest.raises(Interrupted):
            fine_tune(make_config())
    with pytest.raises(InputError, match=r"unfinished run of another configuration.*train\.lr: 0\.001 → 0\.1"):
        fine_tune(make_config(train__lr=0.1))


def test_an_unfinished_run_may_go_on_with_another_split_or_place(make_config, tmp_path, monkeypatch):
    whole = fine_tune(make_config(run__dir=str(tmp_path / "whole"))).directory
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 2)
        with pytest.raises(Interrupted):
            fine_tune(make_config(run__save_every=0))
    resumed = fine_tune(make_config(train__batch_size=2, train__grad_accum=4, eval__batch_size=1, run__save_every=0))
    ours, theirs = weights_of(whole), weights_of(resumed.directory)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)


def test_an_unfinished_run_refuses_other_rows(make_config, data_file, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 2)
        with pytest.raises(Interrupted):
            fine_tune(make_config())
    data_file.write_text("".join(reversed(data_file.read_text().splitlines(keepends=True))))
    with pytest.raises(InputError, match="unfinished run on other rows"):
        fine_tune(make_config())


def test_a_run_that_left_no_checkpoint_starts_again_and_keeps_what_it_measured(make_config, monkeypatch):
    from tutelage.training import taken

    config = make_config(run__save_every=0)

    def dying(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(taken, "update_weights", dying)
        with pytest.raises(Killed):
            fine_tune(config)
    result = fine_tune(make_config(run__save_every=0, train__lr=1e-4))  # nothing to continue: another configuration is fine
    assert [line["step"] for line in lines_of(result.directory / "metrics.before-restart-1.jsonl")] == [0]
    assert [line["step"] for line in result.evaluations] == [0, 2, 4]


@pytest.mark.slow
def test_a_polite_kill_in_the_middle_of_an_update_finishes_it_first(make_config, tmp_path, monkeypatch):
    whole = fine_tune(make_config(run__dir=str(tmp_path / "whole"))).directory
    config = make_config(run__dir=str(tmp_path / "parts"))
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
    try:
        with monkeypatch.context() as patch:
            interrupt_at_call(patch, "update_weights", 3, signal.SIGTERM)
            with pytest.raises(Interrupted, match="after step 3"):
                fine_tune(config)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert_same_run(whole, fine_tune(config).directory)


@pytest.mark.slow
def test_a_run_killed_between_its_model_and_its_result_finishes(make_config, monkeypatch):
    config = make_config()
    result = fine_tune(config)
    (result.directory / "result.json").unlink()
    assert (fine_tune(config).directory / "result.json").is_file()


def test_a_correctable_mistake_does_not_spoil_the_run_directory(make_config, tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig

    AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path / "small")
    config = make_config()
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(config.model.id).save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="embedding only 50"):
        fine_tune(make_config(model__id=str(tmp_path / "small")))
    assert not Path(config.run.dir).exists()
    fine_tune(config)


def test_sequences_longer_than_the_model_are_refused(make_config):
    with pytest.raises(
        InputError, match=r"longest prompt \+ eval.max_new_tokens is \d+ tokens, but the model has positions for 512"
    ):
        fine_tune(make_config(eval__max_new_tokens=500))


def test_malformed_validation_rows_are_counted(make_config, data_file, tmp_path, tokenizer):
    validation = tmp_path / "validation.jsonl"
    validation.write_text('{"prompt": "a", "reference": "1"}\n{"prompt": "b"}\n')
    prepared = prepare(make_config(data__validation=str(validation), data__on_bad_row="skip"), tokenizer)
    assert len(prepared.validation) == 1 and prepared.ledger.counts()["no reference"] == 1


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_that_is_none_is_refused(make_config, size):
    with pytest.raises(InputError, match=r"subset is .*at least 1"):
        train_one_size(size, config=make_config())


@pytest.mark.slow
def test_a_model_that_cannot_be_saved_is_one_clear_error_and_can_be_saved_later(make_config, monkeypatch):
    from transformers import LlamaForCausalLM

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    config = make_config()
    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "save_pretrained", full)
        with pytest.raises(
            RunError, match="the model could not be written: the disk is full: it needs .*\n.*\n.*To go on from there"
        ):
            fine_tune(config)
    assert not list(Path(config.run.dir).glob(".model.tmp*"))
    assert (fine_tune(config).directory / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_directory_that_was_moved_goes_on(make_config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 2)
        with pytest.raises(Interrupted):
            fine_tune(make_config(run__dir=str(tmp_path / "a")))
    (tmp_path / "a").rename(tmp_path / "b")
    assert fine_tune(make_config(run__dir=str(tmp_path / "b"))).steps == 4


def test_sampling_defaults_of_the_base_model_do_not_keep_a_model_from_being_saved(make_config, tiny_model, tmp_path):
    import shutil

    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.3, "min_p": 0.15, "eos_token_id": 0}'
    )
    run = fine_tune(make_config(model__id=str(tmp_path / "base"), eval__every=0)).directory
    saved = json.loads((run / "model" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == 0 and "min_p" not in saved


def test_a_first_step_that_compiles_is_given_up_when_the_job_is_asked_to_stop(make_config, tokenizer):
    """Batch by batch; no weight was changed yet."""
    config = make_config()
    policy = load_policy(config.model, tokenizer)
    examples = prepare(config, tokenizer).train[:8]
    world = World()
    world.stop.by = "SIGTERM"
    batches = batches_of(policy, examples, config, budget=200)
    with pytest.raises(StopWanted):
        accumulate_gradients(policy, examples, batches, config, 0, world, may_stop=True)
    assert len(batches) > 1 and accumulate_gradients(policy, examples, batches, config, 0, world).loss > 0


def test_sizes_are_nested_subsets_with_their_fates_in_the_ledger(make_config, tokenizer):
    small, large = (prepare(make_config(data__size=size), tokenizer) for size in (8, 16))
    assert [row.source for row in small.train] == [row.source for row in large.train][:8]
    assert small.ledger.counts()["kept"] == 8
    assert [example.prompt for example in small.validation] == [example.prompt for example in large.validation]


def test_train_one_size_takes_the_size(make_config):
    result = train_one_size(8, config=make_config(train__num_steps=1, eval__every=0, eval__before=False))
    fates = [fate["fate"] for fate in lines_of(result.directory / "ledger.jsonl")]
    assert fates.count("kept") == 8


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"data__size": 999}, "only .* training rows are left"),
        ({"data__max_length": 5}, "no training row fits"),
        ({"data__train": "/nowhere.jsonl"}, "no such file"),
        ({"data__prompt": "r1"}, "neither a template"),
        ({"data__test_size": 0.001}, "leaves one side empty"),
        ({"model__id": "./no-model"}, "no model there"),
        ({"model__id": "nobody/nothing"}, "cannot be loaded"),
        ({"model__device": "cuda:7"}, "is not there: this machine has"),
        ({"model__device": "tpu-9"}, "is not a device"),
    ],
)
def test_bad_input_is_found_before_the_run_directory_is_made(make_config, changes, what):
    config = make_config(**changes)
    with pytest.raises(InputError, match=what):
        fine_tune(config)
    assert not Path(config.run.dir).exists()


def test_a_finished_run_is_never_overwritten(make_config):
    config = make_config(train__num_steps=1, eval__every=0)
    before = (fine_tune(config).directory / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match="holds a finished run"):
        fine_tune(config)
    assert (Path(config.run.dir) / "metrics.jsonl").read_text() == before


def test_too_small_a_disk_is_found_before_training(make_config, monkeypatch):
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="run.dir: the run needs .* are free in"):
        fine_tune(make_config())


def test_vllm_is_asked_for_before_anything_is_read(make_config, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        fine_tune(make_config(eval__backend="vllm", data__train="/nowhere.jsonl"))


def test_the_subset_can_have_a_seed_of_its_own_and_leave_the_held_out_problems_as_they_are(make_config):
    from tutelage.data import prepare
    from tutelage.model.load import load_tokenizer

    def prepared(**changes):
        config = make_config(data__size=8, **changes)
        return prepare(config, load_tokenizer(config.model.id))

    usual, same, other = prepared(), prepared(data__subset_seed=42), prepared(data__subset_seed=43)
    assert usual.fingerprint() == same.fingerprint() != other.fingerprint()
    assert usual.validation == other.validation


def test_what_is_known_of_the_data_is_written_down(make_config):
    result = fine_tune(make_config(data__filter=True))
    data = json.loads((result.directory / "data.json").read_text())
    assert sum(count for _, count in data["lengths"]) >= data["rows"] and data["response_tokens"] < data["tokens"]
    shown = {row["fate"]: row for row in data["shown"]}
    assert set(shown) == {"kept", "wrong answer", "validation"} | (set(shown) & {"too long"})
    assert "<answer>" in shown["wrong answer"]["response"] and shown["wrong answer"]["why"]
    assert shown["validation"]["prompt"] and shown["validation"]["why"] == "held out by data.test_size"
    example = data["example"]
    assert "<think>" in "".join(example["tokens"][example["prompt_tokens"] :]) and 0 < example["prompt_tokens"] < len(example["tokens"])


@pytest.mark.parametrize("normalization", ["token", "sequence"])
def test_the_nll_of_a_token_is_logged_whatever_the_loss_is_divided_by(make_config, normalization):
    run = fine_tune(make_config(train__loss_normalization=normalization)).directory
    steps = [line for line in lines_of(run / "metrics.jsonl") if line["kind"] == "train"]
    rows = 8
    for line in steps[:1]:
        tokens = line["response_tokens"] if normalization == "token" else rows
        assert line["nll"] == pytest.approx(line["loss"] * tokens / line["response_tokens"])
    assert 4 < steps[0]["nll"] < 8 and steps[0]["memory_gb"] > 0.1
