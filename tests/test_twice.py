"""A key that stands twice in a row is said once for each file: in how many rows, and where first."""

from __future__ import annotations

import pytest

from tutelage.data import iter_rows
from tutelage.data.sources import twice

CLEAN = '{"prompt": "a", "response": "b"}'
TWICE = '{"prompt": "a", "answer": "4", "response": "b", "answer": "5"}'
DEEP = '{"prompt": "a", "messages": [{"role": "user", "content": "x", "role": "assistant"}]}'


@pytest.fixture(autouse=True)
def nothing_was_said(monkeypatch):
    monkeypatch.setattr(twice, "_said", set())


def test_lines_with_a_key_twice_are_counted_and_the_last_value_counts(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([CLEAN, TWICE, "{broken", CLEAN, DEEP, TWICE, CLEAN]) + "\n")
    for _ in range(3):
        rows = list(iter_rows(str(path)))
    assert [row.value.get("answer") for row in rows] == [None, "5", None, None, None, "5", None]
    said = " ".join(capsys.readouterr().out.split())
    assert said == f"{path}: a key stands twice in 3 rows, and its last value counts (the first: {path}:2, key 'answer')"


@pytest.mark.parametrize(("form", "first"), [("list", "row 2"), ("object", "row 2"), ("values", "row 2"), ("one", "row 1")])
def test_every_form_of_json_is_looked_at(tmp_path, capsys, form, first):
    rows = [CLEAN, DEEP, CLEAN]
    listed = ",\n".join(rows)
    spread = "\n".join(row.replace(", ", ",\n") for row in rows)
    text = {"list": f"[{listed}]", "object": f'{{"version": 1, "data": [{listed}]}}', "values": spread, "one": TWICE}
    path = tmp_path / "rows.json"
    path.write_text(text[form])
    list(iter_rows(str(path)))
    said = " ".join(capsys.readouterr().out.split())
    assert "a key stands twice in 1 rows" in said and f"rows.json:{first}, key" in said


def test_rows_without_one_say_nothing_however_files_are_read_in_turns(tmp_path, capsys):
    clean, other = tmp_path / "clean.jsonl", tmp_path / "other.jsonl"
    clean.write_text(f"{CLEAN}\n" * 3)
    other.write_text(f"{TWICE}\n" * 3)
    for _ in zip(iter_rows(str(other)), iter_rows(str(clean)), strict=False):
        pass
    assert "clean" not in capsys.readouterr().out
