"""Rounds of sampling and training with a tiny model: what is trained on, what is held out, going on after a kill, and what is said."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from chain import CHATML, make_chain_model
from improve_cases import Solver, config_in, problems_in, remove, trained_rows, wished
from lines import read_lines

from tutelage.config import Config, Source, TrainSource, load_config, replaced, to_toml
from tutelage.data import arithmetic, template_of
from tutelage.errors import InputError, RunError
from tutelage.evaluation import Form, Wanted
from tutelage.experiments.improve import forecast, loop, mix
from tutelage.experiments.improve.ground import read_ground
from tutelage.experiments.improve.wished import Improvement
from tutelage.model import tokenizer_of
from tutelage.report import page
from tutelage.runs import Reading, rounds
from tutelage.runs.compare import compare_runs
from tutelage.runs.files import to_lines


@pytest.fixture
def config(tiny_model, tmp_path) -> Config:
    return config_in(tmp_path, tiny_model)


@pytest.fixture
def solver(monkeypatch) -> Solver:
    made = Solver()
    monkeypatch.setattr(loop, "sample_problems", made)
    return made


@dataclass(frozen=True)
class Improved:
    config: Config
    wished: Improvement
    directory: Path
    solver: Solver
    said: str


@pytest.fixture(scope="module")
def improved(tiny_model, tmp_path_factory) -> Improved:
    """Two rounds from the base model, with the configuration's own rows."""
    home = tmp_path_factory.mktemp("improved")
    config, asked, solver = config_in(home, tiny_model), wished(problems_in(home)), Solver()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr("tutelage.data.filter.cache_directory", lambda: home / "cache")
        patch.setattr(loop, "sample_problems", solver)
        loop.run_improve(config, asked, home / "out")
    return Improved(config, asked, home / "out", solver, said.getvalue())


@pytest.mark.slow
def test_each_round_is_a_run_on_all_accepted_rows_so_far_and_the_own_ones(improved):
    rows = rounds.table(improved.directory)
    assert [(row["round"], row["status"], row["own_rows"], row["sampled_rows"], row["rows"]) for row in rows] == [
        (0, "finished", None, None, 14), (1, "finished", 14, 8, 22), (2, "finished", 14, 16, 30),
    ]  # fmt: skip
    assert improved.solver.asked == ["round-0", "round-1"]  # whose models solved the problems
    for index in (1, 2):
        config = load_config(improved.directory / f"round-{index}" / "config.toml")
        assert config.model.id == improved.config.model.id and config.data.train.endswith(f"rows/round-{index}.jsonl")
    assert [row["solved_so_far"] for row in rows] == [None, 4, 4]


@pytest.mark.slow
def test_the_untouched_model_is_evaluated_once_for_all_rounds(improved):
    for index in (1, 2):
        first, last = Reading(improved.directory / f"round-{index}").evaluations
        assert first["step"] == 0 and "round-0" in first["adopted_from"] and "adopted_from" not in last
    assert "the untouched model" in rounds.verdicts(improved.directory)[-1]


