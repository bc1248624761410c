"""Which rows share a pack, and where a pack shares prefixes: by what the step costs on a device."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_packs import plain_layout
from test_batch import examples

from tutelage.config import parse_config
from tutelage.data.tokens import TokenizedExample
from tutelage.model.batch import pack, pack_rows
from tutelage.model.load import load_policy, load_tokenizer, outline
from tutelage.model.order import step_batches
from tutelage.model.packs import Costs, lay_out_packs
from tutelage.model.trie import SortedRows
from tutelage.resources import seconds
from tutelage.resources.device import Device
from tutelage.training.step import accumulate_gradients

GPU = Costs(pair=2e-4, equal=1e-4, key=0.003, pack=512.0)
SMALL = Costs(pair=0.2, equal=0.02, key=0.3, pack=1.0)
"""Of rows of a few tokens, among which each choice is the cheapest now and then."""


def layout(rows, *arguments, **options):
    return lay_out_packs(SortedRows.of_examples(rows), *arguments, **options)


def members(packs):
    return [each.order.tolist() for each in packs]


@settings(deadline=None)
@given(examples, st.integers(1, 40), st.integers(1, 4), st.sampled_from([0.0, 0.1]))
def test_where_sharing_costs_nothing_packs_are_those_of_the_plain_code(rows, budget, ranks, pair):
    packs = layout(rows, budget, ranks, Costs(pair, pair))
    assert [sorted(each) for each in members(packs)] == [sorted(each) for each in plain_layout(rows, budget, ranks, pair)]
    assert ranks > 1 or members(packs) == members(layout(rows, budget))
    for each in filter(len, packs):
        chosen = [rows[index] for index in each.order]
        assert pack_rows(each).input_ids.tolist() == pack(chosen).input_ids.tolist()


@settings(deadline=None)
@given(examples, st.integers(1, 40), st.integers(1, 4), st.sampled_from([None, GPU, SMALL, replace(SMALL, pair=0.02)]))
def test_a_layout_holds_every_row_once_within_its_budget(rows, budget, ranks, costs):
    packs = layout(rows, budget, ranks, costs)
    assert sorted(index for each in members(packs) for index in each) == list(range(len(rows)))
    assert len(packs) % ranks == 0
    for each in filter(len, packs):
        tokens = pack_rows(each).input_ids.numel()
        assert tokens == each.size.tokens
        assert tokens <= budget or tokens == each.lengths.max()  # rows within a row that is too long


@settings(deadline=None)
@given(examples, st.integers(1, 40), st.integers(1, 3))
def test_a_layout_costs_no_more_than_one_that_shares_everything(rows, budget, ranks):
    def cost(packs):
        return sum(sorted((SMALL.of(each.size) for each in packs), reverse=True)[::ranks])

    everything = layout(rows, budget, ranks, Costs(SMALL.pair, SMALL.pair))
    assert cost(layout(rows, budget, ranks, SMALL)) <= cost(everything)


def test_packs_of_several_ranks_cost_the_same_not_count_the_same():
    """One row as long as six others: it has a pack for itself. With attention's share, which grows with the square, all the more."""
    rows = [TokenizedExample(str(length), (length,), (1,) * length) for length in (60, 11, 10, 12, 9, 10, 11)]
    assert sorted(map(len, layout(rows, 10**6, ranks=2))) == [1, 6]
    rows = [TokenizedExample(str(n), (n,), (1,) * (5 + 7 * n % 40)) for n in range(80)]
    costs = [int((each.lengths**2).sum()) for each in layout(rows, 10**6, 4, Costs(1e6, 1e6))]
    assert len(costs) == 4 and max(costs) < 1.01 * min(costs)


def test_solutions_of_one_problem_share_a_pack_while_they_fit():
    rows = [TokenizedExample(f"{p}-{n}", (9, p, p, p), (n, n, n)) for n in range(3) for p in range(4)]
    packs = members(layout(rows, 1 + 2 * 12))
    assert [{rows[index].prompt_ids[1] for index in each} for each in packs] == [{0, 1}, {2, 3}]


