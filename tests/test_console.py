from __future__ import annotations

import io

from tutelage.console import _rich_progress, lines_to, per_second, progress, quiet, say, table
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