@pytest.mark.slow
def test_a_round_is_the_run_that_its_configuration_gives_by_itself(improved, tmp_path):
    from tutelage.training import fine_tune

    again = tmp_path / "alone"
    fine_tune(load_config(improved.directory / "round-2" / "config.toml", [f"--run.dir={again}"]))
    one, other = (path / "model" / "model.safetensors" for path in (improved.directory / "round-2", again))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_own_rows_of_a_round_have_the_ids_that_they_have_in_round_0(improved, tmp_path):
    """Rows that are written for a round with nothing sampled are those of the configuration, token by token."""
    ground = read_ground(improved.config, improved.wished, tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text(to_lines(mix.own_rows(ground.own, Form(ground.template, ground.tokenizer))))
    again = loop.prepare(
        replaced(improved.config, {"data.train": str(path), "data.filter": False}), ground.tokenizer, ground.template
    )
    assert [(row.prompt_ids, row.response_ids) for row in again.train] == [
        (row.prompt_ids, row.response_ids) for row in ground.own.train
    ]


@pytest.mark.slow
def test_rounds_of_a_chat_template_ask_and_train_as_they_began(tmp_path):
    """Its date is that of the first day; the end of turn ends the responses that are sampled."""
    dated = make_chain_model(tmp_path / "dated", "Today is {{ strftime_now('%d %b %Y') }}\n" + CHATML)
    config = replaced(config_in(tmp_path, dated), {"data.prompt": "chat"})
    today = read_ground(config, wished(problems_in(tmp_path)), tmp_path).template
    kept = replace(today, text=re.sub(r"Today is [^\n]*", "Today is 01 Jan 2026", today.text), now="2026-01-01")
    ground = read_ground(config, wished(problems_in(tmp_path)), tmp_path, kept)
    (tmp_path / mix.KEPT).write_text(ground.template.to_json())
    sampling = replaced(mix.config_of_sampling(ground, 1), {"model.id": dated})
    assert all(problem.prompt.startswith("Today is 01 Jan 2026") for problem in ground.unsolved.problems)
    tokenizer = tokenizer_of(sampling)
    assert tokenizer.eos_token == ground.tokenizer.eos_token == "<|im_end|>"
    assert template_of(sampling.data.prompt, tokenizer, {}).to_json() == kept.to_json()
    path = tmp_path / "own.jsonl"
    path.write_text(to_lines(mix.own_rows(ground.own, Form(ground.template, ground.tokenizer))))
    again = loop.prepare(replaced(config, {"data.train": str(path), "data.filter": False}), ground.tokenizer, kept)
    assert [(row.prompt_ids, row.response_ids) for row in again.train] == [
        (row.prompt_ids, row.response_ids) for row in ground.own.train
    ]


@pytest.mark.slow
def test_the_page_has_every_round_and_its_curves_and_verdicts(improved):
    text = (improved.directory / "report.html").read_text()
    for part in ("round-2/report.html", "figure-rounds", "figure-solved", "not significant: round 1 against round 0", "4 of 12"):
        assert part in text, part
    assert page.write(improved.directory, improved.directory / "again.html").read_text().count("<tr>") == text.count("<tr>")
    (improved.directory / "again.html").unlink()
    assert rounds.is_finished(improved.directory) and "Rounds: problems solved" in improved.said


@pytest.mark.slow
def test_rounds_are_compared_and_reported_as_runs(improved, capsys):
    found = compare_runs(str(improved.directory / "round-0"), str(improved.directory / "round-2"))
    assert len(found.pairs) == 6 and "round-0 (step 2) → round-2 (step 2)" in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_finished_is_not_done_again_and_more_rounds_go_on(improved, solver, capsys):
    before = {path: path.stat().st_mtime_ns for path in improved.directory.glob("*/result.json")}
    loop.run_improve(improved.config, improved.wished, improved.directory)
    assert not solver.asked and {path: path.stat().st_mtime_ns for path in before} == before
    assert "going on: 3 of the rounds 0 to 2 are finished" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"other settings \(--samples: 8 → 4; train.lr: 0.001 → 0.002\)"):
        other = wished(improved.wished.problems, wanted=replace(improved.wished.wanted, samples=4))
        loop.run_improve(replaced(improved.config, {"train.lr": 2e-3}), other, improved.directory)
    problems = Path(improved.wished.problems.path)
    text = problems.read_text()
    problems.write_text(text.replace("How many", "Tell how many"))
    try:
        with pytest.raises(InputError, match="rounds on other rows or problems"):
            loop.run_improve(improved.config, improved.wished, improved.directory)
    finally:
        problems.write_text(text)


@pytest.mark.slow
def test_a_dry_run_of_finished_rounds_says_what_they_took(improved):
    found = forecast.predict_improve(improved.config, replace(improved.wished, rounds=3), improved.directory)
    assert [each["finished"] for each in found] == [True, True, True, False]
    assert found[3]["sampled_rows"] == 8 * 3  # as many as the last round accepted, three times


