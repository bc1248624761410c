"""``tutelage grade --file``: each row of a file, counted and written, beside labels where there are some."""

from __future__ import annotations

import json
import re

import pytest

from tutelage.cli import main
from tutelage.runs import to_lines

ROWS = [
    {"reference": "1/2", "response": "0.5"},
    {"reference": 72, "response": "72."},
    {"reference": ["4", "four"], "response": "4"},
    {"reference": "5", "response": "6"},
    {"reference": "5", "response": "9" * 1500},
    {"reference": None, "response": "6"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(to_lines(ROWS))
    return path


def value_of(capsys):
    return json.loads(capsys.readouterr().out)


def test_each_row_is_graded_counted_and_written(file, tmp_path, capsys):
    out = tmp_path / "verdicts.jsonl"
    assert main(["grade", "--file", str(file), "--out", str(out)]) == 0
    assert re.search(r"6 rows: 3 right, 1 wrong, 2 undecided \([\d,]+ rows per second\)", capsys.readouterr().out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["row"], line["verdict"], line["layer"]) for line in lines] == [
        (f"{file}:1", "right", "exact"), (f"{file}:2", "right", "string"), (f"{file}:3", "right", "string"), (f"{file}:4", "wrong", "exact"),
        (f"{file}:5", "undecided", "limit"), (f"{file}:6", "undecided", "reference"),
    ]  # fmt: skip
    assert lines[3]["why"] == "6 is not 5" and "label" not in lines[0]
    assert main(["grade", "--file", str(file), "--out", str(out)]) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_the_counts_are_a_json_value(file, capsys):
    assert main(["grade", "--file", str(file), "--json"]) == 0
    value = value_of(capsys)
    assert value.pop("rows_per_second") > 0
    assert value == {"rows": 6, "right": 3, "wrong": 1, "undecided": 2, "agreement": None}


@pytest.mark.parametrize("name", ["label", "correct", "equal"])
@pytest.mark.parametrize(("yes", "no"), [(True, False), (1, 0), ("true", "False")])
def test_beside_labels_both_kinds_of_disagreement_are_counted(name, yes, no, tmp_path, capsys):
    pairs = [("5", "5", yes), ("5", "6", no), ("5", "5.0", no), ("5", "6", yes), ("5", "9" * 1500, yes), ("5", "5", None)]
    (tmp_path / "p.jsonl").write_text(to_lines({"ground_truth": gold, "prediction": said, name: label} for gold, said, label in pairs))
    assert main(["grade", "--file", str(tmp_path / "p.jsonl"), "--json"]) == 0
    assert value_of(capsys)["agreement"] == {"labelled": 5, "agree": 2, "false_acceptances": 1, "false_refusals": 2}


def test_a_label_that_is_an_answer_is_none(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(to_lines([{"answer": "5", "completion": "5", "label": "five"}]))
    assert main(["grade", "--file", str(tmp_path / "p.jsonl"), "--json"]) == 0
    assert value_of(capsys)["agreement"] is None


@pytest.mark.parametrize(
    ("style", "right"), [("answer", 1), ("r1_zero", 1), ("question_only", 2)]
)
def test_the_style_says_where_the_answer_stands(style, right, tmp_path, capsys):
    texts = ["<think> x </think> <answer> 5 </answer>", r"so \boxed{5}", r"<think> \boxed{4} </think> <answer> the box \boxed{5} </answer> done"]
    (tmp_path / "p.jsonl").write_text(to_lines({"reference": 5, "response": text} for text in texts))
    assert main(["grade", "--file", str(tmp_path / "p.jsonl"), "--style", style, "--json"]) == 0
    assert value_of(capsys)["right"] == right


def test_files_of_each_kind_are_read(tmp_path, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    (tmp_path / "p.csv").write_text('reference,response\n1/2,0.5\n"1,234",1235\n')
    (tmp_path / "p.json").write_text(json.dumps([{"reference": 0.5, "response": "1/2"}, {"reference": 5, "response": "6"}]))
    parquet.write_table(pyarrow.table({"reference": [0.5, 5.0], "response": ["1/2", "6"]}), tmp_path / "p.parquet")
    for kind in ("csv", "json", "parquet"):
        assert main(["grade", "--file", str(tmp_path / f"p.{kind}"), "--json"]) == 0
        value = value_of(capsys)
        assert (value["right"], value["wrong"]) == (1, 1), kind


def test_rows_that_cannot_be_graded_are_named_before_any_is_graded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tutelage.grading.rewards.grade_all", lambda *_: pytest.fail("graded"))
    bad = ['{"reference": 5, "response": "5"}', '{"reference": "", "response": "5"}', "no json", '{"reference": 5}',
           '{"reference": 5, "response": 5}', '{"reference": true, "response": "5"}', '{"response": "5"}']  # fmt: skip
    (tmp_path / "p.jsonl").write_text("\n".join(bad))
    out = tmp_path / "verdicts.jsonl"
    assert main(["grade", "--file", str(tmp_path / "p.jsonl"), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "6 of 7 rows cannot be graded" in error and "and 1 more" in error and not out.exists()
    for line, why in ((2, "reference says no answer: ''"), (3, "not valid JSON"), (4, "has no response"), (5, "response is no text, but 5"), (6, "truth value")):
        assert re.search(rf"p\.jsonl:{line}: .*{re.escape(why)}", error), why


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"reference": 5, "gold": 6, "response": "5"}, "the columns reference and gold may both be meant: choose with --reference"),
        ({"question": 5, "response": "5"}, "there is no column reference, ground_truth, reference_answer, gold, answer: choose with --reference"),
        ({"answer": 5, "text": "5"}, "choose with --response one of answer, text"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_certain_is_asked_for(row, error, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(to_lines([row]))
    assert main(["grade", "--file", str(tmp_path / "p.jsonl")]) == 2
    assert error in capsys.readouterr().err


def test_columns_are_chosen_by_name(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text(to_lines([{"reference": 5, "gold": 6, "text": "6"}]))
    assert main(["grade", "--file", str(tmp_path / "p.jsonl"), "--reference", "gold", "--response", "text", "--json"]) == 0
    assert value_of(capsys)["right"] == 1
    assert main(["grade", "--file", str(tmp_path / "p.jsonl"), "--reference", "golden"]) == 2
    assert "there is no column golden: choose with --reference one of reference, gold, text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "give two answers"), (["5"], "give two answers"), (["5", "5", "--file", "p.jsonl"], "not both"),
        (["5", "5", "--out", "v.jsonl"], "go with --file"), (["--file", "missing.jsonl"], "missing.jsonl"),
    ],
)  # fmt: skip
def test_what_is_no_question_is_an_error(words, error, capsys):
    assert main(["grade", *words]) == 2
    assert error in capsys.readouterr().err


def test_two_answers_take_a_style_too(capsys):
    assert main(["grade", "5", "<think> x </think> <answer> 5.0 </answer>", "--style", "r1_zero", "--json"]) == 0
    assert value_of(capsys)["equal"] is True