def test_rows_of_one_length_share_packs_with_their_like():
    """A short row would fit beside the two long ones, and then no pack would be of equal rows."""
    rows = [TokenizedExample(str(n), (n, n), (n,) * (3998 if n < 5 else 100)) for n in range(1, 8)]
    lengths = sorted(each.lengths.tolist() for each in layout(rows, 8192, costs=Costs(pair=1e-2, equal=1e-3, key=0.01)))
    assert lengths == [[102] * 3, [4000, 4000], [4000, 4000]]
    mixed = layout(rows, 8192, costs=Costs(pair=1e-3, equal=1e-3, key=0.01, pack=1.0))
    assert sorted(map(len, mixed)) == [1, 3, 3]


# ---- choices on a GPU, at the shape of layers of Qwen2.5-Math-1.5B; costs are ratios, so two layers are enough

DRAWN = random.Random(0)
TEMPLATE = tuple(DRAWN.randrange(150_000) for _ in range(90))


def drawn(count):
    return tuple(DRAWN.randrange(150_000) for _ in range(count))


def solutions(problems, each, prompt, response):
    asked = [TEMPLATE + drawn(prompt - len(TEMPLATE)) for _ in range(problems)]
    return [TokenizedExample(f"{n}.{k}", ids, drawn(response)) for n, ids in enumerate(asked) for k in range(each)]


def real_lengths(count):
    lengths = [min(3946, max(10, int(DRAWN.lognormvariate(6.3, 0.6)))) for _ in range(count)]
    return [TokenizedExample(str(n), TEMPLATE + drawn(60), drawn(length)) for n, length in enumerate(lengths)]


ROWS = {
    "equal": solutions(16, 1, 410, 1638),
    "real": real_lengths(48),
    "four": solutions(4, 4, 1024, 1024),
    "eight": solutions(2, 8, 1366, 683),
    "twice": solutions(4, 1, 1024, 1024) * 4,
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    directory = tmp_path_factory.mktemp("large")
    shape = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960,
        "num_hidden_layers": 2, "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True, "max_position_embeddings": 8192,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(shape))
    config = parse_config({"model": {"id": str(directory), "precision": "bf16-mixed", "device": "cpu"}})
    return outline(config.model, None, torch.device("cuda", 0))


# (packs, how many of them share, how many have rows of one length that share nothing, distinct tokens)
SHARED = {"equal": (4, 4, 0, 31_688), "four": (4, 4, 0, 20_480), "eight": (2, 2, 0, 13_660), "twice": (1, 1, 0, 7_922)}
APART = {"equal": (4, 0, 4, 32_768)}


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [("flash2", SHARED | APART), ("varlen", SHARED | APART), ("flash3", SHARED), ("flex", SHARED), ("cpu", SHARED)],
)
@pytest.mark.parametrize("share", [0.35, seconds.USUAL_SHARE, 0.7])
def test_sharing_is_chosen_by_cost_at_the_extremes(large, monkeypatch, kernel, expected, share):
    """SDPA computes equal rows twice as fast as FlashAttention 2, and as fast as FlashAttention 3 is reckoned to.

    FlexAttention serves where there is nothing else, so it computes equal rows, too.
    """
    monkeypatch.setattr(seconds, "kernel_name", lambda policy: kernel)
    monkeypatch.setattr(seconds, "USUAL_SHARE", share)
    costs = seconds.costs_of(large)
    for name, rows in ROWS.items():
        packs = layout(rows, 8192, costs=costs)
        sizes = [each.size for each in packs]
        found = len(packs), sum(bool(each.shared.any()) for each in packs), sum(each.equal for each in sizes)
        if name == "real":
            assert found[1:] == (len(packs), 0)
        else:
            assert (*found, sum(each.tokens for each in sizes)) == expected[name], name


def test_costs_are_those_of_the_table(large, monkeypatch):
    """1.52, 2.27 and 0.76 ms for 8,392,704 pairs of a layer, in which a token is 6 × 46,792,704 operations."""
    second = seconds.USUAL_SHARE * 780e12 / (6 * 46_792_704)
    for kernel, milliseconds in {"flash2": 1.52, "varlen": 1.52, "flash3": 0.76, "flex": 2.27}.items():
        monkeypatch.setattr(seconds, "kernel_name", lambda policy, kernel=kernel: kernel)
        costs = seconds.costs_of(large)
        assert costs.pair == pytest.approx(milliseconds * 1e-3 / 8_392_704 * second, rel=1e-4)
        of_equal = 2.27 if kernel == "flex" else 0.76
        assert costs.equal == pytest.approx(of_equal * 1e-3 / 8_392_704 * second, rel=1e-4)
        copied = 2 * 2 * 128 * (2 + 2 + 2 + 8) / 3.0e12  # seconds of a key in a layer
        assert costs.key == pytest.approx(0.0 if kernel == "flex" else copied * second, rel=1e-4)
    monkeypatch.undo()
    assert seconds.costs_of(large).pair == pytest.approx(seconds.costs_of(large).equal * 2), "without a card, torch's own kernel is reckoned with"


