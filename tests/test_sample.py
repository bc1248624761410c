"""`sample_problems`: from problems to rows of a model's own right answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from lines import read_lines
from scripted import Scripted, right

from tutelage.data import Example, protect, template_of
from tutelage.data.chosen import prepare
from tutelage.errors import InputError
from tutelage.evaluation import Wanted, prompt_ids, sample_problems, summarize
from tutelage.evaluation.sample import ask
from tutelage.evaluation.sample.choose import chosen, duplicates, final_steps, spread
from tutelage.evaluation.sample.run import Meter
from tutelage.evaluation.sample.totals import Totals
from tutelage.grading import Verdict

WANTED = Wanted(4)
FATES = {"right", "duplicate", "wrong", "undecided", "malformed", "cut off"}


@pytest.fixture
def scripted(monkeypatch):
    def script(say):
        made = Scripted(say)
        monkeypatch.setattr("tutelage.evaluation.engine.native.generating", made.generating)
        return made

    return script


@pytest.fixture
def sampling_config(make_config):
    def make(**changes):
        return make_config(**{"eval__temperature": 1.0, "data__prompt": "r1_zero", **changes})

    return make


def problems_for(config, tokenizer, count=4, question="What is {} + 1?"):
    template = template_of(config.data.prompt, tokenizer, {})
    return [Example(template.wrap(question.format(index)), "", str(index + 1), f"p.jsonl:{index + 1}") for index in range(count)]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# ── which responses become rows ───────────────────────────────────────────────────────────────────────────────────────


def test_final_steps_are_the_normalised_last_three_before_the_answer():
    steps = "First we look.\nThen 3 + 4 = 7. So X is 7!\n\nThat is all </think> <answer> 7 </answer>"
    assert final_steps(steps) == "then 3+4=7\nso x is 7\nthat is all"
    assert final_steps("Look.\nWe add: $3+4 = 7$.\nSo the answer is \\boxed{7}.") == "look\nwe add 3+4=7"
    assert final_steps("so \\boxed{7}") == "so"
    assert final_steps(" </think> <answer> 7 </answer>") == ""


def said(*responses):
    return [{"response": text, "fate": fate, "token_ids": [0] * size, "trainable": True} for text, fate, size in responses]


def test_of_equal_right_responses_the_shortest_stays():
    """Equal texts, or equal last steps behind different beginnings; wrong ones are no originals."""
    answers = said(
        (right(7, "Let me think.\nA.\nB.\nC."), "right", 9),
        (right(7, "A.\nB.\nC."), "right", 6),
        (right(7, "  A.\nB.\nC. "), "right", 7),
        (right(7, "A.\nB.\nD."), "right", 6),
        (right(8, "A.\nB.\nD."), "wrong", 1),
    )
    assert duplicates(answers) == {0: 1, 2: 1}


def test_a_choice_of_n_is_by_its_rule_and_its_seed():
    answers = said(*((right(7, f"Way {size}."), "right", size) for size in (5, 1, 9, 3, 7)), ("x", "wrong", 0))
    assert chosen(answers, 0, Wanted(6, keep="right")) == [0, 1, 2, 3, 4]
    assert chosen(answers, 0, Wanted(6, keep=2, choose="shortest")) == [1, 3]
    assert chosen(answers, 0, Wanted(6, keep=3, choose="spread")) == [0, 1, 2]
    assert chosen(answers, 0, Wanted(6, keep=1, choose="spread")) == [0]
    drawn = {tuple(chosen(answers, problem, Wanted(6, keep=2, seed=seed))) for problem in range(9) for seed in range(9)}
    assert len(drawn) > 5 and all(len(each) == 2 and set(each) <= {0, 1, 2, 3, 4} for each in drawn)
    assert chosen(answers, 3, Wanted(6, keep=2)) == chosen(answers, 3, Wanted(6, keep=2))
    assert chosen(answers, 0, Wanted(6, keep="all")) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("size", "count"), [(5, 5), (5, 2), (9, 4), (100, 7), (2, 2), (8, 7)])
def test_a_spread_has_both_ends_and_no_index_twice(size, count):
    found = spread(size, count)
    assert found[0] == 0 and found[-1] == size - 1 and len(set(found)) == count == len(found)


def test_hard_problems_keep_more_where_they_are_favoured():
    wanted = Wanted(8, keep=4, favour_hard=True)
    assert [wanted.allowance(right) for right in (1, 2, 4, 6, 8)] == [4, 3, 2, 1, 1]
    assert [Wanted(8, keep=4).allowance(right) for right in (1, 8)] == [4, 4]


def test_totals_agree_with_the_summary_of_an_evaluation():
    counts, totals, records = [0, 1, 3, 4, 4], Totals(4), []
    for count in counts:
        fates = ["right"] * min(count, 1) + ["duplicate"] * (count - 1) + ["wrong"] * (4 - count)
        totals.add(
            [{"fate": fate, "ids_differ": True, "token_ids": [0], "token_entropy": 2.0} for fate in fates], range(min(count, 1))
        )
        records += [
            {"sample": sample, "answer_reward": float(sample < count), "format_reward": 1.0, "vote": 0, "token_entropy": 2.0,
             "finish_reason": "stop", "length": 1}
            for sample in range(4)
        ]  # fmt: skip
    ours, theirs = totals.summary(), summarize(records)
    for key in ("accuracy", "accuracy_ci95", "avg_response_length", "avg_token_entropy", "samples"):
        assert ours[key] == theirs[key], key
    assert {k: each["estimate"] for k, each in ours["pass_at_k"].items()} == theirs["pass_at_k"]
    first = ours["pass_at_k"]["1"]
    assert [first["low"], first["high"]] == pytest.approx(ours["accuracy_ci95"])
    last = ours["pass_at_k"]["4"]
    assert ours["solved_at_least_once"] == 4 and last["estimate"] == 0.8 and last["low"] < 0.8 < last["high"]
    assert (ours["problems"], ours["kept"], ours["rows_whose_ids_differ"]) == (5, 4, 4)
    assert ours["fates"] == {"right": 4, "duplicate": 8, "wrong": 8}


# ── from problems to files ────────────────────────────────────────────────────────────────────────────────────────────


def of_every_fate(index, sample):
    return [
        right(index + 1, "Add."), right(index + 1, "Count on."), right(index + 1, "Add."), right(99), "no answer at all",
        right(index + 1) + " and so on…", " ", right("x" * 30_000),
    ][sample]  # fmt: skip


def test_each_response_has_one_fate_and_right_ones_become_rows(sampling_config, tokenizer, scripted, tmp_path):
    config = sampling_config()
    scripted(of_every_fate)
    out = tmp_path / "new" / "traces.jsonl"
    summary = sample_problems(problems_for(config, tokenizer, 3), config, out, Wanted(8))
    assert set(files_of(out.parent)) == {f"traces.{kind}" for kind in ("jsonl", "samples.jsonl", "ledger.jsonl", "summary.json")}
    assert summary == json.loads((out.parent / "traces.summary.json").read_text())
    assert summary["fates"] == {"right": 6, "duplicate": 3, "wrong": 3, "malformed": 6, "cut off": 3, "undecided": 3}
    assert set(summary["fates"]) == FATES and (summary["kept"], summary["problems"], summary["samples"]) == (6, 3, 8)
    assert (summary["accuracy"], summary["solved_at_least_once"], summary["pass_at_k"]["8"]["estimate"]) == (3 / 8, 3, 1.0)
    assert summary["avg_token_entropy"] == 0.5
    rows, samples, ledger = (read_lines(out.with_name(f"traces.{kind}jsonl")) for kind in ("", "samples.", "ledger."))
    assert [row["reference_answer"] for row in rows] == ["1", "1", "2", "2", "3", "3"]
    assert len(samples) == len(ledger) == 24 and sum(line["kept"] for line in ledger) == 6
    assert [line["fate"] for line in ledger[:8]] == [sample["fate"] for sample in samples[:8]]
    provenance = rows[1]["provenance"]
    assert (provenance["sample"], provenance["verdict"], provenance["temperature"], provenance["seed"]) == (1, "right", 1.0, 42)
    assert (
        len(provenance["weights"]) == 64 and provenance["log_prob"] == -provenance["length"] and provenance["ids_differ"] is False
    )
    everything = sample_problems(problems_for(config, tokenizer, 3), config, tmp_path / "all.jsonl", Wanted(8, keep="all"))
    assert everything["kept"] == 3 * 5  # not what was cut off, is empty, or leaves the thought open that the prompt begins


@pytest.mark.parametrize(
    ("prompt", "reward"),
    [("r1_zero", "r1_zero"), ("question_only", "question_only"), ("plain", "r1_zero"), ("none", "r1_zero"), ("short.txt", "r1_zero")],
)  # fmt: skip
def test_rows_train_with_the_ids_that_were_asked_and_said(sampling_config, tokenizer, scripted, tmp_path, prompt, reward):
    """Prompt, response and end of turn; a question that holds a special token as text among them, and a short template."""
    if prompt == "short.txt":
        (tmp_path / prompt).write_text("Q {question} A", encoding="utf-8")
        prompt = str(tmp_path / prompt)
    config = sampling_config(data__prompt=prompt, eval__reward=reward, data__test_size=0)
    asked = problems_for(config, tokenizer, 4, "What is {} + 1?")
    asked[0] = Example(asked[0].prompt, "", ("one", "1"), asked[0].source)
    template, special = template_of(prompt, tokenizer, {}), tokenizer.eos_token
    asked.append(Example(template.wrap(protect(f"What does {special} say?", (special,))), "", "5", "p.jsonl:5"))

    def say(index, sample):
        steps = ["Add one.", "Count  on,\nfrom there.", "Two steps."][sample]
        return f"{steps} So \\boxed{{{index + 1}}}." if reward == "question_only" else right(index + 1, steps)

    scripted(say)
    out = tmp_path / "traces.jsonl"
    assert sample_problems(asked, config, out, Wanted(3))["fates"] == {"right": 15}
    trained = prepare(config.model_copy(update={"data": config.data.model_copy(update={"train": str(out)})}), tokenizer)
    end = tokenizer.eos_token_id
    ids = {index: tuple(each) for index, each in enumerate(prompt_ids(tokenizer, asked))}
    expected = []
    for line in read_lines(out.with_name("traces.samples.jsonl")):
        generated = tuple(line["token_ids"])
        expected.append((ids[line["problem"]], generated if generated[-1] == end else (*generated, end)))
    assert sorted((row.prompt_ids, row.response_ids) for row in trained.train) == sorted(expected)


def test_a_generated_response_that_training_tokenizes_otherwise_is_told(sampling_config, tokenizer, tmp_path, monkeypatch):
    """A model without training says bytes at random; each row tells whether training has other ids than it said."""
    monkeypatch.setattr(
        "tutelage.evaluation.sample.judge.grade_responses", lambda pairs, style: [Verdict(True, "string")] * len(pairs)
    )
    config = sampling_config(
        data__test_size=0, data__filter=False, data__prompt="plain", eval__max_new_tokens=60, eval__stop=["e", "a"]
    )
    out = tmp_path / "traces.jsonl"
    summary = sample_problems(problems_for(config, tokenizer, 6), config, out, Wanted(6))
    data = config.data.model_copy(update={"train": str(out), "max_length": 500})
    trained = prepare(config.model_copy(update={"data": data}), tokenizer).train
    samples = {(each["problem"], each["sample"]): each["token_ids"] for each in read_lines(out.with_name("traces.samples.jsonl"))}
    kept = [(line["problem"], line["sample"]) for line in read_lines(out.with_name("traces.ledger.jsonl")) if line["kept"]]
    rows, end = read_lines(out), tokenizer.eos_token_id
    assert len(rows) == len(kept) == len(trained) == summary["kept"] > 5
    differ = 0
    for row, key, learnt in zip(rows, kept, sorted(trained, key=lambda each: int(each.source.rpartition(":")[2])), strict=True):
        generated = tuple(samples[key])
        generated = generated if generated[-1] == end else (*generated, end)
        assert row["provenance"]["ids_differ"] == (learnt.response_ids != generated)
        differ += row["provenance"]["ids_differ"]
    assert 0 < differ == summary["rows_whose_ids_differ"] < len(rows)


def test_a_problem_without_a_reference_is_counted_and_not_asked(sampling_config, tokenizer, scripted, tmp_path):
    config = sampling_config()
    script = scripted(lambda index, sample: right(index + 1))
    asked = problems_for(config, tokenizer, 2)
    asked.append(Example(asked[0].prompt, "", "", "p.jsonl:3"))
    summary = sample_problems(asked, config, tmp_path / "traces.jsonl", Wanted(2))
    assert (summary["problems"], summary["left_out"], sorted(script.asked)) == (2, {"no reference": 1}, [0, 1])
    assert read_lines(tmp_path / "traces.ledger.jsonl")[0]["fate"] == "no reference"
    with pytest.raises(InputError, match="no problem to ask; p.jsonl:3: no reference"):
        sample_problems(asked[2:], config, tmp_path / "none.jsonl", Wanted(2))


@pytest.mark.parametrize(
    ("wanted", "changes", "message"),
    [
        (Wanted(2), {"eval__temperature": 0.0}, "2 samples at eval.temperature = 0 would be the same response again"),
        (Wanted(2, favour_hard=True), {}, 'favour_hard needs a number of rows per problem .* not "right"'),
        (Wanted(2, keep=0), {}, "keep = 0: write"),
        (Wanted(2, keep="some"), {}, "keep = 'some': write"),
        (Wanted(2, keep=1, choose="best"), {}, "choose = 'best': write one of random, shortest, spread"),
        (Wanted(0), {}, "samples = 0"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_before_anything_is_asked(
    sampling_config, tokenizer, scripted, tmp_path, wanted, changes, message
):
    config = sampling_config(**changes)
    script = scripted(lambda index, sample: right(1))
    with pytest.raises(InputError, match=message):
        sample_problems(problems_for(config, tokenizer), config, tmp_path / "new" / "traces.jsonl", wanted)
    assert script.asked == [] and not (tmp_path / "new").exists()


# ── interrupted, and called again ─────────────────────────────────────────────────────────────────────────────────────


def varied(index, sample):
    return right(index + 1, f"Way {sample % 3} of {index}.") if (index + sample) % 3 else right(0)


def interrupted(config, asked, out, scripted, after=6, wanted=WANTED):
    """The indices of problems that were answered when a sampling was stopped."""

    def say(index, sample):
        if len(script.asked) >= after:
            raise KeyboardInterrupt
        return varied(index, sample)

    script = scripted(say)
    with pytest.raises(KeyboardInterrupt):
        sample_problems(asked, config, out, wanted)
    return script.asked


@pytest.mark.parametrize("keep", ["all", 2])
def test_what_was_interrupted_goes_on_and_asks_nothing_twice(sampling_config, tokenizer, scripted, tmp_path, keep):
    """The files are those of a sampling that nothing has disturbed, byte for byte, but for the seconds."""
    config, wanted = sampling_config(eval__batch_size=8), Wanted(4, keep=keep)
    asked = problems_for(config, tokenizer, 10)
    scripted(varied)
    calm = sample_problems(asked, config, tmp_path / "calm" / "t.jsonl", wanted)
    out = tmp_path / "storm" / "t.jsonl"
    all_asked = interrupted(config, asked, out, scripted, 3, wanted)[:2]  # of the second portion of two, half was answered
    all_asked += interrupted(config, asked, out, scripted, 4, wanted)
    assert not out.exists() and (out.parent / "t.unfinished").is_dir()
    script = scripted(varied)
    stormy = sample_problems(asked, config, out, wanted)
    assert sorted([*all_asked, *script.asked]) == list(range(10)) and len(script.asked) == 4
    different = {"seconds", "out"}
    assert {k: v for k, v in calm.items() if k not in different} == {k: v for k, v in stormy.items() if k not in different}
    one, other = files_of(tmp_path / "calm"), files_of(out.parent)
    assert set(one) == set(other) and all(one[name] == other[name] for name in one if name != "t.summary.json")


def test_a_finished_sampling_returns_its_summary_and_refuses_others(sampling_config, tokenizer, scripted, tmp_path):
    config, out = sampling_config(), tmp_path / "t.jsonl"
    asked = problems_for(config, tokenizer)
    scripted(varied)
    summary = sample_problems(asked, config, out, Wanted(4))
    script, before = scripted(varied), files_of(tmp_path)
    assert sample_problems(asked, config, out, Wanted(4)) == summary and script.asked == []
    for wanted, problems, what in (
        (Wanted(5), asked, r"samples \(4 → 5\)"),
        (Wanted(4, keep=1), asked, "keep"),
        (Wanted(4, seed=1), asked, r"seed \(42 → 1\)"),
        (Wanted(4), asked[1:], "another problems"),
    ):
        with pytest.raises(InputError, match=what):
            sample_problems(problems, config, out, wanted)
    assert files_of(tmp_path) == before and script.asked == []


def test_a_file_of_something_else_is_not_overwritten(sampling_config, tokenizer, scripted, tmp_path):
    config = sampling_config()
    (tmp_path / "t.samples.jsonl").write_text("mine\n")
    with pytest.raises(InputError, match=r"t.samples.jsonl exists and is not overwritten"):
        sample_problems(problems_for(config, tokenizer), config, tmp_path / "t.jsonl", Wanted(4))
    assert (tmp_path / "t.samples.jsonl").read_text() == "mine\n"


def test_what_is_unfinished_is_not_mixed_with_other_answers(sampling_config, tokenizer, scripted, tmp_path):
    config, out = sampling_config(eval__batch_size=8), tmp_path / "t.jsonl"
    asked = problems_for(config, tokenizer, 10)
    interrupted(config, asked, out, scripted)
    warmer = sampling_config(eval__batch_size=8, eval__temperature=0.5)
    with pytest.raises(InputError, match=r"temperature \(1.0 → 0.5\); go on as it was begun"):
        sample_problems(asked, warmer, out, Wanted(4))
    with pytest.raises(InputError, match="another prompt"):
        plain = sampling_config(eval__batch_size=8, data__prompt="plain")
        sample_problems(asked, plain, out, Wanted(4))


@pytest.mark.parametrize("harm", ["torn", "changed", "garbage"])
def test_a_damaged_line_is_asked_again(sampling_config, tokenizer, scripted, tmp_path, harm):
    config, out = sampling_config(eval__batch_size=8), tmp_path / "t.jsonl"
    asked = problems_for(config, tokenizer, 10)
    before = interrupted(config, asked, out, scripted)
    file = tmp_path / "t.unfinished" / "answers.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    index = next(each for each in reversed(range(len(lines))) if b'"problem"' in lines[each])
    lost = json.loads(lines[index])["problem"]
    if harm == "torn":
        lines = [*lines[:index], lines[index][:-30]]
    else:
        lines[index] = (
            b"\xff\x00\n" if harm == "garbage" else lines[index].replace(b"Way", b"Wax", 1).replace(b"answer", b"ansver", 1)
        )
    file.write_bytes(b"".join(lines))
    script = scripted(varied)
    sample_problems(asked, config, out, Wanted(4))
    assert sorted(script.asked) == sorted({lost, *range(10)} - (set(before) - {lost}))
    scripted(varied)
    sample_problems(asked, config, tmp_path / "calm.jsonl", Wanted(4))
    assert (tmp_path / "calm.samples.jsonl").read_bytes() == (tmp_path / "t.samples.jsonl").read_bytes()


def test_no_more_responses_are_held_than_one_portion_has(sampling_config, tokenizer, scripted, tmp_path, monkeypatch):
    """However many problems there are, and however many responses."""
    monkeypatch.setattr(ask, "AT_ONCE", 16)
    config, most = sampling_config(eval__batch_size=8), []
    for count in (8, 64):
        script = scripted(varied)
        sample_problems(problems_for(config, tokenizer, count), config, tmp_path / f"{count}.jsonl", Wanted(4))
        most.append(script.most_held)
    assert most[0] == most[1] <= 16


def test_a_model_that_says_no_number_is_asked_once(sampling_config, tokenizer, scripted, tmp_path):
    """What JSON does not know is written as null, not taken for damage."""
    config, script = sampling_config(data__prompt="plain"), scripted(varied)
    original = script._completion
    nan = (float("nan"),) * 3
    script._completion = lambda *arguments: replace(original(*arguments), log_probs=nan, entropies=nan)
    config = config.model_copy(update={"eval": config.eval.model_copy(update={"entropy": "off"})})
    summary = sample_problems(problems_for(config, tokenizer), config, tmp_path / "t.jsonl", Wanted(2))
    assert summary["avg_token_entropy"] is None and read_lines(tmp_path / "t.samples.jsonl")[0]["log_prob"] is None
    assert len(script.asked) == 4


def test_a_thought_that_is_opened_twice_is_learnt_once(sampling_config, tokenizer, scripted, tmp_path):
    config = sampling_config()
    scripted(lambda index, sample: f"<think>{right(index + 1)}" if sample else "Add." + right(index + 1))
    summary = sample_problems(problems_for(config, tokenizer, 2), config, tmp_path / "t.jsonl", Wanted(2))
    assert summary["kept"] == 4 and summary["rows_whose_ids_differ"] == 2
    assert [row["provenance"]["ids_differ"] for row in read_lines(tmp_path / "t.jsonl")] == [False, True] * 2


def test_the_bar_tells_what_was_accepted_and_how_many_a_minute(monkeypatch):
    now, told = [100.0], []
    monkeypatch.setattr("tutelage.evaluation.sample.run.time.monotonic", lambda: now[0])
    meter = Meter(lambda count, note: told.append((count, note)))
    now[0] += 30
    meter(4)
    meter.judged([{"responses": [{"fate": "right"}, {"fate": "wrong"}]}, {"responses": [{"fate": "right"}]}])
    assert told == [(4, "0 accepted, 0.0 a minute"), (0, "2 accepted, 4.0 a minute")]
