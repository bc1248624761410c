from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from tutelage.data.sources.source import fingerprint, read_rows, unread_files
from tutelage.errors import InputError


def made(directory, *names: str) -> str:
    """A directory with these files; the one row of each says the file's name."""
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row, line = {"prompt": name}, json.dumps({"prompt": name}).encode()
        if ".parquet" in path.suffixes:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
        elif ".arrow" in path.suffixes:
            with pyarrow.ipc.new_stream(path, pyarrow.Table.from_pylist([row]).schema) as writer:
                writer.write_table(pyarrow.Table.from_pylist([row]))
        elif ".csv" in path.suffixes:
            path.write_text(f"prompt\n{name}\n")
        else:
            path.write_bytes(gzip.compress(line) if path.suffix == ".gz" else line)
    return str(directory)


def read(directory: str, split: str = "train") -> list[str]:
    """The names of the files that are read."""
    return [row.value["prompt"] for row in read_rows(directory, split)]


def test_a_directory_is_all_its_files_in_the_order_of_their_names(tmp_path):
    names = ("part-1.jsonl.gz", "b/part-0.csv", "part-0.jsonl", "part-2.JSON", "part-3.parquet", "b/c/part-9.arrow")
    assert read(made(tmp_path, *names)) == sorted(names, key=lambda name: Path(name).parts)
    sources = [row.source for row in read_rows(str(tmp_path))]
    assert sources[0] == f"{tmp_path}/b/c/part-9.arrow:row 1" and len(set(sources)) == len(names)


def test_files_that_are_no_data_are_not_read_and_those_that_may_be_are_named(tmp_path):
    made(tmp_path, "a.jsonl", "notice.jsonl", ".hidden.jsonl", ".cache/b.jsonl", "_delta_log/0.json", "dataset_infos.json")
    for name in ("README.md", "LICENSE", "license.txt", "_SUCCESS", ".gitattributes", "notes.txt", "b.jsonl.xz", "a.lock", "c.tar.gz"):
        (tmp_path / name).write_text("x")
    assert read(str(tmp_path)) == ["a.jsonl", "notice.jsonl"]
    assert unread_files(str(tmp_path), "train") == ["a.lock", "b.jsonl.xz", "c.tar.gz", "notes.txt"]
    assert unread_files(str(tmp_path / "a.jsonl")) == unread_files("arithmetic") == unread_files("openai/gsm8k") == []


