"""Packs are exact by construction: what each token sees, what is predicted, and how a step's rows are laid out."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_packs import plain_pack, plain_trie

from tutelage.config import TrainConfig
from tutelage.data.tokens import TokenizedExample
from tutelage.model import order
from tutelage.model.attention import dense_mask
from tutelage.model.batch import build_trie, pack, pack_labels, pad
from tutelage.model.optim import lr_at
from tutelage.model.order import step_batches, step_rows, steps_per_epoch, total_steps

ids = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)
examples = st.lists(
    st.builds(lambda prompt, response: TokenizedExample("row", prompt, response), ids, ids), min_size=1, max_size=7
)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), min_size=1, max_size=8))
def test_a_trie_holds_each_prefix_once_and_each_token_sees_its_own_row_only(sequences):
    trie = build_trie(sequences)
    prefixes = {sequence[:length] for sequence in sequences for length in range(1, len(sequence) + 1)}
    assert len(trie.ids) == len(prefixes)
    sees = dense_mask(torch.from_numpy(trie.ends))
    for sequence, path in zip(sequences, trie.by_row(trie.paths), strict=True):
        assert tuple(trie.ids[path].tolist()) == sequence
        assert trie.depths[path].tolist() == list(range(len(sequence)))
        for depth, token in enumerate(path):
            assert sees[token].nonzero().flatten().tolist() == path[: depth + 1].tolist()


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), max_size=9).map(tuple), min_size=1, max_size=12))
def test_the_arrays_of_a_trie_are_those_of_the_plain_code(sequences):
    """Ids beyond 255 take several bytes, of which the first must count most."""
    trie, (ids, depths, ends, paths) = build_trie(sequences), plain_trie(sequences)
    assert (trie.ids.tolist(), trie.depths.tolist(), trie.ends.tolist()) == (ids, depths, ends)
    assert [path.tolist() for path in trie.by_row(trie.paths)] == paths


@settings(deadline=None)
@given(examples)
def test_a_pack_is_that_of_the_plain_code(rows):
    batch, expected = pack(rows), plain_pack(rows)
    assert {name: getattr(batch, name).tolist() for name in expected if name != "of_examples"} | {
        "of_examples": [targets.tolist() for targets in batch.of_examples]
    } == expected
    long = (batch.input_ids, batch.position_ids, batch.ends, batch.sources, batch.labels, *batch.of_examples)
    assert {tensor.dtype for tensor in long} == {torch.int64} and batch.weights.dtype == torch.float32


@settings(deadline=None)
@given(examples)
def test_a_pack_that_shares_nothing_is_its_rows_end_to_end(rows):
    batch = pack(rows, shares=False)
    assert batch.size.tokens == batch.input_ids.numel() == sum(map(len, rows)) and batch.size.keys == 0
    for row, targets in zip(rows, batch.of_examples, strict=True):
        assert tuple(batch.labels[targets].tolist()) == row.response_ids
        seen = dense_mask(batch.ends)[batch.sources[targets]].sum(dim=1)
        assert seen.tolist() == [len(row.prompt_ids) + index for index in range(len(row.response_ids))]
    assert set(batch.weights.tolist()) == {1.0}


@settings(deadline=None)
@given(examples, st.booleans())
def test_what_a_pack_computes_is_counted_when_it_is_made(rows, shares):
    batch = pack(rows, shares)
    mask = dense_mask(batch.ends)
    assert (batch.size.tokens, batch.size.pairs) == (len(mask), int(mask.sum()))
    lasts = [token for token in range(len(mask)) if token + 1 == len(mask) or not mask[token + 1, token]]  # of each run
    keys = int(mask[lasts].sum())
    assert batch.size.keys == (keys if keys > len(mask) else 0)
    lengths = {int(mask[last].sum()) for last in lasts}
    assert batch.size.equal == (batch.size.keys == 0 and len(lengths) == 1)
    assert batch.filled(8).size.pairs == int(dense_mask(batch.filled(8).ends).sum())
    padded = pad(rows, 0)
    length = padded.input_ids.shape[1]
    assert (padded.size.pairs, padded.size.keys) == (len(rows) * length * (length + 1) // 2, 0)


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


@pytest.mark.parametrize("pad_id", [None, 0])
def test_ranks_have_as_many_batches_and_together_every_row_once(pad_id):
    rows = [TokenizedExample(f"r{n}", (1,) * n, (2,) * n) for n in range(3, 10)]
    for ranks in (1, 2, 3, 9):
        shares = [step_batches(rows, 12, 2, pad_id, rank, ranks) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        counted = sum(batch.weights.sum().item() for share in shares for batch in share)
        assert counted == sum(len(row.response_ids) for row in rows)
        assert all(len(batch.labels) for share in shares for batch in share)  # also of a rank without rows, where nothing counts


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
    assert [
        total_steps(10, TrainConfig(batch_size=3, grad_accum=1, num_epochs=epochs, num_steps=steps))
        for epochs, steps in ((2, None), (0.5, None), (2, 5))
    ] == [8, 2, 5]


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