def test_a_dry_run_says_rows_and_time_of_each_round_and_does_nothing(config, solver, tmp_path, capsys):
    found = forecast.predict_improve(config, wished(problems_in(tmp_path)), tmp_path / "out")
    assert [each["rows"] for each in found] == [14, 14 + 12 * 8, 14 + 2 * 12 * 8]
    assert found[1]["sampling_seconds"] > 0 and all(each["training_seconds"] > 0 for each in found)
    assert not solver.asked and not (tmp_path / "out").exists()
    assert "12 problems × 8 responses in each round, 6 held-out problems" in capsys.readouterr().out
    last = forecast.predict_improve(config, wished(problems_in(tmp_path), origin="last", with_rows=False), tmp_path / "out")
    assert [each["rows"] for each in last] == [14, 12 * 8, 12 * 8]


@pytest.mark.slow
def test_rounds_from_the_last_model_train_on_what_is_new_alone(config, solver, tmp_path):
    asked = wished(problems_in(tmp_path), origin="last", with_rows=False)
    loop.run_improve(config, asked, tmp_path / "out")
    assert [(row["own_rows"], row["sampled_rows"]) for row in rounds.table(tmp_path / "out")[1:]] == [(0, 8), (0, 8)]
    last = load_config(tmp_path / "out" / "round-2" / "config.toml")
    assert last.model.id == str(tmp_path / "out" / "round-1" / "model") and not last.eval.before
    assert trained_rows(tmp_path / "out" / "round-2") == {"kept": 8}


@pytest.mark.slow
def test_rounds_go_on_wherever_they_were_killed(config, solver, tmp_path, monkeypatch):
    """In sampling, between sampling and training, within training, and after it."""
    out, asked = tmp_path / "out", wished(problems_in(tmp_path), rounds=1)
    solver.fails = 1
    with pytest.raises(KeyboardInterrupt):
        loop.run_improve(config, asked, out)
    trained = []
    original = loop.fine_tune

    def killed(config, **options):
        trained.append(Path(config.run.dir).name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "fine_tune", killed)
        loop.run_improve(config, asked, out)
    assert trained == ["round-1"] and solver.asked == ["round-0", "round-0"] and rounds.table(out)[1]["accepted"] == 8
    (out / "rows" / "round-1.jsonl").unlink()  # made again
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "fine_tune", lambda config, **options: (original(config, **options), killed(config)))
        loop.run_improve(config, asked, out)
    before = (out / "round-1" / "result.json").stat().st_mtime_ns
    loop.run_improve(config, asked, out)
    assert (out / "round-1" / "result.json").stat().st_mtime_ns == before and len(solver.asked) == 2
    assert trained == ["round-1", "round-1"] and len(rounds.read_state(out)["sessions"]) == 4


@pytest.mark.slow
def test_a_round_that_accepts_nothing_stops_and_keeps_what_is_there(config, tmp_path):
    """The tiny model, which was asked really, has no right answer."""
    asked = wished(problems_in(tmp_path, 3), wanted=replace(Improvement(Source(path="x")).wanted, samples=2))
    with pytest.raises(RunError, match=r"round 1: no response was accepted: of 3 problems × 2 responses, 6 .*try more --samples"):
        loop.run_improve(config, asked, tmp_path / "out")
    table = rounds.table(tmp_path / "out")
    assert [row["status"] for row in table] == ["finished", "unfinished", "not begun"] and table[1]["accepted"] == 0
    assert "no response was accepted" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(RunError, match="no response was accepted"):  # nothing is sampled again
        loop.run_improve(config, asked, tmp_path / "out")


