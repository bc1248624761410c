from __future__ import annotations

import io
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tutelage import console
from tutelage.cli.entry import build_parser
from tutelage.console import _rich_progress, column_widths, lines_to, paragraph, per_second, progress, quiet, say, table
from tutelage.report import show
from tutelage.runs import RunLog


def test_a_bar_that_has_ended_may_still_be_advanced():
    """Whoever advances from another thread may be late: what was interrupted is not the engine's fault."""
    with _rich_progress("solving", 3, 0) as advance:
        advance(1)
    advance(1)
    with progress("solving", 3) as advance:
        advance(1, "note")
    advance(1)


def test_a_quiet_command_says_what_stands_out_and_nothing_else(capsys):
    with quiet():
        say("as usual")
        table("Counts", ("what", "count"), [("rows", 3)])
        with progress("solving", 3) as advance:
            advance(3)
        say("beware", style="yellow")
    say("again")
    assert capsys.readouterr().out == "beware\nagain\n"


def narrow_terminal(monkeypatch) -> io.StringIO:
    """A terminal of 80 columns in the place of standard output; what it gets."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    return screen


def test_a_narrow_terminal_gets_whole_words_and_whole_commands(monkeypatch):
    narrow = narrow_terminal(monkeypatch)
    words = "  of rows that nothing reads, " * 6
    path, command = f"runs/{'x' * 90}/report.html", f"tutelage train runs/{'y' * 70}/config.toml --launch 2"
    setting = f"data.columns = {{ prompt = {'z' * 50!r}, response = 'a', reference = 'b' }}"
    say(f"  {words}\n{path}\n{command}\n{setting}", style="yellow")
    say(Text("漢字 " * 60))
    paragraph("# " + "why " * 40, indent="# ")
    lines = narrow.getvalue().splitlines()
    assert path in lines and command in lines and setting in lines
    assert all(cell_len(line) <= 80 for line in lines if line not in (path, command, setting))
    assert all(line.startswith("  ") for line in lines[: lines.index(path)]) and lines[-1].startswith("# why")
    assert " ".join(" ".join(lines[: lines.index(path)]).split()) == " ".join(words.split())


def test_a_table_gives_way_between_words_in_its_widest_column(monkeypatch):
    narrow = narrow_terminal(monkeypatch)
    rows = [
        ("filtered-full-lr=0.0005-seed42", 1234, "a sentence of some length that says why", "arithmetic/train:112: too long")
    ] * 2
    table("Trials", ("trial", "rows", "reason", "for example"), rows)
    shown = narrow.getvalue()
    assert all(cell_len(line) <= 80 for line in shown.splitlines())
    assert all(word in shown for row in rows for cell in row for word in str(cell).split())
    assert column_widths([["abc", "de"]], 80) == column_widths([["abcdef", "ghijkl"]], 12) == [None, None]


def test_bars_and_help_fit_a_narrow_terminal(monkeypatch):
    narrow = narrow_terminal(monkeypatch)
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", "--help"])
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    shown = Console(file=narrow, width=80)
    with progress("training", 1200, done=7) as advance, progress("evaluating at step 1200", 60) as inner:
        advance(1, "loss 5.6299, 12,451 tokens/s")
        inner(1, "128 tokens, 12,288 a second")
        rows = shown.render_lines(console._bars.get_renderable(), pad=False)
    bars = ["".join(segment.text for segment in row) for row in rows]
    assert [" 8/1200 " in bars[0], " 1/60 " in bars[1]] == [True, True] and not any("…" in bar for bar in bars)
    assert all(cell_len(line) <= 80 for line in [*narrow.getvalue().splitlines(), *bars])


def test_lines_of_metrics_go_where_they_are_wanted_while_they_are(tmp_path, capsys):
    log = RunLog(tmp_path)
    stream = io.StringIO()
    log.metrics(kind="train", step=1, loss=2.0)
    with lines_to(stream):
        log.metrics(kind="train", step=2, loss=float("nan"))
    written = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert stream.getvalue().splitlines() == written[1:] and capsys.readouterr().out == ""


def test_a_bar_shows_units_a_second_between_its_steps():
    said = []
    more = per_second(lambda count, note="": said.append((count, note)), "tokens")
    more(1200)
    more(34)
    assert (
        [count for count, _ in said] == [0, 0] and said[-1][1].startswith("1,234 tokens, ") and said[-1][1].endswith(" a second")
    )


def test_a_run_prints_its_first_step_its_last_and_twentieths(capsys):
    line = {
        "loss": 0.5,
        "nll": 0.5,
        "grad_norm": 1.25,
        "lr": 1e-4,
        "tokens_per_second": 4321.0,
        "matrix_share": 0.4,
        "memory_gb": 1.5,
    }
    for count in range(1, 101):
        show.step({**line, "step": count}, 100)
    printed = capsys.readouterr().out.splitlines()
    assert [text.split(":")[0] for text in printed] == ["step 1/100", *(f"step {count}/100" for count in range(5, 101, 5))]
    assert "loss 0.5000, gradient norm 1.25, learning rate 1.00e-04, 4,321 tokens/s, 40.0 % of the matrix rate" in printed[0]
