"""What counts as the answer of a response, of a worked solution, and of a text with ``####``."""

from __future__ import annotations

import pytest

from tutelage.grading import (
    answer_of,
    boxed_answer,
    final_after_marks,
    grade,
    question_only_reward_fn,
    r1_zero_reward_fn,
    solution_answer,
    tagged_answer,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"Counting gives \boxed{5}. Check by subtraction. So the answer is \boxed{5}.", "5"),
        (r"$\boxed{\frac{1}{2}}$, which is \boxed{\dfrac12}", r"\frac{1}{2}"),
        (r"so \boxed{5}, that is, \boxed{5.0}", "5"),
        (r"The legs are $\boxed{3}$ and $4$. Hence the hypotenuse is $\boxed{5}$.", "5"),
        (r"a = \boxed{3}, so b = \boxed{5}.", "5"),
        ("\\[ a = \\boxed{3} \\]\n\nNow we find\n\\[ b = \\boxed{5} \\]", "5"),
        (r"x = \boxed{1} or \boxed{2}", "1, 2"),
        (r"$\boxed{2}$ and $\boxed{3}$.", "2, 3"),
        (r"\[x=\boxed{1}\]or\[x=\boxed{2}.\]", "1, 2"),
        (r"\boxed{1}\quad\text{and}\quad\boxed{2}", "1, 2"),
        (r"We try \boxed{7}. In fact $x = \boxed{1}$, $\boxed{2}$, or $\boxed{1}$.", "1, 2"),
        (r"(a) $x = \boxed{1}$. (b) $x = \boxed{2}$.", "1, 2"),
        ("**Part (a):** $\\boxed{1}$.\n\n**Part (b):** $\\boxed{2}$.", "1, 2"),
        ("1. $\\boxed{3}$.\n2. $\\boxed{4}$.", "3, 4"),
        ("- $\\boxed{3}$\n- $\\boxed{4}$", "3, 4"),
        (r"if $x<0$ then \boxed{1}, and if $x>0$ then \boxed{2}.", "1, 2"),
        (r"\boxed{\text{not } 5}", r"\text{not } 5"),
        (r"$x$ is not 0, hence \boxed{7}.", "7"),
        (r"The number is \boxed{5}. It is wrong to think otherwise.", "5"),
        ("so $x = \\boxed 5$.", "5"),
        ("no box", None),
        (r"so \boxed{5", None),
    ],
)
def test_a_solution_answers_by_its_last_sentence_with_boxes(text, answer):
    assert solution_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{4}. Wait, that is wrong. It is \boxed{5}.", "5"),
        (r"so \boxed{4} -- wait, that is wrong, \boxed{5}", "5"),
        (r"First \boxed{5}. No, \boxed{4} is not right.", "5"),
        (r"The answer is \boxed{5}, not \boxed{4}.", "5"),
        (r"The answer is \(\boxed{5}\) instead of \(\boxed{4}\).", "5"),
        (r"\boxed{4}, no, \boxed{5}", "5"),
        (r"\boxed{4}, or actually \boxed{5}", "5"),
        (r"\boxed{4} and, let me redo it, \boxed{5}", "5"),
        (r"It isn't $\boxed{4}$, it is $\boxed{5}$", "5"),
        (r"\boxed{4}, which was wrong; \boxed{5}", "5"),
        (r"\boxed{2} or \boxed{3}, but \boxed{3} is extraneous.", "2"),
        (r"so \boxed{5}. Before, I had \boxed{4}. That's wrong.", "5"),
        (r"so \boxed{4}. Wait, that is wrong.", None),
        (r"$x = \boxed{5}$, since \boxed{4} is too small", "5"),
        (r"$x\ne\boxed{4}$ and $x=\boxed{5}$", "5"),
        (r"not only \boxed{2} but also \boxed{3}", "2, 3"),
    ],
)
def test_a_box_that_the_text_takes_back_does_not_count(text, answer):
    assert solution_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{5} or maybe \boxed{6}",
        r"It is \boxed{5}. Or maybe \boxed{6}.",
        r"It is \boxed{5}. It could also be \boxed{6}.",
        r"\boxed{5} \boxed{6}",
        "\\boxed{5}.\n\n\\boxed{6}.",
    ],
)
def test_a_hedge_of_two_boxes_is_not_one_answer(text):
    assert solution_answer(text) == "5, 6"
    for truth in ("5", "6"):
        assert r1_zero_reward_fn(f"<think> x </think> <answer> {text} </answer>", truth)["answer_reward"] == 0.0


