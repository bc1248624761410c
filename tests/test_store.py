"""Rows in tokens on the disk: equal however they are made, never stale, and each with one fate."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tutelage.config import replaced, to_toml
from tutelage.data import arithmetic, cleaning, keys, parts, prepare, read_pool, store, stored
from tutelage.data.sources import Row
from tutelage.errors import InputError, RunError
from tutelage.machines import workers
from tutelage.runs.files import to_lines


def stores() -> set[str]:
    return {folder.name for folder in store._directory().iterdir()} if store._directory().is_dir() else set()


@pytest.fixture(autouse=True)
def stores_of_this_test(tmp_path, monkeypatch):
    monkeypatch.setattr("tutelage.data.store.cache_directory", lambda: tmp_path / "cache")


def ids_of(prepared):
    return [(row.source, row.prompt_ids, row.response_ids, row.ends) for row in prepared.train]


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def several(ways: int = 4, problems: int = 10) -> list[dict]:
    return [
        {"prompt": f"What is {a} + 3?", "response": f"<think> way {way}, {a} </think> <answer> {a + 3} </answer>", "answer": a + 3}
        for a in range(2, 2 + problems)
        for way in range(ways)
    ]


# ── how it is made does not matter ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_processes_parts_and_a_second_start_give_the_same_rows(make_config, tokenizer, monkeypatch, tmp_path):
    config = make_config()
    alone = prepare(config, tokenizer)
    monkeypatch.setattr(parts, "ROWS", 5)
    monkeypatch.setattr(workers, "available_cores", lambda: 2)
    monkeypatch.setattr("tutelage.data.store.cache_directory", lambda: tmp_path / "other")
    in_parts = prepare(config, tokenizer)
    assert len(list((tmp_path / "other").rglob("part-*.rows.arrow"))) == 10, "48 rows, five in a part, by two processes"
    again = prepare(config, tokenizer)
    assert ids_of(alone) == ids_of(in_parts) == ids_of(again)
    assert alone.fingerprint() == in_parts.fingerprint() == again.fingerprint()
    assert list(alone.ledger) == list(in_parts.ledger) == list(again.ledger)
    assert alone.shown == in_parts.shown and list(alone.validation) == list(again.validation)


def test_what_was_finished_is_not_made_again(make_config, tokenizer, monkeypatch):
    monkeypatch.setattr(parts, "ROWS", 10)
    made, right = [], store.make_part

    def interrupted(shared, job):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(job[0].name)
        right(shared, job)

    monkeypatch.setattr(store, "make_part", interrupted)
    monkeypatch.setattr(workers, "available_cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        prepare(make_config(), tokenizer)
    monkeypatch.setattr(store, "make_part", lambda shared, job: (made.append(job[0].name), right(shared, job)))
    prepared = prepare(make_config(), tokenizer)
    assert made == [f"part-{index:05}" for index in range(5)], "each part once"
    assert prepared.rows + prepared.ledger.counts()["validation"] + prepared.ledger.counts()["wrong answer"] == 48


def test_a_second_start_makes_nothing(make_config, tokenizer, monkeypatch):
    first = prepare(make_config(), tokenizer)
    monkeypatch.setattr(store, "make_part", None)
    monkeypatch.setattr("tutelage.data.filter.judge", None)
    again = prepare(make_config(), tokenizer)
    assert ids_of(first) == ids_of(again)


def test_a_store_is_of_one_content_tokenizer_template_and_code(make_config, tokenizer, data_file, monkeypatch):
    config = make_config()
    read_pool(config, tokenizer)
    before = stores()
    assert len(before) == 1

    def is_new(what: str, config=config) -> None:
        nonlocal before
        read_pool(config, tokenizer)
        assert len(stores() - before) == 1, what
        before = stores()

    text = data_file.read_text()
    data_file.write_text(text.replace("many", "Many", 1))
    is_new("content")
    data_file.write_text(text)
    read_pool(config, tokenizer)
    assert stores() == before, "the content of before is known"
    is_new("template", replaced(config, {"data.prompt": "none"}))
    is_new("grader", replaced(config, {"eval.reward": "question_only", "data.filter": False}))
    is_new("turns", replaced(config, {"data.turns": "last"}))
    tokenizer.add_tokens(["many"])
    is_new("tokenizer")
    monkeypatch.setattr(keys, "code", lambda: "another")
    is_new("code")


def test_rows_of_a_function_are_read_anew_each_time(make_config, tokenizer, data_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shape_of_mine.py").write_text(
        "from pathlib import Path\n"
        "from tutelage import build_text_pairs\n"
        "def parse(row):\n    return {**build_text_pairs(row), 'prompt': Path('word.txt').read_text() + row['messages'][0]['content']}\n"
    )
    config = make_config(data__shape="shape_of_mine:parse")
    prompts = []
    for word in ("One", "Two"):
        (tmp_path / "word.txt").write_text(word)
        prompts.append(prepare(config, tokenizer).train.example(0).prompt)
    assert "One" in prompts[0] and "Two" in prompts[1]


def test_a_store_is_handed_on_by_its_place_and_a_missing_one_is_told(make_config, tokenizer):
    prepared = prepare(make_config(), tokenizer)
    packed = pickle.dumps(prepared)
    assert ids_of(pickle.loads(packed)) == ids_of(prepared)
    for folder in store._directory().iterdir():
        (folder / "done.json").unlink()
    with pytest.raises(RunError, match="TUTELAGE_CACHE"):
        pickle.loads(packed)


def test_a_cache_that_cannot_be_written_is_told(make_config, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tutelage.data.store.cache_directory", lambda: tmp_path / "file")
    with pytest.raises(RunError, match="TUTELAGE_CACHE"):
        prepare(make_config(), tokenizer)


def test_a_damaged_part_is_told_and_made_anew(make_config, tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(parts, "ROWS", 10)
    monkeypatch.setattr(workers, "available_cores", lambda: 1)
    right, made = ids_of(prepare(make_config(), tokenizer)), []
    make_part = store.make_part
    monkeypatch.setattr(store, "make_part", lambda shared, job: (made.append(job[0].name), make_part(shared, job)))
    [folder] = store._directory().iterdir()

    def cut(path):
        path.write_bytes(path.read_bytes()[:-20])

    faults = [
        ("00000.tokens", cut), ("00001.rows", cut), ("00002.raw", Path.unlink), ("00003.tokens", lambda path: path.write_bytes(b"")),
        ("00004.raw", lambda path: path.write_bytes(bytes(path.stat().st_size))),
    ]  # fmt: skip
    for name, damage in faults:
        made.clear()
        capsys.readouterr()
        damage(folder / f"part-{name}.arrow")
        assert ids_of(prepare(make_config(), tokenizer)) == right
        assert made == [f"part-{name[:5]}"] and f"made again: part-{name[:5]}" in capsys.readouterr().out
    [column] = folder.glob("part-00000.verdicts-*.arrow")
    cut(column)
    assert ids_of(prepare(make_config(), tokenizer)) == right and column.stat().st_size > 20


def test_parts_that_an_interruption_left_damaged_are_made_anew(make_config, tokenizer, monkeypatch):
    monkeypatch.setattr(parts, "ROWS", 10)
    monkeypatch.setattr(workers, "available_cores", lambda: 1)
    right = ids_of(prepare(make_config(), tokenizer))
    [folder] = store._directory().iterdir()
    (folder / "done.json").unlink()
    (folder / "part-00001.rows.arrow").write_bytes(b"")
    (folder / "part-00002.tokens.arrow").write_bytes(b"")
    assert ids_of(prepare(make_config(), tokenizer)) == right


def test_content_that_changes_while_it_is_read_is_told_and_nothing_of_it_is_kept(make_config, tokenizer, data_file, monkeypatch):
    before, right = data_file.read_text(), store.reader_of

    def meanwhile(*arguments):
        data_file.write_text("".join(reversed(before.splitlines(keepends=True))))
        return right(*arguments)

    monkeypatch.setattr(store, "reader_of", meanwhile)
    with pytest.raises(InputError, match="changed while it was read"):
        prepare(make_config(), tokenizer)
    monkeypatch.setattr(store, "reader_of", right)
    data_file.write_text(before)
    assert stores() == set() and prepare(make_config(), tokenizer).train[0].source.endswith(":1")


def test_rows_of_a_function_are_in_the_cache_until_the_process_ends(make_config, data_file, tmp_path):
    (tmp_path / "shape_of_mine.py").write_text("from tutelage import build_text_pairs as parse\n")
    (tmp_path / "config.toml").write_text(to_toml(make_config(data__shape="shape_of_mine:parse")))
    script = (
        "from tutelage.config import load_config; from tutelage.data import read_pool; from tutelage.model import tokenizer_of\n"
        "from pathlib import Path\n"
        "config = load_config(Path('config.toml')); pool = read_pool(config, tokenizer_of(config)); print(pool.store.kept[0].folder)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1] / "src"), str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": path, "TUTELAGE_CACHE": str(tmp_path / "cache")}
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    folder = Path(ran.stdout.splitlines()[-1])
    assert folder.parent == tmp_path / "cache" / "rows" and not folder.exists()


@pytest.mark.parametrize("key", ["prompt", "messages"])
def test_long_rows_make_small_parts(key):
    text = "x" * 200_000
    value = {"prompt": text} if key == "prompt" else {"messages": [{"role": "user", "content": text}]}
    sizes = [len(part) for part in parts.cut(iter([Row(str(index), value) for index in range(200)]))]
    assert max(sizes) <= parts.BYTES // 200_000 + 1


def test_a_full_disk_is_told_and_leaves_room(make_config, tokenizer, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.ipc.new_file", full)
    with pytest.raises(RunError, match=r"No space left.*TUTELAGE_CACHE"):
        prepare(make_config(), tokenizer)
    assert not list(store._directory().rglob("*.arrow*"))


def test_old_stores_are_removed_also_those_that_were_never_complete(make_config, tokenizer, monkeypatch):
    monkeypatch.setattr(cleaning, "KEPT", 1)
    for index, name in enumerate(("new", "old", "unfinished")):
        folder = store._directory() / name
        folder.mkdir(parents=True)
        (folder / ("part" if name == "unfinished" else "done.json")).write_text("{}")
        then = time.time() - (index > 0) * 2 * cleaning.KEPT_SECONDS
        for path in (*folder.iterdir(), folder):
            os.utime(path, (then, then))
    prepare(make_config(), tokenizer)
    assert len(stores()) == 2 and "new" in stores()


# ── held out, overlapping, equal ──────────────────────────────────────────────────────────────────────────────────────


def test_problems_are_held_out_with_all_of_their_rows(make_config, tokenizer, tmp_path):
    config = make_config(data__train=write(tmp_path / "several.jsonl", several()), data__test_size=0.3, data__max_length=200)
    prepared = prepare(config, tokenizer)
    asked = {example.reference for example in prepared.validation}
    assert len(prepared.validation) == len(asked) == 3, "each held-out problem is asked once"
    assert prepared.ledger.counts() == {"kept": 28, "validation": 12}
    assert not asked & {prepared.train.example(index).reference for index in range(28)}


def test_equal_validation_problems_are_asked_once(make_config, tokenizer, tmp_path, data_file):
    validation = write(tmp_path / "validation.jsonl", several(3, 5))
    prepared = prepare(make_config(data__validation=validation, eval__examples=None), tokenizer)
    assert len(prepared.validation) == 5
    assert any("10 validation rows ask a problem again" in line for line in prepared.notes)


LONG = "A farmer has {} cows and 7 goats in a barn, and each of the cows eats 3 kilograms of hay on every day of the week."


@pytest.mark.parametrize("overlap", ["drop", "keep"])
def test_training_rows_that_overlap_have_a_fate_of_their_own(make_config, tokenizer, tmp_path, overlap):
    answer = "<think> x </think> <answer> 4 </answer>"
    questions = ["what is 2 + 2", LONG.format(12) + " How much hay is that?", LONG.format(13).replace("7 goats", "8 goats").replace("eats 3", "eats 4"), "Another one?"]
    train = write(tmp_path / "train.jsonl", [{"prompt": each, "response": answer, "answer": 4} for each in questions])
    validation = write(tmp_path / "validation.jsonl", [{"prompt": each, "answer": 4} for each in ("What is 2+2?", LONG.format(12))])
    config = make_config(data__train=train, data__validation=validation, data__overlap=overlap, data__max_length=300)
    prepared = prepare(config, tokenizer)
    fates = [fate.fate for fate in prepared.ledger]
    assert fates == (["overlap", "overlap", "kept", "kept"] if overlap == "drop" else ["kept"] * 4)
    assert [line for line in prepared.notes if "2 training rows overlap with validation" in line]
    if overlap == "drop":
        shown = [row for row in prepared.shown if row["fate"] == "overlap"]
        assert len(shown) == 2 and "validation.jsonl:1" in shown[0]["why"] and shown[0]["prompt"]


def test_rows_of_validation_problems_alone_are_refused(make_config, tokenizer, data_file):
    with pytest.raises(InputError, match='data.overlap = "keep"'):
        prepare(make_config(data__validation=str(data_file)), tokenizer)


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_equal_rows_are_counted_and_dropped_where_wanted(make_config, tokenizer, tmp_path, duplicates):
    rows = several(2, 5)
    config = make_config(
        data__train=write(tmp_path / "twice.jsonl", [*rows, *rows[:3]]), data__test_size=0, data__duplicates=duplicates, data__max_length=200
    )
    prepared = prepare(config, tokenizer)
    assert any("3 training rows are equal to an earlier one" in line for line in prepared.notes)
    assert prepared.rows == (13 if duplicates == "keep" else 10)
    if duplicates == "drop":
        assert [fate.why for fate in prepared.ledger][-3:] == [f"equal to {tmp_path}/twice.jsonl:{index}" for index in (1, 2, 3)]


def test_problems_without_a_reference_are_not_held_out(make_config, tokenizer, tmp_path):
    rows = several(1, 10)
    for row in rows[:5]:
        row["answer"] = "proof"
    config = make_config(data__train=write(tmp_path / "some.jsonl", rows), data__filter=False, data__test_size=0.3, data__max_length=200)
    prepared = prepare(config, tokenizer)
    assert len(prepared.validation) == 3 and all(example.reference for example in prepared.validation)
    assert prepared.rows == 7


def test_validation_rows_without_a_reference_are_counted(make_config, tokenizer, tmp_path):
    validation = write(tmp_path / "v.jsonl", [{"prompt": "a?", "answer": "1"}, {"prompt": "b?", "answer": "notfound"}, {"prompt": "c?", "answer": None}])
    prepared = prepare(make_config(data__validation=validation), tokenizer)
    assert len(prepared.validation) == 1 and prepared.ledger.counts()["no reference"] == 2


# ── lengths ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("truncate", ["drop", "tail"])
def test_long_rows_are_dropped_or_cut_and_never_the_prompt(make_config, tokenizer, tmp_path, truncate):
    rows = [{"prompt": "p", "response": "x " * 5}, {"prompt": "p", "response": "y " * 40}, {"prompt": "p " * 60, "response": "z"}]
    rows[0]["answer"] = rows[1]["answer"] = rows[2]["answer"] = "4"
    settings = dict(data__train=write(tmp_path / "long.jsonl", rows), data__filter=False, data__test_size=0, data__prompt="none")
    length = len(prepare(make_config(**settings, data__max_length=500), tokenizer).train[0])
    prepared = prepare(make_config(**settings, data__max_length=length, data__truncate=truncate), tokenizer)
    fates = [fate.fate for fate in prepared.ledger]
    assert fates == ["kept", "too long" if truncate == "drop" else "truncated", "too long"]
    if truncate == "tail":
        cut = prepared.train[1]
        assert len(cut) == length and not cut.ends and cut.response_ids[-1] != tokenizer.eos_token_id
    assert prepared.train[0].ends and prepared.train[0].response_ids[-1] == tokenizer.eos_token_id
    assert prepared.tokens == sum(map(len, prepared.train)) and prepared.response_tokens == sum(len(row.response_ids) for row in prepared.train)


def test_turns_that_share_a_prefix_are_read_back_as_they_were(tmp_path):
    random = np.random.default_rng(0)

    def ids(count):
        return random.integers(0, 1000, count).tolist()

    trunk = ids(20)
    sequences = [[(trunk[:8], ids(5)), (trunk[:15], ids(3)), (trunk, ids(4))], [(ids(6), ids(2))], [], [(trunk[:4], ids(1)), ([*trunk[:4], *ids(2)], ids(3))]]
    table, hashes = parts._token_table(sequences)
    parts.write_table(tmp_path / "part-00000.tokens.arrow", table)
    assert sum(table["shared"].to_pylist()) > 0 and len(set(hashes)) == 4

    made = stored.Store((stored.Kept(tmp_path, None, "rows", 1.0, 1, 4, {}, []),))
    assert [made.sequence(index) for index in range(6)] == [pair for of_row in sequences for pair in of_row]


# ── what nothing reads ────────────────────────────────────────────────────────────────────────────────────────────────


def test_unread_columns_and_files_are_named_once_with_counts(make_config, tokenizer, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = [{**row, "level": 3, **({"url": "x"} if index < 5 else {})} for index, row in enumerate(several(1, 20))]
    write(folder / "train.jsonl", rows)
    write(folder / "test.jsonl", rows)
    (folder / "notes.txt").write_text("x")
    prepared = prepare(make_config(data__train=str(folder), data__max_length=200), tokenizer)
    unread = " ".join(prepared.unread)
    assert "level (20 of 20 rows)" in unread and "url (5 of 20 rows)" in unread
    assert "test.jsonl" in unread and "notes.txt" in unread
    assert prepared.description(tokenizer)["unread"] == prepared.unread


def test_a_million_rows_need_few_bytes_each(make_config, tokenizer, data_file):
    """The ledger keeps eight bytes a row, whatever the number of rows; reasons stand once."""
    from tutelage.data.ledger import Ledger

    ledger = Ledger(range(1_000_000))
    for row in range(0, 1_000_000, 2):
        ledger.mark(row, "not in subset", "data.size = 5")
    assert ledger.counts() == {"kept": 500_000, "not in subset": 500_000}
    assert ledger._marks.itemsize == 4 and len(ledger._known) == 2


def test_arithmetic_and_rows_of_a_file_are_the_same_rows(make_config, tokenizer, tmp_path):
    path = tmp_path / "copy.jsonl"
    path.write_text(to_lines(arithmetic.rows("train", 640)), encoding="utf-8")
    built_in = prepare(make_config(data__train="arithmetic"), tokenizer)
    copied = prepare(make_config(data__train=str(path), data__validation="arithmetic"), tokenizer)
    assert [pair[1:] for pair in ids_of(built_in)] == [pair[1:] for pair in ids_of(copied)]
    assert built_in.ledger.counts()["overlap"] < 0.03 * 640


def test_turns_behind_the_last_answer_are_named(make_config, tokenizer, tmp_path):
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    turns = [{"role": "user", "content": "What is {}?"}, {"role": "assistant", "content": "It is \\boxed{4}."}, {"role": "user", "content": "Thanks!"}]
    rows = [{"messages": [{**turn, "content": turn["content"].replace("{}", str(index))} for turn in turns[: 3 - index % 2]], "answer": 4} for index in range(20)]
    config = make_config(data__train=write(tmp_path / "chat.jsonl", rows), data__prompt="chat", data__filter=False, data__max_length=200)
    assert any("messages[-1] (10 of 20 rows)" in line for line in prepare(config, tokenizer).unread)


def test_prompts_that_hold_a_chat_template_end_as_its_turns_do_or_ask(make_config, tokenizer, tmp_path):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    asked = "<|im_start|>user\nWhat is {}?<|im_end|>\n<|im_start|>assistant\n"
    rows = [{"prompt": asked.replace("{}", str(index)), "response": "It is \\boxed{4}.", "answer": 4} for index in range(20)]
    settings = dict(data__train=write(tmp_path / "pre.jsonl", rows), data__prompt="none", data__filter=False, data__max_length=200)
    with pytest.raises(InputError, match=r'model.end_token = "<\|im_end\|>"'):
        prepare(make_config(**settings), tokenizer)
    tokenizer.eos_token = "<|im_end|>"
    prepared = prepare(make_config(**settings, model__end_token="<|im_end|>"), tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert all(row.response_ids[-1] == end and row.response_ids.count(end) == 1 for row in prepared.train)
    assert all(list(row.prompt_ids).count(end) == 1 for row in prepared.train), "what a template has written keeps its ids"
    assert any("prompts hold a template already" in line for line in prepared.notes)
