"""Which problems are the same."""

from __future__ import annotations

import json

import pytest

from tutelage.data import arithmetic, prepare
from tutelage.data.overlap import Validation, common_sentences, normalised, question_in, without_common

LONG = "A farmer has 12 cows and 7 goats in a barn, and each of the cows eats 3 kilograms of hay on every day of the week."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2+3?", "what is 2 + 3"),
        ("Find $x^2$ for x = 3.", "Find \\(x^2\\) for x=3"),
        ("Solve\n  2x = 4 .", "solve 2x = 4"),
        ("What is ５ − 2?", "What is 5 - 2?"),
        ("He said “yes”.", 'He said "yes"'),
    ],
)
def test_looks_do_not_count(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2+3?", "What is 2+4?"),
        ("What is 2+3?", "What is 2-3?"),
        ("f 1 2", "f 12"),
        ("What is 1.5?", "What is 15?"),
        ("What is 1,000?", "What is 1000?"),
        ("Is a = b?", "Is ab?"),
    ],
)
def test_what_is_asked_counts(one, other):
    assert normalised(one) != normalised(other)


def overlaps(training: str, *validation: str) -> str:
    problems = Validation((f"v:{index}", text) for index, text in enumerate(validation, 1))
    return problems.overlaps([normalised("Who is it?"), normalised(training), normalised(LONG[:40])])[1]


def test_an_equal_question_overlaps_however_short():
    assert overlaps("What is 2+3", "Which?", "What is 2 + 3?") == "equal to the validation problem v:2"
    assert overlaps("What is 2+4", "Which?", "What is 2 + 3?") == ""


def test_more_than_half_of_the_thirteen_grams_overlap():
    assert "v:1" in overlaps(LONG + " How much hay is that in all?", LONG + " How much do they eat?")
    assert overlaps(LONG.replace("12", "13").replace("on every day", "each day"), LONG) == ""
    words = LONG.split()
    assert overlaps(" ".join(words[:16] + [f"w{index}" for index in range(9)]), LONG) == "", "four of thirteen n-grams"
    assert overlaps("Before: " + LONG, LONG), "a word more in front"
    assert overlaps(" ".join(reversed(words)), LONG) == "", "the order counts"


def test_grams_do_not_reach_over_questions():
    first, second = LONG.split()[:8], LONG.split()[8:20]
    problems = Validation([("v", LONG)])
    assert problems.overlaps([" ".join(first), " ".join(second)]) == ["", ""]


def test_the_question_of_a_prompt_that_holds_its_template():
    assert question_in("Q: what?\nA:", "Q: {question}\nA:") == "what?"
    assert question_in("<|im_start|>user\nWhat is 2+3?<|im_end|>\n<|im_start|>assistant\n").strip() == "What is 2+3?"
    assert question_in("<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>\n").strip() == "2+3?"
    assert question_in("<s>[INST] 2+3? [/INST]").strip() == "2+3?"
    rendered = "<|im_start|>system\nYou are a careful and patient helper.<|im_end|>\n<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
    assert question_in(rendered).split("\n")[-1] == "2+3?", "a system turn is longer than its question"
    assert question_in("Is 2 < 3 | 4?") == "Is 2 < 3 | 4?"


def test_the_built_in_task_loses_under_three_percent():
    train, validation = ([normalised(row["messages"][0]["content"]) for row in arithmetic.rows(part, count)] for part, count in (("train", 512), ("validation", 128)))
    problems = Validation((str(index), text) for index, text in enumerate(validation))
    assert sum(map(bool, problems.overlaps(train))) < 0.03 * 512


BOX = "Please reason step by step, and put your final answer within \\boxed{}."
ASKED = ("What is 2 + 3?", "How many primes are below 30?", "Find x. Then double it.", "What is 7 choose 3?")


def test_sentences_that_most_questions_have_at_one_end_are_common():
    wrapped = [f"Solve the problem.\nQuestion: {text} {BOX}\nThink first!" for text in ASKED]
    common = common_sentences(wrapped)
    assert common == {normalised(text) for text in ("Solve the problem.", "Question:", BOX, "Think first!")}
    assert [without_common(text, common) for text in wrapped] == [text.replace(". T", ".\nT") for text in ASKED]
    assert common_sentences(ASKED) == frozenset() and common_sentences([ASKED[0]] * 5) == frozenset()
    assert without_common("Solve the problem. Think first!", common) == "Solve the problem. Think first!", "nothing else would stay"


@pytest.mark.parametrize("side", ["training", "validation", "both"])
def test_a_problem_is_found_whatever_sentences_its_file_puts_around_all(side, make_config, tokenizer, tmp_path):
    def write(name: str, wrapped: bool) -> str:
        texts = [f"{text} {BOX}" if wrapped else text for text in ASKED]
        path = tmp_path / name
        other = [] if name == "v.jsonl" else [f"What is {a} + 9? {BOX}" if wrapped else f"What is {a} + 9?" for a in (5, 6)]
        path.write_text("".join(json.dumps({"problem": text, "solution": "So \\boxed{5}."}) + "\n" for text in [*texts, *other]))
        return str(path)

    settings = {"data__train": write("t.jsonl", side != "validation"), "data__validation": write("v.jsonl", side != "training")}
    prepared = prepare(make_config(**settings, data__test_size=0, data__max_length=512), tokenizer)
    assert prepared.ledger.counts() == {"kept": 2, "overlap": 4}


def test_a_long_beginning_that_all_rows_share_is_no_overlap(make_config, tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"problem": f"{LONG} Think about it with care.\n{text}", "solution": "So \\boxed{5}."} for text in ASKED]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepared = prepare(make_config(data__train=str(path), data__test_size=0.5, data__max_length=512), tokenizer)
    assert prepared.ledger.counts() == {"kept": 2, "validation": 2}
