"""Benchmarks by name: their rows in the shapes that they are published in, where the rows come from, and an evaluation on several."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tutelage.cli.entry import main
from tutelage.cli.eval import evaluate_file
from tutelage.config import Source, load_config
from tutelage.data import BENCHMARKS, iter_rows, named_source, named_sources, reader_of
from tutelage.data.benchmarks import FEW, validation_source
from tutelage.data.sources import Row, source
from tutelage.errors import InputError
from tutelage.evaluation import parts as parts_file
from tutelage.evaluation import spread
from tutelage.evaluation.tell import in_words, least_difference, points
from tutelage.evaluation.tolerance import near
from tutelage.grading import grade_response
from tutelage.model import identity_of
from tutelage.runs import to_lines
from tutelage.stats import detectable_difference

ROOT = Path(__file__).parent.parent
PLAIN = Source(path="unused", split="test")

# of each benchmark: a row in its published shape, the reference, right answers, wrong answers
SHAPES = [
    ("gsm8k", {"question": "How much do 4 carts cost?", "answer": "A cart costs 268.\n4 * 268 = <<4*268=1072>>1,072\n#### 1,072"},
     "1072", ["1072", "1,072", "\\$1072", "1072.00"], ["1", "72", "1,073"]),
    ("math500", {"problem": "Write the point in polar form.", "solution": "So $\\boxed{\\left( 2, \\frac{\\pi}{3} \\right)}.$",
                 "answer": "\\left( 2, \\frac{\\pi}{3} \\right)", "subject": "Precalculus", "level": 2, "unique_id": "test/p/1.json"},
     "\\left( 2, \\frac{\\pi}{3} \\right)", ["(2, \\pi/3)", "(2,\\tfrac{\\pi}{3})"], ["(\\pi/3, 2)", "2"]),
    ("math5k", {"problem": "Simplify.", "level": "Level 3", "type": "Algebra", "solution": "First $\\boxed{7}$. Then $\\boxed{\\dfrac{3}{4}}$."},
     "\\dfrac{3}{4}", ["3/4", "0.75", "\\frac34"], ["7", "4/3"]),
    ("math5k", {"problem": "Simplify.", "subject": "Algebra", "level": 3, "unique_id": "x", "answer": "x^2+1", "solution": "It is $\\boxed{x^2+1}$."},
     "x^2+1", ["1+x^2"], ["x^2-1"]),
    ("math5k", {"problem": "Simplify.", "expected_answer": "12", "source": "a"}, "12", ["12"], ["21"]),
    ("amc23", {"id": 3, "answer": 27.0, "url": "https://example.org", "question": "How many miles?"}, "27", ["27", "27.0"], ["27.5", "2"]),
    ("amc23", {"id": 3, "problem": "How many miles?", "answer": "27.0", "url": "u", "question": "How many miles?"}, "27.0", ["27"], ["72"]),
    ("aime24", {"id": 60, "problem": "Find m + n.", "solution": "So the answer is $\\boxed{033}$.", "answer": "033", "url": "u", "year": "2024"},
     "033", ["33", "033", "\\boxed{33}"], ["330", "3"]),
    ("aime24", {"id": "1", "problem": "Find m + n.", "solution": "\\boxed{204}", "url": "u"}, "204", ["204"], ["240"]),
    ("aime24", {"ID": "2024-I-1", "Problem": "Find m + n.", "Solution": "Long work. $\\boxed{204}$", "Answer": 204}, "204", ["204"], ["24"]),
    ("aime25", {"problem": "Find the sum.", "answer": "070", "id": "0"}, "070", ["70"], ["700", "7"]),
    ("aime26", {"problem_idx": 1, "answer": 277, "problem": "Find the sum."}, "277", ["277"], ["27"]),
    ("hmmt_feb_2026", {"problem_idx": 4, "answer": "-\\frac{3}{2}, 5", "problem_type": ["Algebra"], "problem": "Find all roots."},
     "-\\frac{3}{2}, 5", ["5, -1.5"], ["5", "3/2, 5"]),
    ("olympiadbench", {"id": 1, "subfield": "Algebra", "context": None, "question": "Find all triples.", "solution": ["By parity …"],
                       "final_answer": ["$(1,8,19), (2,7,13)$"], "is_multiple_answer": True, "unit": None, "answer_type": "Tuple",
                       "error": None, "image_1": None},
     "$(1,8,19), (2,7,13)$", ["(2,7,13), (1,8,19)"], ["(1,8,19)", "(1,8,19), (7,2,13)"]),
    ("olympiadbench", {"id": 2, "context": "Let n be even.", "question": "Find n.", "final_answer": ["$2$", "$4$"], "is_multiple_answer": True},
     "$2$, $4$", ["4, 2", "2 \\text{ and } 4"], ["2", "4"]),
    ("olympiadbench", {"id": 3, "question": "How long?", "final_answer": ["50"], "unit": "minutes"}, "50", ["50 \\text{ minutes}"], ["50 \\text{ km}5"]),
    ("minerva", {"problem": "Find the diameter.", "solution": "\\[\ns=\\boxed{1.6} \\mathrm{~cm}\n\\]", "type": "Astronomy", "idx": 0},
     "1.6", ["1.6", "1.6 \\mathrm{~cm}"], ["1.57", "16"]),
    ("minerva", {"question": "Find the luminosity.", "answer": "4.5e33"}, "4.5e33", ["4.5 \\times 10^{33}", "4.5e33 \\text{ erg/s}"], ["4.5e32"]),
    ("minerva", {"problem": "Find the angle.", "solution": "It is \\boxed{np.arcsin(10/13)}.", "type": "t", "idx": 1},
     "arcsin(10/13)", ["\\arcsin\\frac{10}{13}"], ["\\arccos\\frac{10}{13}"]),
    ("minerva", {"problem": "Find x.", "solution": "Thus \\boxed{x_{0} \\cos (t)+$ $v_{0} \\sin (t)}.", "type": "t", "idx": 2},
     "x_{0} \\cos (t)+ v_{0} \\sin (t)", ["v_0\\sin t + x_0\\cos t"], ["x_0\\cos t"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "reference", "right", "wrong"), SHAPES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_row_of_each_published_shape_is_read_and_graded(name, row, reference, right, wrong, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(to_lines([row, {**row}]))
    read = named_source(f"{name}={file}", PLAIN).source
    rows = list(iter_rows(read.path, read.split))
    parsed = reader_of(read, rows, problems=True, setting="data.validation").read(rows[0])[0]
    assert not parsed.fault and parsed.reference == reference
    asked = next(str(value) for key, value in row.items() if key.lower() in ("question", "problem"))
    assert parsed.prompt.endswith(asked) and (not row.get("context") or parsed.prompt.startswith(row["context"]))
    for answer in right:
        assert grade_response(f"\\boxed{{{answer}}}", reference, "question_only").equal, answer
    for answer in wrong:
        assert not grade_response(f"\\boxed{{{answer}}}", reference, "question_only").equal, answer


def test_every_benchmark_has_a_row_that_is_tested():
    assert {name for name, *_ in SHAPES} == set(BENCHMARKS)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "What is the shaded area?", "final_answer": ["5"], "image_1": {"bytes": b"\x89PNG", "path": None}},
        {"question": "Prove it.", "final_answer": None, "solution": ["…"]},
        {"question": "Prove it.", "final_answer": [], "solution": ["…"]},
    ],
)
def test_olympiad_questions_with_images_or_proofs_are_left_out(row):
    kept = {"question": "Find n.", "final_answer": ["5"]}
    read = named_source("olympiadbench", PLAIN).source
    reader = reader_of(read, [Row("a:1", kept), Row("a:2", row)], problems=True, setting="data.validation")
    [first], [second] = (reader.read(Row("a", each)) for each in (kept, row))
    assert not first.left_out and second.left_out and not second.fault


# ── where the rows come from ──


@pytest.mark.parametrize("entry", BENCHMARKS.values(), ids=lambda entry: entry.name)
def test_an_entry_says_where_it_was_read_or_what_is_not_verified(entry):
    assert entry.read_in and entry.hub.count("/") == 1
    assert re.fullmatch("[0-9a-f]{40}", entry.revision or "0" * 40)
    assert entry.revision is not None or "revision" in entry.unverified
    assert entry.samples == (16 if entry.questions <= FEW else 1)


@pytest.mark.parametrize("entry", BENCHMARKS.values(), ids=lambda entry: entry.name)
def test_by_its_name_a_benchmark_is_asked_of_the_hub(entry, monkeypatch):
    """Name, revision, subset and split reach the hub's loader as they stand in the table."""
    import datasets

    asked = []
    row = next(row for name, row, *_ in SHAPES if name == entry.name)

    def load(repository, config, split, revision):
        asked.append((repository, config, split, revision))
        return datasets.Dataset.from_list([row])

    monkeypatch.setattr(datasets, "load_dataset", load)
    read = named_source(entry.name, PLAIN.model_copy(update={"prompt": "plain", "columns": {"prompt": "q"}})).source
    assert len(list(iter_rows(read.path, read.split, read.hub_config))) == 1
    assert asked == [(entry.hub, entry.hub_config, entry.split, entry.revision)]
    assert read.prompt == "plain" and read.columns == dict(entry.columns)


