"""The page of a run or a sweep: what it says, and how it behaves in a real browser, offline."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from lines import read_lines
from pages import EVIL, line, make_run, make_sweep

from tutelage.config import load_config, parse_config, to_toml
from tutelage.errors import InputError
from tutelage.evaluation.certificate import Certificate
from tutelage.report import facts, figures, of_runs, words
from tutelage.report import page as report
from tutelage.runs.files import to_lines
from tutelage.runs.reading import DIGITS, LEVELS_PER_OCTAVE, Reading, digit_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync"


def in_a_browser(test):
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")(test))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One run for all that only look at it. Its last two problems have odd tokens, and some of its numbers are none."""
    run = make_run(tmp_path_factory.mktemp("shared") / "run")
    rewrite(run, "metrics.jsonl", lambda line: line | {"grad_norm": float("nan")} if line["step"] == 5 else line)
    odd = {
        "what is 6 + 6?": {"tokens": {"characters": [1, 1, 3, 80, 3], "entropy": [0, 0, 0, 0, 3.0], "nll": [0] * 5}},
        "what is 7 + 7?": {"token_entropy": float("nan"), "tokens": {"characters": [7], "entropy": [float("nan")], "nll": [-0.0]}},
    }
    odd["what is 6 + 6?"]["response"] = "😀😀 ab" + "-" * 80 + " cd"
    rewrite(run, "generations.jsonl", lambda line: line | next((odd[key] for key in odd if key in line["prompt"]), {}))
    return run


@pytest.fixture
def run(shared, tmp_path):
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(shared, tmp_path / "run"))


def rewrite(run, name, change):
    """Each line of a file of a run changed, and left out where it becomes None."""
    lines = [change(line) for line in read_lines(run / name)]
    (run / name).write_text(to_lines(line for line in lines if line is not None))


def without_evaluation(step):
    return lambda line: None if line["kind"] == "eval" and line["step"] == step else line


# ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_headline_verdict_and_cost_are_those_of_the_logged_numbers(shared):
    reading = Reading(shared)
    assert words.headline(reading) == (
        "SmolLM2-135M-Instruct, trained for 20 steps on 30 worked solutions from rows.jsonl, solves 50.0 % [22–78] of 8 validation"
        " problems; before training 0.0 % [0–32]."
    )
    assert words.verdict(reading).startswith("Not significant: the model after step 20 against the untouched model, +50.0 points")
    cost = words.cost(reading, 36.0)
    assert cost["seconds"] == pytest.approx(20 * 0.5 + 3 * 2.0) and cost["money"] == pytest.approx(0.16)
    assert cost["tokens"] == 4000 and cost["response_tokens"] == 2000
    assert words.cost(reading, None)["money"] is None


def test_the_page_shows_what_is_logged_and_nothing_of_it_as_markup(shared, tmp_path):
    page = report.write(shared, tmp_path / "page.html", price_per_hour=2.0, currency="EUR").read_text()
    for part in (
        "<title>SmolLM2-135M-Instruct on rows.jsonl: 0.0 % → 50.0 % – Tutelage</title>", "0.01 EUR<small>at 2 EUR per hour",
        "train.<wbr>lr",
        "solves 50.0 %", "wrong answer", "10 rows, 25.0 %", "max_length is 90", "a CPU",
        "tutelage train", "--run.dir NEW_DIRECTORY", "recipe.toml", "Changed from the recipe",
    ):  # fmt: skip
        assert part in page, part
    assert "&lt;i&gt;bad&lt;/i&gt;" in page and "<i>bad" not in page and "&lt;b&gt;" in page
    assert EVIL not in page
    assert [words.evaluation_row(line)["accuracy"] for line in Reading(shared).evaluations] == [
        "0.0 % [0–32]", "37.5 % [14–69]", "50.0 % [22–78]"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("currency", "said"), [(None, "1.20"), ("", "1.20"), ("EUR", "1.20 EUR"), ("$", "$1.20"), ("CA$", "CA$1.20"), ("zł", "1.20 zł")]
)
def test_money_is_written_with_its_currency(currency, said):
    assert report.money(1.2, currency) == said


def test_the_currency_of_a_run_is_a_setting(make_config, run):
    assert make_config().run.currency is None
    (run / "config.toml").write_text(to_toml(load_config(run / "config.toml", ["--run.currency=$", "--run.price_per_hour=3600"])))
    assert "$16.00<small>at $3600 per hour" in report.write(run).read_text()


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("rows.jsonl", "rows.jsonl"), ("/data/math/train.parquet", "train.parquet"), ("openai/gsm8k", "gsm8k"), ("shards/", "shards"),
        ([{"path": "a/b.jsonl"}, {"path": "c"}, {"path": "d"}], "b.jsonl and 2 more"), (["x/y"], "y"),
    ],
)  # fmt: skip
def test_the_data_has_a_short_name(train, said):
    assert facts.data_name(train) == said


