"""`train_one_size`: the specification's call, from a script of twenty lines, in a process of its own and in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_train import assert_same_run, interrupt_at_call, lines_of

from tutelage import Config, InputError, train_one_size
from tutelage.config import replaced, to_toml
from tutelage.training.ending import Interrupted

NO_EVALUATION = {"train__num_steps": 1, "eval__every": 0, "eval__before": False}

BODY = '''
    for size, filtered in SIZES:
        result = train_one_size(size, filtered=filtered, config=config)
        last = result.evaluations[-1]
        print(json.dumps([str(result.directory), result.steps, last["step"], last["accuracy"]]))
'''
SCRIPT = '''
import json
import sys

from tutelage import train_one_size

print("the script is run")
config = {
    "model": {"id": sys.argv[1], "device": "cpu", "precision": "fp32"},
    "data": {"train": "rows.jsonl", "prompt": "plain", "test_size": 0.2},
    "train": {"lr": 1e-3, "num_steps": 2},
    "eval": {"before": False, "examples": 4, "full": False, "max_new_tokens": 8, "backend": "BACKEND"},
}
'''
"""Twenty lines, with what stands below them."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guard", "backend", "sizes"),
    [
        ('if __name__ == "__main__":', "native", [(8, False), (16, True)]), ("if True:", "native", [(8, False)]),
        ("if True:", "fake", [(16, True)]),
    ],
    ids=["guarded", "unguarded", "unguarded, with an engine in a process of its own"],
)  # fmt: skip
def test_a_script_trains_each_size_in_a_directory_of_its_own(tmp_path, tiny_model, data_file, guard, backend, sizes):
    (tmp_path / "rows.jsonl").write_text(data_file.read_text())
    (tmp_path / "script.py").write_text(SCRIPT.replace("BACKEND", backend) + "\n" + guard + BODY.replace("SIZES", str(sizes)))
    environment = os.environ | {"TUTELAGE_CACHE": str(tmp_path / "cache"), "TUTELAGE_FAKE": "good", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "script.py", tiny_model], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("the script is run") == 1  # no process that the run started has run it again
    said = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")]
    assert [line[:3] for line in said] == [[f"runs/tutelage-{size}-{'filtered' if right else 'raw'}", 2, 2] for size, right in sizes]
    for (directory, *_), (size, right) in zip(said, sizes, strict=True):
        fates = [fate["fate"] for fate in lines_of(tmp_path / directory / "ledger.jsonl")]
        assert fates.count("kept") == size and ("wrong answer" in fates) == right


def kept(result) -> list[str]:
    return [fate["source"] for fate in lines_of(result.directory / "ledger.jsonl") if fate["fate"] == "kept"]


@pytest.fixture
def asked(monkeypatch):
    """The configurations that would be trained by, instead of training."""
    seen: list[Config] = []
    monkeypatch.setattr("tutelage.training.specification.fine_tune", lambda config, **more: seen.append(config))
    return seen


def test_a_configuration_is_a_config_a_file_or_a_dict(make_config, tmp_path, asked):
    config = make_config()
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    nested = config.model_dump()
    dotted = {f"{section}.{key}": value for section, values in nested.items() for key, value in values.items()}
    both = {name: values for name, values in nested.items() if name not in ("data", "eval")}
    both |= {"eval": nested["eval"] | {"seed": 1}, "eval.seed": 42} | {key: dotted[key] for key in dotted if key.startswith("data.")}
    for given in (config, file, str(file), nested, dotted, both):
        train_one_size(8, config=given)
    assert asked == [replaced(config, {"data.size": 8})] * 6
    assert both["eval"]["seed"] == 1 and "data" not in both  # what was given is left as it was


