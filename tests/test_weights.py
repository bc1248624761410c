"""Which files a model's weights are read from, and models whose sizes or numbers cannot be meant: one message, before anything is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tutelage.cli import main
from tutelage.config import ModelConfig
from tutelage.errors import InputError
from tutelage.model import embedded, load_policy, load_tokenizer, resolve
from tutelage.model.load import outline
from tutelage.model.weights import INDEX, WEIGHTS, not_a_number

CPU = torch.device("cpu")


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def index(folder: Path, names, **others) -> None:
    """An index that names a file, or one of several, for each tensor."""
    tensors = sorted(load_file(folder / WEIGHTS)) if (folder / WEIGHTS).is_file() else ["model.embed_tokens.weight"]
    names = [names] if isinstance(names, str) else names
    shards = {tensor: names[at % len(names)] for at, tensor in enumerate(tensors)}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards, **others}))


def configure(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def to_shards(folder: Path, names=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")) -> None:
    weights = load_file(folder / WEIGHTS)
    index(folder, list(names))
    for at, name in enumerate(names):
        of_file = {key: weights[key] for key in sorted(weights)[at :: len(names)]}
        save_file(of_file, folder / name, {"format": "pt"})
    (folder / WEIGHTS).unlink()


def named(name):
    def change(folder: Path) -> None:
        index(folder, name)
        torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
        shutil.copy(folder / WEIGHTS, folder.parent / "outside.safetensors")
        (folder / "sub").mkdir()
        shutil.copy(folder / WEIGHTS, folder / "sub" / "in.safetensors")
        (folder / WEIGHTS).unlink()

    return change


def indexed(text):
    return lambda folder: ((folder / INDEX).write_text(text), (folder / WEIGHTS).unlink())


def both(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "kept")
    to_shards(folder)
    (folder / "kept").rename(folder / WEIGHTS)


def without_index(folder: Path) -> None:
    to_shards(folder)
    (folder / INDEX).unlink()


def a_file(content: bytes):
    return lambda folder: (folder / WEIGHTS).write_bytes(content)


def lies(folder: Path) -> None:
    to_shards(folder)
    file = folder / INDEX
    read = json.loads(file.read_text())
    read["weight_map"]["model.nowhere.weight"] = "model-00001-of-00002.safetensors"
    file.write_text(json.dumps(read))


PLAIN = 'weight_map\\["[\\w.]+"\\] is "{}", which is no plain name'
REFUSED = {
    "a pickle": (named("pytorch_model.bin"), r'json: weight_map\["[\w.]+"\] is "pytorch_model.bin", and only safetensors'),
    "outside": (named("../outside.safetensors"), PLAIN.format(r"\.\./outside.safetensors")),
    "absolute": (named("/etc/passwd"), PLAIN.format("/etc/passwd")),
    "absolute safetensors": (named("/tmp/x.safetensors"), PLAIN.format("/tmp/x.safetensors")),
    "nested": (named("sub/in.safetensors"), PLAIN.format("sub/in.safetensors")),
    "the directory itself": (named("./model.safetensors"), PLAIN.format(r"\./model.safetensors")),
    "backslashes": (named("..\\outside.safetensors"), PLAIN.format(r"\.\.\\\\outside.safetensors")),
    "NUL": (named("a\0.safetensors"), PLAIN.format(r"a\\u0000.safetensors")),
    "escapes": (named("\x1b[31m\u202e/x"), r"\\u001b\[31m\\u202e/x"),
    "nothing": (named(""), "only safetensors are read"),
    "capitals": (named("MODEL.SAFETENSORS"), "only safetensors are read"),
    "one of two": (lambda folder: named([WEIGHTS, "pytorch_model.bin"])(folder), '"pytorch_model.bin", and only safetensors'),
    "a number": (indexed('{"metadata": {}, "weight_map": {"a": 5}}'), r'weight_map\["a"\] is 5, not the name of a file'),
    "a list of names": (indexed('{"metadata": {}, "weight_map": {"a": ["x.safetensors"]}}'), "not the name of a file"),
    "no JSON": (indexed("{"), f"{INDEX} cannot be read"),
    "no text": (indexed("\ufeff{}"), f"{INDEX} cannot be read"),
    "a list": (indexed("[]"), f"{INDEX} holds no JSON object, but a list"),
    "null": (indexed("null"), f"{INDEX} holds no JSON object, but null"),
    "brackets": (indexed("[" * 200_000), f"{INDEX} cannot be read"),
    "no map": (indexed("{}"), 'has no "weight_map"'),
    "an empty map": (indexed('{"weight_map": {}}'), 'has no "weight_map"'),
    "a map that is a list": (indexed('{"weight_map": ["a"]}'), 'has no "weight_map"'),
    "missing files": (indexed('{"metadata": {}, "weight_map": {"a": "x.safetensors"}}'), "1 of the 1 files"),
    "both": (both, f"holds both {WEIGHTS} and {INDEX}"),
    "no index": (without_index, "2 files of safetensors .*is not there"),
    "another name": (lambda folder: (folder / WEIGHTS).rename(folder / "weights.safetensors"), "but weights.safetensors"),
    "a tensor that is nowhere": (lies, '"model.nowhere.weight", which is in none'),
    "a pickle by that name": (a_file(pickle.dumps({})), f"{WEIGHTS} is a pickle"),
    "a zip by that name": (lambda folder: torch.save({}, folder / WEIGHTS), f"{WEIGHTS} is a pickle"),
    "an empty file": (a_file(b""), f"{WEIGHTS} is no file of safetensors"),
    "a text by that name": (a_file(b"hello, this is no model"), f"{WEIGHTS} is no file of safetensors"),
    "a header of garbage": (a_file((8).to_bytes(8, "little") + b"garbage!"), "its header cannot be read"),
    "a header of another type": (a_file((2).to_bytes(8, "little") + b"[]"), "its header cannot be read"),
    "a header of brackets": (a_file((90_000).to_bytes(8, "little") + b"[" * 90_000), "its header cannot be read"),
    "weights of its own choice": (lambda folder: configure(folder, transformers_weights="adapter_model.bin"), "transformers_weights is"),
    "an index of its own choice": (
        lambda folder: configure(folder, transformers_weights="x.safetensors.index.json"), "transformers_weights is",
    ),
    "a broken adapter": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "adapter_config.json holds no JSON object"),
}  # fmt: skip
REFUSED |= {
    f"{key} = {value!r:.20}": (lambda folder, key=key, value=value: configure(folder, **{key: value}), f"config.json: {key} is .*{says}")
    for key, value, says in [
        ("num_hidden_layers", 200_000, "more than 1,000: layers are made one by one"),
        ("num_hidden_layers", -1, "at least one"),
        ("num_hidden_layers", "two", "not a count"),
        ("num_hidden_layers", 1e300, "not a count"),
        ("num_hidden_layers", 10**400, "more than 1,000"),
        ("depth", 10**6, "layers are made"),
        ("num_experts", 10**6, "experts are made"),
        ("vocab_size", 10**12, "no tokenizer"),
        ("vocab_size", True, "not a count"),
        ("hidden_size", 10**9, "matrices"),
        ("intermediate_size", 2**40, "matrices"),
        ("num_attention_heads", 0, "at least one"),
        ("max_position_embeddings", 10**30, "positions"),
        ("model_type", ["llama"], "not a name"),
        ("architectures", "Llama", "not a list"),
        ("architectures", [5], "not a list"),
        ("auto_map", [1], "not an object"),
        ("text_config", [], "not an object"),
    ]
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_read_is_named_before_it_is_opened(kind, folder, tokenizer, monkeypatch):
    change, says = REFUSED[kind]
    change(folder)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    settings = ModelConfig(id=str(folder), device="cpu")
    for load in (
        lambda: resolve(str(folder)),
        lambda: resolve(str(folder), by_engine=True),
        lambda: load_policy(settings, tokenizer, to_train=False),
        lambda: outline(settings, tokenizer, CPU) if kind != "missing files" else resolve(str(folder)),
    ):
        with pytest.raises(InputError, match=says) as caught:
            load()
        assert str(caught.value).startswith(str(folder)) and "neither a model directory" not in str(caught.value)
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and "\u202e" not in str(caught.value)


def test_what_is_read_is_read_as_before(folder, tokenizer):
    settings = ModelConfig(id=str(folder), device="cpu", precision="fp32")
    weights = load_policy(settings, tokenizer, to_train=False).model.state_dict()

    def same() -> bool:
        loaded = load_policy(settings, tokenizer, to_train=False).model.state_dict()
        return all(torch.equal(loaded[name], weight) for name, weight in weights.items())

    index(folder, WEIGHTS)  # one file, and an index that says so
    assert same()
    (folder / INDEX).unlink()
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    (folder / WEIGHTS).rename(blobs / "0")
    (folder / WEIGHTS).symlink_to("../blobs/0")  # as in the cache of the hub
    assert same() and resolve(str(folder), by_engine=True) == str(folder)
    to_shards(folder)
    for at, file in enumerate(sorted(folder.glob("model-*"))):
        file.rename(blobs / f"shard{at}")
        file.symlink_to(f"../blobs/shard{at}")
    assert same() and resolve(str(folder), by_engine=True) == str(folder)


def test_more_weights_beside_a_model_are_refused_to_an_engine_alone(folder, tokenizer):
    shutil.copy(folder / WEIGHTS, folder / "consolidated.safetensors")
    assert load_policy(ModelConfig(id=str(folder), device="cpu"), tokenizer, to_train=False)
    with pytest.raises(InputError, match=r"beside model.safetensors stands consolidated.safetensors"):
        resolve(str(folder), by_engine=True)
    index(folder, WEIGHTS)
    assert resolve(str(folder), by_engine=True) == str(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 900}, "900 layers, and the weights are 20 tensors"),
        ({"hidden_size": 1 << 20}, "an embedding of .* they are of another model"),
        ({"vocab_size": 1 << 22}, "an embedding of .* they are of another model"),
        ({"rms_norm_eps": "x"}, "cannot"),
        ({"rms_norm_eps": float("nan")}, "cannot|logits are not numbers"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "cannot"),
        ({"text_config": {"text_config": {"num_hidden_layers": 10**6}}}, r"text_config.text_config.num_hidden_layers is 1000000"),
        ({"hidden_act": "nothing"}, "cannot be loaded"),
        ({"num_key_value_heads": 3}, "cannot|another shape"),
    ],
)
def test_a_configuration_of_another_model_is_named(changes, says, folder, tokenizer):
    configure(folder, **changes)
    with pytest.raises(InputError, match=says) as caught:
        load_policy(ModelConfig(id=str(folder), device="cpu"), tokenizer, to_train=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sharded", [False, True])
def test_weights_that_are_no_numbers_are_named_with_their_file(value, sharded, folder, tokenizer):
    weights = load_file(folder / WEIGHTS)
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][3, 5] = value
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    if sharded:
        to_shards(folder)
    says = f'{"NaN" if value != value else "infinity"} weights: "{name}" in model.*safetensors'
    for precision in ("fp32", "bf16-sr"):
        with pytest.raises(InputError, match=says):
            load_policy(ModelConfig(id=str(folder), device="cpu", precision=precision), tokenizer, to_train=False)
    assert name in not_a_number(folder)


def test_weights_beyond_all_measure_are_told_apart_from_another_head(folder, tokenizer):
    weights = load_file(folder / WEIGHTS)
    weights["model.norm.weight"][:] = 3e38
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    assert not not_a_number(folder)
    with pytest.raises(InputError, match="logits are not numbers"):
        load_policy(ModelConfig(id=str(folder), device="cpu", precision="fp32"), tokenizer, to_train=False)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "{", "", "[" * 100_000, '{"model": 5}', "\x00\x01"])
def test_files_of_another_type_are_one_message_or_do_not_matter(file, text, folder, data_file, capsys):
    (folder / file).write_text(text)
    code = main(["ask", str(folder), "2+3?", "--model.device=cpu", "--eval.max_new_tokens=1", "--data.prompt=plain"])
    said = capsys.readouterr().err
    assert code in (0, 2) and "Traceback" not in said
    if code == 2:
        assert "neither a model directory" not in said and str(folder) in said.replace("\n", "")


def test_a_name_of_the_hub_is_looked_at_before_its_weights_are_fetched(folder, tokenizer, monkeypatch):
    import huggingface_hub
    import transformers.utils

    named("pytorch_model.bin")(folder)
    asked = []
    monkeypatch.setattr(transformers.utils, "cached_file", lambda name, file, **_: asked.append(file))
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda name, file: str(folder / file) if (folder / file).is_file() else None
    )
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match="only safetensors are read"):
        load_policy(ModelConfig(id="their/model", device="cpu"), tokenizer)
    assert INDEX in asked


def test_a_killed_conversion_is_removed_and_one_that_goes_on_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "cache_directory", lambda: tmp_path)
    long_ago = time.time() - 2 * embedded.DEAD_SECONDS
    folders = {name: tmp_path / f"{embedded.CONVERTING}{name}" for name in ("killed", "running", "older", "begun")}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * 100)
        if name != "begun":
            os.utime(folder, (long_ago, long_ago))
    embedded._locked(folders["killed"]).close()  # as the system closes it
    held = embedded._locked(folders["running"])
    (tmp_path / "smollm2-135m-instruct").mkdir()
    (tmp_path / "smollm2-135m-instruct" / "config.json").write_text("{}")
    embedded.embedded_model()
    assert {name for name, folder in folders.items() if folder.exists()} == {"running", "begun"}
    assert not embedded._lock_of(folders["killed"]).exists()
    held.close()
    embedded.embedded_model()
    assert not folders["running"].exists()


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "x" * 300, "/" + "y" * 5000, "./" + "z" * 300])
def test_a_name_that_can_be_none_is_one_message(name):
    with pytest.raises(InputError) as caught:
        load_tokenizer(name)
    assert "\n" not in str(caught.value)


def test_pipes_and_directories_in_the_place_of_files_are_not_waited_for(folder, tokenizer):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(InputError, match="holds no weights"):
        resolve(str(folder))
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    with pytest.raises(InputError, match="holds no weights"):
        resolve(str(folder))
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(InputError, match="the tokenizer cannot be loaded"):
        load_tokenizer(str(folder))
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(InputError, match="no model there"):
        resolve(str(folder))
