"""Fixed shapes of generation: few of them, each captured once, at addresses that stay, with nothing read back between blocks."""

from __future__ import annotations

import itertools

import pytest
import torch
from static_cases import GREEDY, SAMPLED, TEXTS, make_small, of_family
from tape import Tapes

from tutelage.evaluation.engine import native
from tutelage.evaluation.engine.capture import HostReads
from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.decoding import Growing, device_of
from tutelage.evaluation.engine.static import Static, columns_held, obstacle, rows_held


@pytest.fixture
def prompts(tokenizer):
    return [tokenizer.encode(text) for text in TEXTS]


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


def test_each_shape_is_captured_once(model, tokenizer, prompts, small):
    """Rows by powers of two, columns as the responses get longer; a second call captures only what memory made anew has forgotten."""
    tapes, shapes = Tapes(), []

    class Watched(Static):
        def _lay_out(self, *arguments):
            super()._lay_out(*arguments)
            shapes.append((self.rows, self.columns))

    with native.generating(
        model, tokenizer, Sampling(60, 0.0, stop=()), lambda *parts: Watched(*parts, capture=tapes)
    ) as continued:
        first = continued(prompts)
        assert shapes == [(8, 32), (8, 64), (8, 128)] and len(tapes.made) == 3
        assert continued(prompts) == first
        assert len(tapes.made) == 5  # the first two anew, in the memory of the third
        assert continued(prompts) == first and len(tapes.made) == 5
    # but for two calls of each tape, everything was replayed
    assert tapes.played == 3 * 59 - tapes.warmed - len(tapes.made)


def test_what_a_step_knows_stays_where_it_is(model, tokenizer, prompts, small):
    """A graph has addresses: while steps are kept, no batch and no end of a row moves a tensor that they read or write."""
    addresses = []

    class Watched(Static):
        def advance(self, *arguments):
            columns = super().advance(*arguments)
            tensors = {name: each for name, each in vars(self).items() if isinstance(each, torch.Tensor) and name != "mask"}
            memory = {
                f"{index} {name}": each for index, layer in enumerate(self.cache.layers) for name, each in layer.memory.items()
            }
            addresses.append(({**tensors, **memory}, tuple(self.steps.values())))
            return columns

    with native.generating(
        model, tokenizer, Sampling(30, 0.0, stop=("e",)), lambda *parts: Watched(*parts, capture=Tapes())
    ) as continued:
        for batch_size in (5, 2, 5):
            continued(prompts, batch_size=batch_size)
    kept = 0
    for (before, steps), (after, later) in itertools.pairwise(addresses):
        if set(steps) & set(later):
            kept += 1
            assert {name: each.data_ptr() for name, each in before.items()} == {
                name: each.data_ptr() for name, each in after.items()
            }
    assert kept > 5


def begun(model, prompts, sampling):
    decoder = Static(model, sampling, {0}, capture=lambda step: step)
    with torch.no_grad():
        decoder.begin(prompts)
        decoder.advance(4, [[0.3] * 4 for _ in prompts] if sampling.temperature else None)
    return decoder


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("how", [GREEDY, SAMPLED, {"temperature": 1.0, "min_new_tokens": 6}])
def test_steps_read_nothing_back(family, packed, how, prompts, small):
    decoder = begun(of_family(family, packed), prompts, Sampling(40, **how, stop=()))
    with torch.no_grad(), HostReads() as reads:
        for _ in range(2):
            decoder.slot.zero_()
            for _ in range(4):
                decoder._step()
    assert reads.found == []


def test_a_block_is_one_read(model, prompts, small):
    decoder = begun(model, prompts, Sampling(40, **SAMPLED))
    assert decoder.said.device == device_of(model)
    seen = []
    original = torch.Tensor.tolist
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), HostReads() as reads:
        patch.setattr(torch.Tensor, "tolist", lambda tensor: seen.append(tensor.shape) or original(tensor))
        decoder.advance(4, [[0.3] * 4 for _ in prompts])
    assert seen == [(3, 8, 4)] and reads.found == []


