"""The specification's functions of data sets, called in the ways that scripts call them: each works, or is one clear error."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest

from tutelage import InputError, build_text_pairs, filter_correct_dataset, load_data
from tutelage.data import arithmetic

pytestmark = pytest.mark.filterwarnings("ignore:load_data. train and test are the same")
ROWS = arithmetic.rows("train", 20)
RIGHT = [row for row in ROWS if not row["planted_error"]]


def row_with(reference, fallback=None):
    """A row of the specification's form, its reference in the user's info, and a second one in the row itself."""
    user = {"role": "user", "content": "2 + 2?", "info": {"reference_answer": reference}}
    row = {"messages": [user, {"role": "assistant", "content": "<think> a </think> <answer> 4 </answer>"}]}
    return row if fallback is None else row | {"reference_answer": fallback}


# ── load_data ──


def test_a_path_may_stand_alone_at_the_fourth_place_or_by_its_name(data_file):
    full = load_data(source=data_file)["train"]
    assert len(full) == 48
    assert load_data(str(data_file))["train"].to_list() == load_data(Path(data_file))["train"].to_list() == full.to_list()
    of_512 = [load_data(24, 42, 0.25, str(data_file)), load_data(subset=24, seed=42, test_size=0.25, source=data_file)]
    of_512.append(load_data(np.int64(24), np.int64(42), test_size=0.25, source=str(data_file)))
    assert len(of_512[0]["train"]) == 18 and len(of_512[0]["test"]) == 6
    assert all(each["test"].to_list() == of_512[0]["test"].to_list() for each in of_512)
    assert len(load_data(str(data_file), test_size=0.25)["test"]) == 12


def test_the_specifications_own_call_reads_the_built_in_task():
    parts = load_data(subset=512, seed=42, test_size=0.1)
    assert len(parts["train"]) + len(parts["test"]) == 512


@pytest.mark.parametrize("more", [{"seed": 42}, {"seed": 7}, {"seed": 512}, {"source": "other.jsonl"}])
def test_a_path_where_the_number_of_rows_belongs_is_not_guessed_at_beside_more(data_file, more):
    """`load_data(path, 512)` would take 512 for the seed."""
    with pytest.raises(InputError, match=r"takes the number of rows first: load_data\(512, seed=42, test_size=0.1, source='.*train.jsonl'\)"):
        load_data(str(data_file), **more)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"subset": True}, "subset is True"), ({"subset": 5.0}, "subset is 5.0"), ({"subset": 0}, "subset is 0"), ({"subset": -3}, "at least 1"),
        ({"test_size": "0.1"}, "test_size is '0.1'"), ({"test_size": True}, "share"), ({"test_size": math.nan}, "share"), ({"test_size": 5}, "share"),
        ({"seed": None}, "seed is None"), ({"seed": "a"}, "whole number"), ({"seed": 4.2}, "whole number"),
        ({"source": None}, "NoneType"), ({"source": ["a", "b"]}, "list"), ({"source": "nowhere.jsonl"}, "no such file"),
    ],
)  # fmt: skip
def test_load_data_says_what_it_cannot_take(data_file, arguments, what):
    with pytest.raises(InputError, match=what):
        load_data(**({"source": data_file} | arguments))


@pytest.mark.parametrize("test_size", [0, 0.0, None])
def test_the_same_rows_for_both_are_warned_of(data_file, test_size):
    with pytest.warns(UserWarning, match="same 48 rows.* was trained on; test_size=0.1") as warned:
        parts = load_data(test_size=test_size, source=data_file)
    assert warned[0].filename == __file__
    assert parts["train"].to_list() == parts["test"].to_list() and len(parts["train"]) == 48


def test_problems_on_both_sides_are_warned_of_and_other_splits_are_not(tmp_path, data_file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(test_size=0.25, source=data_file)
    several = tmp_path / "several.jsonl"
    several.write_text(data_file.read_text() * 2)
    with pytest.warns(UserWarning, match=r"of 24 test rows ask a problem that is trained on too"):
        load_data(test_size=0.25, source=several)


# ── filter_correct_dataset ──


@pytest.mark.parametrize("missing", ["", "  ", None, [], {}, math.nan])
@pytest.mark.parametrize("fallback", [None, "", " "])
def test_a_row_without_any_reference_is_counted_and_not_kept(capsys, missing, fallback):
    rows = [row_with("4"), row_with(missing, fallback), row_with("5")]
    assert filter_correct_dataset(rows, debug_samples=0) == [rows[0]]
    assert capsys.readouterr().out == "filter: 3 → 1 rows (1 kept, 1 no reference, 1 wrong answer)\n"


@pytest.mark.parametrize("missing", ["", None])
def test_the_second_reference_stands_in_for_an_empty_first_one(missing):
    whole = datasets.Dataset.from_list([row_with(missing, "4"), row_with("4", "")])
    assert len(filter_correct_dataset(whole, log_filter_stats=False)) == 2


KINDS = {
    "list": lambda whole: list(whole),
    "tuple": lambda whole: tuple(whole),
    "generator": lambda whole: (row for row in whole),
    "Dataset": lambda whole: whole,
    "tensors": lambda whole: whole.with_format("numpy"),
    "pairs beside the messages": lambda whole: whole.map(build_text_pairs),
    "pairs": lambda whole: whole.map(build_text_pairs, remove_columns=whole.column_names),
    "IterableDataset": lambda whole: whole.to_iterable_dataset(),
    "stream": lambda whole: datasets.IterableDataset.from_generator(lambda: iter(whole.to_list())),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_set_is_filtered_to_the_same_rows(kind):
    given = KINDS[kind](datasets.Dataset.from_list(ROWS))
    kept = filter_correct_dataset(given, seed=42, log_filter_stats=False)
    hugging_face = isinstance(given, datasets.Dataset | datasets.IterableDataset)
    assert type(kept) is (type(given) if hugging_face else list)
    answers = [row["reference"] if kind == "pairs" else row["messages"][0]["info"]["reference_answer"] for row in kept]
    assert [str(answer) for answer in answers] == [str(build_text_pairs(row)["reference"]) for row in RIGHT]


def test_what_has_only_a_length_and_indices_is_a_list_of_rows():
    class Rows:
        def __len__(self):
            return len(ROWS)

        def __getitem__(self, index):
            return ROWS[range(len(ROWS))[index]]

    assert filter_correct_dataset(Rows(), log_filter_stats=False) == RIGHT


def test_each_data_set_of_a_dict_is_filtered(capsys):
    whole = datasets.Dataset.from_list(ROWS)
    both = filter_correct_dataset(datasets.DatasetDict(train=whole, test=whole.select(range(5))), debug_samples=0)
    assert isinstance(both, datasets.DatasetDict) and len(both["train"]) == len(RIGHT)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["filter train", "filter test"]
    streams = filter_correct_dataset(datasets.IterableDatasetDict(train=whole.to_iterable_dataset()), log_filter_stats=False)
    assert isinstance(streams, datasets.IterableDatasetDict) and len(list(streams["train"])) == len(RIGHT)
    parts = filter_correct_dataset(load_data(40, test_size=0.25), log_filter_stats=False)
    assert type(parts) is dict and 0 < len(parts["test"]) <= 10


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("rows.jsonl", r"filter_correct_dataset\(load_data\('rows.jsonl'\)\[\"train\"\]\)"), (Path("rows.jsonl"), "is the name"),
        (ROWS[0], r"ds is one row.*filter_correct_dataset\(\[row\]\)"), ({"prompt": "a", "response": "b", "reference": "c"}, "one row"),
        (None, "NoneType"), (7, "of type int"), (["a"], "row 0: a row is an object with keys, this is str"),
        (datasets.Dataset.from_list(ROWS).to_pandas(), r"data frame.*to_dict\(\"records\"\)"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_one_clear_error(given, what):
    with pytest.raises(InputError, match=what):
        filter_correct_dataset(given)


def test_a_malformed_row_is_an_error_or_left_out_and_counted(capsys):
    rows = [*ROWS[:4], {"messages": [{"role": "user", "content": "?"}]}, {"messages": []}, *ROWS[4:]]
    with pytest.raises(InputError, match=r'row 4: .*1 more malformed rows.*set on_bad_row="skip" to leave such rows out'):
        filter_correct_dataset(rows)
    assert filter_correct_dataset(rows, on_bad_row="skip", debug_samples=0) == RIGHT
    assert "2 malformed" in capsys.readouterr().out
    with pytest.raises(InputError, match='on_bad_row is \'drop\'; it is "error" or "skip"'):
        filter_correct_dataset(rows, on_bad_row="drop")


def test_statistics_come_with_samples_of_rewards_prompts_and_responses(capsys):
    filter_correct_dataset(ROWS, seed=3)
    first = capsys.readouterr().out
    assert first.startswith(f"filter: 20 → {len(RIGHT)} rows ({len(RIGHT)} kept, {20 - len(RIGHT)} wrong answer)\n")
    assert first.count("'answer_reward': ") == first.count("  prompt: ") == first.count("  response: ") == 3
    filter_correct_dataset(ROWS, seed=3)
    assert capsys.readouterr().out == first
    filter_correct_dataset(ROWS, seed=4)
    assert capsys.readouterr().out != first
    filter_correct_dataset(ROWS, log_filter_stats=False, debug_samples=5)
    assert capsys.readouterr().out == ""


def test_nothing_in_and_nothing_out_are_data_sets_too(capsys):
    empty = datasets.Dataset.from_list(ROWS).select([])
    assert filter_correct_dataset([]) == [] and len(filter_correct_dataset(empty)) == 0
    assert len(filter_correct_dataset([row_with("5")], debug_samples=0)) == 0
    assert capsys.readouterr().out.splitlines()[::2] == ["filter: 0 → 0 rows (no rows)", "filter: 1 → 0 rows (1 wrong answer)"]


def test_boxes_are_read_where_the_reward_says_so():
    rows = [{"problem": "2 + 2?", "solution": "It is \\boxed{4}.", "answer": answer} for answer in ("4", "5")]
    assert filter_correct_dataset(rows, reward="question_only", log_filter_stats=False) == rows[:1]
    with pytest.raises(InputError, match='reward is .question.; it is "r1_zero" or "question_only"'):
        filter_correct_dataset(rows, reward="question")
