from __future__ import annotations

from tutelage.batching import micro_batches, step_rows, steps_per_epoch, total_steps
from tutelage.config import TrainConfig
from tutelage.optim import lr_at
from tutelage.tokens import TokenizedExample


def test_each_epoch_visits_every_row_once_in_an_order_of_its_own():
    epochs = [[row for step in range(4) for row in step_rows(10, 3, 7, 4 * epoch + step)] for epoch in range(2)]
    assert all(sorted(rows) == list(range(10)) for rows in epochs) and epochs[0] != epochs[1]
    assert len(step_rows(10, 3, 7, 3)) == 1


def test_a_step_is_a_function_of_seed_and_step():
    assert step_rows(50, 8, 1, 13) == step_rows(50, 8, 1, 13) != step_rows(50, 8, 2, 13)


def test_steps_of_a_run():
    assert steps_per_epoch(10, 3) == 4
    assert (total_steps(10, 3, 2, None), total_steps(10, 3, 0.5, None), total_steps(10, 3, 2, 5)) == (8, 2, 5)


def test_micro_batches_hold_every_row_once_and_group_by_length():
    rows = [TokenizedExample(f"r{n}", (1,) * n, (2,) * (n + 1)) for n in (3, 9, 1, 5)]
    batches = micro_batches(rows, 3, pad_id=0)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(3, 18), (1, 2)]
    assert sum(int(batch["response_mask"].sum()) for batch in batches) == sum(n + 1 for n in (3, 9, 1, 5))


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