def test_a_solution_of_many_boxes_takes_no_time():
    assert solution_answer(r"not \boxed{1} or \boxed{2} " * 5000) == "2"


BLOCK = "To find the number of marbles, we add:\n\\[\n2 + 3 = 5\n\\]\nThus, Anna has \\(\\boxed{5}\\) marbles."


def test_an_answer_block_that_ends_in_a_box_gives_the_box():
    response = f"<think>Count up three from 2.</think><answer>{BLOCK}</answer>"
    assert tagged_answer(response) == answer_of(response) == answer_of(response, "r1_zero") == "5"
    assert r1_zero_reward_fn(response, "5") == {"reward": 1.0, "format_reward": 1.0, "answer_reward": 1.0}
    assert r1_zero_reward_fn(response, "2") == {"reward": 0.0, "format_reward": 1.0, "answer_reward": 0.0}


def test_an_answer_block_without_a_box_is_its_text():
    for block in ("2 + 3", r"so \boxed{5"):
        assert tagged_answer(f"<think> x </think> <answer> {block} </answer>") == block


def test_an_answer_block_that_takes_its_box_back_gives_no_answer():
    response = r"<think> x </think> <answer> \boxed{5} is wrong </answer>"
    assert r1_zero_reward_fn(response, "5") == {"reward": 0.0, "format_reward": 1.0, "answer_reward": 0.0}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think> so \boxed{5}", None),
        (r"<think> so \boxed{5}. Let me check", None),
        (r"<think> a </think> <think> so \boxed{5}", None),
        (r"<think> \boxed{5} </think> <think> again", None),
        (r"<think> a </think> \boxed{5} <think> or \boxed{6}", "5"),
        (r"\boxed{5} <think> or \boxed{6}", "5"),
        (r"<think> \boxed{4} </think> so \boxed{5}", "5"),
        (r"\boxed{4} </think> so \boxed{5}", "5"),
        (r"<think> \boxed{4} and \boxed{5} </think> so it is 5", "5"),
        (r"so \boxed{4}, \boxed{5}", "5"),
        (r"<think> \boxed{4 </think> so \boxed{5}", "5"),
    ],
)
def test_a_box_in_an_unfinished_thought_is_no_answer(response, answer):
    assert boxed_answer(response) == answer
    assert question_only_reward_fn(response, "5")["format_reward"] == (0.0 if answer is None else 1.0)
    assert solution_answer(response) in (answer, "4, 5")


def test_equal_boxes_of_an_answer_are_one():
    assert grade("5", r"\boxed{5}, \boxed{5}").equal is True and grade("2, 3", r"\boxed{2} or \boxed{3}").equal is True


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("work\n#### 5", "5"), ("work\n#### 5\nThanks!", "5"), ("work #### 5 \r\nBye", "5"), ("####5.", "5"), ("####\n72", "72"),
        ("#### Answer\n72", "72"), ("### One\n#### Step 2\n#### 72", "72"), ("##### 7", "7"), ("#### 5 ####", "5"), ("#### 3.50", "3.50"),
        ("#### (2, 2)", "(2, 2)"), ("#### 1,234", "1234"), ("#### 1,234,567.", "1234567"), ("#### -1,234", "-1234"),
        ("#### $1,234.50", "$1234.50"), ("#### 50%", "50%"), ("#### 1,234 apples", "1234 apples"), ("#### 1,234, 5,678", "1234, 5678"),
        ("#### (1,234)", "(1,234)"), ("#### [1,234)", "[1,234)"), (r"#### \{1,234\}", r"\{1,234\}"), ("#### 2,3", "2,3"),
        ("#### 1, 234", "1, 234"), ("#### 1,2,345", "1,2,345"), ("#### 12,34", "12,34"), ("#### 1,2345", "1,2345"),
        ("#### 0,123", "0,123"), ("work", ""), ("work\n####", ""),
    ],
)  # fmt: skip
def test_a_final_is_the_line_behind_the_marks(text, final):
    assert final_after_marks(text)[1] == final


def test_the_work_is_what_stands_before_the_marks():
    assert final_after_marks("Add <<2+3=5>>.\nDone.\n#### 5\nThanks!") == ("Add <<2+3=5>>.\nDone.", "5")
    assert final_after_marks(" work ") == ("work", "")


@pytest.mark.parametrize(("final", "answer"), [("5", "$5"), ("$1234.50", "1234.50"), ("50%", r"50\%"), ("50%", "50"), ("(2, 2)", "(2,2)")])
def test_the_grader_reads_finals(final, answer):
    assert grade(final, answer).equal is True