def test_the_forecast_is_near_the_step_that_was_measured(large, monkeypatch):
    """An H100 took 1.18 s for 16 rows of 2,048 tokens that share 90, layers compiled, FlexAttention, 1.54 billion weights."""
    operations = seconds.Operations(28 * 6 * 46_792_704, 6 * 151_936 * 1536, 28 * 12 * 12 * 128)
    course = SimpleNamespace(total=1, config=parse_config({}))
    batches = [pack_rows(each) for each in layout(ROWS["equal"], 8192)]
    device = Device("H100", "cuda", 79e9, (780e12, 50e12), 3.0e12)
    found = {}
    for kernel in ("flex", "varlen"):
        monkeypatch.setattr(seconds, "kernel_name", lambda policy, kernel=kernel: kernel)
        work = seconds.Work.of(course, operations, seconds.costs_of(large), [(ROWS["equal"], batches)])
        found[kernel] = seconds.total_of(seconds.training_seconds(work, seconds.Pace(1.0, 28), 16 * 1.544e9, device, torch.bfloat16))
    assert found["flex"] == pytest.approx(1.18, rel=0.1)
    saved = 4 * 28 * (2.27e-3 - 1.52e-3)  # less what it takes to gather the keys
    assert 0.9 * saved < found["flex"] - found["varlen"] < saved


def test_losses_and_gradients_are_the_same_shared_or_not(tiny_model):
    config = parse_config({"model": {"id": tiny_model, "precision": "fp32", "device": "cpu"}})
    policy = load_policy(config.model, load_tokenizer(tiny_model))
    same = TokenizedExample("same", (1, 2, 3), (4, 5))
    branch, twig, other = (TokenizedExample(*row) for row in (("a", (1, 2, 3), (4, 6, 7)), ("b", (1, 2), (8,)), ("c", (9,), (4, 5))))
    rows = [same, same, branch, twig, other]
    found = []
    for shares in (True, False):
        gradients = accumulate_gradients(policy, rows, [pack(rows, shares)], config, 0)
        found.append((gradients, [weight.grad for weight in policy.model.parameters()]))
    (one, by_one), (other, by_other) = found
    assert one.loss == pytest.approx(other.loss, rel=1e-6) and one.distinct_tokens == 11 < other.distinct_tokens == 22
    for a, b in zip(by_one, by_other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_batches_that_ranks_compute_at_the_same_time_cost_about_the_same():
    """Eight solutions under a long prompt have the most tokens of rows, though few that are computed."""
    prompt = tuple(range(10, 210))
    rows = [TokenizedExample("shared", prompt, (200 + n,)) for n in range(8)]
    rows += [TokenizedExample("alone", (300 + 400 * n,), tuple(range(301 + 400 * n, 700 + 400 * n))) for n in range(3)]
    shares = [step_batches(rows, 400, 1, rank=rank, ranks=2, costs=Costs(pair=0.01, equal=0.01)) for rank in range(2)]
    costs = [[each.size.tokens + 0.01 * each.size.pairs for each in batches] for batches in shares]
    assert [len(batches) for batches in shares] == [2, 2]
    together = [cost for pair in zip(*costs, strict=True) for cost in pair]
    assert together == sorted(together, reverse=True)


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_batches_of_a_step_follow_the_costs(ranks):
    rows = solutions(8, 1, 100, 200)
    for costs, shares in ((Costs(2e-2, 1e-5, 0.003, 512.0), False), (Costs(2e-2, 2e-2), True)):
        shares_of_ranks = [step_batches(rows, 1000, 1, rank=rank, ranks=ranks, costs=costs) for rank in range(ranks)]
        batches = [batch for share in shares_of_ranks for batch in share]
        assert sum(float(batch.weights.sum()) for batch in batches) == 8 * 200
        assert all(batch.size.equal != shares for batch in batches if len(batch.of_examples) > 1)