@pytest.mark.slow
def test_a_model_that_is_given_is_round_0_and_needs_no_solutions(config, solver, tiny_model, tmp_path):
    """Problems alone: some are held out of them, and no round has rows of the configuration."""
    problems = problems_in(tmp_path, 20)
    bare = replaced(config, {"data.train": problems.path, "data.validation": None, "data.test_size": 0.3})
    asked = wished(problems, rounds=1, start=tiny_model, with_rows=False)
    loop.run_improve(bare, asked, tmp_path / "out")
    first, second = rounds.table(tmp_path / "out")
    assert (first["status"], first["problems"], first["rows"]) == ("finished", 6, None)
    assert (second["asked"], second["sampled_rows"], second["problems"]) == (14, 8, 6)
    held = {row["prompt"] for row in read_lines(tmp_path / "out" / "held-out.jsonl")}
    assert len(held) == 6 and not any(question in prompt for question in held for prompt in solver.prompts)
    found = compare_runs(str(tmp_path / "out" / "round-0"), str(tmp_path / "out" / "round-1"))
    assert len(found.pairs) == 6


# ---- what is held out is never sampled


TRAINS = (
    "A train leaves town at noon and goes 40 km in each hour, while the other one leaves at one o'clock and goes twice as far in the same"
    " time. How many km does the first one go in 2 hours?"
)
FIELDS = "Of the 90 fields around a village a third are sown with rye and the others with oats or with wheat. How many are sown with rye?"


def test_problems_that_are_held_out_are_never_sampled_even_said_otherwise(config, tmp_path):
    held = [row["messages"][0]["content"] for row in arithmetic.rows("validation", 6)] + [TRAINS]
    rows = [*arithmetic.rows("validation", 6), {"prompt": TRAINS, "reference_answer": "12"}]
    validation = [
        {"prompt": question, "reference": row.get("reference_answer") or row["messages"][0]["info"]["reference_answer"]}
        for question, row in zip(held, rows, strict=True)
    ]
    Path(str(config.data.validation)).write_text(to_lines(validation))
    path = tmp_path / "problems.jsonl"
    asked = [held[0], held[1].upper(), f"  {held[2]} ", f"Well, now. {TRAINS}", FIELDS, "What is 2 + 2?", "What is 2 + 2 ?"]
    path.write_text(to_lines({"prompt": question, "reference": "4"} for question in asked))
    for overlap in ("drop", "keep"):  # whatever is said of training rows
        settled = replaced(config, {"data.overlap": overlap, "data.filter": False})
        ground = read_ground(settled, wished(Source(path=str(path), prompt="plain")), tmp_path)
        questions = [problem.prompt for problem in ground.unsolved.problems]
        assert ground.unsolved.fates == Counter({"overlap": 4, "problem": 2, "asked again": 1})
        assert sorted(map(len, questions)) == sorted(
            len(ground.template.wrap(question)) for question in (FIELDS, "What is 2 + 2?")
        )
    whys = {fate.source: fate.why for fate in ground.unsolved.ledger if fate.fate == "overlap"}
    assert sum(why.startswith("equal to") for why in whys.values()) == 3 and any("13-grams" in why for why in whys.values())


