from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tutelage import question_only_reward_fn, r1_zero_reward_fn
from tutelage.grading import boxed_answer, grade, grade_all, grade_responses, tagged_answer
from tutelage.grading.equality import as_fraction
from tutelage.grading.wording.normalize import normalize

RIGHT = {"reward": 1.0, "format_reward": 1.0, "answer_reward": 1.0}
WRONG = {"reward": 0.0, "format_reward": 1.0, "answer_reward": 0.0}
MALFORMED = {"reward": 0.0, "format_reward": 0.0, "answer_reward": 0.0}


@pytest.mark.parametrize(
    "response",
    [
        "<think> x </think> <answer> 4 </answer>",
        "<think>x</think><answer>4</answer>",
        "\n<think>\nx\n</think>\n\n<answer>\n4\n</answer>\n",
        " x </think> <answer> 4 </answer>",  # the prompt opened the think block
    ],
)
def test_one_think_block_then_one_answer_block_is_well_formed(response):
    assert r1_zero_reward_fn(response, "4") == RIGHT


@pytest.mark.parametrize(
    "response",
    [
        "4",
        "",
        "<answer> 4 </answer>",
        "<think> x </think> 4",
        "<think> x </think> <answer> 4",
        "<think> x <answer> 4 </answer>",
        "<think> x </think> so <answer> 4 </answer>",
        "<think> x </think> <answer> 4 </answer> done",
        "<think> x </think> <answer> 3 </answer> <answer> 4 </answer>",
        "<think> x </think> <answer> <answer> 4 </answer> </answer>",
        "<think> x </think> <think> y </think> <answer> 4 </answer>",
        "<think> <think> x </think> <answer> 4 </answer>",
        "<answer> 4 </answer> <think> x </think>",
        "</answer></think> <answer>4",
        "well <think> x </think> <answer> 4 </answer>",
    ],
)
def test_any_other_arrangement_of_tags_is_malformed(response):
    assert tagged_answer(response) is None
    assert r1_zero_reward_fn(response, "4") == MALFORMED


def test_a_wrong_answer_is_well_formed():
    assert r1_zero_reward_fn("<think> x </think> <answer> 5 </answer>", "4") == WRONG
    assert r1_zero_reward_fn("<think> x </think> <answer> </answer>", "4") == WRONG


def test_an_empty_reference_is_an_error_and_never_a_match():
    with pytest.raises(ValueError, match="reference answer is empty"):
        r1_zero_reward_fn("<think> x </think> <answer> </answer>", " ")


