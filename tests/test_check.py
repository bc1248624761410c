"""The doctor: a healthy model passes, and each planted fault is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tutelage.check import computing, doctor, running, subject, text
from tutelage.cli import main
from tutelage.config import to_toml
from tutelage.errors import InputError
from tutelage.evaluation import REWARD_FUNCTIONS, solve
from tutelage.evaluation.engine import native
from tutelage.model import Policy, scoring
from tutelage.model import pack as right_pack
from tutelage.model.attention import cpu as attention_cpu
from tutelage.runs import checkpoint


def only(monkeypatch, *names):
    """Try these properties alone: two ranks, or an engine, take seconds."""
    monkeypatch.setattr(doctor, "PROPERTIES", {name: doctor.PROPERTIES[name] for name in names})


@pytest.mark.slow
def test_everything_is_proven_on_a_healthy_model(make_config, inside, capsys):
    findings = doctor.check(make_config(model__precision="bf16-mixed", eval__backend="fake"))
    assert {name: found.verdict for name, found in findings.items()} == dict.fromkeys(doctor.PROPERTIES, "proven"), findings
    doctor.show(findings)
    assert "13 of 13 proven" in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_be_asked_is_not_applicable_and_nothing_stays_on_the_disk(make_config, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    only(monkeypatch, "packed = unpacked", "bfloat16 is near float32", "native = vLLM", "resumed = uninterrupted")
    before = sorted(tmp_path.iterdir())
    findings = doctor.check(make_config(train__pack=False))
    assert [found.verdict for found in findings.values()] == ["not applicable"] * 3 + ["proven"]
    assert sorted(tmp_path.iterdir()) == before


# --- planted faults: each property, broken once


def other_ids_in_validation(monkeypatch, _):
    right = solve.encode_prompt
    monkeypatch.setattr(solve, "encode_prompt", lambda tokenizer, prompt: [3, *right(tokenizer, prompt)])


def responses_that_read_back_otherwise(monkeypatch, _):
    from tutelage.data import recipe

    right = recipe.encode_texts

    def other(tokenizer, texts, begin=False):
        return right(tokenizer, texts if begin else [text.replace(" ", "  ") for text in texts], begin)

    monkeypatch.setattr(recipe, "encode_texts", other)
    monkeypatch.setattr("tutelage.data.keys.code", lambda: "another")


def masked_where_padding_would_be(monkeypatch, _):
    """The classic: pad and end are the same token, and the mask is made from token ids."""
    def pack(rows):
        batch = right_pack(rows)
        kept = (batch.labels != 0).nonzero().flatten()
        index = {int(old): new for new, old in enumerate(kept)}
        of_examples = tuple(torch.tensor([index[int(t)] for t in targets if int(t) in index]) for targets in batch.of_examples)
        changed = {name: getattr(batch, name)[kept] for name in ("sources", "labels", "weights")}
        return replace(batch, of_examples=of_examples, **changed)

    monkeypatch.setattr(text, "pack", pack)


def loss_on_the_prompt(monkeypatch, _):
    def pack(rows):
        return right_pack([replace(row, prompt_ids=row.prompt_ids[:1], response_ids=row.prompt_ids[1:] + row.response_ids) for row in rows])

    monkeypatch.setattr(text, "pack", pack)


def rows_of_validation_problems_that_stay(monkeypatch, _):
    monkeypatch.setattr("tutelage.data.pool._without_overlap", lambda store, *_: store.well_formed.copy())


def everything_is_right(monkeypatch, _):
    monkeypatch.setitem(
        REWARD_FUNCTIONS, "r1_zero", lambda *_: {"reward": 1.0, "format_reward": 1.0, "answer_reward": 1.0}
    )


def nothing_equals_itself(monkeypatch, _):
    monkeypatch.setitem(
        REWARD_FUNCTIONS, "r1_zero", lambda *_: {"reward": 0.0, "format_reward": 1.0, "answer_reward": 0.0}
    )


def rows_that_see_each_other(monkeypatch, _):
    """After the model was tried, which would have found it out by itself."""
    right, made = attention_cpu._blocks, doctor.make_subject

    def make(*arguments):
        found = made(*arguments)
        monkeypatch.setattr(attention_cpu, "_blocks", lambda ends: right(torch.full_like(ends, len(ends))))
        return found

    monkeypatch.setattr(doctor, "make_subject", make)


def a_gradient_that_is_too_large(monkeypatch, _):
    right = scoring._one_chunk

    def one_chunk(*arguments):
        log_probs, entropies, gradient = right(*arguments)
        return log_probs, entropies, None if gradient is None else gradient * 1.01

    monkeypatch.setattr(scoring, "_one_chunk", one_chunk)


def means_of_means(monkeypatch, _):
    """Each batch divided by its own targets."""
    right = Policy.score

    def score(self, batch, *others, **options):
        scores = right(self, batch, *others, **options)
        return replace(scores, total=scores.total / len(batch.sources) * 100)

    monkeypatch.setattr(Policy, "score", score)


def a_rank_that_forgets_rows(monkeypatch, request):
    def launch(count, arguments, module):
        assert (count, module) == (2, "tutelage.check.rank")
        request.getfixturevalue("ranks").run("job_check_with_forgotten_rows", arguments=arguments)
        return 0

    monkeypatch.setattr(computing, "launch", launch)


def bfloat16_far_off(monkeypatch, _):
    right = Policy.score

    def score(self, batch, *others, **options):
        scores = right(self, batch, *others, **options)
        return replace(scores, log_probs=scores.log_probs - 0.2) if self.precision == "bf16-mixed" else scores

    monkeypatch.setattr(Policy, "score", score)


def moments_that_are_forgotten(monkeypatch, _):
    right = checkpoint.load

    def load(path, model, optimizer, world):
        step = right(path, model, optimizer, world)
        for state in optimizer.state.values():
            state["exp_avg"].zero_()
        return step

    monkeypatch.setattr(checkpoint, "load", load)


def an_engine_with_stale_weights(monkeypatch, _):
    monkeypatch.setenv("TUTELAGE_FAKE", "stale")


def generation_that_ends_elsewhere(monkeypatch, _):
    monkeypatch.setattr(native, "end_token_ids", lambda *_: {5})


FAULTS = [
    ("token ids round-trip, and are validation's", other_ids_in_validation, "other ids"),
    ("token ids round-trip, and are validation's", responses_that_read_back_otherwise, "read back as another text"),
    ("every row teaches the end token", masked_where_padding_would_be, "0 times"),
    ("the loss is on the response alone", loss_on_the_prompt, "not its response"),
    ("nothing is validated on that is trained on", rows_of_validation_problems_that_stay, "equal to the validation problem"),
    ("grader self-test", everything_is_right, "should be wrong"),
    ("grader self-test", nothing_equals_itself, "should be right"),
    ("packed = unpacked", rows_that_see_each_other, "nats"),
    ("fused = plain objective", a_gradient_that_is_too_large, "gradients differ by 1.0e-02"),
    ("1×8 = 8×1", means_of_means, "gradients differ"),
    ("two ranks = one", a_rank_that_forgets_rows, "gradients differ"),
    ("bfloat16 is near float32", bfloat16_far_off, "0.2 nats on average"),
    ("resumed = uninterrupted", moments_that_are_forgotten, "weights differ"),
    ("native = vLLM", an_engine_with_stale_weights, "nats"),
    ("generation stops at the end token", generation_that_ends_elsewhere, "was let go on"),
]


STARTS_PROCESSES = (a_rank_that_forgets_rows,)


@pytest.mark.parametrize(
    ("name", "fault", "figures"),
    [
        pytest.param(*given, id=given[1].__name__, marks=[pytest.mark.slow] if given[1] in STARTS_PROCESSES else [])
        for given in FAULTS
    ],
)
def test_a_planted_fault_is_named(make_config, monkeypatch, request, inside, name, fault, figures):
    only(monkeypatch, name)
    config = make_config(model__precision="bf16-mixed", eval__backend="fake")
    fault(monkeypatch, request)
    (found,) = doctor.check(config).values()
    assert found.verdict == "failed", found
    assert figures in found.figures


def test_every_property_has_a_planted_fault():
    assert {name for name, _, _ in FAULTS} == set(doctor.PROPERTIES)


def test_rows_that_are_all_cut_never_teach_the_end_token(make_config, monkeypatch):
    only(monkeypatch, "every row teaches the end token")
    (found,) = doctor.check(make_config(data__max_length=71, data__truncate="tail")).values()
    assert found.holds is False


@pytest.mark.parametrize(
    ("changes", "verdict", "figures"),
    [
        ({"data__test_size": 0.2}, "proven", "none equal, none near"),
        ({"data__test_size": 0}, "not applicable", "on training rows"),
        ({"data__validation": "itself", "data__overlap": "keep"}, "not applicable", 'rows overlap (data.overlap = "keep")'),
        ({"data__validation": "itself"}, "proven", "none near"),
    ],
    ids=str,
)  # fmt: skip
def test_what_overlaps_with_validation_is_found_again(make_config, monkeypatch, data_file, tmp_path, changes, verdict, figures):
    only(monkeypatch, "nothing is validated on that is trained on")
    if "data__validation" in changes:
        lines = data_file.read_text().splitlines(keepends=True)
        (tmp_path / "some.jsonl").write_text("".join(lines[:9]))
        changes = {**changes, "data__validation": str(tmp_path / "some.jsonl")}
    (found,) = doctor.check(make_config(**changes)).values()
    assert found.verdict == verdict and figures in found.figures


def test_the_fused_objective_is_proven_whatever_the_loss_of_the_run(make_config, monkeypatch):
    only(monkeypatch, "fused = plain objective")
    (found,) = doctor.check(make_config(train__loss="my_losses:focal")).values()
    assert found.holds, found


def test_what_breaks_while_it_is_tried_has_failed(make_config, monkeypatch):
    def broken(_):
        raise ValueError("no kernel for this\nand more")

    monkeypatch.setattr(doctor, "PROPERTIES", {"packed = unpacked": broken})
    (found,) = doctor.check(make_config()).values()
    assert found.verdict == "failed" and found.figures == "ValueError: no kernel for this"


def test_the_command_prints_json_and_exits_with_1_where_something_failed(make_config, monkeypatch, tmp_path, capsys):
    (tmp_path / "config.toml").write_text(to_toml(make_config()))
    only(monkeypatch, "grader self-test", "the loss is on the response alone")
    assert main(["check", str(tmp_path / "config.toml"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["failed"] == 0
    assert [(line["name"], line["verdict"]) for line in printed["properties"]] == [(name, "proven") for name in doctor.PROPERTIES]
    everything_is_right(monkeypatch, None)
    assert main(["check", str(tmp_path / "config.toml")]) == 1
    assert "1 of 2 failed: grader self-test" in capsys.readouterr().out


def test_what_is_not_a_number_is_never_near():
    nan = torch.tensor([float("nan")])
    assert not subject.largest_gap([torch.zeros(1), nan], [torch.zeros(1), torch.zeros(1)]) <= 1
    assert not subject.worst([0.0, float("nan")]) <= 1 and not subject.distance(nan, torch.ones(1)) <= 1


def test_positions_that_the_model_does_not_have_are_refused(make_config):
    with pytest.raises(InputError, match="the model has positions for 512"):
        doctor.check(make_config(data__max_length=600))


def test_distances_of_gradients():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert subject.distance(a, a) == 0 and subject.distance(b, a) == pytest.approx(0.1)
    assert subject.distance(a[:1], a) == float("inf")
    assert computing.GRADIENT_BOUND < 1e-3 and running.STEPS > running.SAVED_AFTER


def test_the_verdict_speaks_of_others_where_there_are_some(capsys):
    proven = subject.Finding(True, "as it should")
    doctor.show({"a": proven, "b": proven})
    assert "2 of 2 proven\n" in capsys.readouterr().out
    doctor.show({"a": proven, "b": subject.Finding(None, "no card")})
    assert "1 of 2 proven, the others not applicable here" in capsys.readouterr().out
