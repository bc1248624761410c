"""`tutelage plan`: what fits, what is proposed, and why."""

from __future__ import annotations

import itertools
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutelage.advice import propose
from tutelage.advice.document import as_json
from tutelage.advice.measure import measured
from tutelage.advice.propose import WORTH, WORTH_A_SEAT, Asked, Option, Planner
from tutelage.advice.tell import changed, fragment, planned, reasons, show
from tutelage.cli.entry import main
from tutelage.config import load_config, parse_config, replaced
from tutelage.errors import InputError
from tutelage.model.order import Course
from tutelage.model.policy import RECOMPUTATIONS
from tutelage.resources import device as devices
from tutelage.resources import estimate, generation
from tutelage.resources.device import GIB, Device, device_named
from tutelage.resources.placement import Seat
from tutelage.resources.seconds import STEP_ON_HOST

QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> str:
    """Qwen2.5-Math-1.5B's configuration, and nothing else of it."""
    directory = tmp_path_factory.mktemp("qwen")
    (directory / "config.json").write_text(json.dumps(QWEN))
    return str(directory)


@pytest.fixture(autouse=True)
def made_once(monkeypatch):
    """A model of shapes takes a second to make: the same ones serve all tests."""
    right = estimate.outlined

    def outlined(config, tokenizer, device):
        key = repr((config.model, config.train.pack, tokenizer is None, device))
        if key not in MADE:
            MADE[key] = right(config, tokenizer, device)
        return MADE[key]

    monkeypatch.setattr(estimate, "outlined", outlined)


MADE: dict[str, object] = {}


def config_of(qwen, **settings):
    return parse_config({"model": {"id": qwen, **settings.pop("model", {})}, **settings})


def advise(config, device=None, **asked):
    return propose.advise(config, Asked(device, **asked))


@pytest.mark.slow
def test_the_model_of_the_mission_on_a_24_gb_card_is_what_the_recipe_says(qwen):
    recipe = load_config("recipes/math-24gb.toml", [f"--model.id={qwen}"])
    found = advise(config_of(qwen, train={"grad_accum": 16}), "a10g", length=4096)
    assert not found.given.needs.fits and found.proposal.needs.fits
    for dotted, (value, _) in reasons(found).items():
        section, _, key = dotted.partition(".")
        assert getattr(getattr(recipe, section), key) == value, dotted
    as_recipe = advise(recipe, "a10g", length=4096)
    assert as_recipe.given.needs.fits and as_recipe.given.needs.peak == pytest.approx(found.proposal.needs.peak, rel=0.01)


@pytest.mark.slow
def test_a_larger_card_keeps_float32_masters_and_computes_less_again(qwen):
    found = advise(config_of(qwen), "h100", length=2048)
    settings = {key: value for key, (value, _) in reasons(found).items()}
    assert settings["model.precision"] == "bf16-mixed" and settings["model.activation_checkpointing"] == "none"
    assert found.proposal.needs.tokens_per_second > advise(config_of(qwen), "a10g", length=2048).proposal.needs.tokens_per_second


@pytest.mark.slow
def test_where_nothing_else_fits_updates_in_the_backward_pass_are_proposed(qwen):
    found = advise(config_of(qwen), "8", length=1024)
    assert reasons(found)["train.update"][0] == "in_backward"
    assert found.proposal.needs.seconds is None and found.proposal.needs.tokens_per_second is None  # nothing is known of its speed
    assert advise(config_of(qwen), "2", length=1024).proposal is None


def test_with_a_second_card_vllm_has_it_and_holds_nothing_up(qwen):
    found = advise(config_of(qwen), "a10g", gpus=2, length=2048)
    assert found.proposal.needs.seat is Seat.OWN_DEVICE and found.proposal.needs.seconds[1] == 0
    assert reasons(found)["eval.device"][0] == "cuda:1"
    several = advise(config_of(qwen), "a10g", gpus=5, length=2048)
    assert several.given.needs.training["moments"] == pytest.approx(found.given.needs.training["moments"] / 4)
    assert reasons(several)["eval.device"][0] == "cuda:4"


def test_evaluation_that_the_configuration_names_stays(qwen):
    found = advise(config_of(qwen, eval={"backend": "native"}), "h100", gpus=2, length=1024)
    assert found.proposal.needs.seat is Seat.NATIVE and reasons(found)["eval.backend"][0] == "native"