def test_a_hub_that_is_not_in_reach_leaves_the_disk(tiny_model, tmp_path, monkeypatch, capsys):
    import datasets

    def no_network(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    assert (
        main(["eval", tiny_model, "gsm8k", "--out", str(tmp_path / "out"), "--model.device", "cpu", "--backend", "native"]) == 2
    )
    said = capsys.readouterr().err
    assert "Couldn't reach the Hub" in said and "on the disk are read by --folder DIRECTORY, or gsm8k=PATH" in said
    assert not (tmp_path / "out").exists()


def folder(tmp_path, *names):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"problem": "p", "question": "q", "answer": "1"}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("files", "name", "read"),
    [
        (["gsm8k.jsonl"], "gsm8k", ("gsm8k.jsonl",)),
        (["gsm8k/train.jsonl", "gsm8k/test.jsonl"], "gsm8k", ("gsm8k/test.jsonl",)),
        (["gsm8k/main/train-00000-of-00001.jsonl", "gsm8k/main/test-00000-of-00001.jsonl", "gsm8k/socratic/test-00000-of-00001.jsonl"],
         "gsm8k", ("gsm8k/main/test-00000-of-00001.jsonl",)),
        (["MATH-500/test.jsonl"], "math500", ("MATH-500/test.jsonl",)),
        (["aime24/train-00000-of-00001.jsonl"], "aime24", ("aime24/train-00000-of-00001.jsonl",)),
        (["aime24/test.jsonl"], "aime24", ("aime24/test.jsonl",)),
        (["math5k/train.jsonl", "math5k/validation.jsonl"], "math5k", ("math5k/validation.jsonl",)),
        (["math5k/train.jsonl", "math5k/test.jsonl"], "math5k", ("math5k/test.jsonl",)),
    ],
)  # fmt: skip
def test_in_a_folder_a_benchmark_is_found_by_name_and_split(files, name, read, tmp_path):
    found = named_source(name, PLAIN, folder(tmp_path, *files)).source
    assert {row.source.rpartition(":")[0] for row in iter_rows(found.path, found.split)} == {
        str(tmp_path / file) for file in read
    }


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        (["math500.jsonl"], "gsm8k", "nothing there is called gsm8k .* there is math500.jsonl. Or write gsm8k=PATH"),
        (["gsm8k.jsonl", "gsm8k.csv"], "gsm8k", "gsm8k.csv, gsm8k.jsonl may be gsm8k"),
        (["notes.txt"], "aime26", "aime26 or aime_2026"),
    ],
)
def test_a_folder_without_the_rows_of_a_benchmark_says_what_is_there(files, name, message, tmp_path):
    with pytest.raises(InputError, match=message):
        named_source(name, PLAIN, folder(tmp_path, *files))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gsm8", "did you mean gsm8k\\? Benchmarks are gsm8k, math500"),
        ("AIME24", "did you mean aime24\\?"),
        ("aime", "did you mean aime24 or aime25 or aime26\\?"),
        ("math_500", "did you mean math500\\?"),
        ("zebra", "no file, directory or benchmark has this name\\. Benchmarks"),
        ("gsm8k=nowhere.jsonl", "nowhere.jsonl: no such file"),
    ],
)
def test_an_unknown_name_lists_the_benchmarks_and_the_nearest(text, message):
    with pytest.raises(InputError, match=message):
        named_source(text, PLAIN)


