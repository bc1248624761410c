"""What a model directory holds is said in words before anything of it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tutelage.config import ModelConfig
from tutelage.errors import InputError
from tutelage.model.load import load_policy, load_tokenizer, outline, resolve

CPU = torch.device("cpu")


def configured(**changes):
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def renamed(new: str, keep_config: bool = True):
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / new)
        if not keep_config:
            (folder / "config.json").unlink()

    return change


def adapter(folder: Path) -> None:
    renamed("adapter_model.safetensors", keep_config=False)(folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "their/Base", "peft_type": "LORA"}')


def adapter_beside_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "their/Base", "peft_type": "LORA"}')


def half_fetched(folder: Path) -> None:
    shards = {"a": "model-1-of-3.safetensors", "b": "model-2-of-3.safetensors", "c": "model-3-of-3.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    renamed("model-2-of-3.safetensors")(folder)


def torn(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1000\n")


def a_run(folder: Path) -> None:
    (folder / "model").mkdir()
    for file in [file for file in folder.iterdir() if file.is_file()]:
        file.rename(folder / "model" / file.name)
    (folder / "config.toml").write_text("")


KINDS = {
    "pickled": (renamed("pytorch_model.bin"), r"pickled \(pytorch_model.bin\).*safe_serialization=True.*model.id"),
    "pickled shards": (renamed("pytorch_model-00001-of-00002.bin"), r"pickled \(pytorch_model-00001"),
    "pickled, .pt": (renamed("weights.pt"), r"pickled \(weights.pt\)"),
    "gptq": (configured(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantized \(gptq\).*unquantized original"),
    "quantized within": (configured(text_config={"quantization_config": {"quant_method": "awq"}}), r"quantized \(awq\)"),
    "custom code": (
        configured(auto_map={"AutoModelForCausalLM": "theirs.Model"}, model_type="theirs", architectures=["Theirs"]),
        r"code of its own.*auto_map.*'theirs'.*trust_remote_code",
    ),
    "custom code under a known name": (
        configured(auto_map={"AutoModelForCausalLM": "theirs.Model"}, architectures=["TheirLlama"]), r"code of its own",
    ),
    "adapter": (adapter, r"adapter of their/Base.*merge_and_unload"),
    "adapter beside a model": (adapter_beside_a_model, r"adapter of their/Base.*beside weights"),
    "GGUF alone": (renamed("model.Q4_K_M.gguf", keep_config=False), r"GGUF alone \(model.Q4_K_M.gguf\)"),
    "GGUF with a configuration": (renamed("model.Q4_K_M.gguf"), r"model.Q4_K_M.gguf alone"),
    "unfinished": (half_fetched, r"2 of the 3 files.*\(model-1-of-3.safetensors, model-3-of-3.safetensors\)"),
    "torn": (torn, "model.safetensors ends too early"),
    "pointer": (pointer, "Git LFS.*git lfs pull"),
    "encoder": (configured(model_type="bert", architectures=["BertForMaskedLM"]), r"an encoder \(BertForMaskedLM, model_type bert"),
    "newer encoder": (configured(model_type="modernbert", architectures=["ModernBertModel"]), r"an encoder \(ModernBertModel"),
    "encoder and decoder": (configured(model_type="t5", architectures=["T5Model"], is_encoder_decoder=True), "an encoder and a decoder"),
    "a run": (a_run, r'run directory; set model.id = ".*kind/model"'),
    "nothing": (lambda folder: [file.unlink() for file in folder.iterdir()], "no model there"),
    "torn configuration": (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_is_not_loaded_is_named(tiny_model, tokenizer, tmp_path, monkeypatch, kind):
    import transformers

    folder = tmp_path / "kind"
    shutil.copytree(tiny_model, folder)
    change, says = KINDS[kind]
    change(folder)
    settings = ModelConfig(id=str(folder), device="cpu")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    for load in (
        lambda: load_tokenizer(str(folder)), lambda: load_policy(settings, tokenizer), lambda: outline(settings, tokenizer, CPU),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says) as caught:
            load()
        assert "neither a model directory" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        configured(auto_map={"AutoModelForCausalLM": "theirs.Model"}),  # transformers knows the model by itself
        configured(quantization_config=None),
        lambda folder: (folder / "pytorch_model.bin").write_bytes(b"beside"),
        lambda folder: (folder / "model.Q4.gguf").write_bytes(b"beside"),
    ],
)
def test_what_can_be_loaded_is(tiny_model, tokenizer, tmp_path, change):
    folder = tmp_path / "kind"
    shutil.copytree(tiny_model, folder)
    change(folder)
    assert load_policy(ModelConfig(id=str(folder), device="cpu"), tokenizer, to_train=False).left_out == ""
    assert len(load_tokenizer(str(folder))) == len(tokenizer)


def test_small_files_alone_will_do_where_no_weights_are_wanted(tiny_model, tokenizer, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    for _ in range(2):
        assert outline(ModelConfig(id=str(folder)), load_tokenizer(str(folder)), CPU).model is not None
        with pytest.raises(InputError, match=r"holds no weights|1 of the 1 files"):
            load_policy(ModelConfig(id=str(folder), device="cpu"), tokenizer)
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1-of-1.safetensors"}}')


def test_a_missing_tokenizer_is_named(tiny_model, tmp_path):
    folder = tmp_path / "mute"
    shutil.copytree(tiny_model, folder)
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="tokenizer.json is a pointer of Git LFS"):
        load_tokenizer(str(folder))
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(InputError, match=r"the tokenizer cannot be loaded: the directory holds none"):
        load_tokenizer(str(folder))


def test_what_the_hubs_cache_holds_is_named_too(tiny_model, tokenizer, tmp_path, monkeypatch):
    import huggingface_hub

    def in_cache(repository: str, file: str):
        found = tmp_path / repository.replace("/", "--") / file
        return str(found) if found.is_file() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", in_cache)
    for kind in ("gptq", "adapter", "encoder", "custom code"):
        folder = tmp_path / f"their--{kind.replace(' ', '-')}"
        shutil.copytree(tiny_model, folder)
        KINDS[kind][0](folder)
        for load in (load_tokenizer, resolve):
            with pytest.raises(InputError, match=KINDS[kind][1]):
                load(f"their/{kind.replace(' ', '-')}")
    shutil.copytree(tiny_model, tmp_path / "their--model")
    (tmp_path / "their--model" / "model.safetensors").unlink()  # of a cache: perhaps not fetched yet
    assert resolve("their/model") == "their/model"


def test_a_name_that_is_nowhere_is_said_to_be_nowhere():
    with pytest.raises(InputError, match="neither a model directory here nor on the Hugging Face hub"):
        load_tokenizer("their/model")
    with pytest.raises(InputError, match="no model there"):
        load_tokenizer("./nothing-here")


@pytest.fixture(scope="module")
def sees(tmp_path_factory, tiny_model) -> str:
    """A model that also sees images, of whose checkpoint the causal language model is a part."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("sees")
    text = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "tie_word_embeddings": True,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4}
    torch.manual_seed(0)
    model = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True))
    model.save_pretrained(folder)
    load_tokenizer(tiny_model).save_pretrained(folder)
    return str(folder)


