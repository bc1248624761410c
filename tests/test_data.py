from __future__ import annotations

import json

import pytest

from tutelage import build_text_pairs, filter_correct_dataset, load_data
from tutelage.config import EvalConfig
from tutelage.data import Example, arithmetic, prepare
from tutelage.data.filter import judge
from tutelage.data.pool import panel_size
from tutelage.data.sources.source import seeded_order
from tutelage.data.templates.template import load_template
from tutelage.errors import InputError

MESSAGES = {
    "messages": [
        {"role": "user", "content": "What is 2 + 2?", "info": {"reference_answer": "4"}},
        {"role": "assistant", "content": "<think> 2 + 2 = 4 </think> <answer> 4 </answer>"},
    ]
}


def test_malformed_rows_stop_with_file_line_and_key_or_are_counted(make_config, tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(MESSAGES), "", "{broken", json.dumps({"prompt": "p", "response": 7.5}), '["list"]', json.dumps({"x": 1})]
    path.write_text("\n".join(lines) + "\n")
    settings = {"data__train": str(path), "data__filter": False, "data__test_size": 0, "data__max_length": 512}
    with pytest.raises(InputError, match=r"rows\.jsonl:3: not valid JSON .*\(and 2 more malformed rows\).*on_bad_row"):
        prepare(make_config(**settings), tokenizer)
    prepared = prepare(make_config(**settings, data__on_bad_row="skip"), tokenizer)
    assert prepared.ledger.counts() == {"kept": 2, "malformed": 3}