def test_a_name_that_is_a_file_too_is_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(folder(tmp_path, "gsm8k/test.jsonl", "rows,of,three.jsonl"))
    named = named_source("gsm8k", PLAIN)
    assert named.benchmark is None and named.source.path == "gsm8k" and "and not the benchmark" in named.note
    assert named_sources("rows,of,three.jsonl") == ["rows,of,three.jsonl"]
    assert named_source("owner/data", PLAIN).source.path == "owner/data"


def test_what_can_be_no_name_of_a_file_is_one_clear_error(tmp_path):
    many = ",".join(f"rows-{index}.jsonl" for index in range(60))  # longer than a name may be
    assert len(named_sources(many)) == 60
    for text in ("a\0b", "x" * 300, "gsm8k=a\0b", "gsm8k=" + "x" * 300):
        with pytest.raises(InputError, match="no such file|has this name"):
            named_source(text, PLAIN)
    with pytest.raises(InputError, match="--folder .*: cannot be read"):
        named_source("gsm8k", PLAIN, tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["gsm8k,,aime24", "gsm8k,", ",", "gsm8k, gsm8k"])
def test_a_list_of_names_has_each_name_once(text):
    with pytest.raises(InputError, match="empty|twice"):
        named_sources(text)


def test_validation_in_training_may_name_a_benchmark(tmp_path, monkeypatch, capsys):
    config = load_config(
        None, ["--data.train=a.jsonl", "--data.validation=math500", "--data.prompt=plain", "--data.hub_config=x"]
    )
    found = validation_source(config.data)
    entry = BENCHMARKS["math500"]
    assert (found.path, found.split, found.hub_config, found.columns) == (entry.pinned, "test", None, dict(entry.columns))
    table = load_config(None, ['--data.validation={ path = "aime24", prompt = "none" }'])
    assert validation_source(table.data).prompt == "none"
    with pytest.raises(
        InputError, match='is a benchmark, .* leave out split, or write the data set itself, "HuggingFaceH4/aime_2024"'
    ):
        validation_source(load_config(None, ['--data.validation={ path = "aime24", split = "test" }']).data)
    monkeypatch.chdir(folder(tmp_path, "math500/test.jsonl"))
    assert validation_source(config.data).path == "math500" and "and not the benchmark" in capsys.readouterr().out