def test_question_only_takes_the_last_box():
    assert boxed_answer(r"\boxed{1} so \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert question_only_reward_fn(r"it is $\boxed{\frac{1}{2}}$", "0.5") == RIGHT
    assert question_only_reward_fn(r"it is \boxed{2", "2") == MALFORMED


DATA = Path(__file__).parent / "data"
PAIRS = [json.loads(line) for line in (DATA / "pairs.jsonl").read_text().splitlines()]
FRESH = [json.loads(line) for file in ("fresh", "units", "languages") for line in (DATA / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]
FIELD = [json.loads(line) for line in (DATA / "field.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_the_table_of_pairs_is_graded_right_without_a_false_positive():
    verdicts = grade_all([(row["gold"], row["pred"]) for row in PAIRS])
    wrong = [
        (row["gold"], row["pred"]) for row, verdict in zip(PAIRS, verdicts, strict=True) if bool(verdict.equal) != row["equal"]
    ]
    assert not [pair for pair in wrong if grade(*pair).equal], "accepted wrongly"
    assert len(wrong) <= 0.01 * len(PAIRS), wrong


@pytest.mark.slow
def test_pairs_made_to_be_accepted_wrongly_are_not():
    """Written by a tester who looked for acceptances that no human would make, and for refusals: those it found at first."""
    rows = [json.loads(line) for line in (DATA / "adversarial.jsonl").read_text().splitlines()]
    verdicts = grade_all([(row["gold"], row["pred"]) for row in rows])
    accepted = [(r["gold"], r["pred"]) for r, verdict in zip(rows, verdicts, strict=True) if verdict.equal and not r["equal"]]
    refused = [(r["gold"], r["pred"]) for r, verdict in zip(rows, verdicts, strict=True) if r["equal"] and not verdict.equal]
    assert accepted == []
    assert len(refused) <= 6, refused  # of 146; their kinds stand under "Known weaknesses" in docs/grading.md


@pytest.mark.slow
def test_pairs_that_nobody_had_seen_are_graded_right():
    """Drawn from a table that was written without the grader in hand: what it graded wrongly at first, and near misses of these."""
    verdicts = grade_all([(row["gold"], row["pred"]) for row in FRESH])
    wrong = [(row["gold"], row["pred"]) for row, verdict in zip(FRESH, verdicts, strict=True) if bool(verdict.equal) != row["equal"]]
    assert wrong == []


@pytest.mark.slow
def test_kinds_that_fresh_pairs_had_shown_are_graded_right():
    """Near misses and other forms, written while the grader was mended for what people wrote who had not seen it."""
    rows = [json.loads(line) for line in (DATA / "kinds.jsonl").read_text().splitlines()]
    verdicts = grade_all([(row["gold"], row["pred"]) for row in rows])
    assert [row for row, verdict in zip(rows, verdicts, strict=True) if bool(verdict.equal) != row["equal"]] == []


REFUSED = {"1": 11, "1_counted": 52, "2": 15, "3": 10, "4": 15, "5": 23, "6": 17, "7": 25}
"""Right answers that are refused, at most, of the rounds of docs/grading.md. Nobody reads the pairs of "1_counted": they are a yardstick."""


@pytest.mark.slow
@pytest.mark.parametrize("number", REFUSED)
def test_what_fresh_eyes_wrote_is_graded_as_well_as_before(number):
    rows = [json.loads(line) for line in (DATA / "rounds" / f"{number}.jsonl").read_text().splitlines()]
    verdicts = grade_all([(row["gold"], row["pred"]) for row in rows])
    wrong = [(row["equal"], row) for row, verdict in zip(rows, verdicts, strict=True) if bool(verdict.equal) != row["equal"]]
    accepted = sum(not equal for equal, _ in wrong)
    assert accepted <= (number == "1")  # "around 25%" for 0.25: a hedge for a decimal
    assert len(wrong) - accepted <= REFUSED[number]


@pytest.mark.slow
def test_what_models_and_public_suites_write_is_graded_right():
    """Written for this test, kind by kind, with near misses of each: functions, decimals, sentences, units, families, notations."""
    verdicts = grade_all([(row["gold"], row["pred"]) for row in FIELD])
    wrong = [(row, verdict) for row, verdict in zip(FIELD, verdicts, strict=True) if bool(verdict.equal) != row["equal"]]
    assert [row for row, verdict in wrong if verdict.equal] == [], "accepted wrongly"
    assert [row for row, verdict in wrong if not verdict.equal] == [], "refused"


@pytest.mark.slow
def test_every_reference_equals_itself():
    golds = sorted({row["gold"] for row in PAIRS})
    for change in (str, lambda gold: f"{gold}.", lambda gold: f"$ {gold} $", lambda gold: f"The answer is {gold}."):
        verdicts = grade_all([(gold, change(gold)) for gold in golds])
        assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if not verdict.equal] == []


def documented_conventions():
    """(gold, answer, verdict) of each row of the table of conventions in docs/grading.md."""
    text = (Path(__file__).parents[1] / "docs" / "grading.md").read_text()
    table = text.partition("## Conventions")[2]
    return [
        (gold, answer, relation == "=")
        for line in table.splitlines()
        if line.startswith("|")
        for gold, relation, answer in re.findall(r"`([^`]+)` (=|≠) `([^`]+)`", line)
    ]


@pytest.mark.slow
def test_the_conventions_are_what_the_documentation_says():
    conventions = documented_conventions()
    assert len(conventions) >= 40
    verdicts = grade_all([(gold, answer) for gold, answer, _ in conventions])
    assert [c for c, verdict in zip(conventions, verdicts, strict=True) if verdict.equal is not c[2]] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gold", "answer", "layer"),
    [
        ("72", "72", "string"),
        ("72", "72.", "string"),
        ("72", "$72$", "string"),
        ("72", r"\boxed{72}", "string"),
        ("1072", "1,072", "exact"),
        ("72", "72.0", "exact"),
        (r"\frac{1}{2}", "0.5", "exact"),
        (r"\frac{1}{2}", "2/4", "exact"),
        (r"\frac12", "½", "string"),
        ("-7/2", r"-3\frac{1}{2}", "exact"),
        ("123456789012345678901", "123456789012345678901.0", "exact"),
        ("east", "East", "text"),
        ("20:34", "8:34 p.m.", "text"),
        (r"\text{(C)}", "C. 12", "text"),
        (r"\sqrt{8}", r"2\sqrt{2}", "algebra"),
        (r"x^2-1", "(x-1)(x+1)", "algebra"),
        (r"(1,2)", r"\left( 1.0, 2 \right)", "structure"),
        (r"\frac{1}{2}", r"\int_0^1 x \, dx", "algebra"),
        (r"\frac{d}{dx} x^2", r"\frac{d}{d x} (x^{2})", "algebra"),
        ("5", "five", "string"),
    ],
)
def test_equal_answers_and_the_layer_that_decides(gold, answer, layer):
    verdict = grade(gold, answer)
    assert (verdict.equal, verdict.layer) == (True, layer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gold", "answer", "layer"),
    [
        ("72", "73", "exact"),
        ("72", "", "string"),
        ("east", "west", "text"),
        (r"\sqrt{2}", "1.4", "algebra"),
        ("a+5", "t+5", "algebra"),
        ("[1,2)", "[1,2]", "structure"),
        (r"\frac{1}{3}", r"\int_0^1 x \, dx", "algebra"),
        (r"\frac{d}{dx} x^2", r"\frac{d}{dx} x^3", "algebra"), ("2x", r"\frac{d}{dx} x^3", "algebra"),
        ("5", "about 5", "text"),
        ("4", "9^{9^{9^{9}}}", "limit"),
    ],
)
def test_answers_that_differ_and_the_layer_that_decides(gold, answer, layer):
    verdict = grade(gold, answer)
    assert (verdict.equal, verdict.layer) == (None if layer == "limit" else False, layer)
    assert verdict.why


@pytest.mark.slow
def test_a_batch_gives_the_verdicts_of_single_grades_in_order():
    pairs = [(str(number), f"{number % 7}^2 - {number}") for number in range(40)] + [("east", "East"), (r"\sqrt{8}", "2√2")] * 3
    done: list[int] = []
    assert grade_all(pairs, workers=2, on_graded=done.append) == [grade(*pair) for pair in pairs]
    assert sum(done) == len(pairs)


def test_a_batch_of_responses_keeps_format_and_answer_apart():
    well, ill = "<think> x </think> <answer> 4 </answer>", "it is 4"
    verdicts = grade_responses([(ill, "4"), (well, "4"), (well, "5"), (ill, "5")])
    assert [(verdict.equal, verdict.layer) for verdict in verdicts] == [
        (False, "format"), (True, "string"), (False, "exact"), (False, "format"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "block",
    [
        "We add:\n\\[2+3=5\\]\nSo there are 5 apples.", "First, 2+2=4.\nThen 4+1=5.\n\nThe answer is 5.", "Since 2+3=5, the total is 5.",
        "The sum is given by\n$$s = 2 + 3 = 5$$", "The final answer is $5$. I hope it is correct.", "5<|im_end|>", "#### 5",
    ],
)  # fmt: skip
@pytest.mark.slow
def test_an_answer_block_of_sentences_says_its_last_value(block):
    assert r1_zero_reward_fn(f"<think> x </think> <answer> {block} </answer>", "5") == RIGHT
    assert r1_zero_reward_fn(f"<think> x </think> <answer> {block} </answer>", "4") == WRONG


@pytest.mark.parametrize("block", ["First 4, then 5.", "So 4. No wait, 5.", "x = 4 or x = 5", "about 5", "not 5", "Is it 5?", "Suppose it is 5."])
@pytest.mark.slow
def test_an_answer_block_of_doubts_says_nothing(block):
    assert r1_zero_reward_fn(f"<think> x </think> <answer> {block} </answer>", "5") == WRONG


def test_an_answer_that_is_refused_is_undecided_and_not_wrong():
    assert grade("4", "1" * 5000).equal is None and grade("1" * 5000, "4").equal is None
    assert grade("7" * 400, "⑩" * 900).equal is None
    assert grade("120", "5!").equal is True and grade("Yes", "Yes!").layer != "limit"


def test_several_boxes_of_a_reference_are_a_list():
    assert grade(r"\boxed{2} \text{ and } \boxed{3}", "3, 2").equal is True
    assert grade(r"\boxed{2} \text{ and } \boxed{3}", "3").equal is False
    assert grade("7", r"8 \boxed{7} 9").equal is not True


def test_a_box_without_braces_is_read():
    assert boxed_answer(r"so $x = \boxed 5$.") == "5"


def test_fractions_are_exact():
    from fractions import Fraction

    values = {
        "3": 3,
        "-1.50": Fraction(-3, 2),
        "7/2": Fraction(7, 2),
        r"\frac{1}{3}": Fraction(1, 3),
        r"3\frac{1}{2}": Fraction(7, 2),
        "3 1/2": Fraction(7, 2),
    }
    assert {text: as_fraction(text) for text in values} == values
    assert as_fraction("x") is None and as_fraction("1/0") is None


def test_normalizing_twice_changes_nothing():
    for text in [row[side] for row in PAIRS + FIELD for side in ("gold", "pred")]:
        assert normalize(normalize(text)) == normalize(text)
