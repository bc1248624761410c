"""What is made of an exported model besides: an adapter by itself, a GGUF file, a repository of the hub."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from adapters import ROWS, trained
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from tutelage.cli import export as exporting
from tutelage.cli import gguf, hub, main
from tutelage.errors import InputError, RunError
from tutelage.model import ADAPTER, save_model
from tutelage.model.batch import pad
from tutelage.model.load import load_policy

STAND_IN = Path(__file__).parent / "to_gguf.py"


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_saved_adapter_computes_in_peft_as_it_was_trained(make_config, tokenizer, tmp_path, kind):
    peft = pytest.importorskip("peft")
    config = make_config(model__lora=kind, model__lora_rank=4, model__lora_targets=["q_proj", "down_proj"])
    policy = trained(load_policy(config.model, tokenizer))
    save_model(policy, tmp_path / "model", "card")
    read = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "model" / ADAPTER)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        ours = policy.score(pad(ROWS[:1], 0)).log_probs
        theirs = read(ids).logits.log_softmax(-1)[0, [2, 3], [8, 9]]
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert read.peft_config["default"].target_modules == {"q_proj", "down_proj"}


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_the_adapter_of_a_run_is_exported_by_itself(make_config, monkeypatch, tmp_path, finished):
    peft = pytest.importorskip("peft")
    from test_export import stopped_at
    from transformers import AutoTokenizer

    from tutelage.training import fine_tune

    settings = {"model__lora": "lora", "model__lora_rank": 2, "train__lr": 1e-2}
    if finished:
        run = fine_tune(make_config(**settings, train__num_steps=2, eval__every=0, eval__before=False)).directory
    else:
        run = Path(stopped_at(make_config, monkeypatch, 2, **settings).run.dir)
    out = tmp_path / "adapter"
    assert main(["export", str(run), "--adapter", "--out", str(out)]) == 0
    read = peft.AutoPeftModelForCausalLM.from_pretrained(out)
    merged = exporting.export(run)
    from transformers import AutoModelForCausalLM

    plain, ids = AutoModelForCausalLM.from_pretrained(merged), torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    card = (out / "README.md").read_text()
    assert "library_name: peft" in card and "AutoPeftModelForCausalLM" in card and "LoRA adapters of rank 2" in card
    assert AutoTokenizer.from_pretrained(out).eos_token_id == 0
    with pytest.raises(InputError, match="is not overwritten"):
        exporting.export(run, out=out, adapter=True)


def test_a_run_without_adapters_has_none_to_export(make_config, tmp_path):
    from tutelage.config import to_toml

    config = make_config()
    Path(config.run.dir).mkdir()
    (Path(config.run.dir) / "config.toml").write_text(to_toml(config))
    with pytest.raises(InputError, match="leave --adapter out"):
        exporting.export(Path(config.run.dir), adapter=True)


@pytest.fixture
def exported(tiny_model, tmp_path, monkeypatch) -> Path:
    """The directory that `tutelage export` makes, which is the tiny model."""
    made = tmp_path / "exported"

    def export(*arguments):
        shutil.copytree(tiny_model, made)
        return made

    monkeypatch.setattr(exporting, "export", export)
    monkeypatch.setattr(exporting, "start", lambda: None)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "gap"), [("f32", 1e-5), ("q8_0", 0.05)])
def test_a_gguf_file_says_what_the_model_says(exported, kind, gap, capsys):
    from transformers import AutoModelForCausalLM

    assert main(["export", "run", "--gguf", kind, "--gguf-converter", str(STAND_IN), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made == {"directory": str(exported), "gguf": str(exported / f"run-{kind}.gguf")}
    plain = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    read = AutoModelForCausalLM.from_pretrained(exported, gguf_file=Path(made["gguf"]).name, dtype=torch.float32)
    asked = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        assert (read(asked).logits.log_softmax(-1) - plain(asked).logits.log_softmax(-1)).abs().max() < gap
        said = [model.generate(asked, max_new_tokens=8, do_sample=False)[0].tolist() for model in (plain, read)]
    assert said[0] == said[1]


@pytest.mark.slow
def test_a_converter_that_fails_is_quoted_and_leaves_nothing(exported, monkeypatch):
    monkeypatch.setenv("FAILS", "1")
    exported.mkdir()
    with pytest.raises(
        RunError, match=r"exported was exported, but not converted: to_gguf.py: NotImplementedError: BPE pre-tokenizer"
    ):
        gguf.convert(gguf.converter(STAND_IN), exported, "f16", "run")
    assert not list(exported.iterdir())


def test_a_converter_is_named_or_on_the_path_or_told_how_to_get(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="git clone --depth 1 https://github.com/ggml-org/llama.cpp"):
        gguf.converter(None)
    with pytest.raises(InputError, match="there is no"):
        gguf.converter(tmp_path / "nothing.py")
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("")
    script.chmod(0o755)
    assert gguf.converter(None)[1:] == gguf.converter(tmp_path)[1:] == gguf.converter(script)[1:] == [str(script)]


class Hub:
    """Stands in for huggingface_hub.HfApi: what was asked of it, in order. Its methods take what the real ones take."""

    public = ("ann/public",)

    def __init__(self, role="write"):
        self.role, self.calls = role, []

    def whoami(self):
        return {"name": "ann", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": self.role, "displayName": "laptop"}}}

    def repo_info(self, repo_id):
        if repo_id in self.public:
            return SimpleNamespace(private=False)
        raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))

    def _called(self, name, *given, **named):
        inspect.signature(getattr(HfApi, name)).bind(self, *given, **named)
        self.calls.append((name, given, named))

    def create_repo(self, *given, **named):
        self._called("create_repo", *given, **named)
        return f"https://huggingface.co/{given[0]}"

    def upload_folder(self, **named):
        self._called("upload_folder", **named)


@pytest.fixture
def api(monkeypatch) -> Hub:
    made = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: made)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    return made


def test_an_exported_model_is_uploaded_with_its_card(api, exported, capsys):
    assert main(["export", "run", "--push", "first", "--private", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hub"] == "https://huggingface.co/ann/first"
    created, uploaded = api.calls
    assert created == ("create_repo", ("ann/first",), {"private": True, "exist_ok": True})
    assert uploaded[2]["repo_id"] == "ann/first" and uploaded[2]["folder_path"] == exported
    assert hub.destination("lab/x", False).private is None  # as the account's settings say


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("a/b/c", {}, "'repo_name' or 'namespace/repo_name'"),
        ("bob/model", {}, "logged in as ann and may write to: ann, lab"),
        ("public", {}, "is there and public"),
        ("x", {"role": "read"}, "the token 'laptop' may only read"),
    ],
)
def test_what_cannot_be_uploaded_is_told_before_anything_is_made(api, exported, name, changes, message, capsys):
    api.role = changes.get("role", "write")
    assert main(["export", "run", "--push", name, "--private"]) == 2
    assert message in capsys.readouterr().err
    assert not api.calls and not exported.exists()


def test_nobody_is_logged_in_or_the_hub_is_off(api, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match="hf auth login"):
        hub.destination("x", False)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        hub.destination("x", False)


def test_an_upload_that_fails_says_where_the_model_is(api, exported, monkeypatch):
    monkeypatch.setattr(Hub, "upload_folder", lambda self, **named: (_ for _ in ()).throw(OSError("413 too large")))
    with pytest.raises(RunError, match="exported was exported, but not uploaded to ann/x: 413 too large"):
        hub.upload(exported, hub.destination("x", False))


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--adapter", "--gguf", "f16"], "made of a full model"), (["--private"], "add --push NAME")],
)
def test_flags_that_contradict_each_other_are_refused(flags, message, capsys):
    assert main(["export", "run", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_llama_cpps_own_converter_keeps_what_the_model_says(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tutelage.model import resolve

    try:
        command = gguf.converter(None)
    except InputError:
        pytest.skip("llama.cpp's converter is not on PATH; the other tests have a stand-in for it")
    model = Path(shutil.copytree(resolve("smollm2"), tmp_path / "model"))
    made = gguf.convert(command, model, "q8_0", "smollm2")
    asked = AutoTokenizer.from_pretrained(model)("The capital of France is", return_tensors="pt")
    said = []
    for name in (None, made.name):
        read = AutoModelForCausalLM.from_pretrained(model, gguf_file=name, dtype=torch.float32)
        said.append(read.generate(**asked, max_new_tokens=12, do_sample=False)[0].tolist())
    assert said[0] == said[1]
