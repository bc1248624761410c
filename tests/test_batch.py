"""Packs are exact by construction: what each token sees, what is predicted, and how a step's rows are laid out."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage.config import TrainConfig
from tutelage.data.tokens import TokenizedExample
from tutelage.model import order
from tutelage.model.attention import dense_mask
from tutelage.model.batch import build_trie, pack, pack_labels, pad
from tutelage.model.optim import lr_at
from tutelage.model.order import step_batches, step_rows, steps_per_epoch, total_steps
from tutelage.model.packs import lay_out_packs

ids = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
examples = st.lists(
    st.builds(lambda prompt, response: TokenizedExample("row", prompt, response), ids, ids), min_size=1, max_size=7
)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), min_size=1, max_size=8))
def test_a_trie_holds_each_prefix_once_and_each_token_sees_its_own_row_only(sequences):
    trie = build_trie(sequences)
    prefixes = {sequence[:length] for sequence in sequences for length in range(1, len(sequence) + 1)}
    assert len(trie.ids) == len(prefixes)
    sees = dense_mask(torch.tensor(trie.ends, dtype=torch.long))
    for sequence, path in zip(sequences, trie.paths):
        assert tuple(trie.ids[token] for token in path) == sequence
        assert [trie.depths[token] for token in path] == list(range(len(sequence)))
        for depth, token in enumerate(path):
            assert sees[token].nonzero().flatten().tolist() == path[: depth + 1]


@given(examples)
def test_a_pack_predicts_every_response_token_of_every_row(rows):
    batch = pack(rows)
    assert batch.weights.sum() == sum(len(row.response_ids) for row in rows)
    for row, targets in zip(rows, batch.of_examples):
        assert tuple(batch.labels[targets].tolist()) == row.response_ids
        assert batch.position_ids[0, batch.sources[targets]].tolist() == list(
            range(len(row.prompt_ids) - 1, len(row.prompt_ids) + len(row.response_ids) - 1)
        )


def test_identical_rows_cost_nothing_and_count_twice():
    row = TokenizedExample("a", (1, 2), (3, 4))
    batch = pack([row, row])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4]] and batch.weights.tolist() == [2.0, 2.0]


def test_a_row_without_a_prompt_token_is_refused():
    with pytest.raises(ValueError, match="here: the prompt has no tokens"):
        pack([TokenizedExample("here", (), (1,))])


@given(examples, st.integers(1, 40))
def test_a_plan_holds_every_row_once_within_its_budget(rows, budget):
    packs = lay_out_packs(rows, budget)
    assert sorted(number for members in packs for number in members) == list(range(len(rows)))
    for members in packs:
        packed = [rows[number] for number in members]
        assert pack(packed).input_ids.numel() <= max(budget, *map(len, packed), 0)


@given(examples, st.integers(1, 40), st.integers(2, 4), st.sampled_from([0.0, 0.1]))
def test_a_plan_for_several_ranks_gives_each_as_many_packs_within_the_budget(rows, budget, ranks, pair_cost):
    packs = lay_out_packs(rows, budget, ranks, pair_cost)
    assert sorted(number for members in packs for number in members) == list(range(len(rows)))
    assert len(packs) % ranks == 0
    for members in filter(None, packs):
        packed = [rows[number] for number in members]
        assert pack(packed).input_ids.numel() <= max(budget, *map(len, packed), 0)


def test_packs_of_several_ranks_cost_the_same_not_count_the_same():
    """One row as long as six others: it has a pack for itself. With attention's share, which grows with the square, all the more."""
    rows = [TokenizedExample(str(length), (length,), (1,) * length) for length in (60, 11, 10, 12, 9, 10, 11)]
    packs = lay_out_packs(rows, 10**6, ranks=2)
    assert sorted(map(len, packs)) == [1, 6]
    rows = [TokenizedExample(str(n), (n,), (1,) * (5 + 7 * n % 40)) for n in range(80)]
    costs = [sum(len(rows[number]) ** 2 for number in members) for members in lay_out_packs(rows, 10**6, 4, pair_cost=1e6)]
    assert len(costs) == 4 and max(costs) < 1.01 * min(costs)


