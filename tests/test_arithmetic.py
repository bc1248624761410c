from __future__ import annotations

import itertools

from shaped import alone

from tutelage import r1_zero_reward_fn
from tutelage.data import arithmetic


def take(split: str, count: int, seed: int = 0):
    return list(itertools.islice(arithmetic.problems(split, seed), count))


def test_there_are_at_least_eight_kinds_of_two_or_three_steps():
    problems = take("train", 500)
    assert len({problem.kind for problem in problems}) >= 8
    assert {len(problem.steps) for problem in problems} == {2, 3}


def test_right_solutions_are_right_and_planted_errors_are_wrong():
    rows = arithmetic.rows("train", 300)
    for row in rows:
        pair = alone(row)
        assert r1_zero_reward_fn(pair["response"], pair["reference"]) == {
            "format_reward": 1.0,
            "answer_reward": 0.0 if row["planted_error"] else 1.0,
            "reward": 0.0 if row["planted_error"] else 1.0,
        }
    assert sum(row["planted_error"] for row in rows) == 36


def test_each_step_of_a_right_solution_is_true():
    for problem in take("train", 400) + take("validation", 200):
        for step in problem.steps:
            if " = " in step:
                left, right = step.rstrip(".").split(" = ")
                a, operation, b = left.split()
                value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[operation]
                assert value == int(right), problem
        assert problem.steps[-1].endswith(f"= {problem.answer}.")


def test_validation_shares_neither_questions_nor_numbers_with_training():
    train, validation = take("train", 2000, seed=1), take("validation", 500, seed=2)
    assert not {problem.question for problem in train} & {problem.question for problem in validation}
    assert not {(problem.kind, problem.numbers) for problem in train} & {
        (problem.kind, problem.numbers) for problem in validation
    }
    assert {problem.kind for problem in train} == {problem.kind for problem in validation}


def test_rows_are_a_function_of_the_seed_and_questions_are_distinct():
    assert arithmetic.rows("train", 64, seed=3) == arithmetic.rows("train", 64, seed=3) != arithmetic.rows("train", 64, seed=4)
    questions = [row["messages"][0]["content"] for row in arithmetic.rows("train", 2000)]
    assert len(set(questions)) == 2000


def test_the_share_of_wrong_solutions_is_chosen():
    assert not any(row["planted_error"] for row in arithmetic.rows("train", 50, wrong_share=0))
    assert sum(row["planted_error"] for row in arithmetic.rows("train", 50, wrong_share=0.5)) == 25
    assert not any(row["planted_error"] for row in arithmetic.rows("validation", 50, wrong_share=0.5))