def test_problems_that_are_all_held_out_are_refused(config, tmp_path):
    validation = Source(path=str(config.data.validation), prompt="plain")
    with pytest.raises(InputError, match=r"no problem is left to be solved \(6 overlap\): all 6 are held out.*--problems"):
        loop.run_improve(config, wished(validation), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_problems_that_are_held_out_by_the_configuration_are_not_sampled(config, tmp_path):
    """Without other problems, those of the training rows are solved, but for those that data.test_size holds out."""
    split = replaced(config, {"data.validation": None, "data.test_size": 0.25})
    ground = read_ground(split, wished(split.data.read_as_training(str(split.data.train))), tmp_path)
    asked, held = ({problem.prompt for problem in problems} for problems in (ground.unsolved.problems, ground.validated_on))
    assert len(held) == 4 and len(asked) == 12 and not asked & held


def test_validating_on_training_rows_is_refused(config, tmp_path):
    same = replaced(config, {"data.validation": None, "data.test_size": 0.0})
    with pytest.raises(InputError, match="data.test_size = 0 validates on training rows"):
        loop.run_improve(same, wished(problems_in(tmp_path)), tmp_path / "out")


# ---- what is refused before anything is computed


def test_what_cannot_be_is_refused_before_anything_is_computed(config, solver, tmp_path):
    problems = problems_in(tmp_path)
    for changes, message in (
        ({"rounds": 0}, "--rounds 0: at least one"),
        ({"origin": "first"}, "--from first: write base or last"),
        ({"temperature": 0.0}, "--samples 8 at --temperature 0 would be the same"),
        ({"wanted": Wanted(choose="shortest")}, 'choose = "shortest" chooses so many of the right responses: give keep = N'),
        ({"wanted": Wanted(favour_hard=True)}, "--favour-hard divides a number of rows per problem: give --keep N, not right"),
        ({"start": str(tmp_path / "nothing")}, "nothing"),
    ):
        with pytest.raises(InputError, match=message):
            loop.run_improve(config, wished(problems, **changes), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"not empty and holds nothing of `tutelage improve` \(notes.txt\)"):
        loop.run_improve(config, wished(problems), tmp_path / "full")
    assert not solver.asked and not (tmp_path / "out").exists()


# ---- what the directory says


def state_of(directory: Path, index: int = 0) -> None:
    """The least that says that a directory is of these rounds."""
    wanted = {"samples": 8, "keep": "right", "choose": "random", "favour_hard": False, "seed": 42}
    state = {
        "design": {"rounds": 1, "origin": "base", "with_rows": True, "start": None, "temperature": 0.7, "wanted": wanted, "problems": {}},
        "problems": {"source": "x", "count": 1, "fates": {}, "fingerprint": "f"}, "models": {}, "template": "", "rounds": [],
        "sessions": [{"started": 0.0, "seconds": 0.0, "finished": [], "failed": {}}], "price_per_hour": None,
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    rounds.write_state(state, directory)


def test_a_damaged_state_is_told_and_nothing_goes_on(config, solver, tmp_path):
    state_of(tmp_path / "out")
    assert [row["status"] for row in rounds.table(tmp_path / "out")] == ["not begun", "not begun"]
    (tmp_path / "out" / rounds.STATE).write_text('{"design": 3}')
    with pytest.raises(InputError, match=r"improve.json is damaged: .*round-N is a run of its own"):
        loop.run_improve(config, wished(problems_in(tmp_path)), tmp_path / "out")


def test_a_directory_of_rounds_is_no_run_directory(config, tmp_path):
    from tutelage.runs import read_run
    from tutelage.runs.log import refuse_to_overwrite

    state_of(tmp_path / "out")
    with pytest.raises(InputError, match="holds rounds of `tutelage improve`; give this run another"):
        refuse_to_overwrite(replaced(config, {"run.dir": str(tmp_path / "out")}))
    remove(tmp_path / "out" / rounds.STATE)
    (tmp_path / "out" / "round-0").mkdir()
    with pytest.raises(InputError, match=r"improve.json is not there any more"):
        read_run(tmp_path / "out")


@pytest.mark.parametrize(
    ("series", "said"),
    [
        ([(0.9, 40.0), (0.31, 21.0)], []),
        ([(0.9, 40.0), (0.29, 40.0)], ["mean token entropy of round 1 is 0.290 nats, less than a third of the 0.900 of round 0"]),
        (
            [(0.9, 40.0), (0.9, 41.0), (0.9, 19.0)],
            ["mean length of round 2 is 19.0 tokens, less than half of the 40.0 of round 0"],
        ),
        ([(None, 40.0), (0.9, 40.0), (0.2, 10.0)], ["entropy of round 2 is 0.200", "length of round 2 is 10.0"]),
        ([(0.0, 40.0), (0.0, 40.0)], []),
    ],
)
def test_collapse_is_said_by_its_numbers(series, said):
    measured = [
        rounds.Measured(f"round {index}", {"avg_token_entropy": entropy, "avg_response_length": length})
        for index, (entropy, length) in enumerate(series)
    ]
    found = rounds.collapses(measured)
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True))