@pytest.mark.parametrize(
    ("split", "names", "expected"),
    [
        ("train", ["train.jsonl", "test.jsonl"], ["train.jsonl"]),
        ("train", ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"], [0, 1]),
        ("test", ["train/a.jsonl", "train/b.jsonl", "test/a.jsonl"], [2]),
        ("test", ["data/train-0.jsonl", "data/test-0.jsonl.gz"], [1]),
        ("validation", ["train.csv", "dev.jsonl"], [1]),
        ("validation", ["train.csv", "val_0.jsonl", "val_1.jsonl"], [1, 2]),
        ("eval", ["train.csv", "validation-00000-of-00001.parquet"], [1]),
        ("dev", ["dev.jsonl", "validation.jsonl"], [0]),
        ("train", ["gsm8k_train.jsonl", "math-train.jsonl", "math-test.jsonl"], [0, 1]),
        ("train", ["gsm8k/train.jsonl", "gsm8k/test.jsonl", "math/train_1.json", "math/TEST_1.json"], [0, 2]),
        ("train", ["split=train/a.parquet", "split=test/a.parquet"], [0]),
        # the hub's names: "train_1m" and "cot" are splits of their own
        ("train", ["train-00000-of-00001.parquet", "train_1M-00000-of-00001.parquet"], [0]),
        ("train_1M", ["train-00000-of-00001.parquet", "train_1M-00000-of-00001.parquet"], [1]),
        ("cot", ["cot-00000-of-00001.parquet", "tir-00000-of-00001.parquet"], [0]),
        # no name says a split
        ("test", ["part-00000-of-00002.jsonl", "part-00001-of-00002.jsonl"], [0, 1]),
        ("train", ["contest.jsonl", "trained.jsonl"], [0, 1]),
        ("all", ["test.jsonl", "train.jsonl", "zoo.jsonl"], [0, 1, 2]),
    ],
)
def test_the_split_that_is_asked_for_is_read_and_no_other(tmp_path, split, names, expected):
    expected = [names[item] if isinstance(item, int) else item for item in expected]
    assert read(made(tmp_path, *names), split) == expected
    assert unread_files(str(tmp_path), split) == sorted(set(names) - set(expected))


@pytest.mark.parametrize(
    ("split", "names", "question"),
    [
        ("train", ["test.jsonl", "dev.jsonl"], "no split 'train': choose one of 'dev', 'test', and set data.train_split or data"),
        ("test", ["train.jsonl"], "no split 'test': choose one of 'train'"),
        ("train", ["train.jsonl", "more.jsonl"], r"name a split \(train.jsonl\), others do not \(more.jsonl\)"),
        ("train", ["train.jsonl", "train.parquet"], "train.jsonl and train.parquet may be the same rows twice"),
        ("train", ["a.jsonl", "a.jsonl.gz"], "the same rows twice"),
        ("train", ["jsonl/a.jsonl", "parquet/a.parquet"], "the same rows twice"),
        ("train", ["train.jsonl", "train_socratic.jsonl"], "may be train.jsonl alone, or train_socratic.jsonl too"),
        ("train", ["train_sft-00000-of-00001.parquet", "train_gen-00000-of-00001.parquet"], "several splits may be 'train': choose one of 'train_gen', 'train_sft'"),
        ("train", ["cot-00000-of-00001.parquet", "tir-00000-of-00001.parquet"], "'cot', 'tir'"),
        ("validation", ["dev.jsonl", "eval.jsonl"], "'dev', 'eval'"),
    ],
)
def test_two_possible_readings_of_a_directory_are_a_question(tmp_path, split, names, question):
    made(tmp_path, *names)
    for call in (read_rows, unread_files, fingerprint):
        with pytest.raises(InputError, match=question):
            call(str(tmp_path), split)


def test_a_copy_of_the_hub_with_several_configurations_is_a_question(tmp_path):
    made(tmp_path, "main/train-00000-of-00001.parquet", "socratic/train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: main\n- config_name: socratic\n---\n# A data set\n")
    with pytest.raises(InputError, match=r"main, socratic are configurations of one data set; name the folder"):
        read_rows(str(tmp_path))
    assert read(str(tmp_path / "main")) == ["main/train-00000-of-00001.parquet"]


def test_a_directory_without_rows_says_what_is_there(tmp_path):
    with pytest.raises(InputError, match=r"no \.jsonl.* file in this directory.*it is empty"):
        read_rows(str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"file in this directory.*there is a\.txt"):
        read_rows(str(tmp_path))
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.csv").write_text("prompt\n")
    with pytest.raises(InputError, match="the data set is empty"):
        read_rows(str(tmp_path))


def test_linked_folders_are_read_once(tmp_path):
    made(tmp_path / "elsewhere", "a.jsonl")
    made(tmp_path / "data", "b.jsonl")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/link again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    assert sorted(read(str(tmp_path / "data"))) == ["a.jsonl", "b.jsonl"]


# ---- what datasets.save_to_disk wrote


def test_saved_data_sets_are_read_with_their_features(tmp_path):
    rows = [{"prompt": "p", "meta": {"a": [1]}}, {"prompt": "q", "meta": None}]
    features = datasets.Features({"prompt": datasets.Value("string"), "meta": datasets.Json()})
    saved = datasets.Dataset.from_list(rows, features=features).with_format("numpy", columns=["prompt"])
    saved.save_to_disk(tmp_path / "one", num_shards=2)
    made(tmp_path / "one", "cache-0123abcd.arrow", "more.jsonl")
    read_back = read_rows(str(tmp_path / "one"), "test")
    assert [row.value for row in read_back] == rows
    assert [row.source for row in read_back] == [f"{tmp_path}/one:row 1", f"{tmp_path}/one:row 2"]
    assert unread_files(str(tmp_path / "one")) == ["more.jsonl"]


def test_a_saved_dict_of_data_sets_is_read_by_its_splits(tmp_path):
    parts = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("train", "dev", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    assert [read(str(tmp_path), split) for split in ("train", "test", "validation")] == [["train"], ["test"], ["dev"]]
    assert unread_files(str(tmp_path), "train") == [f"{name}/data-00000-of-00001.arrow" for name in ("dev", "test")]
    with pytest.raises(InputError, match="no split 'other': choose one of 'dev', 'test', 'train'.*data.train_split"):
        read_rows(str(tmp_path), "other")
    before = fingerprint(str(tmp_path), "train")
    assert before != fingerprint(str(tmp_path), "test")
    (tmp_path / "train/data-00000-of-00001.arrow").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(str(tmp_path), "train")


# ---- fingerprints


def test_a_fingerprint_changes_with_content_names_and_shards(tmp_path):
    made(tmp_path, "train-0.jsonl", "train-1.csv", "test-0.jsonl")
    seen = [fingerprint(str(tmp_path), "train"), fingerprint(str(tmp_path), "test"), fingerprint(str(tmp_path / "train-0.jsonl"))]
    (tmp_path / "test-0.jsonl").write_text("another")
    (tmp_path / "notes.txt").write_text("x")
    assert fingerprint(str(tmp_path), "train") == seen[0]
    (tmp_path / "train-0.jsonl").write_text('{"prompt": "train-0.jsonk"}')
    seen.append(fingerprint(str(tmp_path), "train"))
    (tmp_path / "train-1.csv").rename(tmp_path / "train-2.csv")
    seen.append(fingerprint(str(tmp_path), "train"))
    made(tmp_path, "train-3.jsonl")
    seen.append(fingerprint(str(tmp_path), "train"))
    seen.append(fingerprint(str(tmp_path / "train-0.jsonl")))
    assert len(set(seen)) == len(seen)


def test_fingerprints_of_bytes_that_move_between_files_differ(tmp_path):
    for name, parts in (("a", (b"1\n", b"2\n3\n")), ("b", (b"1\n2\n", b"3\n"))):
        (tmp_path / name).mkdir()
        for index, part in enumerate(parts):
            (tmp_path / name / f"{index}.jsonl").write_bytes(part)
    assert fingerprint(str(tmp_path / "a")) != fingerprint(str(tmp_path / "b"))


def test_the_built_in_task_has_a_fingerprint_for_each_part():
    assert fingerprint("arithmetic", "train") == fingerprint("arithmetic", "train") != fingerprint("arithmetic", "validation")
