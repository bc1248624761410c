"""Rows and sources that count more or less: in the loss, its gradient, and what is said of them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from same_steps import assert_same

from tutelage.check import doctor
from tutelage.cli import main
from tutelage.config import differences, parse_config, replaced, to_toml
from tutelage.data import arithmetic, prepare
from tutelage.data.prepared import normalised_weights
from tutelage.data.shapes.reader import weight_of
from tutelage.data.tokens import TokenizedExample, pad_and_shift
from tutelage.errors import InputError
from tutelage.evaluation import with_absolute_paths
from tutelage.model.batch import pack, pad
from tutelage.model.load import load_policy
from tutelage.model.order import step_batches
from tutelage.model.specification import get_response_log_probs
from tutelage.training.step import accumulate_gradients

ROWS = [
    TokenizedExample("a", (5, 6), (7, 8, 9), weight=0.5),
    TokenizedExample("b", (5, 6), (7, 8, 10), weight=2.0),  # begins as the first does
    TokenizedExample("c", (5, 6), (7, 11), weight=1.25),
    TokenizedExample("d", (5, 6, 12), (13, 14, 15, 16)),
    TokenizedExample("e", (5, 6), (7, 8, 9), weight=3.0),  # the first again
]


@pytest.fixture
def weighed_file(tmp_path):
    """40 right rows; what they count repeats 0.5, 1, 2, 0."""
    path = tmp_path / "weighed.jsonl"
    rows = [row for row in arithmetic.rows("train", 60) if is_right(row)][:40]
    path.write_text("".join(json.dumps(row | {"weight": (0.5, 1, 2, 0)[index % 4]}) + "\n" for index, row in enumerate(rows)))
    return path


def is_right(row) -> bool:
    from tutelage.grading import r1_zero_reward_fn

    user, assistant = row["messages"]
    return r1_zero_reward_fn(assistant["content"], user["info"]["reference_answer"])["reward"] == 1


def gradients_of(config, tokenizer, examples, **layout):
    policy = load_policy(config.model, tokenizer)
    batches = step_batches(examples, **{"budget": 10**6, "rows": len(examples)} | layout)
    found = accumulate_gradients(policy, examples, batches, config, step=0)
    return found, {name: weight.grad.clone() for name, weight in policy.model.named_parameters()}


def test_a_shared_target_counts_the_sum_of_its_rows():
    batch = pack(ROWS)
    by_label = {}
    for row, targets in zip(ROWS, batch.of_examples, strict=True):
        for target in targets.tolist():
            by_label[target] = by_label.get(target, 0.0) + row.weight
    assert batch.weights.tolist() == [by_label[index] for index in range(len(batch.labels))]
    assert max(by_label.values()) == 6.75 and batch.counts.sum() == sum(len(row.response_ids) for row in ROWS)
    apart = pack(ROWS, shares=False)
    assert apart.weights.sum() == batch.weights.sum() and set(apart.counts.tolist()) == {1.0}
    padded = pad(ROWS, 0)
    assert padded.weights.tolist() == [row.weight for row in ROWS for _ in row.response_ids]
    assert set(padded.counts.tolist()) == {1.0}


def test_rows_that_count_one_have_no_weights_of_their_own():
    rows = [TokenizedExample(row.source, row.prompt_ids, row.response_ids) for row in ROWS]
    assert pack(rows).counts is None and pad(rows, 0).counts is None


@pytest.mark.parametrize("normalization", ["token", "sequence"])
@pytest.mark.parametrize("loss", ["nll", "dft"])
def test_a_weighted_step_is_the_formula(make_config, tokenizer, loss, normalization):
    config = make_config(train__loss=loss, train__loss_normalization=normalization, train__clip_grad=1e9)
    found, gradients = gradients_of(config, tokenizer, ROWS)
    policy = load_policy(config.model, tokenizer)
    tensors = pad_and_shift([(row.prompt_ids, row.response_ids) for row in ROWS], 0)
    scores = get_response_log_probs(policy.model, tensors["input_ids"], tensors["labels"], with_grad=True)["log_probs"]
    mask, weights = tensors["response_mask"], torch.tensor([[row.weight] for row in ROWS])
    terms = -scores * (scores.exp().detach() if loss == "dft" else 1)
    denominator = int(mask.sum()) if normalization == "token" else len(ROWS)
    by_hand = (terms * weights * mask).sum() / denominator
    by_hand.backward()
    assert found.loss == pytest.approx(by_hand.item(), rel=1e-5)
    assert found.nll == pytest.approx(-scores[mask].mean().item(), rel=1e-5), "each row counts one in the likelihood"
    for name, weight in policy.model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["nll", "dft"])
def test_weighted_rows_do_not_depend_on_the_layout(make_config, tokenizer, loss):
    config = make_config(train__loss=loss, train__clip_grad=1e9)
    together = gradients_of(config, tokenizer, ROWS)
    for layout in ({"budget": 6}, {"rows": 1, "pad_id": 0}, {"rows": 2, "pad_id": 0}):
        assert_same(together, gradients_of(config, tokenizer, ROWS, **layout))


@pytest.mark.slow
def test_two_ranks_share_weighted_rows_as_one_does(make_config, tokenizer, ranks, tmp_path, weighed_file):
    config = make_config(data__train=str(weighed_file), data__weight="weight", train__loss="dft", train__clip_grad=1e9)
    examples = prepare(config, tokenizer).train[:8]
    assert len({example.weight for example in examples}) > 1
    found, gradients = gradients_of(config, tokenizer, examples)
    loss, nll, sharded = ranks.run("gradients_by_a_loss", raw=config.model_dump(), directory=str(tmp_path))[0]
    assert loss == pytest.approx(found.loss, rel=1e-5) and nll == pytest.approx(found.nll, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(sharded[name], gradient, rtol=1e-4, atol=1e-6)


def test_weights_are_one_on_average_over_response_tokens():
    weights, tokens = np.array([3.0, 1.0, 0.5]), np.array([2, 5, 8])
    found = normalised_weights(weights, tokens)
    assert np.dot(found, tokens) == pytest.approx(15) and found[0] / found[2] == pytest.approx(6)
    assert (normalised_weights(4 * weights, tokens) == found).all()
    assert normalised_weights(np.full(3, 0.3), tokens).tolist() == [1, 1, 1]


def test_a_column_says_what_rows_count_only_where_it_is_named(make_config, tokenizer, weighed_file):
    plain = prepare(make_config(data__train=str(weighed_file)), tokenizer)
    assert {example.weight for example in plain.train} == {1.0}
    assert any('data.weight = "weight" lets its column' in line for line in plain.unread)
    found = prepare(make_config(data__train=str(weighed_file), data__weight="weight"), tokenizer)
    assert found.ledger.counts()["left out"] == 10 and 'data.weight = "weight": it counts 0' in found.ledger.why()["left out"]
    weights = sorted({round(example.weight, 9) for example in found.train})
    assert np.allclose(np.array(weights) / weights[0], [1, 2, 4])
    [source] = found.description(tokenizer)["sources"]
    assert source["weight"] == pytest.approx(1) and source["share"] == 1 and source["rows"] == found.rows
    assert found.fingerprint() != plain.fingerprint() and not any("weight" in line for line in found.unread)


def test_one_weight_for_all_rows_trains_to_the_same_bits(make_config, tmp_path, weighed_file, tokenizer):
    rows = [json.loads(line) for line in weighed_file.read_text().splitlines()]
    weighed_file.write_text("".join(json.dumps(row | {"weight": 0.3}) + "\n" for row in rows))
    found = []
    for weight in (None, "weight"):
        config = make_config(data__train=str(weighed_file), data__weight=weight)
        prepared = prepare(config, tokenizer)
        found.append((prepared.fingerprint(), gradients_of(config, tokenizer, prepared.train[:8])))
    (one, (a, by_a)), (other, (b, by_b)) = found
    assert one == other and a == b and all(bool((by_a[name] == by_b[name]).all()) for name in by_a)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, None, "", "many", [1], 1e10, 1e-12, 10**400])
def test_what_is_no_weight_is_refused_with_its_row(make_config, tokenizer, weighed_file, value):
    rows = [json.loads(line) for line in weighed_file.read_text().splitlines()]
    rows[2]["weight"] = value
    weighed_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make_config(data__train=str(weighed_file), data__weight="weight")
    with pytest.raises(
        InputError, match=r'weighed\.jsonl:3: data\.weight = "weight": .* is no weight: 0, or a number from 1e-09 to 1e\+09'
    ):
        prepare(config, tokenizer)
    found = prepare(replaced(config, {"data.on_bad_row": "skip"}), tokenizer)
    assert found.ledger.counts()["malformed"] == 1


def test_a_row_without_its_weight_and_a_column_that_is_not_there_are_told(make_config, tokenizer, weighed_file):
    rows = [json.loads(line) for line in weighed_file.read_text().splitlines()]
    del rows[4]["weight"]
    weighed_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r'weighed\.jsonl:5: data\.weight = "weight": the row has no such column'):
        prepare(make_config(data__train=str(weighed_file), data__weight="weight"), tokenizer)
    with pytest.raises(InputError, match=r'data\.weight = "wieght": no such column in the first rows'):
        prepare(make_config(data__train=str(weighed_file), data__weight="wieght"), tokenizer)
    with pytest.raises(InputError, match=r"has \[\*\], but no value of data\.columns has it"):
        prepare(make_config(data__train=str(weighed_file), data__weight="weight[*]"), tokenizer)


@pytest.mark.parametrize(("value", "weight"), [(0, 0), (2, 2), ("0.25", 0.25), (" 3 ", 3), (1e-9, 1e-9)])
def test_numbers_and_their_texts_are_weights(value, weight):
    assert weight_of(value, "data.weight") == weight


def test_items_of_a_row_have_weights_of_their_own(make_config, tokenizer, tmp_path):
    rows = [
        {"q": f"What is {n} + 1?", "tries": [f"<think> so </think> <answer> {n + 1} </answer>"] * 3, "a": str(n + 1), "info": {"w": [1, 0, 4]}}
        for n in range(20)
    ]  # fmt: skip
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "q", "response": "tries[*]", "reference": "a"}
    found = prepare(make_config(data__train=str(path), data__columns=columns, data__weight="info.w[*]"), tokenizer)
    assert found.ledger.counts()["left out"] == 20
    weights = {example.source.rpartition("[")[2]: example.weight for example in found.train}
    assert set(weights) == {"0]", "2]"} and weights["2]"] == pytest.approx(4 * weights["0]"])


# ── several sources ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def two_files(tmp_path):
    """30 rows as they are, and 30 others with columns of their own names, of which the first says the same as row 1 of the other."""
    rows = [row for row in arithmetic.rows("train", 100) if is_right(row)][:60]
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    second.write_text("".join(json.dumps(renamed(row)) + "\n" for row in [rows[0], *rows[30:]]))
    return str(first), str(second)


def renamed(row) -> dict[str, object]:
    user, assistant = row["messages"]
    return {"q": user["content"], "work": assistant["content"], "gold": user["info"]["reference_answer"], "ok": True}


SECOND_COLUMNS = {"prompt": "q", "response": "work", "reference": "gold"}


def test_two_sources_are_read_each_in_its_way_and_weighed(make_config, tokenizer, two_files):
    first, second = two_files
    sources = [{"path": first}, {"path": second, "weight": 3, "columns": SECOND_COLUMNS, "where": "ok"}]
    found = prepare(make_config(data__train=sources, data__duplicates="drop"), tokenizer)
    assert {example.source.rpartition(":")[0] for example in found.train} == {first, second}
    assert found.ledger.why()["duplicate"] == f"{second}:1: equal to {first}:1" or found.ledger.counts()["duplicate"] == 0
    a, b = found.description(tokenizer)["sources"]
    assert (a["source"], b["source"]) == (first, second) and a["rows"] + b["rows"] == found.rows
    assert b["weight"] == pytest.approx(3 * a["weight"]) and a["share"] + b["share"] == pytest.approx(1)
    learnt = a["weight"] * a["response_tokens"] + b["weight"] * b["response_tokens"]
    assert learnt == pytest.approx(found.response_tokens)
    held = [row.source for row in found.ledger if row.fate == "validation"]
    assert any(name.startswith(first) for name in held) and any(name.startswith(second) for name in held)
    questions = {problem.prompt for problem in found.validation}
    assert not any(found.train.example(index).prompt in questions for index in range(len(found.train)))


def test_one_source_in_a_list_is_that_source(make_config, tokenizer, two_files):
    alone = prepare(make_config(data__train=two_files[0]), tokenizer)
    listed = prepare(make_config(data__train=[{"path": two_files[0], "weight": 0.7}]), tokenizer)
    assert alone.fingerprint() == listed.fingerprint() and list(alone.train) == list(listed.train)


def test_sources_have_prompts_and_weight_columns_of_their_own(make_config, tokenizer, two_files, weighed_file):
    sources = [{"path": two_files[0], "prompt": "none"}, {"path": str(weighed_file), "weight": "weight"}]
    found = prepare(make_config(data__train=sources, data__prompt="r1_zero", data__filter=False), tokenizer)
    texts = {found.train.source(index): found.train.example(index).prompt for index in range(len(found.train))}
    bare = [text for name, text in texts.items() if name.startswith(two_files[0])]
    written = [text for name, text in texts.items() if name.startswith(str(weighed_file))]
    assert bare and written and all("<think>" not in text for text in bare) and all("<think>" in text for text in written)
    assert found.description(tokenizer)["sources"][1]["weights"][0] < found.description(tokenizer)["sources"][1]["weights"][1]


def test_a_validation_set_overlaps_with_rows_of_any_source(make_config, tokenizer, two_files, tmp_path):
    problems = tmp_path / "problems.jsonl"
    lines = [json.loads(Path(name).read_text().splitlines()[3]) for name in two_files]
    problems.write_text(json.dumps(renamed(lines[0])) + "\n" + json.dumps(lines[1]) + "\n")
    sources = [{"path": two_files[0]}, {"path": two_files[1], "columns": SECOND_COLUMNS}]
    validation = {"path": str(problems), "columns": SECOND_COLUMNS}
    found = prepare(make_config(data__train=sources, data__validation=validation), tokenizer)
    overlapping = {row.source for row in found.ledger if row.fate == "overlap"}
    assert {f"{two_files[0]}:4", f"{two_files[1]}:4"} <= overlapping


def test_a_fault_of_a_source_names_it(make_config, tokenizer, two_files):
    with pytest.raises(InputError, match=r'data\.train\[1\]\.where = "nope"'):
        prepare(make_config(data__train=[{"path": two_files[0]}, {"path": two_files[1], "where": "nope"}]), tokenizer)


@pytest.mark.parametrize(
    ("train", "why"),
    [
        ([], "empty list"),
        ([{"path": "a", "weight": 0}], "it must be from 1e-09"),
        ([{"path": "a", "weight": True}], "not true or false"),
        ([{"path": "a", "wieght": 1}], r"did you mean data\.train\.0\.weight"),
        ([{"weight": 1}], r"data\.train\.0\.path: field required"),
        (["a"], r"data\.train\.0: "),
        ([{"path": "a", "columns": {"prompt": "q"}, "shape": "my:own"}], "leave one of them out"),
    ],
)
def test_a_list_of_sources_that_cannot_be_meant_is_refused(train, why):
    with pytest.raises(InputError, match=why):
        parse_config({"data": {"train": train}})


def test_several_sources_survive_toml():
    config = parse_config(
        {"data": {"train": [{"path": "a", "weight": 2, "columns": {"prompt": "q"}}, {"path": "b"}], "where": "ok"}}
    )
    again = parse_config(tomllib.loads(to_toml(config)))
    assert again == config and again.data.of_training() == config.data.of_training()
    a, b = again.data.of_training()
    assert a.weight == 2 and b.weight == 1 and a.source.where == b.source.where == "ok" and not b.source.columns


@pytest.mark.slow
def test_a_run_on_two_sources_says_what_each_counts(make_config, two_files, tmp_path, capsys):
    sources = [{"path": two_files[0]}, {"path": two_files[1], "weight": 3, "columns": SECOND_COLUMNS}]
    config = make_config(data__train=sources, train__num_steps=2, eval__before=False)
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert main(["train", str(tmp_path / "config.toml")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "What is trained on, by source" in said
    assert "What is trained on, by source" in (tmp_path / "run" / "report.html").read_text()
    described = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [each["source"] for each in described["sources"]] == list(two_files)


def test_other_machines_see_all_sources_under_absolute_names(two_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse_config({"data": {"train": [{"path": "first.jsonl", "weight": 2}, {"path": "openai/gsm8k"}]}})
    assert with_absolute_paths(config).data.of_training()[0].source.path == two_files[0]
    assert with_absolute_paths(config).data.paths[1] == "openai/gsm8k" and with_absolute_paths(config).data.train[0].weight == 2


def test_a_change_of_weights_is_a_change_of_the_run(two_files):
    first, second = (parse_config({"data": {"train": [{"path": "a", "weight": weight}, {"path": "b"}]}}) for weight in (2, 3))
    assert differences(first, second) == [
        "data.train: [{ path = a, weight = 2.0 }, { path = b }] → [{ path = a, weight = 3.0 }, { path = b }]"
    ]
    weighed = parse_config({"data": {"train": "a", "weight": "w"}})
    assert differences(weighed, parse_config({"data": {"train": "a"}})) == ["data.weight: w → none"]


def test_the_filter_leaves_rows_out_that_count_nothing(weighed_file, tmp_path):
    out = tmp_path / "kept.jsonl"
    assert main(["filter", str(weighed_file), "--out", str(out), "--data.weight", "weight"]) == 0
    kept = [json.loads(line)["weight"] for line in out.read_text().splitlines()]
    assert len(kept) == 30 and set(kept) == {0.5, 1, 2}


@pytest.mark.slow
def test_the_doctor_proves_a_weighted_run(make_config, weighed_file, monkeypatch):
    named = ("the loss is on the response alone", "packed = unpacked", "fused = plain objective", "1×8 = 8×1")
    monkeypatch.setattr(doctor, "PROPERTIES", {name: doctor.PROPERTIES[name] for name in named})
    found = doctor.check(make_config(data__train=str(weighed_file), data__weight="weight", train__loss="dft"))
    assert all(finding.holds for finding in found.values()), found
