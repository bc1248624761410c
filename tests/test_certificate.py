"""The certificate against engines that compute as others do, and against engines with planted faults."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import rank_cases
import torch

from tutelage.data import arithmetic
from tutelage.data.tokens import TokenizedExample
from tutelage.evaluation.certificate import (
    CUTS,
    LENGTH,
    PROBES,
    Expected,
    Held,
    UncertifiedWeights,
    compare,
    cuts_of,
    excerpts,
    expected_of,
    held_after,
    probes,
    trainer_scores,
)
from tutelage.evaluation.engine.instance import as_policy
from tutelage.machines.world import ALONE
from tutelage.model import in_float32, pad


def engine_says(expected, cuts, plain=0.0, cached=0.0):
    """What an engine would answer that is off by so much."""
    at_cuts = [scores[cut - 1].item() + cached for scores in expected.scores for cut in cuts]
    return {"plain": [(scores + plain).tolist() for scores in expected.scores], "cached": [at_cuts, at_cuts], "cached_tokens": 99}


def some(rounding=0.0):
    """What a trainer of random weights might expect."""
    return Expected(((1, 2), (3, 4)), [-torch.rand(LENGTH - 1) for _ in range(PROBES)], rounding)


class Engine:
    """A model that computes in a precision of its own, and takes weights over as well as its fault lets it."""

    def __init__(self, model, dtype="bfloat16", kernels="sdpa"):
        self.model = copy.deepcopy(model).to(getattr(torch, dtype)).eval()
        self.model.set_attn_implementation(kernels)
        self.cache, self.fault = None, ""

    def load(self, weights):
        if self.fault == "stale cache":
            self.cache = copy.deepcopy(self.model)
        layers = [name for name in weights if ".layers." in name]
        if self.fault == "swapped layers":
            weights = weights | {name: weights[name.replace(".0.", ".X.").replace(".1.", ".0.").replace(".X.", ".1.")] for name in layers}
        missed = {
            "stale": list(weights), "stale head": ["lm_head.weight"], "stale layer": [name for name in layers if ".layers.1." in name],
        }.get(self.fault, [])  # fmt: skip
        self.model.load_state_dict({name: weight for name, weight in weights.items() if name not in missed}, strict=False)

    def score(self, sequences, cuts):
        cached = [values[cut - 1] for values in self._scores(self.cache or self.model, sequences[:PROBES]) for cut in cuts]
        return {"plain": self._scores(self.model, sequences), "cached": [cached, cached], "cached_tokens": 9}

    def _scores(self, model, sequences):
        with torch.no_grad():
            logs = model(torch.tensor(sequences)).logits.float().log_softmax(-1)
        return [logs[row, range(len(ids) - 1), list(ids[1:])].tolist() for row, ids in enumerate(sequences)]


class Trainer:
    """A policy, its rows, and what it knows of an engine that it hands its weights to."""

    def __init__(self, model, tokenizer):
        self.policy = as_policy(model, tokenizer)
        self.rows = [
            TokenizedExample("row", *(tuple(tokenizer.encode(message["content"])) for message in row["messages"]))
            for row in arithmetic.rows("train", 300)[200:]
        ]
        self.probes, self.held, self.taken = probes(tokenizer), None, 0

    def step(self, lr):
        """One step of AdamW along the next eight rows."""
        optimizer = torch.optim.AdamW(self.policy.model.parameters(), lr=lr)
        batch = pad(self.rows[self.taken : self.taken + 8], self.policy.pad_token_id)
        self.policy.score(batch, torch.full((len(batch.sources),), -1 / len(batch.sources))).total.backward()
        optimizer.step()
        self.policy.model.zero_grad()
        self.taken += 8

    def sync(self, engine, dtype="bfloat16", fault=""):
        coming = self.rows[self.taken : self.taken + 8]
        expected = expected_of(self.policy, dtype, self.probes, coming, self.held)
        engine.fault = fault
        engine.load({name: weight.to(getattr(torch, dtype)) for name, weight in self.policy.model.state_dict().items()})
        cuts = cuts_of(self.probes)
        scored = engine.score(expected.sequences, cuts)
        proof = compare(expected, scored, cuts, dtype, self.held)
        self.held = held_after(proof, expected, scored, self.held)
        return proof


@pytest.fixture
def trainer(untied_model, tokenizer):
    """Of a model whose logits are as large as a trained one's."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(untied_model, dtype=torch.float32)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    return Trainer(model, tokenizer)