@pytest.mark.parametrize("pad_id", [None, 0])
def test_ranks_have_as_many_batches_and_together_every_row_once(pad_id):
    rows = [TokenizedExample(f"r{n}", (1,) * n, (2,) * n) for n in range(3, 10)]
    for ranks in (1, 2, 3, 9):
        shares = [step_batches(rows, 12, 2, pad_id, rank, ranks) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        counted = sum(batch.weights.sum().item() for share in shares for batch in share)
        assert counted == sum(len(row.response_ids) for row in rows)
        assert all(len(batch.labels) for share in shares for batch in share)  # also of a rank without rows, where nothing counts


def test_solutions_of_one_problem_share_a_pack_while_they_fit():
    rows = [TokenizedExample(f"{p}-{n}", (9, p, p, p), (n, n, n)) for n in range(3) for p in range(4)]
    packs = lay_out_packs(rows, budget=1 + 2 * 12)
    assert [{rows[number].prompt_ids[1] for number in members} for members in packs] == [{0, 1}, {2, 3}]


def test_a_filled_pack_is_longer_and_its_new_tokens_see_themselves_only():
    batch = pack([TokenizedExample("a", (1, 2), (3,))]).filled(8)
    assert batch.input_ids.shape == batch.position_ids.shape == (1, 8)
    assert dense_mask(batch.ends)[3:].sum(dim=1).tolist() == [1] * 5
    assert batch.filled(4) is batch


def test_labels_of_whole_rows_are_targets_row_by_row():
    batch = pack_labels(torch.tensor([[1, 2, 3], [1, 2, 4]]), torch.tensor([[5, 6, 7], [8, 9, 10]]))
    assert batch.input_ids.tolist() == [[1, 2, 3, 4]] and batch.sources.tolist() == [0, 1, 2, 0, 1, 3]
    assert batch.labels.tolist() == [5, 6, 7, 8, 9, 10]


def test_each_epoch_visits_every_row_once_in_an_order_of_its_own():
    epochs = [[row for step in range(4) for row in step_rows(10, 3, 7, 4 * epoch + step)] for epoch in range(2)]
    assert all(sorted(rows) == list(range(10)) for rows in epochs) and epochs[0] != epochs[1]
    assert len(step_rows(10, 3, 7, 3)) == 1


def test_a_step_is_a_function_of_seed_and_step():
    assert step_rows(50, 8, 1, 13) == step_rows(50, 8, 1, 13) != step_rows(50, 8, 2, 13)


def test_steps_of_a_run():
    assert steps_per_epoch(10, 3) == 4
    assert (total_steps(10, 3, 2, None), total_steps(10, 3, 0.5, None), total_steps(10, 3, 2, 5)) == (8, 2, 5)


def test_padded_batches_hold_every_row_once_and_group_by_length():
    rows = [TokenizedExample(f"r{n}", (1,) * n, (2,) * (n + 1)) for n in (3, 9, 1, 5)]
    batches = step_batches(rows, 10**6, 3, pad_id=0)
    assert [tuple(batch.input_ids.shape) for batch in batches] == [(3, 18), (1, 2)]
    assert sum(len(batch.labels) for batch in batches) == sum(n + 1 for n in (3, 9, 1, 5))


def test_a_padded_batch_has_the_targets_of_a_pack():
    rows = [TokenizedExample("a", (1, 2), (3, 4)), TokenizedExample("b", (1,), (5,))]
    padded = pad(rows, 0)
    assert [padded.labels[targets].tolist() for targets in padded.of_examples] == [[3, 4], [5]]
    assert padded.input_ids.flatten()[padded.sources].tolist() == [2, 3, 1]


def test_the_learning_rate_warms_up_and_falls():
    config = TrainConfig(lr=1.0, warmup_ratio=0.2, schedule="linear")
    assert [round(lr_at(step, 10, config), 4) for step in range(10)] == [
        0.5,
        1.0,
        1.0,
        0.875,
        0.75,
        0.625,
        0.5,
        0.375,
        0.25,
        0.125,
    ]
    cosine = [lr_at(step, 10, TrainConfig(lr=1.0, warmup_ratio=0.0)) for step in range(10)]
    assert cosine[0] == 1.0 and abs(cosine[5] - 0.5) < 1e-12 and cosine == sorted(cosine, reverse=True)
    assert lr_at(9, 10, TrainConfig(lr=1.0, warmup_ratio=0.0, schedule="constant")) == 1.0


def test_an_epoch_is_shuffled_once_not_in_every_step(monkeypatch):
    """A million rows take seconds to shuffle."""
    shuffled, original = [], random.Random.shuffle
    monkeypatch.setattr(random.Random, "shuffle", lambda self, rows: shuffled.append(len(rows)) or original(self, rows))
    order.epoch_order.cache_clear()
    rows = [row for step in range(20) for row in order.step_rows(1_000, 100, 7, step)]
    assert shuffled == [1_000, 1_000]
    assert sorted(rows[:1_000]) == sorted(rows[1_000:]) == list(range(1_000)) and rows[:1_000] != rows[1_000:]
    expected = list(range(1_000))
    original(random.Random("7-0"), expected)
    assert rows[:1_000] == expected  # the order of runs that were begun before