@pytest.mark.parametrize("case", ["a file", "a prompt of its own"])
def test_own_rows_of_any_prompt_and_weight_are_those_of_round_0(config, tmp_path, case):
    """A template that is not recognised in a prompt, and sources with other prompts and weights than the configuration's."""
    (tmp_path / "short.txt").write_text("{question}\n\nA:")
    if case == "a file":
        config = replaced(config, {"data.prompt": str(tmp_path / "short.txt")})
    else:
        second = tmp_path / "second.jsonl"
        second.write_text(to_lines(arithmetic.rows("train", 80)[70:]))
        sources = [TrainSource(path=str(config.data.train)), TrainSource(path=str(second), prompt="none", weight=3.0)]
        config = replaced(config, {"data.train": sources, "data.prompt": "none"})
    ground = read_ground(config, wished(problems_in(tmp_path)), tmp_path)
    written = tmp_path / "own.jsonl"
    written.write_text(to_lines(mix.own_rows(ground.own, Form(ground.template, ground.tokenizer))))
    alone = replaced(config, {"data.train": str(written), "data.weight": "weight", "data.filter": False})
    again = loop.prepare(alone, ground.tokenizer, ground.template)

    def rows(prepared):
        return [(row.prompt_ids, row.response_ids, pytest.approx(row.weight)) for row in prepared.train]

    assert len(rows(again)) > 10 and rows(again) == [(row.prompt_ids, row.response_ids, row.weight) for row in ground.own.train]


# ---- the command


def test_the_command_says_what_it_is_asked_for(config, tmp_path, monkeypatch, capsys):
    from tutelage.cli import main

    recipe, asked = tmp_path / "recipe.toml", []
    recipe.write_text(to_toml(config))
    monkeypatch.setattr(
        "tutelage.experiments.run_improve", lambda config, wished, *rest: asked.append((wished, *rest)) or tmp_path
    )
    monkeypatch.setattr("tutelage.runs.rounds.table", lambda directory: [])
    monkeypatch.setattr("tutelage.runs.rounds.verdicts", lambda directory: [])
    monkeypatch.setattr("tutelage.runs.rounds.collapse", lambda directory: [])
    words = (
        "--rounds 5 --from last --without-rows --samples 4 --keep 2 --choose spread --favour-hard --temperature 1 --json --out"
    )
    assert main(["improve", str(recipe), *words.split(), str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == str(tmp_path / "out")
    [(improvement, _, where, workers)] = asked
    assert (improvement.rounds, improvement.origin, improvement.with_rows, improvement.temperature) == (5, "last", False, 1.0)
    assert (improvement.wanted.samples, improvement.wanted.keep, improvement.wanted.favour_hard) == (4, 2, True)
    assert (improvement.problems.path, where, workers) == (config.data.train, "local", 2) and improvement.problems.where is None
    assert main(["improve", str(recipe), "--keep", "most"]) == 2
    assert '--keep most: write "right", "all", or' in capsys.readouterr().err


@pytest.mark.slow
def test_the_bench_has_rounds_and_a_control_of_as_many_steps_and_goes_on(tiny_model, tmp_path, monkeypatch, solver):
    bench = Path(__file__).parent.parent / "bench"
    monkeypatch.syspath_prepend(str(bench))
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path))
    words = ["improve.py", "--toy", "--model", tiny_model, "--device", "cpu", "--tokens", "8", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):  # the second time all is there
        runpy.run_path(str(bench / "improve.py"), run_name="__main__")
        found = json.loads((tmp_path / "improve.json").read_text())
        assert [round["round"] for round in found["rounds"]] == [0, 1, 2] and solver.asked == ["round-0", "round-1"]
        assert found["control"]["steps"] == found["rounds"][2]["steps"] > found["rounds"][0]["steps"]
        assert found["control"]["rows"] == 32 and found["rounds"][2]["rows"] == 32 + 16 and found["control"]["problems"] == 8
        assert "the last round against the control" in found["last_round_against_control"]