def test_a_plan_keeps_to_what_is_said_of_the_engine(qwen):
    """A run would keep to it, too, or refuse to start."""
    alone = {"in_turns": "off"}
    found = advise(config_of(qwen, eval=alone), "a10g", length=1024)
    assert Seat.IN_TURNS not in {found.given.needs.seat, found.proposal.needs.seat}
    asked = advise(config_of(qwen, eval={**alone, "backend": "vllm"}), "a10g", length=1024)
    assert not asked.given.needs.fits and (asked.proposal is None or asked.proposal.needs.seat is Seat.BESIDE)
    waits = advise(config_of(qwen, eval={"mode": "sync"}), "a10g", gpus=2, length=1024).given.needs
    assert waits.seat is Seat.OWN_DEVICE and waits.seconds[1] > 0


def test_the_proposal_is_the_fastest_that_fits_of_its_way(qwen):
    found = advise(config_of(qwen), "a100-40", length=2048)
    planner = Planner(found.config, found.prepared, found.estimator)
    for kind in RECOMPUTATIONS:
        for budget in (2048, 4096, 8192):
            other = planner.option({**found.proposal.changes, "train.pack_tokens": budget}, kind).needs
            slower = sum(other.seconds) >= 0.99 * sum(found.proposal.needs.seconds) / WORTH
            assert not other.fits or other.seat is not found.proposal.needs.seat or slower


@pytest.mark.parametrize("name", ["h100", "a100-40", "l4", "60"])
@pytest.mark.parametrize("settings", [{}, {"eval": {"mode": "async"}}, {"model": {"lora": "lora"}}])
def test_evaluation_beside_training_is_not_given_up_for_a_few_seconds(qwen, name, settings):
    found = advise(config_of(qwen, **settings), name, length=1024)
    given, proposed = found.given.needs, found.proposal.needs
    if given.fits and given.seat is Seat.BESIDE and proposed.seat is not Seat.BESIDE:
        assert "eval" not in settings and sum(given.seconds) >= WORTH_A_SEAT * sum(proposed.seconds)
    if "eval" in settings and any(each.seat is Seat.BESIDE for each in (given,) if each.fits):
        assert proposed.seat is Seat.BESIDE


def test_where_it_fits_as_it_is_one_column_says_so_and_nothing_is_proposed(make_config, capsys):
    found = advise(make_config(), "h100")
    show(found)
    said = capsys.readouterr().out
    assert "It fits as it is: nothing to change." in said and "as it is" in said and "proposed" not in said.lower()
    assert fragment(found) == "" and as_json(found)["fits_as_it_is"] and not any(each["changed"] for each in as_json(found)["reasons"].values())


def test_what_is_proposed_differs_from_what_was_given_in_each_line(qwen):
    for name, settings in (("h100", {}), ("a10g", {}), ("l4", {"train": {"batch_size": 1, "grad_accum": 16}}), ("24", {})):
        found = advise(config_of(qwen, **settings), name, length=1024)
        proposed = tomllib.loads(fragment(found))
        for section, values in proposed.items():
            for key, value in values.items():
                assert getattr(getattr(found.config, section), key) != value, (name, section, key)
        assert bool(proposed) == bool(changed(found))


def test_a_pack_and_the_largest_of_the_packs_are_told_apart(make_config, capsys):
    """What is proposed, what it is explained by and what the table says are the same numbers."""
    found = advise(make_config(train__batch_size=16, train__grad_accum=1, train__pack_tokens=64), "h100")
    tokens, budget = found.proposal.needs.load.tokens, found.budget(found.proposal)
    value, why = reasons(found)["train.pack_tokens"]
    assert value == budget and (tokens >= budget or f"up to {budget:,} tokens ({tokens:,} in the largest" in why)
    show(found)
    assert f"{budget:,} at most" in capsys.readouterr().out and as_json(found)["proposal"]["pack_tokens"] == budget


