"""Changes to the text of a configuration: other values, and nothing else that is different."""

from __future__ import annotations

import tomllib

import pytest

from tutelage.config import edited

TEXT = """# mine
[model]
id = "x"  # the one # here

[data]
# a note
train = "a # b"
columns = { prompt = "q" }

[data.validation]
path = "v"
columns = { prompt = "z" }

[train]
lr = 1e-4
"""


def test_other_values_leave_comments_and_order_alone():
    text = edited(TEXT, {"model.id": "y", "train.lr": 2e-5}, {"train.lr": "slower"})
    assert text == TEXT.replace('"x"', '"y"').replace("1e-4", "2e-05  # slower")


def test_new_settings_stand_at_the_end_of_their_section_or_in_a_new_one():
    text = edited(TEXT, {"data.filter": False, "eval.every": 4}, explained=True)
    assert text.index("filter = false") < text.index("[data.validation]") and text.endswith("every = 4\n") and "[eval]\n# " in text


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (TEXT, {"data.validation": "k.jsonl", "data.columns": None}),
        (TEXT, {"data.validation": {"path": "k", "columns": {"prompt": "{a}\n{b}", "reference": "c d"}}}),
        ('train.lr = 1\nmodel = { id = "a" }\n', {"train.seed": 2, "model.lora": "lora", "model.id": None, "data.size": 3}),
        ('[data]\ntrain = [\n  "a", # one\n  "b",\n]', {"data.size": 2, "data.train": "c"}),
        ('[data]\nprompt = """\na = 1\n[run]\n"""\n', {"run.dir": "x", "data.prompt": "chat"}),
        ('[data.columns]\nprompt = "a"\n', {"data.train": "x", "data.columns": {"prompt": "b"}}),
        ("", {"train.lr": 1.0}),
        ("data.columns.prompt = 'a'\n[eval]\nevery = 1\n", {"data.size": 3, "data.columns": {"prompt": "b"}}),
        ('[[data.train]]\npath = "a"\n[[data.train]]\npath = "b"\n', {"data.train": "c", "data.seed": 1}),
    ],
)
def test_the_text_says_what_was_wanted_however_it_is_written(text, changes):
    wanted = tomllib.loads(text)
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        wanted.setdefault(section, {})[key] = value
    wanted = {section: {key: value for key, value in values.items() if value is not None} for section, values in wanted.items()}
    found = tomllib.loads(edited(text, changes))
    assert {section: values for section, values in found.items() if values} == {name: each for name, each in wanted.items() if each}