def test_a_page_is_titled_by_what_is_known(run):
    rewrite(run, "metrics.jsonl", without_evaluation(0))
    assert facts.of_run(Reading(run), None)["title"] == "SmolLM2-135M-Instruct on rows.jsonl: 37.5 % → 50.0 %"
    rewrite(run, "metrics.jsonl", lambda line: None if line["kind"] == "eval" else line)
    assert facts.of_run(Reading(run), None)["title"] == "SmolLM2-135M-Instruct on rows.jsonl"


def test_loss_and_nll_are_drawn_once_where_they_are_the_same(run):
    def names():
        return [figure["name"] for figure in figures.of_run(Reading(run)) if figure["name"] in ("loss", "nll")]

    assert names() == ["loss"]
    rewrite(run, "metrics.jsonl", lambda line: line | {"loss": line["loss"] / 2} if line.get("step") == 7 and "loss" in line else line)
    assert names() == ["loss", "nll"]


def test_shades_are_as_strong_in_the_dark_and_leave_the_text_readable():
    style = report._own("page.css")

    def value(name, theme):
        return re.findall(rf"--{name}: ([^;]+);", style)[theme]

    def numbers(text):
        return [int(text[at : at + 2], 16) for at in (1, 3, 5)] if text.startswith("#") else [int(part) for part in text.split()]

    def luminance(rgb):
        parts = [part / 255 for part in rgb]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def lightness(rgb):
        return 116 * luminance(rgb) ** (1 / 3) - 16

    steps = []
    for theme in (0, 1):
        paper, ink, heat = (numbers(value(name, theme)) for name in ("paper", "ink", "heat"))
        strongest = float(value("strongest", theme))
        shade = [strongest * a + (1 - strongest) * b for a, b in zip(heat, paper, strict=True)]
        low, high = sorted((luminance(shade), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5
        steps.append(abs(lightness(shade) - lightness(paper)))
    assert min(steps) > 25 and max(steps) < 1.3 * min(steps)
    assert [value(name, 1) for name in ("paper", "heat", "strongest")] == [value(name, 2) for name in ("paper", "heat", "strongest")]


# ── several runs ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def other(shared):
    """A second run: another learning rate; it solves problem 1 at its last step, and no longer problem 0."""
    made = Path(shutil.copytree(shared, shared.parent / "elsewhere" / "run"))
    (made / "config.toml").write_text(to_toml(load_config(made / "config.toml", ["--train.lr=3e-3"])))

    def change(line):
        right = {"what is 0 + 0?": 0.0, "what is 1 + 1?": 1.0}
        wanted = next((right[key] for key in right if key in line["prompt"]), None)
        return line if line["step"] != 20 or wanted is None else line | {"reward": wanted, "answer_reward": wanted}

    rewrite(made, "generations.jsonl", change)
    return made


def beside(*names, **more):
    return of_runs.content([str(name) for name in names], Path("/page.html"), more.get("price_per_hour"), more.get("currency"))


def test_runs_stand_beside_each_other_with_what_differs(shared, other):
    found = beside(shared, other, price_per_hour=360.0, currency="EUR")
    assert found["labels"] == [f"{shared.parent.name}/run", "elsewhere/run"] and found["questions"] == 8 and found["left_out"] == 0
    assert found["title"] == f"SmolLM2-135M-Instruct: {shared.parent.name}/run 50.0 %, elsewhere/run 50.0 %"
    assert [(row["gained"], row["lost"]) for row in found["rows"]] == [(0, 0), (1, 1)]
    assert [(row["key"], row["values"]) for row in found["differing"]] == [("train.lr", ["0.001", "0.003"])]
    assert found["verdicts"][0].startswith("Not significant: elsewhere/run against") and "95 % interval" in found["verdicts"][0]
    assert found["rows"][1]["money"] == pytest.approx(1.6) and found["rows"][1]["currency"] == "EUR"
    assert {len([trace for trace in figure["data"] if trace.get("showlegend") is not False]) for figure in found["figures"]} == {2}
    assert "nll" not in [figure["name"] for figure in found["figures"]]
    problems = {problem["q"]: [rows[0][1] for rows in problem["a"]] for problem in found["generations"]["problems"]}
    assert problems["what is 0 + 0?"] == [0, 1] and problems["what is 1 + 1?"] == [1, 0]


def test_with_more_runs_the_intervals_are_wider(shared, other):
    found = beside(f"{shared}@0", shared, f"{other}@10")
    name = f"{shared.parent.name}/run"
    assert found["labels"] == [f"{name} at step 0", f"{name} at step 20", "elsewhere/run at step 10"]
    assert len(found["verdicts"]) == 2 and all("98 % interval" in line for line in found["verdicts"])


def test_questions_that_one_run_was_not_asked_are_left_out_and_counted(shared, other, tmp_path):
    less = Path(shutil.copytree(other, tmp_path / "less"))
    rewrite(less, "generations.jsonl", lambda line: None if "what is 7" in line["prompt"] else line)
    found = beside(shared, less)
    assert found["questions"] == 7 and found["left_out"] == 1 and len(found["generations"]["problems"]) == 8


def test_what_cannot_stand_beside_each_other_is_refused(shared, other, tmp_path):
    with pytest.raises(InputError, match="step 20 of that run is named twice; RUN@STEP"):
        beside(shared, other, f"{shared}@20")
    with pytest.raises(InputError, match="13 runs are too many for one page, which shows 12"):
        beside(*[shared] * 13)
    with pytest.raises(InputError, match="no such directory"):
        beside(shared, tmp_path / "nothing")
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes" / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match="is a sweep, which has a page of its own: tutelage report"):
        beside(shared, tmp_path / "sizes")
    strangers = make_run(tmp_path / "strangers")
    rewrite(strangers, "generations.jsonl", lambda line: line | {"prompt": line["prompt"].replace("what", "who")})
    with pytest.raises(InputError, match="have no question in common"):
        beside(shared, strangers)


def test_the_command_writes_the_page_of_several_runs(shared, other, tmp_path, capsys):
    from tutelage.cli.entry import main

    runs = [shutil.copytree(each, tmp_path / name) for each, name in ((shared, "a"), (other, "<b>"))]
    assert main(["report", *map(str, runs), "--price", "2", "--currency", "EUR"]) == 0
    page = (tmp_path / "a" / "compare.html").read_text()
    assert "&lt;b&gt; 50.0 %" in page and "<b> 50" not in page and "0.01 EUR" in page and "train.<wbr>lr" in page
    assert not (tmp_path / "a" / "report.html").exists()
    out = tmp_path / "mine.html"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0 and out.is_file()
    assert main(["report", *map(str, runs), "--watch"]) == 2
    assert "--watch is for one run" in capsys.readouterr().err


def test_the_share_of_time_that_evaluation_took_stands_in_the_page_by_part(run):
    parts = {"weights": 0.5, "waiting": 0.02, "entropies": 1.25, "grading": 0.23}
    more = {"stood_still_seconds": parts, "sync_seconds": 0.7, "generation_seconds": 31.0, "grading_seconds": None}
    rewrite(run, "metrics.jsonl", lambda line: line | more if line["kind"] == "eval" else line)
    said = (
        "Evaluation took 37.5 % of the time: training stood still for 6.0 s of 16 s (1.5 s handing weights over or starting"
        " the engine, 0.1 s waiting for responses, 3.8 s on exact entropies, 0.7 s on grading)."
    )
    page = report.write(run).read_text()
    assert words.share_of_evaluations(Reading(run).evaluation_cost) == said and said in page
    assert "<td>2.0</td><td>0.5</td><td>0.0</td><td>1.2</td><td>0.2</td><td>0.7</td><td>31.0</td><td>–</td>" in page
    assert page.count("Time of each evaluation") == 2


def test_a_run_of_before_says_what_evaluation_took_without_its_parts(shared):
    said = words.share_of_evaluations(Reading(shared).evaluation_cost)
    assert said == (
        "Evaluation took 37.5 % of the time: training stood still for 6.0 s of 16 s (6.0 s on what was not logged apart)."
    )
    assert words.share_of_evaluations({"share": None}) == ""
    last = Reading(shared).evaluation_cost | {"after_training_seconds": 26.0}
    assert "37.5 % of the time up to the last step: " in words.share_of_evaluations(last)
    assert words.share_of_evaluations(last).endswith(". The evaluation after the last step took 26 s more.")


def test_a_certificate_stands_in_the_page_at_the_step_of_its_evaluation(run):
    made = Certificate("bfloat16", 477, 0.2, 0.03, 0.2, 0.04, 9, rounding=0.03, step_gap=0.7, step_share=0.99, step_error=0.01)
    shown = {**asdict(made), "bound": made.bound, "step": made.step, "holds": made.holds}
    rewrite(run, "metrics.jsonl", lambda line: line | {"certificate": shown} if line["kind"] == "eval" else line)
    steps = [line["step"] for line in Reading(run).evaluations]
    rows = facts.of_run(Reading(run), None)["certificates"]
    assert [row["step"] for row in rows] == [str(step) for step in steps]
    assert rows[0] == {
        "step": str(steps[0]), "precision": "bfloat16", "tokens": "477", "mean gap": "0.03", "largest gap": "0.2", "bound": f"{made.bound:.3g}",
        "mean gap (prefix cache)": "0.04", "new weights": "taken", "sync (s)": "–", "held": "yes",
    }  # fmt: skip
    assert "<td>taken</td>" in report.write(run).read_text()


def test_an_evaluation_that_was_lost_and_made_up_for_is_no_warning(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(to_lines([{"kind": "eval_lost", "step": 10}, {"kind": "eval_lost", "step": 15}]))
    found = "\n".join(words.warnings(Reading(run)))
    assert "Step 15 was not evaluated (lost)." in found and "Step 10" not in found


def test_what_a_person_must_know_is_a_warning(run):
    events = (
        {"kind": "eval_failed", "step": 10, "reason": "vLLM hung {", "training_seconds": 1.0},
        line("train", 21, skipped="the loss is not finite"),
        {"kind": "config_changed", "step": 5, "changes": ["train.lr: 1 → 2"]},
    )
    with (run / "metrics.jsonl").open("a") as file:
        file.write(to_lines(events))
    found = "\n".join(words.warnings(Reading(run)))
    for part in ("step 10 failed: vLLM hung {", "Step 21 was not applied: the loss", "after step 5: train.lr: 1 → 2", "from 22 to 78 %"):
        assert part in found


@pytest.mark.parametrize(("precision", "share", "warns"), [("fp32", 0.2, True), ("bf16-sr", 0.2, False), ("bf16-sr", 0.0, True)])
def test_weights_that_stand_still_are_a_warning_unless_rounding_is_stochastic(run, precision, share, warns):
    rewrite(run, "metrics.jsonl", lambda line: line | {"weights_changed": share} if line["kind"] == "train" else line)
    config = load_config(run / "config.toml", ["--model.precision", precision])
    (run / "config.toml").write_text(to_toml(config))
    assert ("updates may be lost to rounding" in "\n".join(words.warnings(Reading(run)))) == warns


def test_an_entropy_known_from_below_is_written_so():
    line = {"avg_token_entropy": 0.5, "entropy": "top-k"}
    assert words.number(line, "avg_token_entropy") == "≥ 0.50"
    assert words.number(line | {"entropy": "exact"}, "avg_token_entropy") == "0.50"
    assert words.number({"avg_token_entropy": None}, "avg_token_entropy") == "–"


def test_evaluations_that_are_missing_are_not_taken_for_others(run):
    rewrite(run, "metrics.jsonl", without_evaluation(20))
    assert "trained for 20 steps" in words.headline(Reading(run)) and "solves at step 10" in words.headline(Reading(run))
    rewrite(run, "metrics.jsonl", without_evaluation(0))
    assert words.verdict(Reading(run)) == "There are no two evaluations to compare yet."


def test_without_a_first_evaluation_the_next_one_is_compared_with(run):
    rewrite(run, "metrics.jsonl", without_evaluation(0))
    assert "; at step 10 37.5 %" in words.headline(Reading(run))
    assert "the model after step 20 against the model after step 10" in words.verdict(Reading(run))


def test_outcomes_are_right_or_why_not():
    def outcome(**changes):
        return facts.OUTCOMES[facts.outcome_of({"answer_reward": 0.0, "format_reward": 1.0, "finish_reason": "stop"} | changes)]

    assert outcome(answer_reward=1.0) == "right" and outcome() == "wrong"
    assert outcome(finish_reason="length", format_reward=0.0) == "cut off" and outcome(format_reward=0.0) == "malformed"


def test_outcomes_over_steps_are_those_of_the_panel(run):
    """Before and after training all problems are asked, in between the panel alone: a curve must not jump for that."""
    rewrite(run, "metrics.jsonl", lambda line: line | {"examples": 4} if line["kind"] == "eval" else line)
    assert [len(Reading(run).panel(line)) for line in Reading(run).evaluations] == [4, 4, 4]


def test_a_digit_holds_a_value_to_four_percent():
    for nats in (0.0, 0.05, 0.3, 1.0, 2.5, 7.0, 20.0):
        assert 2 ** (DIGITS.index(digit_of(nats)) / LEVELS_PER_OCTAVE) - 1 == pytest.approx(nats, abs=0.031 * (1 + nats))
    assert digit_of(float("nan")) == digit_of(-0.001) == "0" and digit_of(float("inf")) == digit_of(1e9) == "Z"


def test_long_lines_are_thinned_and_keep_their_spikes():
    points = [(step, 1.0) for step in range(100_000)]
    points[54_321] = (54_321, 99.0)
    kept = figures.thinned(points)
    assert len(kept) <= figures.MOST_POINTS and (54_321, 99.0) in kept and kept == sorted(kept)


def test_a_page_of_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        report.write(tmp_path / "nothing")
    with pytest.raises(InputError, match="neither a run nor an evaluation"):
        report.write(tmp_path)
    (tmp_path / "config.toml").write_text(to_toml(parse_config({})))
    with pytest.raises(InputError, match="nothing is logged there yet; --watch waits"):
        report.write(tmp_path)


def test_an_evaluation_has_a_page_too(tmp_path, tiny_model, data_file):
    from tutelage.cli.entry import main

    out = tmp_path / "evaluation"
    settings = ["--eval.max_new_tokens=4", "--eval.examples=3", "--eval.backend=native"]
    assert main(["eval", tiny_model, str(data_file), "--out", str(out), *settings]) == 0
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    for part in ("of 3 problems of", "The whole configuration", "tutelage eval", "Environment", "max_new_tokens = 4"):
        assert part in page, part


def test_a_finished_run_has_its_page(make_config):
    from tutelage.training import fine_tune

    result = fine_tune(make_config(run__price_per_hour=1.5))
    page = (result.directory / "report.html").read_text()
    assert "at 1.5 per hour" in page and "One training row, in tokens" in page
    tokens = json.loads((result.directory / "generations.jsonl").read_text().splitlines()[0])["tokens"]
    assert len(tokens["characters"]) == len(tokens["entropy"]) == len(tokens["nll"]) == 8


def test_a_page_that_cannot_be_written_leaves_the_run_finished(make_config, monkeypatch, capsys):
    from tutelage.training import fine_tune

    monkeypatch.setattr(report, "write", lambda directory: {}["nothing"])
    result = fine_tune(make_config(run__keep_end=False))
    assert (result.directory / "result.json").is_file() and not (result.directory / "checkpoints").exists()
    assert "the report was not written: KeyError" in capsys.readouterr().out


def test_a_run_of_before_there_were_samples_and_tokens_has_a_page(run):
    def without(*keys):
        return lambda line: {key: value for key, value in line.items() if key not in keys}

    rewrite(run, "generations.jsonl", without("sample", "tokens", "vote"))
    rewrite(run, "metrics.jsonl", without("training_seconds"))
    (run / "data.json").write_text('{"sha256": "x"}')
    report.write(run)
    assert words.cost(Reading(run), None)["seconds"] == pytest.approx(20 * 0.5 + 3 * 2.0)


def test_the_page_says_what_was_changed_of_the_recipe(run, tmp_path):
    environment = json.loads((run / "environment.json").read_text())
    environment["command"] = ["my.py", "--a.b", "--c.d", "x"]  # from Python: nothing is known of a recipe
    environment["machine"]["memory_gb"] = None  # a system that does not say
    (run / "environment.json").write_text(json.dumps(environment))
    page = report.write(run).read_text()
    assert "Changed from the recipe" not in page and "a CPU, 2 cores; Linux" in page
    sweep = make_sweep(tmp_path / "sweep")
    trial = (sweep / "trials" / "raw-8-seed42" / "report.html").read_text()
    assert "Changed from the recipe" in trial and "2e-05 → 0.001" in trial


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A run of many problems, its page, and the bytes of a page without one."""
    run = make_run(tmp_path_factory.mktemp("many") / "run", problems=240, words_each=60)
    size = report.write(run).stat().st_size
    bare = report.write(make_run(run.parent / "bare", problems=1)).stat().st_size
    return run, size, bare


@pytest.mark.slow
def test_two_thousand_problems_at_ten_evaluations_are_one_page(many):
    """Reckoned from 240 problems at three evaluations; bench/report.py measures the real one."""
    _, size, bare = many
    assert bare + (size - bare) / (240 * 3) * 2000 * 10 < report.LARGEST


@pytest.mark.slow
def test_too_many_generations_are_split_over_pages_that_say_so(many, capsys):
    run, size, bare = many
    largest = bare + (size - bare) * 2 // 3
    first = report.write(run, largest=largest)
    pages = [first, *sorted(run.glob("report-*.html"))]
    assert len(pages) == 2 and all(page.stat().st_size <= largest for page in pages)
    assert "240 problems are too many for one page" in first.read_text() and 'href="report-2.html"' in first.read_text()
    assert "split over 2 pages" in capsys.readouterr().out
    report.write(run)
    assert not list(run.glob("report-*.html"))  # it fits again
    (run / "mine-2.html").write_text("not yours")
    report.write(run, run / "mine.html")
    assert (run / "mine-2.html").read_text() == "not yours"


def test_watching_writes_the_page_again_until_the_run_is_finished(run, monkeypatch):
    monkeypatch.setattr(report, "POLL", 0.05)
    monkeypatch.setattr(report, "BREAK", 0)
    (run / "result.json").unlink()
    page, watcher = run / "report.html", threading.Thread(target=report.watch, args=(run,), daemon=True)
    watcher.start()

    def wait_for(part):
        until = time.monotonic() + 300
        while not (page.is_file() and part in page.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)

    wait_for("data-live")
    assert "so far" in page.read_text() and "not finished" in page.read_text()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(to_lines([{"kind": "save_failed", "step": 20, "reason": "no room"}]))
    wait_for("could not be written: no room")
    (run / "result.json").write_text("{}")
    watcher.join(300)
    assert not watcher.is_alive() and " data-live" not in page.read_text() and "not finished" not in page.read_text()


# ── in a browser ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


class Opened:
    """A page in a browser without a network, with all that it complained of and asked for."""

    def __init__(self, browser, path: Path, address: str = "", clock: bool = False, **options) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        if clock:
            self.page.clock.install()
        self.complaints, self.requests, self.path = [], [], path
        self.page.on(
            "console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"file://{path}{address}")
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("html[data-ready=all]", timeout=180_000)

    def at(self, address: str):
        """The page at another address, which it finds by itself."""
        self.page.evaluate("address => { location.hash = address; }", address)
        self.until(f"location.hash === {address!r} || !{address!r}")
        self.page.wait_for_timeout(50)
        return self.page

    def quiet(self) -> None:
        """It complained of nothing, and asked nobody for anything but the file itself."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(("data:", "blob:", f"file://{self.path}"))] == []

    def until(self, expression: str, seconds: float = 30.0) -> None:
        """Wait until something holds; by asking again and again, for the page allows no script from a string."""
        from playwright.sync_api import Error

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(Error):  # while it loads itself again, there is nobody to ask
                if self.page.evaluate(expression):
                    return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"in vain for {expression}")

    def problems(self) -> list[str]:
        return self.page.locator("#problems button[data-problem] .text").all_inner_texts()

    def accessible(self) -> None:
        from axe_playwright_python.sync_playwright import Axe

        for details in self.page.locator("details").all():
            details.evaluate("each => { each.open = true; }")
        found = Axe().run(self.page)
        assert found.violations_count == 0, found.generate_report()


@pytest.fixture(scope="module")
def desk(chromium, shared):
    """The page of the run, open on a desk for all tests that only use it."""
    opened = Opened(chromium, report.write(shared, price_per_hour=2.0))
    yield opened
    opened.context.close()


@pytest.fixture
def opened(desk):
    desk.at("#step=20")
    yield desk
    desk.quiet()


@in_a_browser
def test_the_page_draws_every_curve_offline_and_is_accessible(opened):
    names = [figure["name"] for figure in figures.of_run(Reading(opened.path.parent))]
    assert len(names) == 9
    opened.page.evaluate("scrollTo(0, 0)")
    drawn = "names => names.every(name => document.querySelector(`#figure-${name} .main-svg`))"
    assert opened.page.evaluate(drawn, [*names, "histogram"])  # those far below too
    ticks = opened.page.locator("#figure-lr .ytick").all_text_contents()
    assert "0" in ticks and not any(re.fullmatch(r"0e.*", tick) for tick in ticks)
    for name in names:
        (title, _), (_, labels) = (
            opened.page.evaluate(
                "selector => { const boxes = [...document.querySelectorAll(selector)].map(each => each.getBoundingClientRect());"
                " return [Math.max(...boxes.map(box => box.right)), Math.min(...boxes.map(box => box.left))]; }",
                f"#figure-{name} {part}",
            )
            for part in (".g-ytitle text", ".ytick text")
        )
        assert title < labels, name
    opened.at("#problem=3&step=20&shade=entropy")
    for theme in ("dark", "light"):
        opened.page.emulate_media(color_scheme=theme)
        opened.accessible()


@in_a_browser
def test_generations_are_filtered_by_outcome_and_searched(opened):
    page = opened.page
    assert len(opened.problems()) == 8 and "8 of 8 problems" in page.locator("#count").inner_text()
    page.select_option("#show", "gained")
    assert opened.problems() == [f"what is {n} + {n}?" for n in (0, 2, 4, 5)]
    page.select_option("#step", "10")
    assert opened.problems() == [f"what is {n} + {n}?" for n in (0, 1, 2)]
    page.select_option("#step", "20")
    page.select_option("#show", "lost")
    assert opened.problems() == [] and "Nothing matches." in page.locator("#problems").inner_text()
    assert "No problem is open" in page.locator("#problem").inner_text()
    page.get_by_role("button", name="Show all problems").click()
    assert len(opened.problems()) == 8 and page.locator("#show").input_value() == "all"
    assert page.evaluate("document.activeElement.id") == "search" and "Problem" in page.locator("#problem").inner_text()
    page.fill("#search", "IS 7")
    opened.until("document.querySelectorAll('#problems button[data-problem]').length === 1")
    assert opened.problems() == ["what is 7 + 7?"]


@in_a_browser
def test_a_response_with_a_script_stays_text(opened):
    page = opened.page
    page.select_option("#show", "malformed")
    assert opened.problems() == ["what is 3 + 3?"]
    page.locator("#problems button[data-problem]").first.click()
    assert EVIL in page.locator("#problem").inner_text()
    assert page.evaluate("window.evil") is None and page.locator("#problem img, #problem script").count() == 0


@in_a_browser
def test_a_problem_shows_answer_and_reference_and_shades_its_tokens(opened):
    page = opened.page
    page.locator("#problems button[data-problem]").nth(2).click()
    problem = page.locator("#problem")
    assert "Problem 3" in problem.inner_text() and problem.locator(".response").count() == 2  # the first evaluation, and this one
    assert problem.locator(".response dd").all_inner_texts() == ["999", "4", "4", "4"]
    page.select_option("#shade", "entropy")
    tokens = problem.locator(".response").nth(1).locator("pre span")
    assert "".join(tokens.all_inner_texts()).startswith("<think>") and tokens.nth(0).get_attribute("title") == "0.00 nats"
    assert tokens.nth(7).get_attribute("title") == "0.68 nats"  # 0.7, to the nearest digit
    page.select_option("#shade", "nll")
    assert tokens.nth(7).get_attribute("title") == "0.19 nats"
    problem.get_by_role("button", name=re.compile("step 10")).click()
    assert "step=10" in page.url and page.locator("#step").input_value() == "10"


@in_a_browser
def test_characters_beyond_sixteen_bits_and_long_tokens_are_shaded(opened):
    spans = opened.at("#problem=7&step=20&shade=entropy").locator("#problem .response").nth(1).locator("pre span")
    assert spans.all_inner_texts() == ["😀", "😀", " ab", "-" * 80, " cd"]
    assert [spans.nth(index).get_attribute("title") for index in (3, 4)] == ["0.00 nats", "3.00 nats"]


@in_a_browser
def test_the_address_remembers_what_is_shown(opened):
    page = opened.page
    page.select_option("#show", "wrong")
    page.fill("#search", "what")
    opened.until("location.hash.includes('search=what')")
    page.locator("#problems button[data-problem]").first.click()
    page.select_option("#shade", "nll")
    before = page.locator("#problem").inner_text()
    page.reload()
    opened.ready()
    assert page.locator("#problem").inner_text() == before and page.locator("#show").input_value() == "wrong"
    assert page.locator("#search").input_value() == "what" and page.locator("#shade").input_value() == "nll"
    page.locator("#problems button[data-problem]").nth(1).click()
    assert page.locator("#problem").inner_text() != before
    page.go_back()
    opened.until(f"document.getElementById('problem').innerText.startsWith({before.splitlines()[0]!r})")
    for nonsense in ("#step=20&problem=1&sample=x", "#step=20&problem=99&sample=-1&show=bogus&shade=red", "#step=7"):
        opened.at(nonsense)
        assert len(opened.problems()) == 8


@in_a_browser
def test_everything_is_reached_by_keyboard(opened):
    page = opened.page
    opened.at("#step=20&problem=1")
    page.locator("#beside").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.problem") == "0"
    page.keyboard.press("ArrowDown")
    assert "Problem 2" in page.locator("#problem").inner_text()
    page.keyboard.press("End")
    assert "Problem 8" in page.locator("#problem").inner_text()
    page.keyboard.press("Tab")  # one stop for all of the list
    assert page.evaluate("document.activeElement.closest('#problem') !== null")
    opened.at("#step=20&problem=2")
    page.get_by_role("button", name="next").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the focus has stayed
    assert "Problem 4" in page.locator("#problem").inner_text()
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@in_a_browser
def test_the_problem_that_tells_most_is_open_from_the_start(chromium, desk, shared, other):
    opened = Opened(chromium, desk.path)
    assert [text.split()[-1] for text in opened.page.locator("#problem h4").all_inner_texts()] == ["wrong", "right"]
    assert opened.page.locator("#problems button[aria-current=true]").get_attribute("data-problem") in ("0", "2", "5")  # gained
    assert "#" not in opened.page.url
    opened.context.close()
    both = Opened(chromium, report.write_beside([str(shared), str(other)], shared.parent / "both.html"))
    assert "Problem 2\n" in both.page.locator("#problem").inner_text()
    assert [text.split()[-1] for text in both.page.locator("#problem h4").all_inner_texts()] == ["wrong", "right"]
    both.page.select_option("#show", "lost")
    assert both.problems() == ["what is 0 + 0?"] and "Problem 1\n" in both.page.locator("#problem").inner_text()
    both.accessible()
    both.quiet()
    both.context.close()


@in_a_browser
def test_all_evaluations_can_stand_beside_each_other(opened):
    page = opened.at("#step=20&problem=1")
    assert page.locator(".response").count() == 2
    page.check("#beside")
    assert page.locator(".response").count() == 3 and "beside=all" in page.url
    page.uncheck("#beside")
    assert page.locator(".response").count() == 2 and "beside" not in page.url


@in_a_browser
def test_shades_follow_what_is_shown(opened):
    page = opened.at("#step=20&problem=3&shade=entropy")
    ticks = page.locator(".legend .ticks span").all_inner_texts()
    top = float(ticks[2])
    assert float(ticks[1]) == pytest.approx(top / 4, abs=0.01) and 0.5 < top < 4  # of entropies up to 1.1 nats
    read = "all => all.map(each => [parseFloat(each.title), +each.style.getPropertyValue('--shade')])"
    shades = page.locator("#problem .shade").evaluate_all(read)
    assert len(shades) > 10
    for nats, shade in shades:
        assert shade == pytest.approx(min(1, nats / top) ** 0.5, abs=0.02)


@in_a_browser
def test_a_command_is_copied(opened):
    page = opened.page
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.locator(".copyable .copy").first
    button.click()
    opened.until("[...document.querySelectorAll('.copy')].some(each => each.textContent === 'Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".command").first.inner_text()


@in_a_browser
def test_the_page_prints_on_two_sheets_in_light(chromium, tmp_path):
    """Of a run that has much to say: thirty evaluations, long responses, and a screen that is dark."""
    run = make_run(tmp_path / "run", steps=tuple(range(0, 300, 10)), words_each=900)
    (run / "data.json").write_text(json.dumps({"notes": [f"note {n} " + "x " * 200 for n in range(20)]}))
    opened = Opened(chromium, report.write(run, price_per_hour=2.0), color_scheme="dark")
    for paper in ("A4", "Letter"):
        printed = opened.page.pdf(format=paper)
        assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 2
    assert opened.page.evaluate("'theme' in document.documentElement.dataset") is False  # as it was
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.quiet()
    opened.context.close()


@in_a_browser
def test_on_a_phone_curves_are_a_row_and_a_link_shows_the_answer(chromium, shared):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    opened = Opened(chromium, report.write(shared), "#step=20&problem=3", **phone)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#problem").bounding_box()
    assert 0 <= box["y"] < 300 and page.evaluate("scrollY") > 0
    assert page.locator("header nav").evaluate("nav => getComputedStyle(nav).overflowX") == "auto"
    tops = page.locator(".figures figure").evaluate_all("all => all.map(each => each.offsetTop)")
    assert len(set(tops)) == 1 and len(tops) == 9
    row = page.locator(".figures")
    assert row.get_attribute("tabindex") == "0"
    row.scroll_into_view_if_needed()
    box = row.bounding_box()
    client = page.context.new_cdp_session(page)
    finger = {"x": box["x"] + 300, "y": box["y"] + 150}  # on the curve itself
    client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [finger]})
    for moved in range(15, 240, 15):
        client.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [finger | {"x": finger["x"] - moved}]})
        page.wait_for_timeout(16)
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    opened.until("document.querySelector('.figures').scrollLeft > 50")
    key = page.locator("#settings th", has_text="data.prompt").first
    assert key.evaluate("each => each.innerHTML") == "data.<wbr>prompt"
    opened.quiet()
    opened.context.close()