def test_a_run_validates_on_a_benchmark_of_the_hub(make_config, tokenizer, monkeypatch):
    import datasets

    from tutelage.data import read_pool

    rows = [{"question": f"{n} and {n}?", "answer": f"It is #### {2 * n}"} for n in range(3)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    pool = read_pool(make_config(data__validation="gsm8k"), tokenizer)
    assert sorted(problem.reference for problem in pool.problems) == ["0", "2", "4"]


# ── tolerance, and what can be told ──


@pytest.mark.parametrize(
    ("reference", "answer", "is_near"),
    [
        ("41585", "41586", True),
        ("41585", "41590", False),
        ("1.4903e4", "1.4904 \\times 10^4 \\text{ K}", True),
        ("1.4903e4", "1.4904\\cdot10^{4}", True),
        ("20.39", "x = 20.391 \\mathrm{~km/s}", True),
        ("20.39", "20.391 or 5", False),
        ("20.39", "-20.391", False),
        ("-10", "-10.0001", True),
        ("-10", "10.0001", False),
        ("0", "0.00001", False),
        ("15,625", "15626", True),
        ("3e8", "299792458 m/s", False),
        ("7", "2^{7.0001}", False),
        ("\\sqrt{2}", "1.41421", False),
        (("20.39", "5"), "20.391", False),
        ("1e5", "100001 people", True),
        ("1e999999", "1e999999", False),
    ],
)
def test_a_number_near_its_reference_passes_if_all_else_is_equal(reference, answer, is_near):
    assert near([answer], [reference], 1e-4) == [is_near]


def test_eval_tolerance_makes_a_near_number_right_and_votes_with_it():
    from tutelage.evaluation.engine.contract import Completion
    from tutelage.evaluation.grade import grade_completions
    from tutelage.grading import question_only_reward_fn

    completions = [Completion(f"\\boxed{{{text}}}", (1,), "stop", None) for text in ("671.02", "671.03", "671.5")]
    for tolerance, right in ((0.0, [1, 0, 0]), (1e-4, [1, 1, 0])):
        records = grade_completions(["p"], ["671.02"], completions, question_only_reward_fn, tolerance)
        assert [record["answer_reward"] for record in records] == right
        assert [record["vote"] == 0 for record in records] == list(map(bool, right))


def records(right, samples):
    return [{"answer_reward": float(index < count)} for count in right for index in range(samples)]


def test_what_can_be_told_follows_from_the_variance_that_was_measured():
    assert least_difference(30, 16) == detectable_difference(30, 16)
    assert least_difference(1, 16) is None
    half = least_difference(500, 1, records([1, 0] * 250, 1))
    assert half == detectable_difference(500, 1, 0.5)
    never_varies = least_difference(30, 4, records([4, 0] * 15, 4))
    varies = least_difference(30, 4, records([2] * 30, 4))
    assert never_varies == pytest.approx(detectable_difference(30, 4, 0.5, 0.0))
    assert varies == pytest.approx(detectable_difference(30, 4, 0.5, 0.25))  # no more than all variance there is
    assert least_difference(100, 1, records([0] * 100, 1)) < least_difference(100, 1)


@pytest.mark.parametrize(
    ("questions", "samples", "least", "words"),
    [
        (30, 1, 0.1396, "30 questions: differences under 14 points cannot be told"),
        (1319, 1, 0.0471, "1319 questions: differences under 4.7 points cannot be told"),
        (30, 16, 1.0, "30 questions, 16 responses each: no difference can be told"),
        (1, 1, None, "1 question: no difference can be told"),
    ],
)
def test_an_evaluation_says_of_itself_what_it_can_tell(questions, samples, least, words):
    assert in_words(questions, samples, least) == words
    assert points(least) == ("none" if least in (1.0, None) else re.search("under (.*) cannot", words)[1])


# ── an evaluation on several ──


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Two benchmarks and a file, and a working directory that is empty but for them."""
    monkeypatch.chdir(tmp_path)
    Path("rows").mkdir()
    Path("rows/gsm8k.jsonl").write_text(to_lines({"question": f"{n} + {n}?", "answer": f"Add. #### {2 * n}"} for n in range(5)))
    Path("rows/aime24.jsonl").write_text(to_lines({"problem": f"{n} * {n}?", "answer": f"{n * n:03}"} for n in range(3)))
    Path("mine.jsonl").write_text(to_lines({"prompt": f"Say {n}", "reference": str(n)} for n in range(4)))
    return "gsm8k,aime24,mine.jsonl"


SMALL = ["--eval.max_new_tokens=4", "--data.prompt=plain", "--model.device=cpu", "--model.precision=fp32", "--eval.entropy=off"]


@pytest.mark.slow
def test_several_sources_are_asked_by_a_model_that_is_loaded_once(three, tiny_model, tmp_path, monkeypatch, capsys):
    """What is finished is not asked again when the command is repeated after an interruption, and a finished one is not repeated."""
    loaded, solved, load_policy, solve = [], [], spread.load_policy, spread.solve
    monkeypatch.setattr(spread, "load_policy", lambda *given, **more: loaded.append(1) or load_policy(*given, **more))

    def interrupted(job, *given, **more):
        solved.append(job)
        if len(solved) == 2:
            raise KeyboardInterrupt
        return solve(job, *given, **more)

    monkeypatch.setattr(spread, "solve", interrupted)
    given = (tiny_model, three, [*SMALL, "--eval.backend=native"], Path("out"))
    folder = {"folder": Path("rows")}
    with pytest.raises(KeyboardInterrupt):
        evaluate_file(*given, reading=folder)
    assert Path("out/gsm8k/summary.json").is_file() and not Path("out/summary.json").exists()
    first = Path("out/gsm8k/generations.jsonl").read_bytes()
    with pytest.raises(InputError, match="out/gsm8k: was evaluated with other settings .*max_new_tokens"):
        evaluate_file(tiny_model, three, [*given[2], "--eval.max_new_tokens=5"], Path("out"), reading=folder)
    weights = tmp_path / "other"
    shutil.copytree(tiny_model, weights)
    (weights / "generation_config.json").write_text("{}")
    told = Path("out/identity.json")
    own = told.read_text()
    told.write_text(json.dumps(identity_of(str(weights))))
    with pytest.raises(InputError, match="out: holds answers of another model: .* generation_config.json"):
        evaluate_file(*given, reading=folder)
    told.write_text(own)
    both = evaluate_file(*given, reading=folder)
    assert len(loaded) == 2 and len(solved) == 4 and Path("out/gsm8k/generations.jsonl").read_bytes() == first
    found = {name: (each["examples"], each["samples"], each["data"]) for name, each in both["parts"].items()}
    assert found == {"gsm8k": (5, 1, "gsm8k"), "aime24": (3, 16, "aime24"), "mine": (4, 1, "mine.jsonl")}
    assert json.loads(Path("out/summary.json").read_text()) == both
    settings = {name: load_config(f"out/{name}/settings.toml") for name in found}
    assert (settings["gsm8k"].eval.temperature, settings["aime24"].eval.temperature) == (0, 0.6)
    assert settings["aime24"].data.validation.path == "rows/aime24.jsonl"
    printed = capsys.readouterr().out
    for said in ("finished before, and not asked again: gsm8k", "rows/gsm8k.jsonl has 5 questions, and the benchmark 1319",
                 "accuracy (avg@16)", "aime24 │                3 × 16", "an interval of fewer than 100 questions is rough"):  # fmt: skip
        assert said in printed, said
    with pytest.raises(InputError, match="out exists and is not overwritten"):
        evaluate_file(*given, reading=folder)
    assert (
        main(["compare", "out", "out"]) == 2 and "(aime24, gsm8k, mine); name one, such as out/aime24" in capsys.readouterr().err
    )
    assert main(["compare", "out/aime24", "out/aime24"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("entropy", "starts"), [("off", 1), ("exact", 3)])
def test_one_engine_serves_all_sources_unless_exact_entropies_need_its_memory(
    entropy, starts, three, tiny_model, inside, tmp_path
):
    inside(f"good@{tmp_path / 'starts'}")
    overrides = [*SMALL, "--eval.backend=fake", f"--eval.entropy={entropy}", "--eval.samples=1"]
    both = evaluate_file(tiny_model, three, overrides, Path("out"), reading={"folder": Path("rows")})
    assert (tmp_path / "starts").read_text().splitlines() == ["start"] * starts
    assert all(each["certificates"][0]["holds"] and each["entropy"] == entropy for each in both["parts"].values())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (16, 0.6, 0.0, None)),
        (["--eval.samples=4", "--eval.temperature=1"], (4, 1.0, 0.0, None)),
        (["--eval.temperature", "1.0"], (16, 1.0, 0.0, None)),
        (["--eval.temperature=0"], (1, 0.0, 0.0, None)),
        (["--eval.examples=5", "--eval.tolerance=0.01"], (16, 0.6, 0.01, 5)),
    ],
)
def test_a_benchmark_has_its_own_sampling_unless_another_is_asked_for(overrides, expected):
    config = load_config(None, overrides)
    [part] = parts_file.parts_of(["aime25"], PLAIN, config, overrides, Path("out"), {})
    settings = part.config.eval
    assert (settings.samples, settings.temperature, settings.tolerance, settings.examples) == expected
    [file] = parts_file.parts_of([str(ROOT / "README.md")], PLAIN, config, overrides, Path("out"), {})
    assert file.config.eval == config.eval


def test_options_of_the_command_line_go_before_an_entry():
    [part] = parts_file.parts_of(
        ["olympiadbench"], PLAIN, load_config(), [], Path("out"), {"split": "dev", "columns": {"prompt": "q"}}
    )
    assert (part.source.split, part.source.shape, part.source.columns) == ("dev", "auto", {"prompt": "q"})
    named = parts_file.parts_of(["arithmetic", "gsm8k"], PLAIN, load_config(), [], Path("out"), {})
    assert [part.name for part in named] == ["arithmetic", "gsm8k"] and named[1].config.eval.tolerance == 0


def test_parts_of_one_name_have_directories_of_their_own(tmp_path):
    folder(tmp_path, "a/test.jsonl", "b/test.jsonl")
    assert [named_source(text, PLAIN).short for text in ("..", "/", "x/" + "y" * 300)] == [
        Path("..").resolve().stem,
        "data",
        "y" * 300,
    ]
    names = [str(tmp_path / "a/test.jsonl"), str(tmp_path / "b/test.jsonl")]
    assert [part.name for part in parts_file.parts_of(names, PLAIN, load_config(), [], Path("out"), {})] == ["test", "test-2"]


def test_list_shows_every_benchmark(capsys):
    assert main(["eval", "--list", "--json"]) == 0
    printed = capsys.readouterr()
    assert [each["name"] for each in json.loads(printed.out)] == list(BENCHMARKS)
    assert all(name in printed.err for name in BENCHMARKS) and "amc23: not verified: revision" in printed.err
    assert main(["eval", "smollm2"]) == 2
    assert "name both; tutelage eval --list" in capsys.readouterr().err


def test_a_file_of_settings_goes_before_the_defaults_and_behind_the_command_line(tmp_path, monkeypatch):
    from tutelage.cli import eval as command

    given = []
    monkeypatch.setattr(command, "start", lambda: None)
    monkeypatch.setattr(command, "evaluate_file", lambda *arguments: given.append(arguments) or {})
    recipe = ROOT / "recipes" / "evaluate.toml"
    assert main(["eval", "smollm2", "gsm8k", "--config", str(recipe), "--eval.max_new_tokens", "7"]) == 0
    config = load_config(None, given[0][2])
    assert config.eval.max_new_tokens == 7 and config.eval.entropy == load_config(recipe).eval.entropy == "off"
    assert (config.eval.stop, config.data.prompt) == (load_config(recipe).eval.stop, load_config(recipe).data.prompt)
    (tmp_path / "c.toml").write_text('[model]\nid = "x"\n')
    assert main(["eval", "smollm2", "gsm8k", "--config", str(tmp_path / "c.toml")]) == 2


def test_the_documentation_has_the_table_of_the_entries():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = text[text.index("<!-- benchmarks -->") :].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    expected = [
        [f"`{each.name}`", f"`{each.hub}`", f"`{each.revision[:8]}…`" if each.revision else "newest",
         "/".join(filter(None, (each.hub_config, each.split))), f"{each.questions:,} × {each.samples}", each.unverified or "–", each.read_in]
        for each in BENCHMARKS.values()
    ]  # fmt: skip
    assert rows == expected


def test_a_source_of_rows_is_not_asked_twice(monkeypatch):
    """`named_source` itself reads nothing of the hub."""
    monkeypatch.setattr(source, "_load", lambda *_: pytest.fail("the hub was asked"))
    assert all(named_source(name, PLAIN).benchmark is entry for name, entry in BENCHMARKS.items())
