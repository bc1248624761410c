"""Bytes that changed on the disk are noticed before they are used, named in words, and the newest sound state is gone on from."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rank_cases import saved

from tutelage.cli import main
from tutelage.cli.export import export
from tutelage.data import filter, prepare
from tutelage.errors import InputError, RunError
from tutelage.grading import Verdict
from tutelage.machines import ALONE, SEAL, bytes_in_words, fault_of, files_of, seal, sealed, unsealed
from tutelage.model import resolve
from tutelage.model.load import load_policy, load_tokenizer
from tutelage.model.save import save_model
from tutelage.runs import checkpoint
from tutelage.training import fine_tune


@pytest.fixture
def optimizer(model):
    made = torch.optim.AdamW(model.parameters())
    model(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    made.step()
    made.zero_grad()
    return made


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def flipped_in_the_middle(path: Path) -> None:
    flip(path, path.stat().st_size * 4)


# ── the seal of a folder ──────────────────────────────────────────────────────────────────────────────────────────────


def test_every_bit_of_a_sealed_table_counts():
    text = sealed({"step": 3, "files": {"a b": [12, "0f"]}, "more": "ü"})
    assert unsealed(text) == {"step": 3, "files": {"a b": [12, "0f"]}, "more": "ü"}
    for bit in range(8 * len(text)):
        data = bytearray(text.encode())
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            unsealed(data.decode())


def test_the_checksum_made_while_writing_is_that_of_the_file(tmp_path):
    with seal.summed(tmp_path / "x") as (stream, file):
        for size in (3, 100_000, 0, 7):
            stream.write(os.urandom(size))
    assert file.checksum() == seal.checksum_of_file(tmp_path / "x") == seal.checksum_of((tmp_path / "x").read_bytes())


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ((129e6, 74e6), ["129 MB", "74 MB"]),
        ((100.4e6, 99.6e6), ["100.4 MB", "99.6 MB"]),
        ((1_000_000_002, 1_000_000_001), ["1.000000002 GB", "1.000000001 GB"]),
        ((2.5e9, 0), ["2.5 GB", "0.0 GB"]),
        ((5, 5), ["5 bytes", "5 bytes"]),
    ],
)
def test_sizes_that_differ_look_different(sizes, shown):
    assert bytes_in_words(*sizes) == shown


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_twenty_random_bit_flips_in_a_checkpoint_are_noticed(tmp_path, model, optimizer, capsys):
    older, newest = (saved(tmp_path, step, model, optimizer) for step in (1, 2))
    kept = tmp_path / "kept"
    shutil.copytree(newest, kept)
    draw = random.Random(0)
    files = sorted(newest.iterdir())
    assert {file.name for file in files} == {"__0_0.distcp", ".metadata", SEAL}
    for index in range(20):
        file = files[index % 3]
        flip(file, draw.randrange(8 * file.stat().st_size))
        assert checkpoint.sound(tmp_path) == older
        said = " ".join(capsys.readouterr().out.split())
        assert f"{newest} is damaged: {file.name}" in said and said.endswith("; going on after step 1")
        shutil.copy(kept / file.name, file)
    assert checkpoint.sound(tmp_path) == newest and capsys.readouterr().out == ""


DAMAGES = {
    "flipped": ("__0_0.distcp", flipped_in_the_middle, "differs from its checksum"),
    "zeroes": ("__0_0.distcp", lambda path: path.write_bytes(bytes(path.stat().st_size)), "differs from its checksum"),
    "cut off": ("__0_0.distcp", lambda path: os.truncate(path, 100), "has 100 bytes instead of"),
    "grown": ("__0_0.distcp", lambda path: path.write_bytes(path.read_bytes() + b"x"), "has"),
    "gone": ("__0_0.distcp", Path.unlink, "is missing"),
    "a pipe": ("__0_0.distcp", lambda path: (path.unlink(), os.mkfifo(path)), "is no file"),
    "metadata flipped": (".metadata", flipped_in_the_middle, "differs from its checksum"),
    "metadata garbage": (".metadata", lambda path: path.write_bytes(b"x" * path.stat().st_size), "differs from its checksum"),
    "metadata gone": (".metadata", Path.unlink, "is missing"),
    "seal gone": (SEAL, Path.unlink, "is missing"),
    "seal of a list": (SEAL, lambda path: path.write_text("[]"), "is damaged"),
    "seal null": (SEAL, lambda path: path.write_text("null"), "is damaged"),
    "seal without files": (SEAL, lambda path: path.write_text('{"files": []}'), "is damaged"),
    "seal of no file": (SEAL, lambda path: path.write_text('{"files": {}}'), "is damaged"),
    "seal empty": (SEAL, lambda path: path.write_bytes(b""), "is damaged"),
    "seal deep": (SEAL, lambda path: path.write_text("[" * 200_000), "is damaged"),
    "seal no text": (SEAL, lambda path: path.write_bytes(b"\xff\xfe\0"), "is damaged"),
    "seal of no name": (SEAL, lambda path: path.write_text('{"files": {"a\\u0000": 0}}'), "is damaged"),
    "seal of elsewhere": (SEAL, lambda path: path.write_text(sealed({"files": {"../x": [0, ""]}})), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_damaged_the_older_one_is_used_and_that_is_said(tmp_path, model, optimizer, capsys, damage):
    older, newest = (saved(tmp_path, step, model, optimizer) for step in (1, 2))
    name, do, words = DAMAGES[damage]
    do(newest / name)
    checkpoint.set_damaged_aside(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{newest} is damaged: {name} {words}" in said and "going on after step 1" in said
    assert checkpoint.latest(tmp_path) == older
    assert sorted(path.name for path in older.parent.iterdir()) == [".damaged-step-00000002", "step-00000001"]
    assert saved(tmp_path, 2, model, optimizer) == newest and checkpoint.damage_of(newest) == ""
    assert not list(older.parent.glob(".damaged*"))


def test_where_every_checkpoint_is_damaged_nothing_begins_again_by_itself(tmp_path, model, optimizer):
    for path in [saved(tmp_path, step, model, optimizer) for step in (1, 2)]:
        (path / SEAL).unlink()
    with pytest.raises(InputError, match=r"(?s)step-00000002 is damaged: COMPLETE.json.*step-00000001 is damaged.*To begin again from step 0, remove"):
        checkpoint.set_damaged_aside(tmp_path)
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 2


def test_a_directory_that_is_no_checkpoint_is_passed_over(tmp_path, model, optimizer):
    newest = saved(tmp_path, 2, model, optimizer)
    for name in ("step-zzz", "step-00000009.bak", "step-3"):
        shutil.copytree(newest, newest.with_name(name))
    assert checkpoint.sound(tmp_path) == checkpoint.latest(tmp_path) == newest


def as_an_earlier_version_sealed(path: Path) -> None:
    files = {name: entry.size for name, entry in files_of(path).items()}
    (path / SEAL).write_text(json.dumps({"step": 1, "ranks": 1, "files": files}))


def test_a_checkpoint_of_an_earlier_version_is_read_and_its_lack_is_said(tmp_path, model, optimizer, capsys):
    older, newest = (saved(tmp_path, step, model, optimizer) for step in (1, 2))
    as_an_earlier_version_sealed(newest)
    assert checkpoint.sound(tmp_path) == newest
    assert "has no checksums" in " ".join(capsys.readouterr().out.split())
    assert checkpoint.load(newest, model, optimizer, ALONE) == 2
    (newest / ".metadata").write_bytes(b"x" * (newest / ".metadata").stat().st_size)
    assert checkpoint.sound(tmp_path) == older
    assert ".metadata cannot be read" in " ".join(capsys.readouterr().out.split())


def test_a_full_disk_is_called_so_with_what_is_needed_and_free(tmp_path, model, optimizer, monkeypatch):
    """Every write to the file meets a full disk, and torch makes an error of its own of that."""
    first = saved(tmp_path, 1, model, optimizer)
    make_room = checkpoint._make_room

    def full(beside: Path) -> str:
        why = make_room(beside)
        (beside / "__0_0.distcp").symlink_to("/dev/full")
        return why

    monkeypatch.setattr(checkpoint, "_make_room", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12_345))
    saves = checkpoint.Checkpoints(tmp_path, ALONE, keep=2)
    saves.save(2, model, optimizer)
    size = sum(tensor.numel() * tensor.element_size() for tensor in checkpoint.state_of(model, optimizer).values())
    assert saves.wait() == [
        f"{tmp_path}/checkpoints/step-00000002: the checkpoint could not be written: the disk is full: it needs {size / 1e3:.0f} kB,"
        f" and {tmp_path}/checkpoints has 12 kB free"
    ]
    assert [path.name for path in first.parent.iterdir()] == [first.name]


# ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """Nothing catches this: what a SIGKILL leaves behind."""


def killed_in_step(monkeypatch, config, step: int, before=lambda: None):
    """A run that ended in optimizer step `step`."""
    from tutelage.training import taken

    original, calls = taken.update_weights, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == step:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(taken, "update_weights", dying)
        with pytest.raises(Killed):
            fine_tune(config)
    return Path(config.run.dir)


SHORT = {"run__save_every": 1, "train__num_steps": 5, "eval__every": 0, "eval__before": False}


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_ends_as_if_undisturbed(make_config, tmp_path, monkeypatch, capsys):
    from test_train import assert_same_run

    whole = fine_tune(make_config(run__dir=str(tmp_path / "whole"), **SHORT)).directory
    config = make_config(run__dir=str(tmp_path / "parts"), **SHORT)
    run = killed_in_step(monkeypatch, config, 5)
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-00000003", "step-00000004"]
    flipped_in_the_middle(run / "checkpoints" / "step-00000004" / "__0_0.distcp")
    capsys.readouterr()
    fine_tune(config)
    said = " ".join(capsys.readouterr().out.split())
    assert "step-00000004 is damaged: __0_0.distcp differs from its checksum; going on after step 3" in said
    assert_same_run(whole, run)
    assert len(list((run / "checkpoints").iterdir())) == 1  # that of its end


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_alone(make_config, monkeypatch):
    config = make_config(**SHORT)
    run = killed_in_step(monkeypatch, config, 4)
    for path in (run / "checkpoints").iterdir():
        (path / SEAL).write_bytes(b"")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="no checkpoint of .* can be used"):
        fine_tune(config)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    shutil.rmtree(run / "checkpoints")
    assert fine_tune(config).steps == 5


def test_what_is_begun_again_is_said(make_config, monkeypatch, capsys):
    config = make_config(**{**SHORT, "run__save_every": 0})
    run = killed_in_step(monkeypatch, config, 3)
    capsys.readouterr()
    fine_tune(config)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{run} holds no checkpoint, so the run begins again at step 0; what was measured before (2 steps) is kept in" in said
    assert (run / "metrics.before-restart-1.jsonl").is_file() and not (run / "generations.before-restart-1.jsonl").exists()


@pytest.mark.slow
def test_a_run_that_fitted_goes_on(make_config, monkeypatch):
    """With room for what it needs and nothing more, its own checkpoints being part of that."""
    from tutelage.training import start

    config = make_config(**SHORT)
    run, room = Path(config.run.dir), {}

    def usage(_):
        return SimpleNamespace(free=room["all"] - checkpoint.size_on_disk(run))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    room["all"] = 0
    with pytest.raises(InputError, match=r"needs [\d.]+ MB, 0\.0 MB are free"):
        fine_tune(config)
    policy = load_policy(config.model, load_tokenizer(config.model.id))
    size = start.size_in_bytes(policy.model)
    room["all"] = size + 3 * 3 * start.size_in_bytes(policy.model, trained=True)
    killed_in_step(monkeypatch, config, 4)
    assert checkpoint.size_on_disk(run) > size
    room["all"] = int(room["all"] * 0.9)
    with pytest.raises(InputError, match=r"needs [\d.]+ .B more, [\d.]+ .B are free"):
        fine_tune(config)
    room["all"] = int(room["all"] / 0.9) + 1
    assert fine_tune(config).steps == 5


def removed(run: Path) -> None:
    while run.exists():  # a checkpoint may be on its way into it
        shutil.rmtree(run, ignore_errors=True)


def moved(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))


def replaced(run: Path) -> None:
    moved(run)
    run.mkdir()
    (run / ".lock").touch()


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("go", [removed, moved, replaced])
def test_a_run_whose_directory_goes_stops_at_its_next_write(make_config, monkeypatch, go, every):
    from tutelage.training import taken

    config = make_config(**{**SHORT, "run__save_every": every})
    run, original, calls = Path(config.run.dir), taken.update_weights, []

    def going(*arguments):
        calls.append(1)
        if len(calls) == 3:
            go(run)
        return original(*arguments)

    monkeypatch.setattr(taken, "update_weights", going)
    with pytest.raises(RunError, match=r"^stopped after step 3 of 5: run.dir: .*run is gone"):
        fine_tune(config)
    assert len(calls) == 3
    assert [path.name for path in run.iterdir()] == [".lock"] if go is replaced else not run.exists()


def test_a_directory_that_goes_while_the_model_is_saved_is_told(make_config, monkeypatch):
    from tutelage.training import loop

    config = make_config(**SHORT)
    original = loop.save_model
    monkeypatch.setattr(loop, "save_model", lambda *arguments: (shutil.rmtree(config.run.dir), original(*arguments)))
    with pytest.raises(RunError, match=r"run is gone|could not be written"):
        fine_tune(config)
    assert not (Path(config.run.dir) / "result.json").exists()


# ── models that a run saved ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def saved_model(make_config, tokenizer, tmp_path) -> Path:
    save_model(load_policy(make_config().model, tokenizer), tmp_path / "model", "a card")
    return tmp_path / "model"


def test_a_saved_model_whose_bytes_changed_is_refused_by_the_file(saved_model):
    assert resolve(str(saved_model)) == str(saved_model)
    for file in sorted(saved_model.iterdir()):
        right = file.read_bytes()
        flip(file, 8 * (len(right) - 3))
        os.utime(saved_model / SEAL, ns=(0, hash(file.name) % 10**9))  # as another process would see it
        if file.name == "README.md":
            resolve(str(saved_model))
        else:
            with pytest.raises(InputError, match=rf"the model is damaged: {file.name}"):
                resolve(str(saved_model))
        file.write_bytes(right)
    flipped_in_the_middle(saved_model / "model.safetensors")
    (saved_model / SEAL).unlink()
    assert resolve(str(saved_model)) == str(saved_model), "a model without checksums is not looked at"


def test_a_damaged_model_is_neither_evaluated_nor_asked_nor_exported(make_config, tmp_path, monkeypatch, capsys):
    run = fine_tune(make_config(**{**SHORT, "train__num_steps": 1})).directory
    exported = export(run, out=tmp_path / "whole")
    assert fault_of(exported) == ""
    flipped_in_the_middle(run / "model" / "model.safetensors")
    from tutelage.model import directory

    directory._fault_since.cache_clear()
    monkeypatch.chdir(tmp_path)
    for command in (["eval", str(run), "arithmetic"], ["ask", str(run), "What is 1 + 1?"], ["export", str(run), "--out", "again"]):
        assert main(command) == 2
        assert "the model is damaged: model.safetensors differs from its checksum" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "again").exists()


# ── caches ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_random_bit_flips_in_stored_rows_are_noticed_and_the_rows_made_again(make_config, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tutelage.data.store.cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr("tutelage.machines.workers.available_cores", lambda: 1)

    def rows():
        prepared = prepare(make_config(), tokenizer)
        return [(row.source, row.prompt_ids, row.response_ids) for row in prepared.train], list(prepared.ledger), list(prepared.validation)

    right, draw = rows(), random.Random(1)
    [folder] = (tmp_path / "cache" / "rows").iterdir()
    contents = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    assert len(contents) == 6, "rows, raw, tokens, two columns and what is done"
    for name, content in [*contents.items()] * 2:
        flip(folder / name, draw.randrange(8 * len(content)))
        capsys.readouterr()
        assert rows() == right
        said = " ".join(capsys.readouterr().out.split())
        assert "damaged or missing, and made again" in said
        assert {file.name for file in folder.iterdir()} == set(contents)
        assert all((folder / other).read_bytes() == content for other, content in contents.items())


def test_a_kept_verdict_that_changed_is_found_out_and_graded_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(filter, "cache_directory", lambda: tmp_path)
    wrong, right = ("4", "5"), ("\ud83d", "4")
    verdicts = {wrong: Verdict(False, "exact", "5 is not 4"), right: Verdict(None, "limit", "no \u00fc")}
    with filter.verdict_cache() as cache:
        cache.keep(verdicts)
        assert cache.find(verdicts) == verdicts and cache.damaged == 0
    data = bytearray(cache.path.read_bytes())
    index = data.index(b"5 is not 4")
    data[index] ^= 1
    cache.path.write_bytes(data)
    with filter.verdict_cache() as cache:
        assert cache.find(verdicts) == {right: verdicts[right]} and cache.damaged == 1
        cache.keep(verdicts)
        assert cache.find(verdicts) == verdicts
    assert "1 kept verdict was damaged, and was graded again" in " ".join(capsys.readouterr().out.split())
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE verdicts SET equal = 1 WHERE equal = 0")
    with filter.verdict_cache() as cache:
        assert cache.find([wrong]) == {}
