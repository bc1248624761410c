"""What a step is reckoned to need: the formula beside traces of the real code, and beside what real processes took."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import make_tiny_model

from tutelage.config import parse_config
from tutelage.data.tokens import TokenizedExample
from tutelage.model.batch import pack
from tutelage.model.load import load_policy, outline
from tutelage.resources import generation, memory
from tutelage.resources.memory import Load
from tutelage.resources.trace import traced_bytes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> dict[str, str]:
    """Directories that hold nothing but a model's configuration: large ones, of which nobody has the memory here."""
    qwen = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 2,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    }  # fmt: skip
    llama = {
        **qwen, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5504,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000, "tie_word_embeddings": False,
    }  # fmt: skip
    deep = {**qwen, "num_hidden_layers": 4, "vocab_size": 8000}
    qwen3 = {**qwen, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128, "num_key_value_heads": 4}
    found = {}
    for name, config in {"qwen": qwen, "llama": llama, "deep": deep, "qwen3": qwen3}.items():
        directory = tmp_path_factory.mktemp(name)
        (directory / "config.json").write_text(json.dumps(config))
        found[name] = str(directory)
    return found


SEVERAL, ONE, SHORT = Load(4096, 3000), Load(4096, 3900, several=False), Load(1024, 300)
# each architecture, precision, kind and load in several combinations; the corners of memory (most and least kept) in all architectures
CORNERS = [
    ("qwen", "fp32", {"none": (SEVERAL, ONE), "full": (SHORT,)}),
    ("qwen", "bf16-mixed", {"none": (ONE,), "selective": (SEVERAL,)}),
    ("qwen", "bf16-sr", {"full": (SEVERAL, ONE)}),
    ("llama", "fp32", {"selective": (SEVERAL,), "full": (ONE,)}),
    ("llama", "bf16-mixed", {"none": (SHORT,), "full": (SEVERAL,)}),
    ("llama", "bf16-sr", {"none": (SEVERAL,), "selective": (ONE,)}),
    ("deep", "fp32", {"none": (ONE,)}),
    ("deep", "bf16-mixed", {"none": (SEVERAL,), "full": (ONE,)}),
    ("deep", "bf16-sr", {"selective": (SHORT,)}),
    ("qwen3", "fp32", {"full": (SEVERAL,)}),
    ("qwen3", "bf16-mixed", {"selective": (ONE,)}),
    ("qwen3", "bf16-sr", {"none": (SHORT,), "full": (ONE,)}),
]


def check_against_traces(config, kinds):
    policy = outline(config.model, None, CPU)
    for kind, loads in kinds.items():
        for load in loads:
            reckoned = sum(memory.training_bytes(policy, config, load, kind).values())
            traced = sum(traced_bytes(config, load, kind).values())
            assert -0.05 <= reckoned / traced - 1 <= 0.10, (kind, load, reckoned, traced)


ARCHITECTURES, PRECISIONS, LENGTHS = ("qwen", "llama", "deep", "qwen3"), ("fp32", "bf16-mixed", "bf16-sr"), (1500, 4000, 8000)


