"""What comes from others: pickled weights, code in a model's repository, names on the hub, telemetry."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tutelage.config import ModelConfig
from tutelage.errors import InputError
from tutelage.model.load import load_policy, load_tokenizer, outline, resolve


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("went-off"),)


def test_pickled_weights_are_refused_and_never_read(tiny_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="safetensors"):
        load_policy(ModelConfig(id=str(tmp_path / "pickled"), device="cpu"), tokenizer)
    assert not (tmp_path / "went-off").exists()


@pytest.mark.parametrize("what", ["AutoConfig", "AutoModelForCausalLM"])
def test_code_in_a_models_repository_is_never_run(tiny_model, tokenizer, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked whether to run the code"))
    directory = tmp_path / "remote"
    shutil.copytree(tiny_model, directory)
    (directory / "their_code.py").write_text("from pathlib import Path\nPath('went-off').touch()\nclass Theirs: pass\n")
    config = json.loads((directory / "config.json").read_text())
    config |= {"auto_map": {what: "their_code.Theirs"}, "model_type": "theirs"}
    (directory / "config.json").write_text(json.dumps(config))
    settings = ModelConfig(id=str(directory), device="cpu")
    for load in (lambda: load_policy(settings, tokenizer), lambda: outline(settings, tokenizer, torch.device("cpu"))):
        with pytest.raises(InputError, match="cannot be loaded"):
            load()
    assert not (tmp_path / "went-off").exists()


def test_a_pinned_name_is_fetched_at_that_revision_without_pickles_and_code(tiny_model, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return tiny_model

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve("their/model@abc123") == tiny_model
    assert asked[-1][:2] == ("their/model", "abc123")
    assert "*.safetensors" in asked[-1][2] and not {"*.bin", "*.py", "*.pt"} & set(asked[-1][2])
    assert load_tokenizer("their/model@abc123").eos_token_id is not None
    assert "*.safetensors" not in asked[-1][2]
    assert load_policy(ModelConfig(id="their/model@abc123", device="cpu"), load_tokenizer(tiny_model)).model is not None


def test_a_pinned_name_that_is_not_in_reach_is_one_error():
    with pytest.raises(InputError, match="their/model@abc: the model cannot be loaded"):
        resolve("their/model@abc")


def test_nobody_is_told_what_runs_here():
    code = (
        "import os; from tutelage.machines.process import prepare_process; prepare_process();"
        "print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    names = ("HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["1", "0"]


def test_no_file_of_ours_reads_pickles_or_runs_text():
    import ast

    import tutelage

    for path in Path(tutelage.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                refused = {"eval", "exec", "pickle.load", "pickle.loads", "os.system"}
                # its pickles come through a pipe from a process that it has started itself
                own = {"pickle.load", "pickle.loads"} if path.parts[-2:] == ("machines", "workers.py") else set()
                assert name not in refused - own, f"{path.name}: {name}"
                if name == "torch.load":
                    assert any(keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in node.keywords)