def test_a_directory_without_a_tokenizer_wants_a_length_and_is_planned_with_one(qwen, tmp_path, capsys):
    rows = "".join(json.dumps({"problem": f"{n}?", "solution": "So it is \\boxed{4}."}) + "\n" for n in range(300))
    (tmp_path / "own.jsonl").write_text(rows)
    arguments = ["plan", "--model.id", qwen, "--data.train", str(tmp_path / "own.jsonl"), "--device", "h100"]
    assert main(arguments) == 2 and "--length 1024" in capsys.readouterr().err
    assert main([*arguments, "--length", "512"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "own.jsonl: 300 rows, 270 of them trained on" in said and "30 problems to validate on" in said


def test_rows_that_are_not_on_this_machine_are_imagined_and_said_to_be(qwen, tmp_path):
    here = advise(config_of(qwen, data={"train": "arithmetic"}), "l4", length=64)
    assert not here.rows.imagined and here.rows.training == 640 and here.prepared.rows == 640 and here.rows.validation == 128
    away = advise(config_of(qwen, data={"train": "somebody/solutions", "size": 100}), "l4", length=64)
    assert away.rows.imagined and away.prepared.rows == 100 and as_json(away)["rows"]["imagined"]


def test_steps_of_a_small_model_take_as_long_as_their_launches(make_config):
    found = advise(make_config(train__num_steps=10), "h100").given.needs
    assert found.seconds[0] > 10 * STEP_ON_HOST
    larger = advise(make_config(train__num_steps=10), "cpu").given.needs
    assert larger.seconds[0] < found.seconds[0]  # a CPU launches nothing


def test_memory_is_said_in_gib_alone(qwen, capsys):
    show(advise(config_of(qwen), "h100", length=1024))
    said = capsys.readouterr().out
    assert "79.0 GiB of memory, of which 71.1 GiB" in said and " GB" not in said.replace("80 GB SXM", "")


def test_the_written_plan_keeps_comments_and_order_of_the_file(qwen, tmp_path):
    text = f'# first of all\n[train]\n# how fast\nlr = 3e-5  # mine\n\n[model]\n# which\nid = "{qwen}"\n'
    file, out = tmp_path / "c.toml", tmp_path / "planned.toml"
    file.write_text(text)
    arguments = ["plan", str(file), "--device", "a10g", "--length", "1024", "--out", str(out), "--train.seed", "7"]
    assert main(arguments) == 0
    lines = out.read_text().splitlines()
    assert [line for line in lines if line in text.splitlines()] == text.splitlines()
    config = load_config(out)
    assert (config.model.precision, config.train.seed, config.train.lr) == ("bf16-sr", 7, 3e-5)
    assert next(line for line in lines if "bf16-sr" in line).count("  # ") == 1


def test_the_documentation_names_each_key_of_the_json(qwen):
    told = as_json(advise(config_of(qwen), "a10g", length=1024))
    keys = {*told, *told["given"], *told["rows"], *next(iter(told["reasons"].values())), *told["given"]["engine"]["in_turns"]}
    page = Path("docs/howto/plan.md").read_text()
    assert not {key for key in keys if f"`{key}`" not in page}


def test_a_slow_network_is_what_several_cards_wait_for(qwen, capsys):
    found = {
        name: advise(config_of(qwen, eval={"backend": "native"}), "h100", gpus=4, length=1024, network=name) for name in (None, "100gb")
    }
    own, slow = (each.given.needs for each in found.values())
    assert slow.takes["network"] == pytest.approx(36 * own.takes["network"]) and slow.takes["network"] > slow.takes["products"]
    assert sum(slow.seconds) > sum(own.seconds) and slow.training == own.training
    show(found["100gb"])
    assert "the network between the cards" in capsys.readouterr().out
    assert as_json(found["100gb"])["link_bytes_per_second"] == 12.5e9


def test_long_rows_are_planned_by_tiles_and_with_the_host(tmp_path):
    """64k tokens of a 1.5B model on 80 GB, 16k on 24 GB, and half a million on 80 GB, where inputs of layers wait in the host."""
    (tmp_path / "config.json").write_text(json.dumps({**QWEN, "max_position_embeddings": 10**6}))
    native = {"backend": "native", "max_new_tokens": 64}
    found = {}
    for name, length in (("h100", 65_536), ("24", 16_384), ("h100", 500_000)):
        found[length] = advise(config_of(str(tmp_path), eval=native), name, length=length).proposal
        assert found[length].needs.fits
    assert "model.activation_offload" not in found[65_536].changes and found[500_000].changes["model.activation_offload"]
    assert found[500_000].needs.tile and found[65_536].needs.kind == "none" and found[65_536].needs.tile, "attention is not computed twice"
    with_less = advise(config_of(str(tmp_path), eval=native, model={"tile": 0}), "h100", length=65_536).proposal.needs
    assert with_less.kind == "full" and not with_less.tile and sum(with_less.seconds) > 1.1 * sum(found[65_536].needs.seconds)


def test_where_training_alone_would_fit_the_plan_says_so(qwen, capsys):
    found = advise(config_of(qwen), "h100", length=64)
    needs = replace(found.given.needs, evaluation={"weights": 1e15}, fits=False)
    show(replace(found, proposal=None, others=[Option({"model.precision": "bf16-sr"}, needs)]))
    assert "Training alone would fit (bf16-sr, adamw, none: " in " ".join(capsys.readouterr().out.split())
    several = advise(config_of(qwen, model={"precision": "bf16-sr"}, eval={"backend": "native"}), "h100", gpus=4, length=64).given.needs
    assert several.evaluation["gathered"] == 2 * 1_543_714_304  # each rank generates with all weights


def test_a_trial_of_real_steps_takes_the_place_of_what_is_reckoned(make_config, monkeypatch, capsys):
    """Time is counted, not taken: a step has one second, and the trial three."""
    ticks = itertools.count()
    config = make_config(train__num_steps=100)
    found = advise(config)
    changes, needs = found.proposal
    trial = measured(replaced(config, changes), found.prepared, found.estimator.tokenizer, needs, seconds=6.0, now=lambda: next(ticks) * 1.0)
    assert trial.steps >= 1 and trial.seconds == 1.0 and trial.peak_bytes is None
    course = Course(found.prepared, config, found.estimator.policy(config))
    tokens = [sum(map(len, course.examples(step))) for step in range(1, 1 + trial.steps)]
    assert trial.tokens_per_second == sum(tokens) / trial.steps
    assert trial.training_seconds == pytest.approx(found.prepared.tokens * 100 / course.epoch / trial.tokens_per_second)
    with_trial = replace(found, measured=trial)
    assert as_json(with_trial)["measured"] == trial._asdict()
    show(with_trial)
    assert f"{trial.steps} steps of 1.00 s" in " ".join(capsys.readouterr().out.split())


def test_steps_are_measured_on_this_machine_alone(qwen):
    for more in (["--device", "h100"], ["--length", "64"], ["--gpus", "2"]):
        assert main(["plan", "--model.id", qwen, "--measure", *more]) == 2


def test_time_is_that_of_the_rows_and_memory_that_of_the_largest_pack(make_config):
    short = advise(make_config(train__num_steps=4), "l4")
    long = advise(make_config(train__num_steps=8), "l4")
    assert long.given.needs.seconds[0] == pytest.approx(2 * short.given.needs.seconds[0], rel=0.1)
    assert long.given.needs.training == short.given.needs.training
    assert 0 < short.given.needs.load.targets < short.given.needs.load.tokens


def test_on_this_cpu_rates_are_measured_and_the_plan_is_in_its_precision(make_config, monkeypatch):
    monkeypatch.setattr("tutelage.model.load.has_bfloat16", lambda device: False)
    found = advise(make_config(model__precision="bf16-mixed"), "cpu")
    assert found.proposal.needs.seat is Seat.NATIVE and reasons(found)["model.precision"][0] == "fp32"
    assert found.proposal.needs.tokens_per_second > 0


def test_a_trace_takes_the_place_of_the_formula(make_config):
    given, traced = (advise(make_config(), "l4", trace=trace).given.needs for trace in (False, True))
    assert traced.training["activations"] != given.training["activations"]
    assert sum(traced.training.values()) == pytest.approx(sum(given.training.values()), rel=0.2)


def test_the_fragment_is_toml_with_a_reason_on_each_line_and_the_plan_can_be_trained_by(qwen, tmp_path):
    found = advise(config_of(qwen, train={"lr": 3e-5}, data={"prompt": "plain"}), "a10g", length=2048)
    text = fragment(found)
    settings = tomllib.loads(text)
    for line in text.splitlines():
        assert not line or line[0] == "[" or "  # " in line
    assert settings["model"]["precision"] == "bf16-sr"
    (tmp_path / "planned.toml").write_text(planned(found))
    config = load_config(tmp_path / "planned.toml")
    assert config.train.lr == 3e-5 and config.data.prompt == "plain" and config.model.precision == "bf16-sr"
    assert config.model.id == qwen


def test_padded_rows_are_planned_as_such(make_config):
    packed, padded = (advise(make_config(train__pack=pack, train__batch_size=8, train__grad_accum=1), "l4") for pack in (True, False))
    assert padded.given.needs.load.tokens > packed.given.needs.load.tokens
    assert "train.pack_tokens" not in reasons(padded)
    assert reasons(padded)["train.batch_size"][0] * reasons(padded)["train.grad_accum"][0] == 8


def test_what_a_model_has_no_positions_for_is_refused(qwen):
    with pytest.raises(InputError, match="the model has positions for 4096"):
        advise(config_of(qwen), "a10g", length=5000)


def test_a_model_that_cannot_be_traced_is_one_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 1}))
    with pytest.raises(InputError, match="cannot be traced .*leave out --trace"):
        advise(config_of(str(tmp_path)), "a10g", length=128, trace=True)