def test_nothing_but_malformed_rows_is_an_error_even_when_skipping(make_config, tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "response": 3}\n{broken\n')
    with pytest.raises(InputError, match="all 1 rows are malformed|all 2 rows are malformed"):
        prepare(make_config(data__train=str(path), data__columns={"prompt": "p", "response": "r"}, data__on_bad_row="skip"), tokenizer)


def test_shipped_templates_hold_the_question_once():
    for name in ("r1_zero", "question_only", "plain", "none"):
        assert load_template(name).count("{question}") == 1


def test_a_template_file_must_hold_the_question(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("Solve!")
    with pytest.raises(InputError, match="exactly once"):
        load_template(str(file))
    file.write_text("Solve: {question}")
    assert load_template(str(file)) == "Solve: {question}"
    with pytest.raises(InputError, match="neither a template"):
        load_template("r1zero")


def example(response: str, reference: str) -> Example:
    return Example("p", response, reference, "f:1")


def test_fates_of_the_filter():
    fates = {
        ("<think> x </think> <answer> 4 </answer>", "4"): "kept",
        ("<think> x </think> <answer> 5 </answer>", "4"): "wrong answer",
        ("the answer is 4", "4"): "wrong format",
        ("<think> x </think> <answer> 4 </answer>", ""): "no reference",
    }
    assert [fate for _, fate, _ in judge([example(*pair) for pair in fates])] == list(fates.values())


@pytest.mark.slow
def test_an_undecided_grade_is_not_a_wrong_one():
    hostile = example("<think> x </think> <answer> 9^{9^{9^{9}}} </answer>", "4")
    assert [fate for _, fate, _ in judge([hostile])] == ["undecided"]


def test_fates_keep_to_their_examples_whatever_lies_between():
    examples = [example(f"<think> x </think> <answer> {number} </answer>", "4" if number % 3 else "") for number in range(1, 7)]
    fates = [fate for _, fate, _ in judge(examples)]
    assert fates == ["wrong answer", "wrong answer", "no reference", "kept", "wrong answer", "no reference"]


def test_nothing_left_by_the_filter_is_an_error_with_counts_and_what_helps(make_config, tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    settings = {"data__train": str(path), "data__test_size": 0, "data__max_length": 512}
    path.write_text('{"prompt": "p", "response": "<think> x </think> <answer> 5 </answer>", "answer": "4"}\n')
    with pytest.raises(InputError, match=r"nothing survives the filter \(1 wrong answer\).*rows.jsonl:1"):
        prepare(make_config(**settings), tokenizer)
    path.write_text('{"prompt": "p", "response": "It is \\\\boxed{4}.", "answer": "4"}\n')
    with pytest.raises(InputError, match='eval.reward = "question_only" reads that'):
        prepare(make_config(**settings), tokenizer)


def test_the_filter_finds_exactly_the_planted_errors():
    rows = arithmetic.rows("train", 100)
    kept = filter_correct_dataset(rows, log_filter_stats=False)
    assert kept == [row for row in rows if not row["planted_error"]] and len(kept) == 88


def test_the_filter_reports_and_returns_what_it_was_given(capsys):
    import datasets

    whole = datasets.Dataset.from_list(arithmetic.rows("train", 50))
    kept = filter_correct_dataset(whole, seed=1, debug_samples=2)
    assert isinstance(kept, datasets.Dataset) and len(kept) == 44
    printed = capsys.readouterr().out
    assert "filter: 50 → 44 rows (44 kept, 6 wrong answer)" in printed and printed.count("response:") == 2


def test_load_data_samples_nested_subsets_and_splits(data_file):
    small, large = (load_data(size, 7, source=str(data_file))["train"] for size in (8, 16))
    assert small["messages"] == large["messages"][:8]
    parts = load_data(None, 42, 0.25, source=str(data_file))
    assert (len(parts["train"]), len(parts["test"])) == (36, 12)
    questions = {split: {row["messages"][0]["content"] for row in part} for split, part in parts.items()}
    assert not questions["train"] & questions["test"]
    same = load_data(source=str(data_file))
    assert len(same["train"]) == len(same["test"]) == 48
    assert build_text_pairs(same["train"][0])["reference"]


def test_load_data_keeps_columns_that_the_first_row_lacks(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d", "reference": "5"}\n')
    assert load_data(source=str(path))["train"]["reference"] == [None, "5"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [({"subset": 99}, "has 48 rows"), ({"test_size": 1.5}, "share"), ({"test_size": 0.001}, "empty")],
)
def test_load_data_refuses_what_cannot_be(data_file, arguments, what):
    with pytest.raises(InputError, match=what):
        load_data(**arguments, source=str(data_file))


def test_a_row_that_is_no_problem_but_is_trained_on_is_kept(make_config, tokenizer, tmp_path):
    """The rows of one file train and validate: what one of them lacks as a problem says nothing of it as a training row."""
    rows = [MESSAGES, {"prompt": "a", "response": "b"}, {"prompt": "c", "reference": "1"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for changes, asked in (({"data__test_size": 0}, 1), ({"data__validation": str(path), "data__overlap": "keep"}, 2)):
        prepared = prepare(
            make_config(data__train=str(path), data__filter=False, data__on_bad_row="skip", data__max_length=512, **changes), tokenizer
        )
        assert [row.source for row in prepared.train] == [f"{path}:1", f"{path}:2"] and len(prepared.validation) == asked
        assert [fate.fate for fate in prepared.ledger] == ["kept", "kept", "malformed"]
        without = "trained on, but no validation problem: it has no reference" if asked == 1 else ""
        assert [fate.why for fate in prepared.ledger][1] == without and "response" in [fate.why for fate in prepared.ledger][2]


def test_prefixes_of_the_seeded_order_are_nested():
    assert seeded_order(100, 3)[:10] == seeded_order(100, 3)[:20][:10]
    assert sorted(seeded_order(100, 3)) == list(range(100)) and seeded_order(100, 3) != seeded_order(100, 4)


def test_a_panel_of_the_default_size_leaves_out_many_problems_or_none():
    default, asked = EvalConfig(), EvalConfig(examples=50)
    assert [panel_size(default, count) for count in (0, 20, 58, 60, 72, 73, 500)] == [0, 20, 58, 60, 72, 58, 58]
    assert [panel_size(asked, count) for count in (20, 60, 500)] == [20, 50, 50]
    assert panel_size(EvalConfig(examples=0), 500) == 500
