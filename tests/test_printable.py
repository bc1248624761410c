"""What would steer a terminal does not reach it: file names, rows, answers and messages are printed with it written out."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from rich.text import Text

import tutelage
from tutelage import console
from tutelage.cli.entry import main

HOSTILE = "\x1b]0;owned\x07 \x1b[2J\x9b31m \u202egnp.exe \u2066\u200f\u2028 \r\b\x00\x7f"
SOURCE = Path(tutelage.__file__).parent
MAY_PRINT = {
    "console.py",  # `out`, `complain` and plain progress
    "cli/completion.py", "cli/train.py", "cli/entry.py",  # a script, the settings, the version: texts of ours
    "grading/serving/worker.py", "evaluation/engine/fake.py",  # a pipe to the process that asks; the engine's own log
}  # fmt: skip


def is_printable(text: str) -> bool:
    return not any(ord(each) in (*console.CONTROLS, *console.BIDI) and each not in "\n\t" for each in text)


def test_lines_tables_and_bars_are_printable(capsys, monkeypatch):
    console.say(HOSTILE)
    console.say(Text("mark ", style="dim") + Text(HOSTILE, style="bold green"))
    console.table(HOSTILE, [HOSTILE, "b"], [[HOSTILE, 1]])
    monkeypatch.setattr(console, "PLAIN_EVERY_SECONDS", 0)
    with console.progress(HOSTILE, 2) as advance:
        advance(1, HOSTILE)
    console.out(HOSTILE)
    console.complain(HOSTILE)
    said = capsys.readouterr()
    assert is_printable(said.out) and is_printable(said.err)
    assert said.out.count("\\u202egnp.exe") >= 5 and "\\u001b]0;owned\\u0007" in said.err


def test_a_styled_text_keeps_its_styles_where_characters_are_written_out():
    made = console._printable(Text("a\x1bb", style="dim") + Text("c", style="bold"))
    assert made.plain == "a\\u001bbc"
    assert [(span.start, span.end, str(span.style)) for span in made.spans] == [(0, 8, "dim"), (8, 9, "bold dim")]


def test_what_is_written_out_is_still_json(capsys):
    console.out(json.dumps({"name": HOSTILE, "half": "\ud83d"}, ensure_ascii=False))
    assert json.loads(capsys.readouterr().out) == {"name": HOSTILE, "half": "\ud83d"}


def test_ordinary_text_of_any_language_stays_as_it_is():
    text = "naïve — שלום مرحبا 漢字 👩‍👩‍👧 \u200c x\ty\nz $\\frac{1}{2}$ [bold]"
    assert console.printable(text) == text


def test_only_the_console_prints():
    """`print`, `sys.stdout.write` and their like stand in files that print texts of ours alone."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write", "sys.stderr.write"):
                found.add(path.relative_to(SOURCE).as_posix())
    assert found <= MAY_PRINT


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data.train", "\u202egpj.\x1b[2Jjsonl"], ["filter", "\u202egpj.\x1b[2Jjsonl", "--out", "x.jsonl"],
        ["train", "\x1b[2J.toml"], ["report", "\x1b]0;x\x07"], ["grade", "\u202e4\x1b[2J", "5"], ["grade", "--file", "\x9b2J.csv"],
        ["train", "--train.lr", "\x1b[2J"], ["train", "--trai\x1b[2Jn.lr", "1"],
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_hostile_name_does_not_reach_the_terminal(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(command)
    said = capsys.readouterr()
    assert said.out + said.err and is_printable(said.out + said.err), said


@pytest.mark.parametrize("command", [["\x1b[2J"], ["train", "a", "\u202eb", "--\x1b[2J"], ["filter"]])
def test_what_the_parser_repeats_is_printable(command, capsys):
    with pytest.raises(SystemExit):
        main(command)
    assert is_printable(capsys.readouterr().err)
