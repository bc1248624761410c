"""One token ends a response: the rows' targets, every engine and the saved model agree on it."""

from __future__ import annotations

import json

import pytest
import torch
from chain import CHATML, OWN, TURN, make_chain_model
from safetensors.torch import load_file

from tutelage.config import ModelConfig
from tutelage.data import prepare
from tutelage.data.stops import Stops, end_token
from tutelage.errors import InputError
from tutelage.evaluation.engine import native
from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.handle import EngineHandle, EngineSetting
from tutelage.evaluation.solve import sampling_of
from tutelage.model.load import load_policy, load_tokenizer, tokenizer_of
from tutelage.model.save import save_model

TURNS = "{% for m in messages %}"
TEMPLATES = {
    "ChatML": (CHATML, "<|im_end|>"),
    "Llama 3, which trims": (
        TURNS + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}", "<|eot_id|>",
    ),
    "Gemma, which splits": (
        TURNS + "<start_of_turn>{{ m.role }}\n{{ m.content.split('</think>')[-1] | trim }}<end_of_turn>\n{% endfor %}",
        "<end_of_turn>",
    ),
    "gpt-oss, whose last turn ends otherwise": (
        TURNS + "<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}"
        "{% if loop.last %}<|return|>{% else %}<|end_of_message|>{% endif %}{% endfor %}", "<|return|>",
    ),
    "two end tokens, the inner one first": (TURNS + "{{ m.content }}<|eot_id|>{% endfor %}{{ eos_token }}", "<|eot_id|>"),
    "the tokenizer's own": (TURNS + "{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}", OWN),
    "spaces that are tokens before it": (TURNS + "{{ m.content }}\n\n<|eot_id|>{% endfor %}", "<|eot_id|>"),
    "of two that begin alike, the longer": (TURNS + "{{ m.content }}<|eot_id|>x{% endfor %}", "<|eot_id|>x"),
    "content in parts": (TURNS + "{% for part in m.content %}{{ part.text }}{% endfor %}<|eot_id|>{% endfor %}", "<|eot_id|>"),
    "no end of turn": (TURNS + "<|start|>{{ m.role }}\n{{ m.content }}{% endfor %}", OWN),
    "no response shown": ("<|start|>{{ messages[0].content }}<|eot_id|>", OWN),
    "one that raises": ("{{ raise_exception('system first') }}", OWN),
    "one that is no template": ("{% for %}", OWN),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_end_is_what_the_chat_template_writes_after_a_response(tokenizer, kind):
    from tokenizers import AddedToken

    special = [
        "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>",
        "<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|end_of_message|>",
    ]  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": special + ["<|eot_id|>x"] * ("alike" in kind)})
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False)])
    tokenizer.chat_template, end = TEMPLATES[kind]
    assert end_token(tokenizer, True, None) == end
    assert end_token(tokenizer, False, None) == OWN, "without the template, its turns do not matter"


