"""Steps that make no sense are not applied: found, written down, replayed."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from tutelage.errors import InputError, RunError
from tutelage.training import fine_tune
from tutelage.training.replay import replay_step
from tutelage.training.step import AT_LEAST, Guard


def usual(count: int, middle: float = 1.0, spread: float = 0.1) -> list[float]:
    drawn = random.Random(0)
    return [middle * math.exp(drawn.gauss(0, spread)) for _ in range(count)]


def test_a_spike_is_many_times_the_median_and_far_outside_the_spread():
    guard = Guard(10.0, usual(64))
    assert 9 < guard.bound < 11  # the ratio decides where norms are alike
    assert not guard.objection(1.0, 8.0) and "more than" in guard.objection(1.0, 12.0)
    assert Guard(10.0, usual(64, spread=0.6)).bound > 50  # the spread, where they are not
    assert Guard(2.0, usual(64, middle=1e-4)).bound < 1e-3


def test_single_outliers_do_not_move_the_bound():
    calm = Guard(10.0, usual(64)).bound
    assert Guard(10.0, [*usual(58), *[1e6] * 6]).bound < 1.3 * calm


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf), (math.inf, math.nan)])
def test_what_is_not_finite_is_refused_from_the_first_step(loss, norm):
    assert "the loss is" in Guard(0.0).objection(loss, norm)


def test_with_few_steps_or_no_ratio_nothing_is_a_spike():
    assert Guard(10.0, usual(AT_LEAST - 1)).bound == math.inf and Guard(0.0, usual(64)).bound == math.inf


def test_a_guard_after_a_restart_is_the_guard_before_it():
    lines = [{"kind": "train", "step": step, "grad_norm": norm} for step, norm in enumerate(usual(70))]
    lines[30]["skipped"] = "a spike"
    guard = Guard(10.0)
    for line in lines:
        if not line.get("skipped"):
            guard.objection(1.0, line["grad_norm"])
    again = Guard.of_lines(10.0, lines)
    assert list(again.norms) == list(guard.norms) and again.bound == guard.bound and again.skipped == 1


@pytest.fixture
def poisoned(make_config, data_file, monkeypatch):
    """A configuration, and a row whose loss is multiplied: by a number, for a spike, or by NaN."""
    from tutelage.model.policy import Policy

    victim = json.loads(data_file.read_text().splitlines()[7])["messages"][0]["content"][:30]
    original = Policy.score

    def poison(factor: float, **changes):
        def score(self, batch, weights=None, *others, **options):
            poisons = weights is not None and victim in self.tokenizer.decode(batch.input_ids[0].tolist())
            return original(self, batch, weights * factor if poisons else weights, *others, **options)

        monkeypatch.setattr(Policy, "score", score)
        return make_config(
            train__num_steps=40, train__batch_size=1, train__grad_accum=2, train__clip_grad=1e9, eval__every=0, eval__before=False,
            train__lr=1e-5, run__save_every=10, **changes,
        )  # fmt: skip

    return poison


def steps_of(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


@pytest.mark.slow
def test_a_spike_stops_the_run_before_any_weight_changes_and_says_how_to_look_into_it(poisoned, capsys):
    config = poisoned(300.0)
    with pytest.raises(RunError, match=r"the gradient norm is .*, more than .*train\.jsonl:8.*\n.*--replay \d+\n.*skip") as stopped:
        fine_tune(config)
    directory = Path(config.run.dir)
    record = json.loads(next((directory / "nonsense").iterdir()).read_text())
    assert any(row.endswith("train.jsonl:8") for row in record["rows"]) and f"step {record['step']}:" in str(stopped.value)
    steps = steps_of(directory)
    assert [line["step"] for line in steps] == list(range(1, record["step"]))
    assert (directory / "checkpoints" / f"step-{record['step'] - 1:08d}").is_dir()

    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    rows = replay_step(config, record["step"])
    assert rows[0]["source"].endswith("train.jsonl:8") and rows[0]["grad_norm"] > 20 * rows[1]["grad_norm"]
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before  # nothing is written
    assert "it would be applied" not in capsys.readouterr().out
    again = replay_step(config, record["step"] - 3)  # earlier than the newest checkpoint: trained up to from the one before
    assert all(math.isfinite(row["grad_norm"]) for row in again)
    with pytest.raises(InputError, match="the run has steps 1 to 40"):
        replay_step(config, 41)

    finished = fine_tune(config.model_copy(update={"train": config.train.model_copy(update={"on_nonsense": "skip"})}))
    skipped = [line["step"] for line in steps_of(finished.directory) if "skipped" in line]
    assert skipped[0] == record["step"] and len(steps_of(finished.directory)) == 40


@pytest.mark.slow
def test_skipped_steps_leave_the_weights_alone_are_counted_and_end_the_run_when_they_are_many(poisoned):
    config = poisoned(math.nan, train__on_nonsense="skip", train__max_skips=1)
    with pytest.raises(RunError, match=r"2 steps were not applied, and train\.max_skips is 1"):
        fine_tune(config)
    steps = steps_of(Path(config.run.dir))
    assert [line["weights_changed"] for line in steps if "skipped" in line] == [0.0]
    assert all(math.isfinite(line["loss"]) for line in steps if "skipped" not in line)


def test_a_replayed_step_is_the_logged_step(make_config, monkeypatch):
    from test_train import interrupt_at_call

    from tutelage.training.ending import Interrupted

    config = make_config(train__num_steps=6, eval__every=0)
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 6)
        with pytest.raises(Interrupted):
            fine_tune(config)
    logged = steps_of(Path(config.run.dir))[3]
    told = []
    with monkeypatch.context() as patch:
        patch.setattr("tutelage.training.replay.console.say", lambda text, **_: told.append(text))
        rows = replay_step(config, 4)
    assert any(f"replayed: loss {logged['loss']:.6g}, gradient norm {logged['grad_norm']:.6g}" in text for text in told)
    assert len(rows) == 8 and sum(row["loss"] * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows) == (
        pytest.approx(logged["loss"], rel=1e-5)
    )
