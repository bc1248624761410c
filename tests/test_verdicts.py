"""What a sweep says of its points, and what `tutelage power` says beforehand."""

from __future__ import annotations

import json

import pytest

from tutelage.cli.entry import main
from tutelage.config import parse_config
from tutelage.report import figures, of_sweep
from tutelage.runs import verdicts
from tutelage.runs.results import Found
from tutelage.runs.verdicts import ONE_SEED, judge, sentences

QUESTIONS = 60


def point(kind: str, rows: int, *solved: int, untouched: int | None = None) -> Found:
    """A point whose seeds solve the first so many questions, and the untouched model so many."""

    def scores(count: int):
        return {(f"question {index}", 0): float(index < count) for index in range(QUESTIONS)}

    by_seed = {42 + seed: scores(count) for seed, count in enumerate(solved)}
    before = {} if untouched is None else {seed: scores(untouched) for seed in by_seed}
    return Found(kind, str(rows), rows, {}, 0.1, 0.9, by_seed, before)


def test_a_point_below_the_untouched_model_is_said_first():
    verdicts = judge([point("raw", 64, 10, untouched=30), point("filtered", 64, 55, untouched=30)])
    said = sentences(verdicts)
    assert said[0].startswith("below the untouched model: raw, 64 is worse than the untouched model: -33.3 points")
    assert "above the untouched model: 1 of 2 points" in said
    assert [verdicts.beside_untouched(each) for each, _ in verdicts.untouched] == ["below: -33.3 points", "+41.7 points"]


def test_ties_at_nothing_solved_are_ties():
    verdicts = judge([point("raw", 64, 0, 0, untouched=0), point("filtered", 64, 0, 0, untouched=0)])
    assert all(not each.significant and each.estimate == 0 for _, each in verdicts.untouched)
    assert any(line.startswith("not told apart from the untouched model: raw, 64 (+0.0 points [") for line in sentences(verdicts))


def test_points_of_one_trial_are_not_compared_and_count_once():
    def trained(kind: str, trial: str) -> Found:
        right = {("q", index): float(index < 3) for index in range(8)}
        return Found(kind, "8", 8, {}, 0.0, 1.0, {42: right}, {42: dict.fromkeys(right, 0.0)}, (trial,))

    shared = [trained("raw", "raw-8-seed42"), trained("filtered", "raw-8-seed42")]
    judged = verdicts.judge(shared)
    assert judged.pairs == [] and len(judged.untouched) == 2 and len({id(each) for _, each in judged.untouched}) == 1
    assert not any("comparisons were judged" in line for line in verdicts.sentences(judged))
    assert "a tie" not in of_sweep.headline(parse_config({}), shared, None, {})
    other = trained("control", "raw-8-seed43")
    assert len(verdicts.judge([*shared, other]).pairs) == 1
    assert "a tie: all points at 37.5 %" in of_sweep.headline(parse_config({}), [*shared, other], None, {})
    known = [{"trial": "raw-8-seed42", "kind": "control", "size": None, "rows": 8, "varied": {}}]
    assert verdicts.equal_sets(known) == ["control, full is a raw set of 8 rows (raw-8-seed42)"]


def test_verdicts_are_judged_as_one_of_their_number():
    """A loss that is significant by itself (p = 0.031) is not so among eight."""
    alone = judge([point("raw", 8, 24, untouched=30)])
    assert alone.untouched[0][1].significant and alone.beside_untouched(alone.untouched[0][0]) == "below: -10.0 points"
    many = judge([point("raw", 8 * rows, 24, untouched=30) for rows in range(1, 9)])
    assert not any(each.significant for _, each in many.untouched) and many.untouched[0][1].comparisons == 9
    assert any("9 comparisons were judged together" in line and "Holm" in line for line in sentences(many))


def test_one_seed_is_advised_to_be_three():
    assert ONE_SEED in sentences(judge([point("raw", 8, 20), point("filtered", 8, 30)]))
    assert ONE_SEED not in sentences(judge([point("raw", 8, 20, 21), point("filtered", 8, 30, 31)]))


def test_what_twice_the_rows_bring_is_said_and_drawn_dashed():
    found = [point("raw", 64 * 2**power, *(20 + 4 * power + seed for seed in (-1, 0, 1))) for power in range(5)]
    verdicts = judge(found)
    assert any(line.startswith("raw: twice the rows (2048): +") for line in sentences(verdicts))
    traces = figures.size_curve(found, None, "", verdicts.growth)["data"]
    dashed = [trace for trace in traces if trace.get("line", {}).get("dash") == "dash"]
    assert [trace["name"] for trace in dashed] == ["raw, continued"] and dashed[0]["x"] == [1024, 1218, 1448, 1722, 2048]
    few = judge(found[:2])
    assert any("cannot be told: 2 sizes" in line for line in sentences(few))
    assert not any("continued" in str(trace.get("name")) for trace in figures.size_curve(found[:2], None, "", few.growth)["data"])


def test_power_says_beforehand_what_can_be_told(capsys):
    assert main(["power", "--questions", "30", "--samples", "64", "--difference", "0.05"]) == 0
    said = capsys.readouterr().out
    assert "A true difference of 5 points is told with a chance of 10 %" in said
    assert "30 questions: differences under 18.9 points cannot be told" in said and "407 questions are needed" in said
    assert "Below 100 questions" in said and "--seeds 3" in said
    assert main(["power", "--questions", "500", "--unpaired", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["smallest_difference"] == pytest.approx(0.0887, abs=1e-3) and not found["paired"] and found["correlation"] is None
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--questions 30 --difference 0", "above 0 and at most 1, not 0.0"),
        ("--questions 30 --within 0.4", "between 0 and p(1 − p), here 0.25, not 0.4"),
        ("--questions 30 --unpaired --correlation 0.5", "different questions have none"),
        ("--questions 30 --confidence 1", "between 0 and 1, not 1.0"),
        ("--questions 30 --power 0", "between 0 and 1, not 0.0"),
        ("--questions 30 --difference 1e-9", "more than 1000000000 questions"),
    ],
)
def test_what_power_cannot_answer_is_one_clear_error(arguments, message, capsys):
    assert main(["power", *arguments.split()]) == 2
    assert message in capsys.readouterr().err