def test_probes_are_fixed_sequences_of_the_tokenizers_own_ids(tokenizer):
    found = probes(tokenizer)
    assert found == probes(tokenizer) and [len(ids) for ids in found] == [LENGTH] * PROBES
    assert cuts_of(found) == list(CUTS)
    short = probes(tokenizer, 20)
    assert [len(ids) for ids in short] == [20] * PROBES and all(0 < cut < 20 for cut in cuts_of(short))


def test_excerpts_hold_the_end_of_a_prompt_and_its_response():
    rows = [TokenizedExample("a", tuple(range(100)), (200, 201)), TokenizedExample("b", (1, 2), tuple(range(300, 350)))]
    assert excerpts(rows, 8) == [(98, 99, 200, 201, 1, 2, 300, 301)]
    assert excerpts(rows, 100) == [] and excerpts([], 8) == []


def test_the_trainers_scores_are_those_of_its_model(model, tokenizer):
    sequences = probes(tokenizer)
    with torch.no_grad():
        logs = model(torch.tensor(sequences)).logits.log_softmax(-1)
    for row, scores in enumerate(trainer_scores(as_policy(model, tokenizer), sequences)):
        assert torch.allclose(scores, logs[row, range(LENGTH - 1), list(sequences[row][1:])], atol=1e-5)


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_in_float32_a_policy_scores_the_weights_that_are_sent(model, tokenizer, own):
    """Whatever it computes in itself; and it is left as it was."""
    sequences = probes(tokenizer)
    policy = as_policy(model.to(own), tokenizer)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    sent = copy.deepcopy(model).float()
    with torch.no_grad():
        for weight in sent.parameters():
            weight.copy_(weight.to(torch.bfloat16))
    with in_float32(policy, torch.bfloat16) as exact:
        found = trainer_scores(exact, sequences)
    assert all(torch.equal(a, b) for a, b in zip(found, trainer_scores(as_policy(sent, tokenizer), sequences), strict=True))
    assert all(torch.equal(before[name], weight) and weight.dtype == own for name, weight in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="PEFT is not installed")
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_in_float32_an_adapter_is_merged_and_rounded_as_it_is_sent(make_config, tokenizer, kind):
    """An adapter that is smaller than the rounding of the weights under it moves nothing, in the engine as here."""
    from tutelage.model import load_policy
    from tutelage.model.lora import merged_weights

    policy = load_policy(make_config(model__lora=kind, model__lora_rank=4).model, tokenizer)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    sent = load_policy(make_config().model, tokenizer)
    sent.model.load_state_dict({name: weight.to(torch.bfloat16).float() for name, weight in merged_weights(policy.model)})
    sequences = probes(tokenizer)
    with in_float32(policy, torch.bfloat16) as exact:
        found = trainer_scores(exact, sequences)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, trainer_scores(sent, sequences), strict=True))
    assert all(torch.equal(before[name], weight) for name, weight in policy.model.state_dict().items())
    assert not torch.allclose(found[0], trainer_scores(policy, sequences)[0], atol=1e-4)  # adapters serve again, unrounded


def test_a_failure_in_float32_leaves_the_model_as_it_was(model, tokenizer):
    policy, before = as_policy(model.to(torch.bfloat16), tokenizer), dict(model.named_parameters())
    with pytest.raises(IndexError), in_float32(policy, torch.bfloat16) as exact:
        trainer_scores(exact, [(1, 10**6, 2, 3)])
    assert all(before[name] is weight for name, weight in model.named_parameters())


def test_an_engines_float32_is_compared_with_the_weights_of_a_bfloat16_trainer(model, tokenizer):
    trainer = Trainer(model.to(torch.bfloat16), tokenizer)
    proof = trainer.sync(Engine(model, "float32"), "float32")
    assert proof.holds and proof.max_gap < 1e-4


