from __future__ import annotations

import pytest
import torch

from tutelage.evaluation.certificate import CUTS, LENGTH, PROBES, UncertifiedWeights, compare, cuts_of, probes, trainer_scores


def engine_says(expected, cuts, plain=0.0, cached=0.0):
    """What an engine would answer that is off by so much."""
    at_cuts = [scores[cut - 1].item() + cached for scores in expected for cut in cuts]
    return {"plain": [(scores + plain).tolist() for scores in expected], "cached": [at_cuts, at_cuts], "cached_tokens": 99}


def test_probes_are_fixed_sequences_of_the_tokenizers_own_ids(tokenizer):
    found = probes(tokenizer)
    assert found == probes(tokenizer) and [len(ids) for ids in found] == [LENGTH] * PROBES
    assert cuts_of(found) == list(CUTS)
    short = probes(tokenizer, 20)
    assert [len(ids) for ids in short] == [20] * PROBES and all(0 < cut < 20 for cut in cuts_of(short))


def test_the_trainers_scores_are_those_of_its_model(model, tokenizer):
    from tutelage.evaluation.engine.instance import as_policy

    sequences = probes(tokenizer)
    with torch.no_grad():
        logs = model(torch.tensor(sequences)).logits.log_softmax(-1)
    for row, scores in enumerate(trainer_scores(as_policy(model, tokenizer), sequences)):
        assert torch.allclose(scores, logs[row, range(LENGTH - 1), list(sequences[row][1:])], atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "plain", "cached", "holds"),
    [
        ("float32", 9e-4, 9e-4, True),
        ("float32", 2e-3, 0.0, False),
        ("float32", 0.0, 2e-3, False),
        ("bfloat16", 0.09, 0.09, True),
        ("bfloat16", 0.11, 0.0, False),
        ("bfloat16", 0.0, 0.11, False),
    ],
)
def test_the_bounds_hold_for_both_paths(dtype, plain, cached, holds):
    expected = [-torch.rand(LENGTH - 1) for _ in range(PROBES)]
    proof = compare(expected, engine_says(expected, CUTS, plain, cached), CUTS, dtype, weights_sha256="x")
    assert (proof.max_gap, proof.cached_max_gap) == pytest.approx((plain, cached), abs=1e-6)
    assert proof.holds == holds and proof.as_dict()["holds"] == holds and proof.tokens == PROBES * (LENGTH - 1)
    if holds:
        proof.require()
    else:
        with pytest.raises(UncertifiedWeights, match="differ by"):
            proof.require()


def test_what_is_not_a_number_does_not_hold():
    expected = [-torch.rand(LENGTH - 1) for _ in range(PROBES)]
    for plain, cached in ((float("nan"), 0.0), (0.0, float("nan"))):
        for dtype in ("bfloat16", "float32"):
            proof = compare(expected, engine_says(expected, CUTS, plain, cached), CUTS, dtype)
            assert not proof.holds and None in (proof.as_dict()["max_gap"], proof.as_dict()["cached_max_gap"])
