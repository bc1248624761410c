"""What a sweep tries, laid out."""

from __future__ import annotations

import pytest

from tutelage.config import parse_config
from tutelage.errors import InputError
from tutelage.experiments.design import (
    Design,
    Point,
    name_of,
    parse_rates,
    parse_sizes,
    parse_vary,
    rows_of,
    steps_for,
    trial_config,
)


def test_sizes_rates_and_values_are_read_from_the_command_line():
    assert parse_sizes("128, 256,full") == (128, 256, None)
    assert parse_rates("1e-4,5e-5") == (1e-4, 5e-5) and parse_rates(None) == ()
    assert parse_vary(["train.lr=1e-5,2e-5", "train.betas=[0.9, 0.99],[0.9, 0.999]"]) == (
        ("train.lr", ("1e-5", "2e-5")),
        ("train.betas", ("[0.9, 0.99]", "[0.9, 0.999]")),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_sizes("128,all"), "'all' is neither a number of rows nor"),
        (lambda: parse_vary(["train.lr"]), "write section.key=value"),
        (lambda: parse_rates("fast"), "write numbers"),
        (lambda: Design(sizes=(0,)), "at least one row"),
        (lambda: Design(sizes=(8, 8)), "--sizes: has a value twice"),
        (lambda: Design(kinds=("clean",)), "there are raw, filtered, control"),
        (lambda: Design(seeds=0), "at least one"),
        (lambda: Design(vary=(("data.size", ("8",)),)), "sets it itself, by --sizes"),
        (lambda: Design(vary=(("train.rate", ("8",)),)), "no such setting"),
        (lambda: Design(sizes=(8, None), lrs=(1e-5,)), "1 learning rates for 2 sizes"),
        (lambda: Design(vary=(("train.lr", ("1",)),), lrs=(1e-5,)), "which is it"),
        (lambda: Design(sizes=(8,), lrs=(0.0,)), "a number above zero"),
        (lambda: Design(vary=(("train.lr", ("1",)), ("train.lr", ("2",)))), "--vary train.lr: is given twice"),
        (lambda: parse_sizes("²"), "neither a number"),
        (lambda: Design(vary=(("train.lr", ("quick",)),)).variations(parse_config({})), "train.lr"),
        (lambda: rows_of("raw", 60, 48, 42), "only 48 training rows"),
        (lambda: rows_of("filtered", 48, 48, 42), "only 42 rows that the filter keeps"),
    ],
)
def test_what_cannot_be_tried_is_refused_with_its_reason(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_all_combinations_of_varied_settings_are_tried():
    design = Design(vary=(("train.lr", ("1e-5", "2e-5")), ("model.lora", ("none", "lora"))))
    found = design.variations(parse_config({}))
    assert [(config.train.lr, config.model.lora) for _, config in found] == [
        (1e-5, "none"), (1e-5, "lora"), (2e-5, "none"), (2e-5, "lora"),
    ]  # fmt: skip


def test_a_control_is_named_for_the_raw_rows_that_it_is():
    """So that it is not trained twice: below the full size it is the raw set of that size."""
    assert name_of("control", 16, 16, 48, 42, {}) == name_of("raw", 16, 16, 48, 42, {}) == "raw-16-seed42"
    assert (
        name_of("control", 42, None, 48, 42, {}) == "raw-42-seed42" and name_of("raw", 48, None, 48, 42, {}) == "raw-full-seed42"
    )
    assert name_of("control", 48, None, 48, 42, {}) == "raw-full-seed42"  # the filter keeps them all
    assert name_of("filtered", 42, None, 48, 43, {"train.lr": "1e-5"}) == "filtered-full-lr=1e-5-seed43"


def test_a_trials_configuration_says_all_that_makes_it():
    base = parse_config({"data": {"seed": 7}, "train": {"seed": 3}})
    point = Point("filtered-16-seed5", "filtered", 16, 16, 5, 4, 1000)
    made = trial_config(base, point, 90, "runs/x", lr=1e-3, num_steps=None)
    assert (made.data.filter, made.data.size, made.data.subset_seed, made.data.max_length) == (True, 16, 9, 90)
    assert (made.train.seed, made.train.lr, made.train.num_steps, made.model.lora_seed) == (5, 1e-3, None, 44)
    assert made.data.seed == 7  # the held-out problems are the same for all
    full = trial_config(base, Point("raw-full-seed3", "raw", None, 48, 3, 4, 1000), 90, "runs/x", lr=None, num_steps=7)
    assert full.data.size is None and full.data.filter is False and full.train.num_steps == 7 and full.train.lr == base.train.lr
    control = trial_config(base, Point("raw-42-seed3", "control", None, 42, 3, 4, 1000), 90, "runs/x", lr=None, num_steps=None)
    assert control.data.size == 42 and control.data.filter is False


def test_trials_are_made_equal_in_epochs_steps_or_tokens():
    largest = (64, 600.0)
    assert steps_for("epochs", 8, 500.0, largest) == 8
    assert steps_for("steps", 8, 500.0, largest) == 64
    assert steps_for("tokens", 8, 500.0, largest) == round(64 * 600 / 500)
    assert steps_for("tokens", 8, 1e9, largest) == 1
