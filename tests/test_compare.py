"""Two evaluations in pairs."""

from __future__ import annotations

import pytest
from lines import read_lines
from pages import make_run

from tutelage.cli.entry import main
from tutelage.errors import InputError
from tutelage.runs.compare import pair, side
from tutelage.runs.files import to_lines


def test_what_was_gained_and_lost_is_counted_on_the_same_questions(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    found = pair(side(f"{run}@10"), side(str(run)))
    assert [question for question, _ in found.kinds["lost"]] == ["what is 1 + 1?"]
    assert [question for question, _ in found.kinds["gained"]] == [f"what is {n} + {n}?" for n in (4, 5)]
    assert len(found.kinds["both"]) == 2 and len(found.kinds["neither"]) == 3 and found.difference.p_value == pytest.approx(1.0)
    assert main(["compare", f"{run}@0", str(run), "--examples", "1"]) == 0
    said = capsys.readouterr().out
    assert "gained: what is 0 + 0?" in said and "reference: 0" in said and "<answer> 999 </answer>" in said
    assert "run (step 0): accuracy 0.0 % [0–32]" in said and "McNemar's exact p = 0.125" in said and "not significant" in said


def test_runs_with_other_prompts_are_compared_by_their_questions(tmp_path, capsys):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    records = [
        {**line, "prompt": line["prompt"].replace("Question: ", "Solve this. ")}
        for line in read_lines(second / "generations.jsonl")
    ]
    (second / "generations.jsonl").write_text(to_lines(records))
    (second / "prompt.txt").write_text("Solve this. {question}\n")
    (second / "config.toml").write_text((second / "config.toml").read_text().replace("lr = 0.001", "lr = 0.002"))
    assert main(["compare", str(first), str(second)]) == 0
    said = capsys.readouterr().out
    assert "8 questions that both were asked" in said and "train.lr: 0.001 → 0.002" in said


def test_questions_that_one_side_was_not_asked_are_left_out_and_told(tmp_path, capsys):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", problems=12)
    assert main(["compare", str(first), str(second)]) == 0
    assert "4 questions were asked of one of the two only" in capsys.readouterr().out


def test_a_question_that_is_asked_twice_is_two(tmp_path):
    run = make_run(tmp_path / "run")
    records = read_lines(run / "generations.jsonl")
    (run / "generations.jsonl").write_text(to_lines([*records, *records]))
    assert side(str(run)).answers[("what is 2 + 2?", 2)] and len(side(str(run)).answers) == 16


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: run / "nothing", "no such directory"),
        (lambda run: f"{run}@7", "step 7 was not evaluated; 0, 10, 20 were"),
        (lambda run: (run / "generations.jsonl").unlink() or run, "holds no response of step 20"),
        (lambda run: (run / "metrics.jsonl").unlink() or run, "no evaluation is logged"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, spoil, message):
    run = make_run(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        side(str(spoil(run)))


def test_other_questions_and_other_references_are_refused(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    text = (second / "generations.jsonl").read_text()
    (second / "generations.jsonl").write_text(text.replace('"ground_truth": "4"', '"ground_truth": "5"'))
    with pytest.raises(InputError, match="the reference of 'what is 2"):
        pair(side(str(first)), side(str(second)))
    (second / "generations.jsonl").write_text(text.replace("what is", "how much is"))
    with pytest.raises(InputError, match="no question in common"):
        pair(side(str(first)), side(str(second)))


def test_several_samples_have_an_interval_without_a_test(tmp_path):
    run = make_run(tmp_path / "run")
    lines = read_lines(run / "generations.jsonl")
    both = [{**line, "sample": sample, **({"answer_reward": 0.0} if sample else {})} for line in lines for sample in (0, 1)]
    (run / "generations.jsonl").write_text(to_lines(both))
    found = pair(side(f"{run}@0"), side(str(run)))
    assert not found.difference.exact and found.difference.estimate == pytest.approx(0.25)
    assert len(found.kinds["gained"]) == 4  # half of its samples are right


def test_a_side_below_its_untouched_model_is_said_to_be(tmp_path, capsys):
    """The last evaluation solves nothing of what the first one solved. The p-values are adjusted for the comparisons made."""
    run, other = make_run(tmp_path / "run", problems=12), make_run(tmp_path / "other", problems=12)
    records = read_lines(run / "generations.jsonl")
    last = max(line["step"] for line in records)
    for line in records:
        line["answer_reward"] = float(line["step"] == 0)
    (run / "generations.jsonl").write_text(to_lines(records))
    assert main(["compare", f"{run}@0", str(run)]) == 0
    assert f"below the untouched model: run (step {last}) is worse than run (step 0)" in capsys.readouterr().out
    assert main(["compare", str(other), str(run)]) == 0
    said = capsys.readouterr().out
    assert f"below the untouched model: run (step {last}) is worse than the untouched model" in said
    assert "as one of 3 comparisons" in said and "one seed cannot tell the spread between seeds" in said


@pytest.mark.slow
def test_an_evaluation_of_a_file_is_compared_with_a_run(tmp_path, make_config, tiny_model, data_file, capsys):
    """Though it asks the same questions in prompts of its own."""
    from tutelage.training import fine_tune

    run = fine_tune(make_config(data__validation=str(data_file), data__overlap="keep", eval__examples=6, eval__every=0)).directory
    out = tmp_path / "evaluation"
    assert (
        main(
            [
                "eval",
                tiny_model,
                str(data_file),
                "--out",
                str(out),
                "--data.prompt=r1_zero",
                "--eval.max_new_tokens=4",
                "--eval.backend=native",
            ]
        )
        == 0
    )
    assert main(["compare", str(out), str(run)]) == 0
    assert "6 questions that both were asked" in capsys.readouterr().out
