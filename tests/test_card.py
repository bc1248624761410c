"""What a card would compute, on the device that has no values: reading one, or mixing devices, is an error there."""

from __future__ import annotations

import itertools

import pytest
import torch
import transformers
from test_policy import tiny

from tutelage.data import Stops
from tutelage.data.tokens import TokenizedExample
from tutelage.evaluation.engine import static
from tutelage.evaluation.engine.capture import HostReads
from tutelage.evaluation.engine.contract import Sampling
from tutelage.model import attention, scoring
from tutelage.model.adamw import optimizer
from tutelage.model.attention.varlen import torchs_own
from tutelage.model.batch import pack
from tutelage.model.policy import RECOMPUTATIONS, Policy

META = torch.device("meta")
KERNEL = attention.Kernel("varlen", META, torchs_own())
SHARED = [TokenizedExample("a", (1, 2, 3), (4, 5, 6)), TokenizedExample("b", (1, 2, 3), (4, 7)), TokenizedExample("c", (9,), (3,))]
ROWS = {
    "shared": SHARED,
    "apart": [SHARED[0], SHARED[2]],
    "equal": [SHARED[0], TokenizedExample("d", (2, 2), (3, 4, 5, 6))],
    "one": SHARED[:1],
}


def model_of(family: str, attends: str, dtype: torch.dtype):
    attention.register()
    config = getattr(transformers, f"{family}Config")(**tiny(), pad_token_id=0)
    return getattr(transformers, f"{family}ForCausalLM")._from_config(config, attn_implementation=attends, dtype=dtype).to(META)


@pytest.fixture
def half_products(monkeypatch):
    """The products that only a GPU makes: half-precision matrices into float32. Their arguments are checked."""

    def of(plain):
        def product(*tensors, out_dtype=None, out=None):
            if out_dtype is None:
                return plain(*tensors) if out is None else plain(*tensors, out=out)
            *totals, a, b = tensors
            assert a.dtype == b.dtype == torch.bfloat16 and out_dtype == torch.float32
            assert all(total is out and total.dtype == torch.float32 for total in totals)
            found = plain(*totals, a.float(), b.float())
            return found if out is None else out

        return product

    monkeypatch.setattr(scoring, "adds_in_float32", lambda device: device == META)
    for name in ("mm", "addmm"):
        monkeypatch.setattr(torch, name, of(getattr(torch, name)))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-sr"])
@pytest.mark.parametrize("recomputation", RECOMPUTATIONS)
def test_a_step_of_packs_asks_the_device_for_nothing(monkeypatch, half_products, precision, recomputation):
    model = model_of("Qwen2", attention.NAME, torch.bfloat16 if precision == "bf16-sr" else torch.float32).train()
    monkeypatch.setattr(Policy, "kernel", KERNEL)
    policy = Policy(model, None, Stops(0), META, precision, packs=True, chunk=2)
    policy.recompute(recomputation)
    layouts = set()
    for rows, fused in itertools.product(ROWS.values(), (True, False)):
        batch = pack(rows).ready(KERNEL)
        layouts.add((type(batch.layout).__name__, getattr(batch.layout, "keys", None) is None))
        with policy.computing():
            scores = policy.score(batch, batch.weights / 7 if fused else None, entropy=not fused)
            (scores.total if fused else (scores.log_probs * batch.weights).sum()).backward()
        assert all(weight.grad.dtype == weight.dtype and weight.grad.device == META for weight in model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        model.zero_grad()
    assert len(layouts) == 3


@pytest.mark.parametrize("eight_bit", [False, True])
def test_an_update_asks_the_device_for_nothing(monkeypatch, eight_bit):
    updated = []
    monkeypatch.setattr(optimizer, "update", lambda parts, rates: updated.append(rates))
    weights = [torch.nn.Parameter(torch.empty(shape, dtype=torch.bfloat16, device=META)) for shape in ((80, 64), (64,))]
    for weight in weights:
        weight.grad = torch.empty_like(weight)
    made = optimizer.AdamW([{"params": weights}], 1e-3, seed=0, eight_bit=eight_bit)
    made.step()
    made.step()
    assert len(updated) == 2 and all(rates.keys.device == META for rates in updated)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "SmolLM3", "Granite", "Cohere"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_step_of_generation_asks_the_device_for_nothing(family, temperature):
    model = model_of(family, "sdpa", torch.bfloat16).eval()
    assert not static.obstacle(model)
    sampling = Sampling(20, temperature=temperature, top_p=0.9, stop=(), min_new_tokens=3)
    decoder = static.Static(model, sampling, {1}, capture=lambda step: step)
    heads, layers = model.config.num_key_value_heads, model.config.num_hidden_layers
    size = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    decoder.is_end = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=META)
    decoder.filled, decoder.longest = 5, 25
    keys = torch.empty(3, heads, 5, size, dtype=torch.bfloat16, device=META)
    ids, mask = torch.zeros(3, 1, dtype=torch.int64, device=META), torch.zeros(3, 5, dtype=torch.bfloat16, device=META)
    with torch.no_grad(), HostReads() as reads:
        decoder._lay_out(4, ids, ids, mask, iter([(keys, keys)] * layers))
        decoder._step()
    assert reads.found == []