@in_a_browser
def test_in_a_narrow_window_zooming_into_one_curve_zooms_all(chromium, shared):
    opened = Opened(chromium, report.write(shared), viewport={"width": 375, "height": 500})
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.locator("#figure-loss").scroll_into_view_if_needed()
    page.wait_for_selector("#figure-loss .main-svg")
    box = page.locator("#figure-loss .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 42, steps=5)
    page.mouse.up()
    for name in ("loss", "lr"):
        opened.until(f"document.getElementById('figure-{name}').layout?.xaxis.range[0] > 4")
    page.locator("#figure-memory_gb").scroll_into_view_if_needed()
    page.wait_for_selector("#figure-memory_gb .main-svg")
    page.locator("#theme").click()
    page.wait_for_timeout(300)
    assert page.evaluate("document.getElementById('figure-memory_gb').layout.xaxis.range[0]") > 4  # also in the other theme
    page.get_by_role("button", name="show all").click()
    opened.until("document.getElementById('figure-loss').layout.xaxis.range[0] < 5")
    page.locator("#problems button[data-problem]").first.click()
    assert page.evaluate("document.activeElement.id") == "problem"
    opened.quiet()
    opened.context.close()


@in_a_browser
def test_a_live_page_loads_itself_again(chromium, run):
    opened = Opened(chromium, report.write(run, live=True), clock=True)
    opened.page.evaluate("window.before = true")
    opened.page.clock.fast_forward(10_000)
    opened.until("window.before === undefined")
    opened.context.close()


@in_a_browser
def test_many_problems_are_listed_in_portions_and_found_in_the_other_part(chromium, many):
    run, size, bare = many
    opened = Opened(chromium, report.write(run, largest=bare + (size - bare) * 2 // 3), "#problem=240&step=20")
    opened.page.wait_for_url(re.compile(r"report-2\.html#problem=240"))
    opened.ready()
    assert "Problem 240" in opened.page.locator("#problem").inner_text()
    in_all = len(opened.problems())  # up to the chosen one
    assert f"{in_all} of {in_all} problems on this page (of 240 in all)" in opened.page.locator("#count").inner_text()
    opened.at("#step=20")
    assert len(opened.problems()) == 100 < in_all
    opened.page.get_by_role("button", name=f"show {in_all - 100} more").click()
    assert len(opened.problems()) == in_all
    opened.context.close()


@in_a_browser
def test_the_page_of_a_sweep_draws_its_curve_and_links_its_trials(chromium, tmp_path):
    opened = Opened(chromium, report.write(make_sweep(tmp_path / "sweep")))
    opened.page.wait_for_selector("#figure-sizes .main-svg")
    said = opened.page.locator("main").inner_text()
    for part in (
        "equal epochs (2 epochs); learning rate 2e-05; 2 seeds", "filtered", "control", "What the curves say", "1 failed",
        "out of memory", "a tie: ", " at 50.0 %, from 0.0 % untouched",
    ):  # fmt: skip
        assert part in said, part
    links = opened.page.locator("#trials a")
    assert links.count() == 3 and links.first.get_attribute("href") == "trials/raw-8-seed42/report.html"
    opened.accessible()
    opened.quiet()
    opened.context.close()