def test_ranks_are_named_and_are_no_faster_than_a_step_has_batches(qwen, capsys):
    few, many = (advise(config_of(qwen, eval={"backend": "native"}), "a10g", gpus=gpus, length=1024) for gpus in (4, 16))
    rates = [each.given.needs.tokens_per_second for each in (few, many)]
    assert few.ranks == 4 and 0.8 * rates[0] < rates[1] < 1.05 * rates[0]  # a rank receives more of what it has not
    show(few)
    assert "start it with --launch 4" in " ".join(capsys.readouterr().out.split())


def test_where_nothing_fits_the_exit_code_says_so(qwen, capsys):
    assert main(["plan", "--model.id", qwen, "--device", "0.5", "--length", "64", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["proposal"] is None


def test_the_rows_of_a_step_are_never_changed(qwen):
    found = advise(config_of(qwen, train={"batch_size": 4, "grad_accum": 2}), "a10g", length=1024)
    assert not {"train.batch_size", "train.grad_accum"} & set(reasons(found))


@pytest.mark.parametrize("name", ["a11g", "0", "-3", "nan", "1e9", "GiB", ""])
def test_a_device_that_is_not_known_is_refused(name):
    with pytest.raises(InputError, match="write one of t4, a10g, l4, .*rtx5090, cpu, or the GiB"):
        device_named(name)


def test_devices_have_the_figures_of_their_data_sheets():
    ampere = {"a10g", "l4", "l40s", "a100-40", "a100-80", "h100", "h200", "b200", "rtx3090", "rtx4090", "rtx5090"}
    assert set(devices.KNOWN) == {"t4", *ampere}
    for name, device in devices.KNOWN.items():
        assert isinstance(device, Device) and device.kind == "cuda"
        assert 14 * GIB < device.memory < 180 * GIB and 10e9 < device.host <= device.link < 1e12
        bfloat16, float32 = device.product_rate(torch.bfloat16), device.product_rate(torch.float32)
        assert bfloat16 > float32 > 1e13 if name in ampere else bfloat16 == float32  # a T4 has no bfloat16
    assert device_named("24GiB").memory == device_named("24").memory == 24 * GIB


def test_vllm_needs_what_its_weights_and_cache_need(qwen):
    from tutelage.model.load import outline

    policy = outline(config_of(qwen).model, None, torch.device("cuda"))
    weights = 2 * 1_543_714_304
    assert generation.engine_bytes(policy, 2048) == pytest.approx(weights + 8 * 2048 * 2 * 28 * 2 * 128 * 2 + generation.ENGINE_OVERHEAD)


def test_the_command_prints_json_and_writes_the_plan(qwen, tmp_path, capsys):
    out = tmp_path / "planned.toml"
    arguments = ["plan", "--model.id", qwen, "--device", "a10g", "--length", "1024", "--json", "--out", str(out)]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["proposal"]["fits"] and told["reasons"]["model.precision"]["value"] == "bf16-sr"
    assert tomllib.loads(out.read_text())["model"]["precision"] == "bf16-sr"
    assert main(arguments) == 2 and "exists and is not overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"), [(["--gpus", "0"], "from 1 to 10,000"), (["--length", "1"], "at least two tokens"), (["--device", "x"], "--device x")]
)
def test_bad_arguments_are_one_error(qwen, capsys, arguments, what):
    try:
        code = main(["plan", "--model.id", qwen, "--device", "l4", "--length", "64", *arguments])
    except SystemExit as ended:  # the parser's way
        code = ended.code
    assert code == 2
    assert what in capsys.readouterr().err