def test_a_wanted_end_token_wins_and_must_be_a_special_token(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    assert end_token(tokenizer, True, OWN) == OWN and end_token(tokenizer, False, "<|im_end|>") == "<|im_end|>"
    with pytest.raises(InputError, match=r'model.end_token = "<im_end>": it is not one token.*<\|im_end\|>'):
        end_token(tokenizer, True, "<im_end>")
    with pytest.raises(InputError, match=r'model.end_token = "a": it is an ordinary piece of text.*include: <\|end\|>'):
        end_token(tokenizer, True, "a")


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> str:
    return make_chain_model(tmp_path_factory.mktemp("chain"))


def test_a_tokenizer_ends_as_configured_and_is_otherwise_as_it_was(chain, make_config):
    published = load_tokenizer(chain)
    for changes, end in (
        ({"data__prompt": "chat"}, TURN), ({"data__prompt": "plain"}, OWN), ({"model__end_token": "<|im_start|>"}, "<|im_start|>"),
        ({"data__prompt": "chat", "model__end_token": OWN}, OWN),
    ):  # fmt: skip
        tokenizer = tokenizer_of(make_config(model__id=chain, **changes))
        assert tokenizer.eos_token == end and Stops.of(tokenizer).end_token_id == tokenizer.convert_tokens_to_ids(end)
        assert len(tokenizer) == len(published) and tokenizer.pad_token == OWN
    assert published.eos_token == OWN


def test_a_tokenizer_without_an_end_token_gets_one_or_is_refused(chain, make_config, tmp_path):
    tokenizer = load_tokenizer(chain)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    (tmp_path / "endless" / "config.json").write_text((tmp_path / chain / "config.json").read_text())
    endless = {"model__id": str(tmp_path / "endless")}
    with pytest.raises(InputError, match=r'no end token.*model.end_token = "TOKEN"'):
        tokenizer_of(make_config(**endless))
    assert tokenizer_of(make_config(**endless, data__prompt="chat")).eos_token == TURN
    assert tokenizer_of(make_config(**endless, model__end_token=OWN)).eos_token == OWN


def responses_of(chain, config, engine):
    """(tokens, text, finish reason) of the model's response to "a", in a run and without one."""
    tokenizer = tokenizer_of(config)
    in_a_run = sampling_of(config.eval, Stops.of(tokenizer))
    for sampling in (in_a_run, Sampling(8, temperature=0)):
        (said,) = engine(tokenizer, [[tokenizer.convert_tokens_to_ids("a")]], sampling)
        yield tokenizer.convert_ids_to_tokens(said.token_ids), said.text, said.finish_reason




@pytest.mark.parametrize("how", ["native", "fake"])
def test_a_run_stops_at_its_one_end_and_at_no_other(chain, make_config, inside, how):
    config = make_config(model__id=chain, data__prompt="chat", eval__temperature=0.0)
    held = EngineHandle(EngineSetting(chain, torch.device("cpu"), dtype="float32", backend="fake"))
    policy = load_policy(config.model, tokenizer_of(config))
    if how == "fake":
        held.start()

    def answer(tokenizer, prompts, sampling):
        return held.generate(prompts, sampling) if how == "fake" else native.generate(policy.model, tokenizer, prompts, sampling)

    in_a_run, alone = responses_of(chain, config, answer)
    assert in_a_run == ([OWN, "b", TURN], f"{OWN}b", "stop")
    assert alone == ([OWN], "", "stop")
    held.close()


def test_before_its_minimum_a_response_may_say_any_other_end(chain, make_config):
    config = make_config(model__id=chain, data__prompt="chat", eval__temperature=0.0, eval__min_new_tokens=2)
    policy = load_policy(config.model, tokenizer_of(config))
    (said,) = native.generate(
        policy.model, policy.tokenizer, [policy.tokenizer.encode("a")], sampling_of(config.eval, policy.stops)
    )
    assert policy.tokenizer.convert_ids_to_tokens(said.token_ids) == [OWN, "b", TURN]


def saved_ends(directory) -> dict:
    """What each file of a saved model says of its end."""
    from transformers import AutoTokenizer, GenerationConfig

    return {
        "generation_config": GenerationConfig.from_pretrained(directory).eos_token_id,
        "config": json.loads((directory / "config.json").read_text())["eos_token_id"],
        "tokenizer_config": json.loads((directory / "tokenizer_config.json").read_text())["eos_token"],
        "tokenizer": AutoTokenizer.from_pretrained(directory).eos_token_id,
    }


@pytest.mark.parametrize(("changes", "end"), [({"data__prompt": "chat"}, TURN), ({"model__end_token": "<|im_start|>"}, "<|im_start|>")])
def test_rows_learn_the_end_that_the_saved_model_holds(chain, make_config, tmp_path, changes, end):
    config = make_config(model__id=chain, **changes)
    policy = load_policy(config.model, tokenizer_of(config))
    end_id = policy.tokenizer.convert_tokens_to_ids(end)
    assert {row.response_ids[-1] for row in prepare(config, policy.tokenizer).train} == {end_id}
    save_model(policy, tmp_path / "saved", "# card\n")
    assert saved_ends(tmp_path / "saved") == {
        "generation_config": end_id, "config": end_id, "tokenizer_config": end, "tokenizer": end_id,
    }  # fmt: skip
    again = load_tokenizer(str(tmp_path / "saved"))
    assert len(again) == len(policy.tokenizer) and again.pad_token == OWN
    assert (tmp_path / "saved" / "README.md").read_text() == "# card\n"


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> str:
    """A model whose tokenizer has four tokens more than its embedding has rows."""
    from tiny import make_tiny_model
    from transformers import AutoTokenizer

    name = make_tiny_model(tmp_path_factory.mktemp("long"))
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]})
    tokenizer.save_pretrained(name)
    return name


