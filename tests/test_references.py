"""What a reference may be, and that any of several is right."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import make_run

from tutelage.evaluation.engine import Completion
from tutelage.evaluation.grade import grade_completions
from tutelage.grading import (
    Verdict,
    VerdictCache,
    grade_response,
    grade_responses,
    question_only_reward_fn,
    r1_zero_reward_fn,
    reference_of,
    reference_text,
    reward_fn_response_vs_gt,
)
from tutelage.grading.serving import pool
from tutelage.report.facts import generations
from tutelage.runs import read_run


def says(answer):
    return f"<think> x </think> <answer> {answer} </answer>"


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        (" 5 ", "5"), (5, "5"), (-3, "-3"), (10**30, "1" + 30 * "0"), (5.0, "5"), (0.1, "0.1"), (1e-07, "0.0000001"),
        (1e23, "1" + 23 * "0"), (12345678.9, "12345678.9"), (float("inf"), r"\infty"), (float("-inf"), r"-\infty"),
        (Decimal("5.00"), "5.00"), (Decimal("1E+2"), "100"), (Decimal("0.1234567890123456789"), "0.1234567890123456789"),
        (Decimal("1E+999999999"), "1E+999999999"), (Fraction(1, 3), "1/3"), (Fraction(4, 2), "2"),
        (np.int64(5), "5"), (np.uint8(7), "7"), (np.float64(0.5), "0.5"), (np.float64(5), "5"), (np.float32(0.1), "0.1"),
        (np.str_(" x "), "x"), (np.array(5), "5"), (np.array([5]), "5"), (np.array(["1/2", "0.5"]), ("1/2", "0.5")),
        (np.array([0.1, 2.0], dtype=np.float32), ("0.1", "2")), (np.array([], dtype=float), ""), (np.array([1, None], dtype=object), "1"),
        ([5, "five"], ("5", "five")), (("1/2", 0.5), ("1/2", "0.5")), (["5"], "5"), (["5", " 5 ", 5], "5"), ([], ""), ((), ""),
        ([None, "", "5"], "5"), (["n/a", float("nan")], ""),
        ("NA", "NA"), ("no", "no"), ("none of these", "none of these"), (r"\text{no solution}", r"\text{no solution}"),
    ],
)  # fmt: skip
def test_a_reference_is_text_a_number_or_a_list_of_them(value, reference):
    found = reference_of(value)
    assert found == reference and type(found) is type(reference)
    assert reference_of(found) == found


@pytest.mark.parametrize(
    "value",
    [
        None, "", "  \n", float("nan"), np.float32("nan"), np.array(np.nan), Decimal("nan"), "proof", "Proof", " notfound ", "Not found",
        "N/A", "n/a", "None", "null", "NaN", "unknown", "No answer",
        [], (), [None, float("nan")], np.array([]), torch.tensor([]), torch.tensor(float("nan")),
        "Let n be even.\nThen the sum of its digits is odd, which ends the proof.",
        "We argue by contradiction.\n\nSuppose that p divides q.",
        " ".join(["because"] * 31),
    ],
)  # fmt: skip
def test_what_people_write_for_nothing_is_no_reference(value):
    assert reference_of(value) == ""
    if isinstance(value, str):  # a text was meant to say something
        with pytest.raises(ValueError, match="the reference answer is empty"):
            r1_zero_reward_fn(says("5"), value)
    else:
        assert r1_zero_reward_fn(says("5"), value) == {"reward": 0.0, "format_reward": 1.0, "answer_reward": 0.0}
        assert r1_zero_reward_fn("5", value)["format_reward"] == 0.0
        assert grade_response(says("5"), value).equal is None and grade_response(says("5"), value).layer == "reference"


def test_pandas_writes_nothing_in_its_own_way():
    pandas = pytest.importorskip("pandas")
    assert reference_of(pandas.NA) == reference_of(pandas.NaT) == "" and reference_of(pandas.Series([1, 2])) == ("1", "2")


@pytest.mark.parametrize(
    "text",
    [
        "1\n2\n3",
        "x = 1\ny = 2",
        "5 apples\n3 pears",
        "\\begin{pmatrix}\n1 & 2 \\\\\n3 & 4\n\\end{pmatrix}",
        "f(x) = \\begin{cases} x & \\text{if x is a positive number}\\\\\n 0 & \\text{if x is not one of these} \\end{cases}",
        "\\begin{aligned}\nx &= 1 \\\\\ny &= 2\n\\end{aligned}",
        "#### Count\nred\n#### Sum\nblue",
        "All functions f(x) = cx, where c is a real constant that is not zero, and the function that is zero everywhere",
    ],
)
def test_an_answer_of_several_lines_or_words_is_no_prose(text):
    assert reference_of(text) == text


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("We count\nthe red and the blue ones.\n\nThus $\\boxed{5}$ marbles.", "5"),
        (r"\boxed{2} \text{ and } \boxed{3}", "2, 3"),
        (r"\boxed{4} is wrong: \boxed{5}", "5"),
        (r"\boxed{4}. No, that is wrong.", ""),
        (r"so \boxed{4", r"so \boxed{4"),
    ],
)
def test_a_reference_with_boxes_is_what_they_give(text, reference):
    assert reference_of(text) == reference


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (True, "truth value"), (np.bool_(False), "truth value"), ([5, True], "truth value"), ({"answer": 5}, "dict"), ({5}, "set"),
        (b"5", "bytes"), (1j, "complex"), ([[1, 2]], "list within a list"), (["5", ("6",)], "list within a list"),
        (np.eye(2), "list within a list"), (np.datetime64("2026-01-01", "ns"), "datetime64"), ([{"a": 1}], "dict"),
    ],
)  # fmt: skip
def test_another_type_is_refused_by_name(value, names):
    with pytest.raises(ValueError, match=names):
        reference_of(value)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("#### 72", "72"), ("We add two and three.\n#### 5", "5"), ("work <<1+1=2>> it\n#### 1,234.\n", "1234"), ("#### $18", "$18"),
        ("#### N/A", ""), (r"so #### \boxed{3}", "3"),
    ],
)  # fmt: skip
def test_a_reference_behind_marks_is_what_stands_there(text, reference):
    assert reference_of(text) == reference


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        (torch.tensor(5), "5"), (torch.tensor(0.1), "0.1"), (torch.tensor(0.1, dtype=torch.bfloat16), "0.1"), (torch.tensor(0.123456789), "0.12345679"),
        (torch.tensor(1 / 3, dtype=torch.float64), "0.3333333333333333"), (torch.tensor([1, 2]), ("1", "2")), (torch.tensor([0.5, 2.0]), ("0.5", "2")),
    ],
)  # fmt: skip
def test_a_tensor_is_a_number_or_several(value, reference):
    assert reference_of(value) == reference


@pytest.mark.parametrize("truth", [5, 5.0, "5", ["5", "five"], ("five", "5"), np.int64(5), np.array([4, 5]), Decimal(5), [Fraction(5)],
    torch.tensor(5.0), "#### 5", r"\boxed{5}", r"\$5", "$5", [None, 5]])  # fmt: skip
def test_reward_functions_take_typed_references(truth):
    assert r1_zero_reward_fn(says("5"), truth)["answer_reward"] == 1.0
    assert r1_zero_reward_fn(says("6"), truth) == {"reward": 0.0, "format_reward": 1.0, "answer_reward": 0.0}
    assert question_only_reward_fn(r"so \boxed{5}", truth)["answer_reward"] == 1.0
    assert question_only_reward_fn("so 5", truth)["format_reward"] == 0.0


@pytest.mark.parametrize("truth", [True, {"answer": 5}, {5}, b"5", object(), 1j, [[5]], torch.eye(2)])
def test_what_is_no_reference_is_one_clear_error(truth):
    for reward_fn in (r1_zero_reward_fn, question_only_reward_fn, reward_fn_response_vs_gt):
        with pytest.raises(ValueError, match="the reference is"):
            reward_fn(says("5"), truth)


@pytest.mark.parametrize("response", [None, 5, b"5", ["5"]])
def test_a_response_that_is_no_text_is_one_clear_error(response):
    with pytest.raises(ValueError, match="the response is of type"):
        r1_zero_reward_fn(response, "5")


def test_the_specifications_check_of_a_response_is_r1_zeros():
    for answer, truth in (("5", 5), ("6", "5"), ("x", None), (r"\frac{1}{2}", [0.5, "x"])):
        assert reward_fn_response_vs_gt(says(answer), truth) == r1_zero_reward_fn(says(answer), truth)
    assert reward_fn_response_vs_gt(says("5"), 5)["answer_reward"] >= 1.0 and reward_fn_response_vs_gt("5", "5")["format_reward"] == 0.0


def test_a_style_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="there is no style 'r1'; there are r1_zero, question_only, answer"):
        grade_responses([("5", "5")], "r1")
    assert [verdict.equal for verdict in grade_responses([("5.0", 5), ("six", 5)], "answer")] == [True, False]


def test_fast_asks_no_worker(monkeypatch):
    monkeypatch.setattr(pool, "ask_many", lambda *_: pytest.fail("asked"))
    assert r1_zero_reward_fn(says("0.50"), "1/2", fast=True)["reward"] == 1.0
    assert r1_zero_reward_fn(says("2√2"), r"\sqrt{8}", fast=True) == {"reward": 0.0, "format_reward": 1.0, "answer_reward": 0.0}
    assert question_only_reward_fn(r"so \boxed{1,234}", ["x^2-1", 1234], fast=True)["reward"] == 1.0
    assert r1_zero_reward_fn("0.5", "1/2", fast=True)["format_reward"] == 0.0


@pytest.mark.slow
def test_fast_accepts_nothing_that_is_not_accepted_otherwise():
    rows = [json.loads(line) for file in sorted((Path(__file__).parent / "data").glob("*.jsonl")) for line in file.read_text().splitlines()]
    pairs = [(row["gold"], row["pred"]) for row in rows]
    fast = {pair for pair in pairs if r1_zero_reward_fn(says(pair[1]), [pair[0]], fast=True)["reward"]}
    full = grade_responses([(says(answer), [gold]) for gold, answer in pairs])
    accepted = {pair for pair, verdict in zip(pairs, full, strict=True) if verdict.equal}
    assert len(fast) > 100 and fast <= accepted


def test_any_of_several_is_right_and_an_undecided_one_is_told():
    too_long = "1" * 1500
    truths = [("4", "5"), ("4", "6"), (too_long, "5"), ("5", too_long), (too_long, "6"), ("6", too_long)]
    done: list[int] = []
    verdicts = grade_responses([(says("5"), truth) for truth in truths] + [("5", ("5", "6"))], on_graded=done.append)
    assert [verdict.equal for verdict in verdicts] == [True, False, True, True, None, None, False]
    assert [verdict.layer for verdict in verdicts] == ["string", "exact", "string", "string", "limit", "limit", "format"]
    assert "4" in verdicts[1].why and sum(done) == len(verdicts)


def test_the_cache_knows_single_answers_of_several(tmp_path):
    cache = VerdictCache(tmp_path)
    first = grade_responses([(says("5"), ("4", "5")), (says("7"), ("4", "5"))], cache=cache)
    pairs = [("4", "5"), ("5", "5"), ("4", "7"), ("5", "7")]
    assert {pair: verdict.equal for pair, verdict in cache.find(pairs).items()} == dict(zip(pairs, [False, True, False, False], strict=True))
    asked: list[tuple[str, str]] = []

    def ask(pairs, known, on_graded):
        asked.extend(pair for pair in pairs if pair not in known)
        return [known.get(pair, Verdict(False, "string")) for pair in pairs]

    assert grade_responses([(says("5"), ("4", "5")), (says("7"), ["5", 4])], cache=cache, grade_pairs=ask) == [
        first[0],
        Verdict(False, "exact", "7 is not 5"),
    ]
    assert asked == []


def test_records_hold_json_and_the_right_answers_share_a_vote():
    texts = [says("5"), says("five"), says("6"), says("6.0")]
    completions = [Completion(text, (1,), "stop", None) for text in texts * 2]
    records = grade_completions(["a", "b"], [("5", "cinq"), np.int64(5)], completions, r1_zero_reward_fn)
    assert [record["ground_truth"] for record in records[::4]] == [["5", "cinq"], "5"]
    assert [record["vote"] for record in records] == [0, 0, 1, 1] * 2


def test_another_reward_function_gets_the_ground_truth_as_it_is():
    seen = []

    def reward_fn(response, truth):
        seen.append(truth)
        return {"reward": 0.0, "format_reward": 0.0, "answer_reward": 0.0}

    grade_completions(["a"], [{"tests": 3}], [Completion("x", (1,), "stop", None)], reward_fn)
    assert seen == [{"tests": 3}]


def test_a_page_shows_several_answers_as_one_text(tmp_path):
    run = make_run(tmp_path / "run")
    lines = (run / "generations.jsonl").read_text()
    (run / "generations.jsonl").write_text(lines.replace('"ground_truth": "4"', '"ground_truth": ["4", "four"]'))
    assert "4 or four" in [problem["r"] for problem in generations(read_run(run))["problems"]]
    assert reference_text(reference_of([1, 2])) == "1 or 2" and reference_text("1") == "1"
