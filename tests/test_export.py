"""A checkpoint becomes a model directory, equal to the weights that trained on."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from test_train import interrupt_at_call, weights_of

from tutelage.cli import main
from tutelage.cli.export import export
from tutelage.errors import InputError
from tutelage.training import fine_tune
from tutelage.training.ending import Interrupted
from tutelage.training.saving import best_step


def stopped_at(make_config, monkeypatch, step: int, **changes):
    config = make_config(eval__every=0, eval__before=False, **changes)
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", step + 1, signal.SIGINT)
        with pytest.raises(Interrupted):
            fine_tune(config)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"model__lora": "lora", "model__lora_rank": 2}, {"model__precision": "bf16-mixed"}], ids=str)
def test_an_exported_checkpoint_is_the_model_of_a_run_that_ended_there(make_config, monkeypatch, tmp_path, how):
    """A constant learning rate makes the shorter run the beginning of the longer one."""
    if "model__lora" in how:
        pytest.importorskip("peft")
    same = {"train__schedule": "constant", "train__warmup_ratio": 0.0, **how}
    config = stopped_at(make_config, monkeypatch, 3, train__num_steps=4, run__dir=str(tmp_path / "long"), **same)
    short = fine_tune(
        make_config(train__num_steps=3, eval__every=0, eval__before=False, run__dir=str(tmp_path / "short"), **same)
    )
    target = export(Path(config.run.dir))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours, theirs = load_file(target / "model.safetensors"), weights_of(short.directory)
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    AutoModelForCausalLM.from_pretrained(target)
    assert AutoTokenizer.from_pretrained(target).eos_token_id == 0
    assert "after 3 optimizer steps" in (target / "README.md").read_text()


def test_an_exported_checkpoint_ends_as_its_run_did(make_config, monkeypatch, tmp_path):
    from chain import TURN, make_chain_model
    from test_stops import saved_ends

    chain = make_chain_model(tmp_path / "chain")
    config = stopped_at(make_config, monkeypatch, 2, model__id=chain, data__prompt="chat")
    ends = saved_ends(export(Path(config.run.dir)))
    finished = fine_tune(config)
    assert set(ends.values()) == {TURN, ends["config"]} and ends["config"] != 0
    assert saved_ends(finished.directory / "model") == saved_ends(export(finished.directory)) == ends


def test_a_resized_model_is_resumed_and_exported_at_its_new_size(make_config, monkeypatch, tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(tiny_model, tmp_path / "long")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(tmp_path / "long")
    config = stopped_at(make_config, monkeypatch, 2, model__id=str(tmp_path / "long"), model__resize=True)
    exported = load_file(export(Path(config.run.dir)) / "model.safetensors")
    assert exported["model.embed_tokens.weight"].shape[0] == 402
    finished = fine_tune(config)
    assert AutoModelForCausalLM.from_pretrained(finished.directory / "model").config.vocab_size == 402


@pytest.mark.slow
def test_what_can_and_what_cannot_be_exported_of_a_stopped_run(make_config, monkeypatch, tmp_path):
    from transformers import AutoModelForCausalLM

    run, out = Path(stopped_at(make_config, monkeypatch, 2).run.dir), tmp_path / "out"
    monkeypatch.setattr("tutelage.model.save.SHARD_SIZE", "40KB")
    assert main(["export", str(run), "--step", "2", "--out", str(out)]) == 0
    assert len(list(out.glob("model-*.safetensors"))) > 1
    AutoModelForCausalLM.from_pretrained(out)
    with pytest.raises(InputError, match="is not overwritten"):
        export(run, out=out)
    with pytest.raises(InputError, match=r"no complete checkpoint of step 7; there are: 2"):
        export(run, step=7)
    with pytest.raises(InputError, match="not a run directory"):
        export(tmp_path)


def test_the_best_step_is_the_earliest_of_the_most_accurate_ones():
    lines = [{"step": step, "accuracy": accuracy} for step, accuracy in ((0, 1.0), (2, 0.5), (4, 0.5), (6, 0.25))]
    for found, best in ((lines, [2]), (lines[:1], [])):
        assert best_step(SimpleNamespace(reading=lambda found=found: SimpleNamespace(evaluations=found))) == best


@pytest.mark.slow
def test_a_finished_run_keeps_its_best_checkpoint_where_that_is_wished(make_config, monkeypatch):
    monkeypatch.setattr("tutelage.training.loop.best_step", lambda log: [2])
    run = fine_tune(make_config(train__num_steps=6, run__keep_best=True, run__keep_last=1)).directory
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000006"]
    assert (export(run, step=2) / "model.safetensors").is_file() and (export(run) / "model.safetensors").is_file()