@pytest.mark.parametrize("packed", [True, False])
def test_a_step_takes_nothing_from_the_host(packed, small):
    """On the meta device: a tensor of the CPU would not meet the others."""
    model = of_family("qwen2", packed).to("meta")
    with torch.no_grad():
        decoder = Static(model, Sampling(40, **SAMPLED, min_new_tokens=3), {0}, capture=lambda step: step)
        decoder.filled, decoder.longest = 10, 50
        decoder.is_end = torch.zeros(400, dtype=torch.bool, device="meta")
        position = torch.full((3, 1), 10, device="meta")
        kept = ((torch.zeros((3, 2, 10, 8), device="meta"),) * 2 for _ in range(2))
        decoder._lay_out(4, position, position, torch.zeros((3, 10), device="meta"), kept)
        decoder._step()
        model.register_forward_pre_hook(lambda module, arguments, options: options["input_ids"][0, 0].item(), with_kwargs=True)
        with pytest.raises(RuntimeError, match="meta"):
            decoder._step()


def test_models_that_keep_something_else_go_on_as_before(monkeypatch, capsys):
    model = of_family("qwen2", False)
    assert obstacle(model) == "" and native.way_for(model) is Growing  # a CPU
    model.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in obstacle(model)
    windows = of_family("qwen2", False)
    windows.config.layer_types = ["full_attention", "sliding_attention"]
    windows.config.sliding_window = 8
    assert "more, or less" in obstacle(windows)
    assert "Linear" in obstacle(torch.nn.Linear(1, 1))
    monkeypatch.setattr(native, "device_of", lambda model: torch.device("cuda"))
    assert native.way_for(of_family("llama", True)) is Static
    assert native.way_for(windows) is native.way_for(windows) is Growing
    assert capsys.readouterr().out.count("not captured") == 1


def test_sizes_are_few_and_hold_what_is_needed():
    assert [rows_held(count) for count in (1, 2, 3, 33, 64, 65)] == [1, 2, 4, 64, 64, 128]
    for longest in (1, 100, 190, 600, 1100, 8192, 9000):
        sizes = {columns_held(needed, longest) for needed in range(1, longest + 1)}
        assert len(sizes) <= 1 + max(0, longest.bit_length() - 9)
        assert all(
            columns_held(needed, longest) >= needed and size % 64 == 0 for needed in range(1, longest + 1) for size in sizes
        )
        assert max(sizes) < longest + max(64, longest / 4)


def test_memory_is_that_of_the_longest_shape_and_is_given_back(model, tokenizer, prompts, small):
    held = []

    class Watched(Static):
        def close(self):
            layer = self.cache.layers[0]
            held.append((self.capacity, len(layer.memory["keys"]), len(layer.memory["values"])))
            super().close()
            held.append(dict(vars(self)))

    with native.generating(model, tokenizer, Sampling(60, 0.0, stop=()), Watched) as continued:
        continued(prompts, batch_size=2)
    assert held == [(2 * 128, 2 * 128 * 2 * 8, 2 * 128 * 2 * 8), {}]


def test_what_is_held_is_what_a_plan_reckons_or_less(tiny_model, tokenizer, prompts, monkeypatch):
    """A plan is more careful with a card, where shapes are fixed, than with a CPU."""
    from tutelage.config import parse_config
    from tutelage.model import load_policy
    from tutelage.resources import generation

    policy = load_policy(parse_config({"model": {"id": tiny_model, "precision": "fp32", "device": "cpu"}}).model, tokenizer)
    decoder = Static(policy.model, Sampling(200, 0.0), {0}, capture=lambda step: step)
    rows = [prompt * 3 for prompt in prompts]
    prompt = max(map(len, rows))
    with torch.no_grad():
        decoder.begin(rows)
        decoder.filled = prompt + 180  # as long as it may get
        decoder._select(8)
    held = sum(each.nbytes for layer in decoder.cache.layers for each in layer.memory.values())
    tensors = (decoder.masks, decoder.said, decoder.uniforms, decoder.token, decoder.position)
    held += sum(each.nbytes for each in tensors)
    on_cpu = generation.native_bytes(policy, len(rows), prompt, prompt + 200)
    monkeypatch.setattr(policy, "device", torch.device("cuda"))
    on_cuda = generation.native_bytes(policy, len(rows), prompt, prompt + 200)
    logits = 2 * 48 * 8 * len(tokenizer)
    assert on_cpu < on_cuda and held <= on_cuda - logits < 3 * held