@pytest.mark.parametrize(
    ("dtype", "rounding", "plain", "cached", "holds"),
    [
        ("float32", 0.0, 9e-4, 9e-4, True),
        ("float32", 0.0, 2e-3, 0.0, False),
        ("float32", 0.0, 0.0, 2e-3, False),
        ("bfloat16", 0.03, 0.08, 0.08, True),
        ("bfloat16", 0.03, 0.1, 0.0, False),
        ("bfloat16", 0.03, 0.0, 0.1, False),
        ("bfloat16", 0.01, 0.08, 0.0, False),  # a model that rounds less is allowed less
        ("bfloat16", 0.1, 0.2, 0.0, True),
    ],
)
def test_the_bounds_hold_for_both_paths(dtype, rounding, plain, cached, holds):
    expected = some(rounding)
    proof = compare(expected, engine_says(expected, CUTS, plain, cached), CUTS, dtype, weights_sha256="x")
    assert (proof.max_gap, proof.cached_max_gap) == pytest.approx((plain, cached), abs=1e-6)
    assert proof.holds == holds and proof.as_dict()["holds"] == holds and proof.tokens == PROBES * (LENGTH - 1)
    if holds:
        proof.require()
    else:
        with pytest.raises(UncertifiedWeights, match="differ by"):
            proof.require()


def test_what_is_not_a_number_does_not_hold():
    expected = some(0.03)
    held = Held(expected, [scores.tolist() for scores in expected.scores])
    for plain, cached in ((float("nan"), 0.0), (0.0, float("nan"))):
        for dtype in ("bfloat16", "float32"):
            proof = compare(expected, engine_says(expected, CUTS, plain, cached), CUTS, dtype, held)
            assert not proof.holds and None in (proof.as_dict()["max_gap"], proof.as_dict()["cached_max_gap"])


@pytest.mark.parametrize(("made", "step", "holds"), [(1.0, "taken", True), (0.0, "missed", False), (0.7, "in part", False)])
def test_the_share_of_the_movement_says_which_weights_these_are(made, step, holds):
    """By hand: all scores rise by 0.05, the engine's by a share of it, beside a rounding of 0.02."""
    torch.manual_seed(1)
    before, rounding = some(0.02), [0.02 * torch.randn(LENGTH - 1) for _ in range(PROBES)]
    now = Expected(before.sequences, [scores + 0.05 for scores in before.scores], 0.02)
    held = Held(before, [(scores + each).tolist() for scores, each in zip(before.scores, rounding, strict=True)])
    scored = engine_says(before, CUTS, 0.05 * made)
    proof = compare(now, scored, CUTS, "bfloat16", held)
    assert proof.step == step and proof.holds == holds and proof.step_gap == pytest.approx(0.05, abs=1e-6)
    assert proof.step_share == pytest.approx(made, abs=0.1)
    # √2 · 0.02 / (0.05 · √318)
    assert proof.step_error == pytest.approx(0.0317, rel=0.15)
    if not holds:
        with pytest.raises(UncertifiedWeights, match=r"moved by 0\.05 on average, of which the engine made"):
            proof.require()


def test_the_first_sync_and_weights_that_stayed_are_compared_with_nothing():
    expected = some(0.02)
    first = compare(expected, engine_says(expected, CUTS), CUTS, "bfloat16")
    held = held_after(first, expected, engine_says(expected, CUTS), None)
    again = compare(expected, engine_says(expected, CUTS), CUTS, "bfloat16", held)
    assert first.holds and again.holds and first.step is None and again.step is None and again.step_share is None


def test_movements_that_are_too_small_to_tell_add_up():
    """An engine that never takes a step is caught once the steps together are beyond rounding."""
    base = some(0.03)
    held = Held(base, [(scores + 0.03).tolist() for scores in base.scores])
    found = []
    for step in range(1, 8):
        expected = Expected(base.sequences, [scores + 0.006 * step for scores in base.scores], 0.03)
        scored = engine_says(base, CUTS, 0.03)
        proof = compare(expected, scored, CUTS, "bfloat16", held)
        held = held_after(proof, expected, scored, held)
        found.append((proof.step, proof.holds))
    assert found[0] == ("cannot be told", True) and found[-1] == ("missed", False)