def drawn(seed):
    """A combination of settings: what a property test asks for is a function of its seed alone."""
    draw = random.Random(seed)
    precision = draw.choice(PRECISIONS)
    kind = draw.choice(("none", "selective", "full"))
    tokens = draw.choice(LENGTHS) + draw.randrange(500)
    return {
        "name": ARCHITECTURES[seed % 4], "precision": precision, "kind": kind, "ranks": draw.choice((1, 1, 1, 8)),
        "lora": draw.choice(("none", "none", "none" if precision == "bf16-sr" else "lora")),
        "tile": 0 if kind == "selective" else draw.choice((0, 1024, 4096)), "offload": draw.random() < 0.4,
        "chunk": draw.choice((512, 1024, 4096)), "load": Load(tokens, max(1, int(draw.uniform(0.3, 1) * tokens)), draw.random() < 0.6),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_the_formula_is_near_traces_for_combinations_of_settings(shapes, seed):
    each = drawn(seed)
    model = {"id": shapes[each["name"]], "precision": each["precision"], "lora": each["lora"], "device": "cpu"}
    config, ranks = parse_config({"model": model}), each["ranks"]
    policy = outline(config.model, None, CPU)
    asked = replace(
        memory.Shapes.of(policy), tile=each["tile"], offload=each["offload"], chunk=each["chunk"], shared=ranks > 1
    )
    needed = {**memory.held_bytes(policy, config), "activations": memory.activations_of(asked, each["load"], each["kind"])}
    reckoned = sum((memory.sharded_bytes(needed, policy, ranks) if ranks > 1 else needed).values())
    traced = sum(traced_bytes(config, each["load"], each["kind"], asked, ranks).values())
    assert -0.05 <= reckoned / traced - 1 <= 0.10, (each, reckoned / 1e9, traced / 1e9)


@pytest.mark.slow
def test_nothing_that_is_kept_grows_with_the_square_of_a_rows_length(shapes):
    """Twice the tokens are twice the bytes, for each kind of what is kept, with tiles and without."""
    config = parse_config({"model": {"id": shapes["deep"], "precision": "bf16-mixed", "device": "cpu"}})
    plain = memory.Shapes.of(outline(config.model, None, CPU))
    for kind, tile in (("none", 0), ("full", 8192)):
        found = [
            traced_bytes(config, Load(tokens, 64), kind, replace(plain, tile=tile))["activations"] for tokens in (16_384, 32_768, 65_536)
        ]
        assert found[2] - found[1] == pytest.approx(2 * (found[1] - found[0]), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision", "kinds"), CORNERS)
def test_the_formula_is_within_minus_5_and_plus_10_percent_of_traces(shapes, name, precision, kinds):
    check_against_traces(parse_config({"model": {"id": shapes[name], "precision": precision, "device": "cpu"}}), kinds)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_the_formula_is_as_close_to_a_trace_with_adapters(shapes, quantize):
    for package in ("peft", "bitsandbytes"):
        pytest.importorskip(package)
    config = parse_config({"model": {"id": shapes["qwen"], "lora": "lora", "quantize": quantize, "device": "cpu"}})
    check_against_traces(config, {"none": (SEVERAL,), "selective": (SEVERAL,), "full": (SEVERAL,)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "kind"), [("qwen", "bf16-mixed", "full"), ("llama", "bf16-sr", "none"), ("deep", "fp32", "selective")]
)
def test_the_formula_is_as_close_to_a_trace_whose_gradients_are_freed(shapes, name, precision, kind):
    model = {"id": shapes[name], "precision": precision, "device": "cpu"}
    config = parse_config({"model": model, "train": {"update": "in_backward", "optimizer_offload": True}})
    check_against_traces(config, {kind: (replace(ONE, freed=True),)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "tile", "offload"),
    [("qwen", "bf16-mixed", 0, False), ("llama", "fp32", 4096, False), ("deep", "bf16-sr", 0, True)],
)
def test_the_formula_is_as_close_to_a_trace_of_batches_that_go_backward_together(shapes, name, precision, tile, offload):
    """The inputs of layers of all of them are kept, in the host's memory where they are offloaded."""
    model = {"id": shapes[name], "precision": precision, "device": "cpu"}
    config = parse_config({"model": model, "train": {"update": "in_backward", "optimizer_offload": True}})
    policy = outline(config.model, None, CPU)
    asked, state = replace(memory.Shapes.of(policy), tile=tile, offload=offload), memory.held_bytes(policy, config)
    load = Load(4096, 3000, several=False, freed=True, together=3 * 4096)
    reckoned = sum(state.values()) + memory.activations_of(asked, load, "full")
    traced = sum(traced_bytes(config, load, "full", asked).values())
    assert -0.05 <= reckoned / traced - 1 <= 0.10, (reckoned / 1e9, traced / 1e9)


def test_moments_on_the_host_leave_a_card_their_pieces_and_no_gradient_is_held(shapes):
    """For a CPU, the host's memory is its own; ranks share moments, and each has pieces of its own."""
    away = {"train": {"update": "in_backward", "optimizer_offload": True}}
    config = parse_config({"model": {"id": shapes["llama"], "precision": "bf16-sr"}, **away})
    card, host = (outline(config.model, None, torch.device(name)) for name in ("cuda", "cpu"))
    on_card, on_host = (memory.state_bytes(policy, config) for policy in (card, host))
    count = sum(weight.numel() for weight in card.model.parameters())
    assert on_card["gradients"] == on_host["gradients"] == 0 and on_card["moments"] < 1000
    assert on_host["moments"] == pytest.approx(4 * count, rel=1e-3)
    assert on_card["pieces"] == on_host["pieces"] == pytest.approx(2 * 4 * 2**24, rel=1e-6)
    assert memory.sharded_bytes(on_card, card, 2)["pieces"] == on_card["pieces"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "keys"), [("qwen", "bf16-mixed", 12_000), ("llama", "bf16-sr", 9_000), ("llama", "fp32", 6_000)]
)
def test_the_formula_is_as_close_to_a_trace_that_gathers_keys(shapes, monkeypatch, name, precision, keys):
    """The keys and values of all paths are copied in each layer, and the copies are kept unless they are computed again."""
    monkeypatch.setattr(memory, "kernel_name", lambda policy: "varlen")
    config = parse_config({"model": {"id": shapes[name], "precision": precision, "device": "cpu"}})
    policy, load = outline(config.model, None, CPU), replace(SEVERAL, keys=keys)
    for kind in ("none", "selective", "full"):
        reckoned = [memory.activation_bytes(policy, each, kind) for each in (replace(load, keys=0), load)]
        shapes_of = memory.Shapes.of(policy)
        traced = [traced_bytes(config, load, kind, each)["activations"] for each in (replace(shapes_of, gathered=0), shapes_of)]
        state = sum(memory.held_bytes(policy, config).values())
        assert -0.05 <= (reckoned[1] + state) / (traced[1] + state) - 1 <= 0.10, (kind, reckoned, traced)
        if kind == "none":  # of two layers, in place of the tokens' own
            copies = 2 * (keys - load.tokens) * memory.Shapes.of(policy).gathered * policy.compute_dtype.itemsize
            assert reckoned[1] - reckoned[0] == copies == pytest.approx(traced[1] - traced[0], rel=0.05)


PROCESSES = [
    ((16000, 256, 768, 4), "fp32", "none", [1200, 600], 3),
    ((24000, 512, 1376, 8), "fp32", "selective", [500, 300], 2),
    ((48000, 256, 512, 2), "bf16-mixed", "full", [60], 1),
]
"""Sizes of a model, precision, kind of recomputation, lengths of rows in tokens, and rows of a step."""


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    """What a process grew by in each case, and what was reckoned, in bytes."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell the most memory that a process had (/proc/self/clear_refs)")
    names, cases = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), []
    for sizes, *case in PROCESSES:
        directory = tmp_path_factory.mktemp("real")
        make_tiny_model(directory, num_attention_heads=8, max_position_embeddings=4096, **dict(zip(names, sizes)))
        cases.append([str(directory), *case])
    warm = make_tiny_model(tmp_path_factory.mktemp("warm"))
    # freed memory goes back to the system at once, so that the most is what was alive
    # and oneDNN takes what every processor has: for AVX-512 and AMX it makes copies of matrices, which are no tensors of ours
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), json.dumps([warm, cases])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1500)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"grown"')]


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(PROCESSES)))
def test_the_formula_is_as_close_to_what_a_process_takes(processes, index):
    found = processes[index]
    reckoned = sum(found["reckoned"].values())
    assert -0.05 <= reckoned / found["grown"] - 1 <= 0.20, found


def test_attention_takes_what_its_kernel_keeps(tiny_model, monkeypatch):
    """FlexAttention copies its output once more; a variable-length call keeps copies of the keys and values of shared prefixes."""
    config = parse_config({"model": {"id": tiny_model, "precision": "fp32", "device": "cpu"}})
    policy, load = outline(config.model, None, CPU), Load(1000, 1, keys=4000)
    found = {}
    for kernel in ("cpu", "flex", "flash2", "flash3", "varlen"):
        monkeypatch.setattr(memory, "kernel_name", lambda policy, kernel=kernel: kernel)
        shapes = memory.Shapes.of(policy)
        found[kernel] = shapes.attended, shapes.gathered, memory.activations_of(shapes, load, "none")
    heads, keys, size = 4, 2, 8
    plain = 2 * (heads + keys) * size
    assert [found[kernel][:2] for kernel in found] == [(plain, 0), (plain + heads * size, 0)] + [(plain, 2 * keys * size)] * 3
    assert found["cpu"][2] < found["flex"][2] and found["flash2"][2] - found["cpu"][2] == 2 * 3000 * 2 * keys * size * 4


@pytest.mark.parametrize(("precision", "of_ends", "of_layers"), [("fp32", 4, 4), ("bf16-mixed", 4, 2), ("bf16-sr", 2, 2)])
def test_ranks_gather_embedding_and_head_in_their_own_precision(shapes, precision, of_ends, of_layers):
    policy = outline(parse_config({"model": {"id": shapes["llama"], "precision": precision, "device": "cpu"}}).model, None, CPU)
    ends = 2 * 32000 * 2048  # untied
    layers = sum(weight.numel() for weight in policy.model.parameters()) - ends
    needed = memory.sharded_bytes({"weights": 8.0, "copies": 8.0, "activations": 8.0}, policy, 2)
    assert needed == {"weights": 4.0, "activations": 8.0, "gathered": of_ends * ends + of_layers * layers}  # of two layers


def test_a_load_counts_tokens_that_rows_share_once():
    shared = tuple(range(50))
    rows = [TokenizedExample(str(n), shared, (100 + n, 0)) for n in range(3)]
    load = Load.of([[pack(rows[:1])], [pack(rows), pack(rows[:2])]])
    assert load == Load(tokens=56, targets=6, several=True, keys=3 * 52)
    assert Load.of([[pack(rows, shares=False)]]) == Load(tokens=156, targets=6, several=False, keys=0)


def test_the_most_keys_count_whichever_batch_gathers_them():
    rows = [TokenizedExample(str(n), tuple(range(50)), (100 + n,)) for n in range(3)]
    long = TokenizedExample("long", tuple(range(90, 300)), (1,))
    load = Load.of([[pack([long]), pack(rows)]])
    assert (load.tokens, load.keys, load.gathered) == (211, 153, 153)
    assert Load(100, 50).gathered == 200, "twice the tokens where nobody knows"


@pytest.mark.slow
def test_a_trace_leaves_no_memory_and_reads_no_weight(shapes):
    before = sum(t.nbytes for t in _tensors())
    traced_bytes(parse_config({"model": {"id": shapes["qwen"], "device": "cpu"}}), Load(512, 400), "none")
    assert sum(t.nbytes for t in _tensors()) - before < 1e6


def _tensors():
    import gc

    gc.collect()
    return [it for it in gc.get_objects() if type(it) is torch.Tensor]


def test_generation_by_the_policy_takes_what_is_reckoned_or_less(tiny_model):
    """A bound: the cache of all rows, as long as they may get, and the prompts' way through a layer."""
    config = parse_config({"model": {"id": tiny_model, "precision": "fp32", "device": "cpu"}})
    from tutelage.model.load import load_tokenizer

    policy = load_policy(config.model, load_tokenizer(tiny_model))
    few, many = generation.native_bytes(policy, 1, 100, 200), generation.native_bytes(policy, 64, 100, 200)
    assert 0 < few < many <= 64 * few
    cache = 64 * 200 * 2 * 2 * 2 * 8 * 4  # rows × tokens × (keys and values) × layers × heads × size × bytes
    assert many > cache