def test_a_longer_tokenizer_is_refused_with_both_sizes(long, make_config):
    from tutelage.model.load import outline

    config, tokenizer = make_config(model__id=long), load_tokenizer(long)
    for load in (
        lambda: tokenizer_of(config), lambda: load_policy(config.model, tokenizer),
        lambda: outline(config.model, tokenizer, torch.device("cpu")),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"404 tokens.*only 400 rows: set model.resize = true"):
            load()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", ["none", "lora"])
def test_missing_rows_are_the_mean_of_the_others(long, untied_model, tmp_path, tied, lora):
    import shutil

    from tutelage.model.load import outline

    if not tied:
        shutil.copytree(untied_model, tmp_path / "untied")
        load_tokenizer(long).save_pretrained(tmp_path / "untied")
    name = long if tied else str(tmp_path / "untied")
    config = ModelConfig(id=name, device="cpu", precision="fp32", resize=True, lora=lora)
    tokenizer, state = load_tokenizer(name), torch.get_rng_state()
    policy = load_policy(config, tokenizer, to_train=False)
    assert lora == "lora" or torch.equal(torch.get_rng_state(), state)
    published = load_file(f"{name}/model.safetensors")
    embedding, head = policy.model.get_input_embeddings().weight, policy.model.get_output_embeddings().weight
    for found, was in ((embedding, "model.embed_tokens.weight"), (head, "model.embed_tokens.weight" if tied else "lm_head.weight")):
        assert torch.equal(found[:400], published[was])
        assert torch.allclose(found[400:], published[was].mean(dim=0).expand(4, -1), atol=1e-7)
    assert (embedding is head) == tied
    for shape in (outline(config, tokenizer, torch.device("cpu")), outline(config, None, torch.device("cpu"))):
        assert {n: p.shape for n, p in shape.model.named_parameters()} == {n: p.shape for n, p in policy.model.named_parameters()}
    save_model(policy, tmp_path / "saved", "")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["vocab_size"] == 404
    as_saved = load_policy(ModelConfig(id=str(tmp_path / "saved"), device="cpu", precision="fp32"), tokenizer, to_train=False)
    assert torch.equal(as_saved.model.get_input_embeddings().weight, embedding)


def test_resize_changes_nothing_where_no_row_is_missing(tiny_model, tokenizer):
    plain, resized = (
        load_policy(ModelConfig(id=tiny_model, device="cpu", precision="fp32", resize=resize), tokenizer) for resize in (False, True)
    )
    ours, theirs = plain.model.state_dict(), resized.model.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_engine_that_reads_the_published_model_cannot_be_resized(long, inside):
    with pytest.raises(InputError, match=r'400 rows for the tokenizer\'s 404 tokens.*eval.backend = "native"'):
        EngineHandle(EngineSetting(long, torch.device("cpu"), backend="fake"))


@pytest.mark.slow
def test_two_ranks_add_the_rows_that_one_process_adds(ranks, long, make_config):
    import rank_cases

    from tutelage.machines.world import ALONE

    raw = make_config(model__id=long, model__resize=True, train__lr=0.1, train__clip_grad=1e9).model_dump(mode="json")
    raw["train"]["sgd"] = True
    one, many = rank_cases.train_steps(ALONE, raw, steps=1), ranks.run("train_steps", raw=raw, steps=1)
    ours, theirs = one["weights"], many[0]["weights"]
    assert ours["model.embed_tokens.weight"].shape[0] == 404 and set(ours) == set(theirs)
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=0, atol=1e-6)