# ── planted faults ──


@pytest.mark.parametrize("kernels", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_kernels_and_a_finer_rounding_pass(trainer, kernels, dtype):
    """Steps of several sizes, each of which is taken or too small to tell."""
    engine = Engine(trainer.policy.model, dtype, kernels)
    proofs = [trainer.sync(engine)]
    for lr in (1e-3, 1e-4, 1e-5, 1e-6, 1e-3):
        trainer.step(lr)
        proofs.append(trainer.sync(engine))
    assert all(proof.holds for proof in proofs)
    assert [proof.step for proof in proofs][:2] == [None, "taken"] and proofs[-1].step == "taken"
    assert {proof.step for proof in proofs} <= {None, "taken", "cannot be told"}
    assert all(proof.mean_gap < 1.5 * proof.rounding for proof in proofs)


@pytest.mark.parametrize("lr", [1e-3, 1e-4, 1e-5, 1e-6])
def test_weights_that_are_one_step_old_are_told_where_more_than_rounding_moved(trainer, lr):
    engine = Engine(trainer.policy.model)
    assert trainer.sync(engine).holds
    trainer.step(lr)
    old = trainer.sync(engine, fault="stale")
    new = trainer.sync(engine)
    if lr >= 1e-5:
        assert (old.step, new.step, old.holds, new.holds) == ("missed", "taken", False, True)
        assert abs(old.step_share) < 0.3 and abs(new.step_share - 1) < 0.3
    else:
        assert (old.step, new.step) == ("cannot be told", "cannot be told") and old.step_gap < old.rounding


def test_in_float32_a_step_of_any_size_is_told(trainer):
    engine = Engine(trainer.policy.model, "float32")
    assert trainer.sync(engine, "float32").holds
    for lr in (1e-4, 1e-5, 1e-6):
        trainer.step(lr)
        assert trainer.sync(engine, "float32", "stale").step == "missed"
        assert trainer.sync(engine, "float32").step == "taken"


@pytest.mark.parametrize("fault", ["stale head", "stale layer", "swapped layers", "stale cache", "stale"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_planted_faults_do_not_hold(trainer, fault, dtype):
    """After a few large steps; the weights themselves pass afterwards."""
    engine = Engine(trainer.policy.model, dtype)
    assert trainer.sync(engine, dtype).holds
    for _ in range(5):
        trainer.step(3e-3)
    proof = trainer.sync(engine, dtype, fault)
    assert not proof.holds
    with pytest.raises(UncertifiedWeights):
        proof.require()
    engine.cache = None
    assert trainer.sync(engine, dtype).holds


def test_rows_that_are_trained_next_move_more_than_fixed_probes(trainer):
    trainer.sync(Engine(trainer.policy.model))
    before = trainer.held.expected
    assert len(before.sequences) == PROBES + 1
    trainer.step(1e-3)
    now = expected_of(trainer.policy, "bfloat16", trainer.probes, (), trainer.held)
    assert now.sequences == before.sequences
    moved = [(a - b).abs().mean().item() for a, b in zip(now.scores, before.scores, strict=True)]
    assert moved[-1] > max(moved[:-1])


@pytest.mark.slow
def test_two_ranks_expect_what_one_does_but_for_rounding_between_layers(ranks, make_config):
    raw = make_config(model__precision="bf16-mixed").model_dump(mode="json")
    alone, rounding, _ = rank_cases.expected_of_shards(ALONE, raw)
    first, second = ranks.run("expected_of_shards", raw=raw)
    assert first == second and first[2] == ["DTensor torch.float32"]
    gap = (torch.tensor(first[0]) - torch.tensor(alone)).abs().mean().item()
    assert 0 < gap < rounding and first[1] == pytest.approx(rounding, rel=0.5)