@pytest.mark.slow
def test_the_filter_and_the_size_are_the_configurations_unless_they_are_given(make_config, tmp_path):
    config = make_config(**NO_EVALUATION, data__size=12, data__filter=False)
    as_it_says, filtered, small = (
        train_one_size(*arguments, config=config, run_dir=tmp_path / str(index))
        for index, arguments in enumerate([(None,), (None, True), (np.int64(8),)])
    )
    assert len(kept(as_it_says)) == len(kept(filtered)) == 12 and set(kept(small)) < set(kept(as_it_says))
    fates = [fate["fate"] for fate in lines_of(filtered.directory / "ledger.jsonl")]
    assert "wrong answer" in fates


@pytest.mark.slow
def test_run_dir_of_the_configuration_is_obeyed_and_a_second_size_there_refused(make_config, tmp_path):
    config = make_config(**NO_EVALUATION)
    assert train_one_size(8, config=config).directory == Path(config.run.dir)
    with pytest.raises(InputError, match="holds a finished run"):
        train_one_size(16, config=config)


@pytest.mark.slow
def test_the_same_call_goes_on_with_a_run_that_was_stopped(make_config, tmp_path, monkeypatch):
    config, parts = make_config(), tmp_path / "parts"
    undisturbed = train_one_size(16, True, config, run_dir=tmp_path / "undisturbed").directory
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 3)
        with pytest.raises(Interrupted):
            train_one_size(16, True, config, run_dir=parts)
    assert_same_run(undisturbed, train_one_size(16, True, config, run_dir=parts).directory)


@pytest.mark.parametrize(
    ("arguments", "names", "new"),
    [
        ((Config(),), {}, r"train_one_size\(512, config="), ((Config(), 128), {}, r"train_one_size\(128, config="),
        ((Config(),), {"size": 64}, r"train_one_size\(64, config="), (("recipes/arithmetic.toml",), {}, r"train_one_size\(512, config="),
        ((Path("a.toml"), 8), {}, r"train_one_size\(8, config="), (({"train": {}},), {}, r"train_one_size\(512, config="),
        ((128, Config()), {}, r"train_one_size\(128, config="), ((), {"size": 8}, r"no argument 'size'.*train_one_size\(8, config="),
        ((), {"dataset": 8, "subset": 4}, r"no argument 'dataset'.*train_one_size\(4, config="),
    ],
)  # fmt: skip
def test_the_call_of_before_is_an_error_that_names_the_new_one(arguments, names, new):
    with pytest.raises(InputError, match=new):
        train_one_size(*arguments, **names)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"subset": 0}, "subset is 0"), ({"subset": True}, "subset is True"), ({"subset": 1.5}, "subset is 1.5"),
        ({"filtered": "yes"}, "configuration by its name"), ({"filtered": 1}, "filtered is 1"), ({"config": 7}, "config is of type int"),
        ({"config": "nowhere.toml"}, "config file not found"), ({"config": {"train": {"rl": 1}}}, "unknown key train.rl"),
        ({"config": {"train.rl": 1}}, "unknown key train.rl"), ({"config": {"train": 3}}, "train"), ({"config": {"lr": 1}}, "unknown key lr"),
        ({"allow_changes": ["train.rl"]}, "there is no such setting"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_read(monkeypatch, tmp_path, arguments, what):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tutelage.training.loop.prepare", lambda *arguments: pytest.fail("rows were read"))
    with pytest.raises(InputError, match=what):
        train_one_size(**arguments)
    assert not any(tmp_path.iterdir())


def test_a_call_without_a_configuration_trains_the_defaults(asked):
    for arguments in [(), (512,), (512, True), (None, False)]:
        train_one_size(*arguments)
    assert [config.run.dir for config in asked] == [f"runs/tutelage{end}" for end in ("", "-512", "-512-filtered", "-raw")]
    assert [(config.data.size, config.data.filter) for config in asked] == [(None, True), (512, True), (512, True), (None, False)]
    assert asked[0] == Config()


@pytest.mark.slow
def test_512_rows_of_the_built_in_task_are_right_and_overlap_with_no_problem(tokenizer):
    from tutelage.data import prepare

    assert prepare(Config.model_validate({"data": {"size": 512, "prompt": "plain"}}), tokenizer).rows == 512