def test_tensors_that_the_model_has_no_part_for_are_said_once(sees, tokenizer, tmp_path, capsys):
    from safetensors import safe_open

    from tutelage.model.save import save_model

    with safe_open(f"{sees}/model.safetensors", "pt") as file:
        names = set(file.keys())
    count = sum(name.startswith("model.visual.") for name in names)
    says = f"{count} tensors of the checkpoint (model.visual.…) belong to no part of Qwen3_5ForCausalLM: they are neither trained nor saved"
    config = ModelConfig(id=sees, device="cpu", precision="fp32")
    policies = [load_policy(config, tokenizer) for _ in range(2)]
    assert [policy.left_out for policy in policies] == [says] * 2 and count > 5
    assert len(policies[0].model.state_dict()) - 1 == len(names) - count, "names that differ alone, and the tied head, do not count"
    shown = "".join(capsys.readouterr())
    assert "".join(shown.split()).count("belongtonopart") == 1
    save_model(policies[0], tmp_path / "saved", "# card\n")
    assert says in (tmp_path / "saved" / "README.md").read_text()
    assert load_policy(ModelConfig(id=str(tmp_path / "saved"), device="cpu"), tokenizer, to_train=False).left_out == ""


def test_what_is_tied_computed_or_of_another_head_is_told_apart(tiny_model, tokenizer, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "more"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    computed = {
        "lm_head.weight": weights["model.embed_tokens.weight"].clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    for more, left_out in (
        (computed, ""),
        ({"score.weight": torch.ones(1, 32)}, "1 tensor of the checkpoint (score.…) belongs to no part of LlamaForCausalLM"),
        ({"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)}, "1 tensor of the checkpoint (model.layers.…) belongs to no part"),
    ):
        save_file({**weights, **more}, folder / "model.safetensors", {"format": "pt"})
        policy = load_policy(ModelConfig(id=str(folder), device="cpu"), tokenizer, to_train=False)
        assert policy.left_out.startswith(left_out) and bool(policy.left_out) == bool(left_out)


@pytest.mark.parametrize("kind", ["TokenizersBackend", ""])
def test_a_mistral_tokenizer_does_not_depend_on_what_else_is_installed(tiny_model, tokenizer, tmp_path, kind):
    """Where mistral-common is there, which vLLM brings along, transformers would take its tokenizer, which has no end token to set."""
    folder = tmp_path / "mistral"
    shutil.copytree(tiny_model, folder)
    configured(model_type="mistral", architectures=["MistralForCausalLM"])(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": kind or None}))
    (folder / "tekken.json").write_text("{}")
    loaded = load_tokenizer(str(folder))
    assert loaded.encode("Ava has 3 pens.") == tokenizer.encode("Ava has 3 pens.") and loaded.eos_token == tokenizer.eos_token
    loaded.save_pretrained(tmp_path / "saved")
    assert "mistral_format" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()
