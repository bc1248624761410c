from __future__ import annotations

import pytest

from tutelage.config import Config, describe, differences, load_config, parse_config, parse_overrides, split_overrides, to_toml
from tutelage.errors import InputError


def test_a_file_and_overrides_make_a_config(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[model]\nid = "m"\n[train]\nlr = 1e-4\nbetas = [0.8, 0.9]\n')
    config = load_config(
        file,
        [
            "--train.lr",
            "5e-5",
            "--data.filter=false",
            "--data.max_length",
            "none",
            "--data.columns.prompt",
            "q",
            "--data.size=8",
        ],
    )
    assert (config.model.id, config.train.lr, config.train.betas, config.data.filter) == ("m", 5e-5, (0.8, 0.9), False)
    assert (config.data.max_length, config.data.columns, config.data.size) == (None, {"prompt": "q"}, 8)


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        ({"train": {"learning_rate": 1}}, r"unknown key train\.learning_rate"),
        ({"train": {"grad_acum": 1}}, r"did you mean train\.grad_accum\?"),
        ({"trian": {}}, r"unknown key trian: did you mean train\?"),
        ({"train": {"betas": [1.5, 0.9]}}, r"train\.betas\.0"),
        ({"train": {"num_epochs": float("inf")}}, r"train\.num_epochs"),
        ({"eval": {"lr": 1}}, r"did you mean train\.lr\?"),
        ({"train": {"lr": "fast"}}, r"train\.lr: .*number.*'fast'"),
        ({"train": {"batch_size": -1}}, r"train\.batch_size: .*at least 1.*-1"),
        ({"train": {"batch_size": 1.5}}, r"train\.batch_size: .*integer.*1\.5"),
        ({"data": {"max_length": 0}}, r"data\.max_length"),
        ({"train": {"schedule": "step"}}, r"train\.schedule: .*'cosine'.*'step'"),
        ({"data": {"columns": {"question": "q"}}}, r"data\.columns\.question"),
        ({"model": {"precision": "bf16"}}, "bf16 is refused: plain bfloat16 weights lose every update"),
        ({"model": {"precision": "bf16-sr", "lora": "lora"}}, "nothing to round"),
        ({"model": {"precision": "bf17"}}, r"model\.precision"),
    ],
)
def test_a_bad_value_names_its_key_and_what_was_wrong(raw, what):
    with pytest.raises(InputError, match=what):
        parse_config(raw)


def test_all_problems_are_told_at_once():
    with pytest.raises(InputError) as caught:
        parse_config({"train": {"lr": -1, "nonsense": 2}})
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_or_broken_file_is_said(tmp_path):
    with pytest.raises(InputError, match="not found"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[train\n")
    with pytest.raises(InputError, match=r"bad\.toml: cannot be read as TOML"):
        load_config(tmp_path / "bad.toml")


@pytest.mark.parametrize("arguments", [["--train.lr"], ["train.lr", "1"], ["--lr", "1"], ["--train.lr", "--train.seed", "1"]])
def test_a_bad_override_is_said(arguments):
    with pytest.raises(InputError, match="needs a value|unexpected argument"):
        parse_overrides(arguments)


def test_the_resolved_config_reads_back_as_itself(tmp_path):
    config = parse_config({"data": {"columns": {"prompt": "q"}, "size": 5}, "train": {"lr": 3e-4}})
    (tmp_path / "c.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "c.toml") == config


def test_differences_name_what_changed():
    assert differences(Config(), parse_config({"train": {"lr": 1e-3}})) == ["train.lr: 2e-05 → 0.001"]


def test_every_field_is_documented():
    assert all(text.strip() for *_, text in describe())


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.lr = 1.0


def test_overrides_are_told_apart_from_a_commands_own_arguments():
    arguments = [
        "eval",
        "--eval.temperature",
        "0.7",
        "run",
        "data.jsonl",
        "--out",
        "x",
        "--data.filter=false",
        "--train.lr",
        "-1",
    ]
    assert split_overrides(arguments) == (
        ["eval", "run", "data.jsonl", "--out", "x"],
        ["--eval.temperature", "0.7", "--data.filter=false", "--train.lr", "-1"],
    )


def test_how_earlier_runs_wrote_activation_checkpointing_is_still_read():
    assert parse_config({"model": {"activation_checkpointing": True}}).model.activation_checkpointing == "full"
    assert parse_config({"model": {"activation_checkpointing": False}}).model.activation_checkpointing == "none"


def test_a_problem_names_the_file_or_the_flag_that_it_comes_from(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nmax_seq_length = 5\n[eval]\nsamples = 4\n")
    with pytest.raises(InputError) as refused:
        load_config(file, ["--train.batch_size", "x", "--eval.temperature=0"])
    lines = str(refused.value).splitlines()
    assert f"{file}: unknown key train.max_seq_length: in Tutelage: data.max_length" in lines
    assert any(line.startswith("--train.batch_size: ") for line in lines)
    assert any(line.startswith(f"{file} with --eval.temperature: eval.samples > 1") for line in lines)
