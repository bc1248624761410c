"""Every number of the configuration has bounds, and every name is one that a file can have: refused by the setting's name."""

from __future__ import annotations

import math
import typing

import pytest

from tutelage.cli.entry import main
from tutelage.config import Config, describe, load_config, parse_config
from tutelage.errors import InputError

KINDS = {(section, key): (kind, default) for section, key, kind, default, _ in describe()}
NUMBERS = [key for key, (kind, _) in KINDS.items() if {"int", "float"} & set(kind.replace("|", " ").split())]
ABSURD = [10**30, 1e30, 1e300, -1, -(10**30), math.nan, math.inf, -math.inf, True, False, "1e30", "nan", "-1", 10**400, "9" * 5000]
NAMES = [("model", "id"), ("data", "train"), ("data", "validation"), ("data", "prompt"), ("run", "dir")]


def test_the_list_of_numbers_is_the_configurations():
    """None of the settings with a number escapes: an annotation that mentions one is among them, and so are pairs."""
    numeric = {
        (section, key)
        for section, info in Config.model_fields.items()
        for key, field in info.annotation.model_fields.items()
        if {int, float} & set(parts_of(field.annotation))
    }
    assert numeric == {*NUMBERS, ("train", "betas")} and len(NUMBERS) > 35


def parts_of(kind: object) -> list[object]:
    return [kind, *(part for each in typing.get_args(kind) for part in parts_of(each))]


@pytest.mark.parametrize("value", ABSURD, ids=repr)
def test_an_absurd_number_is_refused_by_the_name_of_its_setting(value):
    for section, key in NUMBERS:
        with pytest.raises(InputError) as raised:
            parse_config({section: {key: value}})
        said = str(raised.value)
        assert said.startswith(f"config: {section}.{key}") and len(said) < 400 and said.count("\n") <= 1, said


@pytest.mark.parametrize("value", [[0.9, True], [1e30, 0.9], [-1, 0.9], [math.nan, 0.9], [0.9], 0.9, True])
def test_absurd_decay_rates_are_refused(value):
    with pytest.raises(InputError, match=r"train\.betas"):
        parse_config({"train": {"betas": value}})


def test_a_bound_says_what_it_is_for_and_its_ends_are_allowed():
    with pytest.raises(InputError, match=r"train.num_steps: must be at most 1,000,000,000 \(a step a second for thirty years\), got 1000000001"):
        parse_config({"train": {"num_steps": 10**9 + 1}})
    with pytest.raises(InputError, match=r"train.lr: must be above 0, got 0"):
        parse_config({"train": {"lr": 0}})
    kept = parse_config({"train": {"num_steps": 10**9, "seed": 2**32 - 1, "warmup_ratio": 0}, "eval": {"examples": 0, "top_p": 1}})
    assert kept.train.num_steps == 10**9 and kept.eval.top_p == 1
    assert load_config(None, ["--train.num_steps", "10", "--train.lr", "1"]).train.num_steps == 10


@pytest.mark.parametrize("name", ["", "  ", "x" * 300, "ä" * 200, "a\0b", "/".join(["x" * 200] * 30)])
def test_a_name_that_no_file_can_have_is_refused_by_its_setting(name, capsys):
    for section, key in NAMES:
        assert main(["train", f"--{section}.{key}={name}"]) == 2
        said = capsys.readouterr().err
        assert f"{section}.{key}" in said and len(said) < 600, said


NAMED = [
    ["train"], ["plan"], ["sweep"], ["eval", "smollm2"], ["eval"], ["filter"], ["ask"], ["report"], ["compare", "."],
    ["export"], ["grade", "--file"], ["init", "--model", "smollm2", "--dir", "x", "--train"],
]  # fmt: skip
NAMES_GIVEN = {"long": "x" * 300, "nul": "a\0b", "empty": "", "path": "/".join(["x" * 200] * 30), "missing": "./missing"}


@pytest.mark.slow
@pytest.mark.parametrize("command", NAMED, ids=" ".join)
@pytest.mark.parametrize("name", NAMES_GIVEN)
def test_a_name_given_to_a_command_that_cannot_be_is_one_message(command, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = {"filter": ["--out", "o.jsonl"], "ask": ["hi"]}.get(command[0], ["arithmetic"] if command == ["eval"] else [])
    assert main([*command, NAMES_GIVEN[name], *more]) == 2
    said = capsys.readouterr().err
    assert said.count("tutelage: ") == 1 and len(said) < 500 + 2 * len(NAMES_GIVEN[name]) and "Errno" not in said, said
    assert not list(tmp_path.iterdir())


NUMBERS_OF_COMMANDS = [
    ["train", "--launch"], ["train", "--replay"], ["eval", "m", "d", "--workers"], ["sweep", "--seeds"], ["sweep", "--workers"],
    ["sweep", "--gpus-per-trial"], ["plan", "--gpus"], ["plan", "--length"], ["export", "r", "--step"], ["report", "r", "--price"],
]  # fmt: skip


@pytest.mark.parametrize("command", NUMBERS_OF_COMMANDS, ids=" ".join)
@pytest.mark.parametrize("value", ["10" * 15, "-1", "nan", "1e30", "true", "9" * 5000])
def test_an_absurd_number_of_a_command_is_refused_by_the_name_of_its_option(command, value, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, value])
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"argument {command[-1]}: " in last and len(last) < 300, last
