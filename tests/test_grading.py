from __future__ import annotations

import os
import signal
import threading

import pytest

from tutelage import question_only_reward_fn, r1_zero_reward_fn
from tutelage.grading import grade, pool
from tutelage.grading.equality import as_fraction, normalize
from tutelage.grading.format import boxed_answer, tagged_answer

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


@pytest.mark.parametrize(
    ("gold", "answer", "layer"),
    [
        ("72", "72", "string"),
        ("1072", "1,072", "string"),
        ("72", "72.", "string"),
        ("72", "$72$", "string"),
        ("72", r"\boxed{72}", "string"),
        ("72", "72.0", "exact"),
        (r"\frac{1}{2}", "0.5", "exact"),
        (r"\frac{1}{2}", "2/4", "exact"),
        (r"\frac12", "½", "exact"),
        ("-7/2", r"-3\frac{1}{2}", "exact"),
        ("123456789012345678901", "123456789012345678901.0", "exact"),
        ("east", "East", "text"),
        (r"\sqrt{8}", r"2\sqrt{2}", "symbolic"),
        (r"x^2-1", "(x-1)(x+1)", "symbolic"),
        (r"(1,2)", r"\left( 1, 2 \right)", "symbolic"),
    ],
)
def test_equal_answers_and_the_layer_that_decides(gold, answer, layer):
    verdict = grade(gold, answer)
    assert (verdict.equal, verdict.layer) == (True, layer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("72", "73"), ("72", "-72"), ("72", ""), ("72", "72 or 73"), ("0.5", "0.6"), (r"-3\frac12", "-5/2"), ("123456789012345678901", "123456789012345678902"),
        ("a+5", "t+5"), ("[1,2)", "[1,2]"), ("east", "west"), (r"\sqrt{2}", "1.4"), ("1/0", "2"),
    ],
)  # fmt: skip
def test_different_answers_are_not_equal(gold, answer):
    assert grade(gold, answer).equal is False


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("[0, 100]", "[0,100]", True),
        ("(1, 234)", "(1,234)", True),
        ("(1234)", "(1,234)", False),
        ("1,234,567.5", "1234567.5", True),
        ("-1,234", "-1234", True),
        ("$1,234", "1234", True),
        ("12,34", "1234", False),
        ("11,\\!111", "11111", True),
    ],
)
def test_thousands_separators_are_read_in_single_numbers_only(gold, answer, equal):
    assert grade(gold, answer).equal is equal


def test_an_answer_that_is_refused_is_undecided_and_not_wrong():
    assert grade("120", "5!").equal is None and grade("4", "1" * 5000).equal is None
    assert grade("Yes", "Yes!").layer != "limit"


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
    for text in (r"$\boxed{\text{east}}$.", "**1,234.5**", r"\left( 1, 2\right)", "½ √2"):
        assert normalize(normalize(text)) == normalize(text)


HOSTILE = [
    "9**9**9**9", "9^{9^{9^{9}}}", "10^{100000000}", "10000000!", r"\binom{1000000000}{500000000}", "(" * 5000 + "1" + ")" * 5000, "1" * 100_000,
    "x" * 1_000_000, "4\0", "\ud800", "__import__('os').system('touch pwned')", r"\sum_{n=1}^{99999}\frac{1}{n^2}", r"\int_0^1 e^{e^{e^x}} dx",
    "(1+x)^{9999}", r"\begin{pmatrix}" + r" & ".join("1" * 900) + r"\end{pmatrix}",
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_never_accepted_and_the_next_pair_is_unaffected(answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert grade("4", answer).equal is not True
    assert grade(r"\sqrt{8}", r"2\sqrt{2}").equal is True
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_that_does_not_end_is_undecided_and_the_worker_survives(monkeypatch):
    monkeypatch.setattr(pool, "SECONDS", 0.5)
    pool.close()
    equal, why = pool.symbolically_equal(r"\int_0^1 e^{e^{e^x}} dx", r"\int_0^1 e^{e^{e^{x+0}}} \cdot \sin(\cos(x^{x^x})) dx")
    assert equal is None and "limit" in why
    assert pool.symbolically_equal("x^2-1", "(x-1)(x+1)")[0] is True
    pool.close()


def test_a_worker_that_was_killed_is_replaced():
    pool.close()
    assert pool.symbolically_equal("x^2-1", "(x-1)(x+1)")[0] is True
    worker = pool._idle.get_nowait()
    worker.kill()
    worker.wait()
    pool._idle.put(worker)
    assert pool.symbolically_equal("x^2-1", "(x-1)(x+1)")[0] is True


def test_grading_works_from_threads_and_leaves_the_alarm_of_the_caller_alone():
    def handler(*_):
        raise AssertionError("the caller's alarm rang")

    previous = signal.signal(signal.SIGALRM, handler)
    signal.alarm(3600)
    try:
        verdicts: list[bool | None] = []
        threads = [threading.Thread(target=lambda: verdicts.append(grade("x^2-1", "(x-1)(x+1)").equal)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert verdicts == [True] * 3
        assert signal.alarm(0) > 3000
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def test_a_fork_starts_workers_of_its_own():
    assert pool.symbolically_equal("x^2-1", "(x-1)(x+1)")[0] is True
    child = os.fork()
    if child == 0:
        ok = pool.symbolically_equal("y^2-1", "(y-1)(y+1)")[0] is True and pool.symbolically_equal("y", "z")[0] is False
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.symbolically_equal("x", "y")[0] is False
