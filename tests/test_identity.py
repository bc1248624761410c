"""The model is a part of what a run is: a change of its files under an unfinished run is named, and refused unless it is allowed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tutelage.cli.export import export
from tutelage.config import replaced
from tutelage.errors import InputError
from tutelage.model import identity_of
from tutelage.runs.identity import changes_of_model
from tutelage.training import fine_tune, replay_step, taken


@pytest.fixture
def own(tiny_model, tmp_path) -> Path:
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "own"))


def edit(file: Path, **values) -> None:
    table = json.loads(file.read_text())
    file.write_text(json.dumps(table | values))


def another_training(directory: Path) -> None:
    """Other weights of the same names, shapes and size."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    save_file({name: value + 1e-3 * torch.ones_like(value) for name, value in weights.items()}, directory / "model.safetensors", {"format": "pt"})


def reworded(directory: Path) -> None:
    file = directory / "tokenizer.json"
    file.write_text(file.read_text().replace('"<|end|>"', '"<|fin|>"'))


CHANGES = {
    "a value": (lambda d: edit(d / "config.json", rms_norm_eps=0.01), "config.json: rms_norm_eps 1e-06 → 0.01"),
    "a new value": (lambda d: edit(d / "config.json", attention_bias=True, sliding_window=4), "config.json: attention_bias false → true; config.json: sliding_window (none) → 4"),
    "a value within": (lambda d: edit(d / "config.json", rope_parameters={"rope_theta": 5.0, "rope_type": "default"}), "config.json: rope_parameters.rope_theta 10000.0 → 5.0"),
    "generation": (lambda d: edit(d / "generation_config.json", temperature=2.0), "generation_config.json: temperature (none) → 2.0"),
    "the tokenizer": (reworded, "tokenizer.json: other content"),
    "its settings": (lambda d: edit(d / "tokenizer_config.json", padding_side="left"), "tokenizer_config.json: padding_side"),
    "a template": (lambda d: (d / "chat_template.jinja").write_text("{{ messages[0].content }}"), "chat_template.jinja is new"),
    "weights": (another_training, "model.safetensors: other weights"),
    "a lost file": (lambda d: (d / "generation_config.json").unlink(), "generation_config.json is gone"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
def test_what_changed_is_named_by_file_and_key(own, change, told):
    then = identity_of(str(own))
    change(own)
    assert "; ".join(changes_of_model(json.loads(json.dumps(then)), identity_of(str(own)))).startswith(told)


def test_who_wrote_a_model_and_how_is_no_change(own):
    then = identity_of(str(own))
    edit(own / "config.json", transformers_version="9.9", _name_or_path="/elsewhere")
    (own / "config.json").write_text(json.dumps(json.loads((own / "config.json").read_text()), indent=7))
    (own / "README.md").write_text("A card.")
    assert changes_of_model(then, identity_of(str(own))) == []


def test_weights_of_a_large_file_are_told_apart_by_their_blocks(tmp_path):
    file = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    seen = set()
    for at in (None, 0, 20_000_000 - 1):
        content = bytearray(20_000_000)
        if at is not None:
            content[at] = 1
        file.write_bytes((2).to_bytes(8, "little") + b"{}" + content)
        seen.add(identity_of(str(tmp_path))["files"]["model.safetensors"]["sha256"])
    assert len(seen) == 3


def test_a_model_of_the_hub_is_known_by_its_revision(tmp_path, tiny_model, monkeypatch):
    def cached(revision: str) -> Path:
        return Path(shutil.copytree(tiny_model, tmp_path / "models--a--b" / "snapshots" / revision))

    found = cached("1111")
    monkeypatch.setattr("tutelage.model.identity.resolve", lambda model_id, weights: model_id)
    monkeypatch.setattr("tutelage.model.identity.at_hand", lambda model_id: found)
    then = identity_of("a/b")
    assert then["revision"] == "1111"
    (found / "model.safetensors").rename(tmp_path / "not fetched yet")  # of the same revision, and fetched again when it is read
    assert changes_of_model(then, identity_of("a/b")) == []
    found = cached("2222")
    assert changes_of_model(then, identity_of("a/b")) == []  # another card, say
    edit(found / "config.json", rms_norm_eps=0.5)
    assert changes_of_model(then, identity_of("a/b")) == ["revision 1111 → 2222", "config.json: rms_norm_eps 1e-06 → 0.5"]


@pytest.fixture
def stopped(own, make_config, monkeypatch):
    """An unfinished run of a model of its own, and its configuration."""

    def stop_after(count: int, **changes):
        config = make_config(model__id=str(own), run__save_every=1, eval__every=0, **changes)
        with monkeypatch.context() as patch:
            original, calls = taken.update_weights, []

            def update(*arguments, **options):
                calls.append(1)
                if len(calls) == count:
                    raise KeyboardInterrupt
                return original(*arguments, **options)

            patch.setattr(taken, "update_weights", update)
            with pytest.raises(KeyboardInterrupt):
                fine_tune(config)
        return config

    return stop_after


@pytest.mark.slow
@pytest.mark.parametrize("lora", ["none", "lora"])
def test_a_run_does_not_go_on_with_another_model(stopped, own, lora):
    if lora != "none":
        pytest.importorskip("peft")
    config = stopped(3, model__lora=lora)
    directory = Path(config.run.dir)
    another_training(own)
    edit(own / "config.json", rms_norm_eps=0.01)
    told = r"has changed since this run was begun: config\.json: rms_norm_eps 1e-06 → 0\.01; model\.safetensors: other weights; undo that"
    for act in (lambda: fine_tune(config), lambda: export(directory), lambda: replay_step(config, 2)):
        with pytest.raises(InputError, match=told):
            act()
    assert fine_tune(config, allow_changes=["model.id"]).steps == 4
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    changes = next(line["changes"] for line in lines if line["kind"] == "config_changed")
    assert changes == ["config.json: rms_norm_eps 1e-06 → 0.01", "model.safetensors: other weights"]
    assert "config.json: rms_norm_eps 1e-06 → 0.01" in (directory / "report.html").read_text()


@pytest.mark.slow
def test_a_run_of_before_goes_on_and_says_once_that_nothing_compares_its_model(stopped, own, capsys):
    config = stopped(3)
    (Path(config.run.dir) / "identity.json").unlink()
    capsys.readouterr()
    edit(own / "config.json", rms_norm_eps=0.01)
    stopped(1)  # it goes on, keeps what the model is now, and is stopped again
    assert "there is no identity.json" in " ".join(capsys.readouterr().out.split())
    stopped(1)
    assert "identity.json" not in capsys.readouterr().out
    edit(own / "config.json", rms_norm_eps=0.02)
    with pytest.raises(InputError, match=r"rms_norm_eps 0\.01 → 0\.02; undo that"):
        fine_tune(config)


@pytest.mark.slow
def test_a_sweep_does_not_mix_trials_of_two_models(own, make_config, tmp_path, monkeypatch):
    from tutelage.experiments import sweep
    from tutelage.experiments.design import Design

    def in_this_process(work, jobs, where, **options):
        for index, job in enumerate(jobs):
            sweep.work(job)
            yield index, None

    monkeypatch.setattr(sweep.fanout, "run_apart", in_this_process)
    config = replaced(make_config(model__id=str(own), eval__every=0, train__num_steps=1), {"run.dir": str(tmp_path / "unused")})
    sweep.run_sweep(config, Design(sizes=(8,), equal="steps"), tmp_path / "out")
    sweep.run_sweep(config, Design(sizes=(8,), equal="steps"), tmp_path / "out")
    edit(own / "config.json", rms_norm_eps=0.01)
    with pytest.raises(InputError, match=r"trials of another model: .*rms_norm_eps 1e-06 → 0\.01\); choose another --out, or undo that"):
        sweep.run_sweep(config, Design(sizes=(8, None), equal="steps"), tmp_path / "out")
