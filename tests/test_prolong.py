"""A run ends early where its accuracy has stopped rising, and a finished run is made longer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_train import assert_same_run, lines_of

from tutelage.config import replaced
from tutelage.errors import InputError
from tutelage.model import total_steps
from tutelage.report import words
from tutelage.runs import Reading, checkpoint
from tutelage.training import fine_tune, prolong
from tutelage.training.patience import best_of, stop_of, without_a_rise


def accuracies(*values: float) -> list[dict]:
    return [{"step": 2 * index, "accuracy": value, "accuracy_ci95": [0.0, 1.0]} for index, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "count"),
    [((), 0), ((0.5,), 0), ((0.0, 0.0), 1), ((0.1, 0.2, 0.2, 0.1), 2), ((0.1, 0.2, 0.1, 0.3), 0), ((0.3, 0.2, 0.1, 0.25), 3)],
)
def test_an_equal_evaluation_is_no_rise_and_the_untouched_model_counts(values, count):
    assert without_a_rise(accuracies(*values)) == count


def test_patience_ends_a_run_whose_last_evaluations_brought_nothing():
    lines = accuracies(0.1, 0.3, 0.3, 0.2)
    assert stop_of(lines, None, 40) is None and stop_of(lines, 3, 40) is None and stop_of([], 1, 40) is None
    found = stop_of(lines, 2, 40)
    assert (found["best_step"], found["planned_steps"]) == (2, 40) and best_of(lines)["step"] == 2
    said = words.stopped_early(found, 6)
    assert "after step 6 of 40" in said and "last 2 evaluations" in said and "30.0 % [0–100] at step 2" in said


LONG = {"train__schedule": "constant", "train__warmup_ratio": 0.0}


@pytest.mark.slow
def test_a_run_made_longer_is_the_run_that_long_bit_for_bit(make_config, tmp_path, capsys):
    full = fine_tune(make_config(run__dir=str(tmp_path / "full"), train__num_steps=6, **LONG)).directory
    short = make_config(**LONG)
    assert fine_tune(short).steps == 4
    capsys.readouterr()
    longer = fine_tune(replaced(short, {"train.num_steps": 6}))
    told = capsys.readouterr().out
    assert "Made longer after step 4: to 6 steps; the learning rates so far are those of a run of 6 steps" in told
    assert longer.steps == 6 and [line["step"] for line in longer.evaluations] == [0, 2, 4, 6]
    lines = [line for line in lines_of(longer.directory / "metrics.jsonl") if line["kind"] == "prolonged"]
    assert [(line["planned"], line["total"]) for line in lines] == [(4, 6)]
    assert any("Made longer after step 4" in line for line in words.course(Reading(longer.directory)))
    assert_same_run(full, without_its_seams(longer.directory, tmp_path))


def without_its_seams(run: Path, folder: Path) -> Path:
    """A copy of a run without what says that it was made longer; the last step of a shorter run counts changed weights, too."""
    copy = shutil.copytree(run, folder / "copy")
    kept = [line for line in lines_of(copy / "metrics.jsonl") if line["kind"] != "prolonged"]
    for line in kept:
        if line["step"] == 4:
            line.pop("weights_changed", None)
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    return copy


@pytest.mark.slow
def test_a_falling_rate_of_a_longer_run_is_said_before_it_trains(make_config, capsys):
    config = make_config(train__num_steps=2, eval__every=0, eval__before=False)
    fine_tune(config)
    capsys.readouterr()
    run = fine_tune(replaced(config, {"train.num_steps": 3})).directory
    told = capsys.readouterr().out
    rates = [line["lr"] for line in Reading(run).steps]
    assert f"was {rates[1]:.2e} in step 2 and is {rates[2]:.2e} in step 3 and falls to zero" in told.replace("\n", " ")
    assert "would have had other rates before" in told


def test_what_cannot_be_made_longer_is_refused_with_its_reason(make_config, tmp_path):
    config = make_config(train__num_steps=2, eval__every=0, eval__before=False, **LONG)
    run = fine_tune(config).directory
    longer = replaced(config, {"train.num_steps": 3})
    for changed, what in [
        (config, "holds a finished run of 2 steps.*To make that run longer: --train.num_steps N"),
        (replaced(longer, {"train.num_steps": 1}), r"more than 2 steps \(now 1\)"),
        (replaced(config, {"train.num_epochs": 50.0}), r"more than 2 steps \(now 2\)"),  # num_steps says how long it is
        (replaced(longer, {"train.lr": 0.5}), r"other settings changed as well: train\.lr: 0\.001 → 0\.5.*--allow train\.lr"),
    ]:
        with pytest.raises(InputError, match=what):
            prolong.made_longer(changed, ())
    assert prolong.made_longer(longer, ()) == (2, 3)
    assert prolong.made_longer(replaced(longer, {"train.lr": 0.5}), ("train.lr",)) == (2, 3)
    by_epochs = replaced(config, {"train.num_steps": None, "train.num_epochs": 2.0})
    assert prolong.made_longer(by_epochs, ())[1] == total_steps(Reading(run).table("data.json")["rows"], by_epochs.train)
    checkpoint.remove_all(run)
    with pytest.raises(
        InputError, match=r"cannot be made longer: the state of its end .* is not there. run.keep_end = true keeps it"
    ):
        fine_tune(longer)
    assert Reading(run).trained


@pytest.mark.slow
def test_a_run_without_a_rise_ends_and_goes_on_with_more_patience(make_config, capsys):
    """No answer of the tiny model is right, so the first evaluation after the untouched model's is no better."""
    config = make_config(eval__patience=1, eval__every=1, **LONG)
    first = fine_tune(config)
    stopped = json.loads((first.directory / "result.json").read_text())["stopped"]
    assert first.steps == 1 and (stopped["patience"], stopped["best_step"], stopped["planned_steps"]) == (1, 0, 4)
    said = "Ended after step 1 of 4 by eval.patience = 1: the last evaluation was no better than the best one"
    assert said in capsys.readouterr().out and said in (first.directory / "model" / "README.md").read_text()
    assert said in (first.directory / "report.html").read_text()
    with pytest.raises(InputError, match=r"eval.patience = 1 would end it at once.*a larger --eval.patience"):
        fine_tune(config)
    again = fine_tune(replaced(config, {"eval.patience": 2}))
    assert again.steps == 2 and [line["step"] for line in again.evaluations] == [0, 1, 2]
