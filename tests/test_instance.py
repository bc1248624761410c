"""`init_vllm`'s engine is used as vLLM's `LLM` is, and an `LLM` of the user's own as an engine: with a stand-in for vLLM."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import vllm_stand_in
from vllm_stand_in import LLM, NewerParams, SamplingParams

from tutelage import (
    InputError,
    init_vllm,
    load_policy_into_vllm_instance,
    log_generations,
    log_generations_vllm,
    r1_zero_reward_fn,
)
from tutelage.evaluation.certificate import UncertifiedWeights
from tutelage.evaluation.engine import registry, vllm
from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.handle import EngineHandle, EngineSetting

PROMPTS, TRUTHS = ["Ava has 3 pens.", "Ben?", "Is it?"], ["3", "4", "5"]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """`import vllm` finds the stand-in, and vLLM counts as installed."""
    monkeypatch.setitem(registry.ENGINES, "vllm", replace(registry.ENGINES["vllm"], missing=registry.nothing))
    return vllm_stand_in.install(monkeypatch)


@pytest.fixture
def llm(tiny_model, inside):
    with init_vllm(tiny_model, "cpu", 1, dtype="float32", max_model_len=200) as made:
        yield made


def said(answers):
    return [(answer.prompt, answer.prompt_token_ids, [output.text for output in answer.outputs]) for answer in answers]


# ── as vLLM's LLM ──


@pytest.mark.parametrize("params", [Sampling(5, 0.0, stop=()), SamplingParams(max_tokens=5, temperature=0)], ids=["ours", "vllm's"])
def test_a_prompt_is_a_text_ids_or_a_dict_or_a_list_of_them(llm, params):
    """Responses are those of the model to the same ids; characters of a text are never taken for ids."""
    text, ids = PROMPTS[0], llm.get_tokenizer().encode(PROMPTS[0])
    (expected,) = LLM(llm.handle.setting.model).generate([ids], SamplingParams(max_tokens=5, temperature=0), use_tqdm=False)
    response = expected.outputs[0].text
    with_text, without = (text, ids, [response]), (None, ids, [response])
    for prompts, found in (
        (text, [with_text]), ([text], [with_text]), ([text, text], [with_text] * 2), ({"prompt": text}, [with_text]),
        ([{"prompt": text}], [with_text]), (ids, [without]), ([ids], [without]), ({"prompt_token_ids": ids}, [without]),
        ([{"prompt_token_ids": ids}, text], [without, with_text]), ({"prompt_token_ids": ids, "prompt": text}, [with_text]), ([], []),
    ):  # fmt: skip
        assert said(llm.generate(prompts, params, use_tqdm=False)) == found


def test_responses_have_the_fields_of_vllms(llm):
    params = SamplingParams(n=2, max_tokens=6, temperature=1.0, logprobs=0, seed=3, prompt_logprobs=0)
    (answer,) = llm.generate("Ben?", params, use_tqdm=False)
    assert answer.finished and [output.index for output in answer.outputs] == [0, 1]
    assert answer.prompt_logprobs[0] is None and len(answer.prompt_logprobs) == len(answer.prompt_token_ids)
    for output in answer.outputs:
        assert output.finished() and output.finish_reason == "length" and output.stop_reason is None
        assert [list(position) for position in output.logprobs] == [[token] for token in output.token_ids]
        assert output.cumulative_logprob == pytest.approx(sum(entry.logprob for each in output.logprobs for entry in each.values()))
    (ours,) = llm.generate("Ben?", Sampling(6, 1.0, stop=(), samples=2, seed=3), use_tqdm=False)
    assert [output.index for output in ours.outputs] == [0, 1] and len({output.text for output in ours.outputs}) == 2


def test_a_stop_string_stays_or_goes_as_vllm_says(llm):
    (free,) = llm.generate("Ben?", SamplingParams(max_tokens=8, temperature=0), use_tqdm=False)
    stop = free.outputs[0].text[2:4]
    kept, cut, ours = (
        llm.generate("Ben?", params, use_tqdm=False)[0].outputs[0]
        for params in (
            SamplingParams(max_tokens=8, temperature=0, stop=[stop], include_stop_str_in_output=True),
            SamplingParams(max_tokens=8, temperature=0, stop=stop),
            Sampling(8, 0.0, stop=(stop,)),
        )
    )
    assert kept.text == ours.text == cut.text + stop and kept.stop_reason == cut.stop_reason == ours.stop_reason == stop
    assert kept.token_ids == cut.token_ids == ours.token_ids and ours.finish_reason == "stop"


def test_each_prompt_may_have_parameters_of_its_own_and_none_are_vllms_defaults(llm):
    answers = llm.generate(PROMPTS, [SamplingParams(max_tokens=count, temperature=0) for count in (2, 3, 4)], use_tqdm=False)
    assert [len(answer.outputs[0].token_ids) for answer in answers] == [2, 3, 4]
    assert len(llm.generate("Ben?", use_tqdm=False)[0].outputs[0].token_ids) <= 16


@pytest.mark.parametrize(
    ("prompts", "params", "what"),
    [
        (5, None, "prompts: a text, token ids, a dict, or a list of them is needed, not int"),
        (["a", 5], None, r"prompts\[1\] = 5: a text"),
        (["a", [5, "b"]], Sampling(2), r"prompts\[1\] = \[5, 'b'\]: a text"),
        ([{"text": "a"}], None, r"prompts\[0\] = .*prompt_token_ids"),
        ([[]], Sampling(2), r"prompts\[0\] = \[\]: a text"),
        ([[True, False]], Sampling(2), r"prompts\[0\] = \[True, False\]"),
        ("", Sampling(2), "a text without a token"),
        (["a", "b"], [SamplingParams()], "1 sampling_params for 2 prompts"),
        (["a"], [Sampling(2)], "pass it alone"),
        ("a", {"max_tokens": 4}, "vLLM's SamplingParams or a .*Sampling is needed, not a builtins.dict"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_computed(llm, prompts, params, what):
    asked = len(llm.handle.remote.engine.llm.asked)
    with pytest.raises(InputError, match=what):
        llm.generate(prompts, params)
    assert len(llm.handle.remote.engine.llm.asked) == asked


def test_a_bar_counts_responses_and_may_be_the_callers_own(llm, capsys):
    made = []

    class Bar:
        def __init__(self, total, desc):
            self.total, self.done = total, 0
            made.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, count):
            self.done += count

    for params, total in ((Sampling(3, samples=2), 6), (SamplingParams(max_tokens=3), 3)):
        llm.generate(PROMPTS, params, use_tqdm=Bar)
        assert (made[-1].total, made[-1].done) == (total, total)
    llm.generate(PROMPTS, Sampling(3), use_tqdm=True)
    assert "Processed prompts" in capsys.readouterr().err


def test_an_engine_without_vllm_takes_our_sampling_alone(tiny_model, inside):
    with init_vllm(tiny_model, "cpu", 1, backend="native", dtype="float32", max_model_len=200) as llm:
        assert len(llm.generate(PROMPTS, Sampling(3), use_tqdm=False)) == 3
        for params in (SamplingParams(), None, [SamplingParams()] * 3):
            with pytest.raises(InputError, match="does not take vLLM's SamplingParams: pass a tutelage.evaluation.Sampling"):
                llm.generate(PROMPTS, params)
    assert llm.handle.closed


# ── a vllm.LLM of the user's own ──


def changed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def with_adapters(model):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    return adapted


@pytest.mark.parametrize("separate", [False, True], ids=["in this process", "in a process of its own"])
@pytest.mark.parametrize(
    "kind",
    [
        changed,
        pytest.param(lambda model: torch.compile(changed(model)), marks=pytest.mark.slow),
        pytest.param(with_adapters, marks=pytest.mark.slow),
    ],
    ids=["plain", "compiled", "PEFT"],
)
def test_an_llm_of_ones_own_gets_the_weights_and_proves_it(tiny_model, model, kind, separate):
    """Before and after a step; stale weights are caught, and a prefix cache that is not reset is an error."""
    llm = LLM(tiny_model, separate=separate)
    assert load_policy_into_vllm_instance(model, llm).holds
    policy = kind(model)
    llm.is_stale = True
    with pytest.raises(UncertifiedWeights, match="does not hold the trainer's weights"):
        load_policy_into_vllm_instance(policy, llm)
    llm.is_stale = False
    proof = load_policy_into_vllm_instance(policy, llm)
    assert proof.holds and proof.max_gap < 1e-4 and llm.resets == 3
    llm.reset_prefix_cache = lambda: False
    with pytest.raises(RuntimeError, match="prefix cache could not be reset"):
        load_policy_into_vllm_instance(policy, llm)


@pytest.mark.parametrize("params", [Sampling(6, 0.0), SamplingParams(max_tokens=6, temperature=0, logprobs=2)], ids=["ours", "vllm's"])
def test_generations_of_ones_own_llm_are_logged_like_those_of_the_model(tiny_model, model, tokenizer, params):
    llm = LLM(tiny_model)
    load_policy_into_vllm_instance(changed(model), llm)
    ours = log_generations(model, tokenizer, PROMPTS, TRUTHS, r1_zero_reward_fn, max_new_tokens=6, temperature=0)
    told = []
    theirs = log_generations_vllm(llm, PROMPTS, TRUTHS, r1_zero_reward_fn, params, batch_size=2, on_finished=told.append)
    for a, b in zip(ours["records"], theirs["records"], strict=True):
        entropies = ("token_entropy", "avg_token_entropy")
        assert {**a, **dict.fromkeys(entropies)} == {**b, **dict.fromkeys(entropies)}
        assert a["token_entropy"] == pytest.approx(b["token_entropy"], abs=1e-4)  # by the policy whose weights it has
    assert sum(told) == 3
    bound = log_generations_vllm(llm, PROMPTS, TRUTHS, r1_zero_reward_fn, params, entropy="top-k")
    assert all(0 < record["token_entropy"] < 6 for record in bound["records"])


@pytest.mark.parametrize("wrong", ["vllm", 5, None, "model"])
def test_what_is_no_engine_and_what_is_no_model_is_said(tiny_model, model, wrong):
    wrong = model if wrong == "model" else wrong
    with pytest.raises(InputError, match="an engine is needed, which init_vllm returns, or a vllm.LLM, not "):
        load_policy_into_vllm_instance(model, wrong)
    with pytest.raises(InputError, match="an engine is needed"):
        log_generations_vllm(wrong, PROMPTS, TRUTHS, r1_zero_reward_fn, Sampling(3))
    if wrong is not model:
        with pytest.raises(InputError, match="a model of transformers is needed, compiled or not, or a Policy, not "):
            load_policy_into_vllm_instance(wrong, LLM(tiny_model))


def test_the_handle_of_a_trainer_is_an_engine_too(tiny_model, model, inside):
    handle = EngineHandle(EngineSetting(tiny_model, torch.device("cpu"), dtype="float32", backend="fake"))
    handle.start()
    assert load_policy_into_vllm_instance(changed(model), handle).holds


# ── what differs between versions of vLLM ──


def test_a_watermark_is_refused_where_vllm_knows_one(tiny_model, monkeypatch):
    for params, watermarking in ((SamplingParams, None), (NewerParams, False)):
        vllm_stand_in.install(monkeypatch, params)
        engine = vllm.VllmEngine(tiny_model, "cpu", "float32", 0, 0.5, 100)
        assert getattr(engine.params(Sampling(4), 0, 0), "watermarking", None) is watermarking


def test_vllm_neither_raises_a_temperature_nor_adds_ends_of_its_own(tiny_model):
    engine = vllm.VllmEngine(tiny_model, "cpu", "float32", 0, 0.5, 100)
    assert engine.params(Sampling(4, 0.001), 0, 0).temperature == 0.001
    engine.generate([[5, 6]], Sampling(4, 0.0, min_new_tokens=2))
    ((_, params),) = engine.llm.asked
    params.update_from_generation_config({}, 7)
    assert params.seen_ends == [] and params.ignore_eos and params.include_stop_str_in_output
