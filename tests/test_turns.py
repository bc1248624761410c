"""Conversations in training: a pack of all turns teaches what each turn teaches as a row of its own, and computes what they share once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from chat_templates import tokenizer_of
from test_sweep import in_this_process
from test_train import assert_same_run, interrupt_at_call

from tutelage.cli import main
from tutelage.config import replaced, to_toml
from tutelage.data import prepare
from tutelage.model import Course
from tutelage.model.load import load_policy, load_tokenizer
from tutelage.training import fine_tune
from tutelage.training.ending import Interrupted
from tutelage.training.step import accumulate_gradients

KINDS = ("qwen3", "r1", "llama3", "gpt-oss")
STRIPS = {"qwen3", "r1", "gpt-oss"}
TALKS, TURNS = 4, 3


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def chat_model(kind, tmp_path_factory) -> str:
    return make_model(kind, tmp_path_factory.mktemp(kind))


def make_model(kind, directory) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_of(kind)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=1024, eos_token_id=tokenizer.eos_token_id, pad_token_id=None, **sizes
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # random weights are so small that a token hardly sees the others
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(5.0)
    model.save_pretrained(directory)
    return str(directory)


def messages(talk: int, kind: str) -> list[dict]:
    said = []
    for turn in range(TURNS):
        a, b = talk + 2, turn + 3
        thought = f"I count up from {a}, and by {b} I come to {a + b}."
        answer = {"role": "assistant", "content": f"It is \\boxed{{{a + b}}}."}
        if kind == "llama3":  # a template without thoughts shows what the text holds
            answer["content"] = f"<think>\n{thought}\n</think>\n\n{answer['content']}"
        else:
            answer["thinking" if kind == "gpt-oss" else "reasoning_content"] = thought
        said += [{"role": "user", "content": f"What is {a} + {b}?"}, answer]
    return said


@pytest.fixture
def talks(tmp_path, kind):
    path = tmp_path / "talks.jsonl"
    rows = [{"messages": messages(talk, kind), "answer": talk + 2 + TURNS + 2} for talk in range(TALKS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(make_config, chat_model, talks):
    return make_config(
        model__id=chat_model, data__train=str(talks), data__prompt="chat", data__validation="arithmetic", data__filter=False,
        data__max_length=900, train__batch_size=2, train__grad_accum=1, train__pack_tokens=10_000, train__clip_grad=1e9,
        eval__reward="question_only",
    )  # fmt: skip


def by_themselves(directory: str, rows) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The log-probabilities of each row's response, and the gradients, by transformers alone: row by row, padded, plain attention."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    tokens, found = sum(len(row.response_ids) for row in rows), []
    for row in rows:
        ids = [*row.prompt_ids, *row.response_ids]
        padded = torch.tensor([ids + [0] * 7])
        mask = torch.tensor([[1] * len(ids) + [0] * 7])
        logits = model(input_ids=padded, attention_mask=mask).logits[0, len(row.prompt_ids) - 1 : len(ids) - 1]
        log_probs = logits.log_softmax(-1)[torch.arange(len(row.response_ids)), torch.tensor(row.response_ids)]
        (-log_probs.sum() / tokens).backward()
        found.append(log_probs.detach())
    return found, {name: weight.grad for name, weight in model.named_parameters()}


def test_each_turn_follows_what_the_template_shows_then(config, kind):
    """The prompts are those that transformers writes of the history; responses end once, and hold their own thought."""
    tokenizer = load_tokenizer(config.model.id)
    train = prepare(config, tokenizer).train
    assert len(train) == TALKS * TURNS
    for index, row in enumerate(train):
        talk, turn = (int(part) for part in (row.source.split(":")[-1].split()[0], row.source.split()[-1]))
        history = messages(talk - 1, kind)[: 2 * turn - 1]
        shown = tokenizer.apply_chat_template(history, add_generation_prompt=True, return_dict=False)
        assert list(row.prompt_ids) == shown, row.source
        text = tokenizer.decode(row.response_ids)
        assert "I count up" in text and "I come to" in text and f"\\boxed{{{talk + 1 + turn + 2}}}" in text, index
        before = tokenizer.decode(row.prompt_ids).count("I count up")
        assert before == (0 if kind in STRIPS else turn - 1)


def test_a_pack_of_turns_is_every_turn_as_a_row_of_its_own(config, kind):
    tokenizer = load_tokenizer(config.model.id)
    prepared = prepare(config, tokenizer)
    policy = load_policy(config.model, tokenizer)
    assert policy.packs
    course = Course(prepared, config, policy)
    assert course.epoch == TALKS // 2, "a step counts conversations"
    examples, batches = course.at(0)
    assert len(examples) == 2 * TURNS and len({row.source.split()[0] for row in examples}) == 2
    [batch] = batches
    prefixes = {ids[: end + 1] for row in examples for ids in [row.prompt_ids + row.response_ids] for end in range(len(ids))}
    assert batch.input_ids.numel() == len(prefixes) < 0.8 * sum(map(len, examples)), "what turns share stands once"
    accumulate_gradients(policy, examples, batches, config, 0)
    gradients = {name: weight.grad for name, weight in policy.model.named_parameters()}
    right, right_gradients = by_themselves(config.model.id, examples)
    with policy.computing(), torch.no_grad():
        log_probs = policy.score(batch).log_probs
    of_response = {tuple(batch.labels[targets].tolist()): log_probs[targets] for targets in batch.of_examples}
    for row, expected in zip(examples, right, strict=True):
        torch.testing.assert_close(of_response[row.response_ids], expected, rtol=0, atol=1e-5)
    assert set(gradients) == set(right_gradients)
    for name, expected in right_gradients.items():
        assert (gradients[name] - expected).norm() <= 1e-5 * expected.norm(), name
    alone = load_policy(config.model, tokenizer)
    alone.packs = False
    padded = Course(prepared, replaced(config, {"train.batch_size": 1, "train.grad_accum": 2}), alone)
    one_by_one = padded.batches(examples)
    assert len(one_by_one) == 2 * TURNS and all(each.input_ids.shape[0] == 1 for each in one_by_one)
    accumulate_gradients(alone, examples, one_by_one, config, 0)
    for name, weight in alone.model.named_parameters():
        assert (gradients[name] - weight.grad).norm() <= 1e-5 * weight.grad.norm(), name


def test_turns_of_a_conversation_share_a_pack_also_where_packs_are_small(config):
    prepared = prepare(config, load_tokenizer(config.model.id))
    policy = load_policy(config.model, load_tokenizer(config.model.id))
    talk = len({row[: end + 1] for each in prepared.of_rows([0]) for row in [each.prompt_ids + each.response_ids] for end in range(len(row))})
    course = Course(prepared, replaced(config, {"train.pack_tokens": talk + 10}), policy)
    _, batches = course.at(0)
    assert len(batches) == 2 and sorted(len(batch.of_examples) for batch in batches) == [TURNS, TURNS]


def test_the_last_turn_alone(config):
    tokenizer = load_tokenizer(config.model.id)
    every, last = prepare(config, tokenizer), prepare(replaced(config, {"data.turns": "last"}), tokenizer)
    assert [len(each.train) for each in (every, last)] == [TALKS * TURNS, TALKS] and every.rows == last.rows == TALKS
    ends = {row.source.split()[0]: replace(row, source="") for row in every.train}  # the last of each row stays
    assert [replace(row, source="") for row in last.train] == [ends[row.source] for row in last.train]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3", "gpt-oss"], indirect=True)
def test_an_interrupted_run_on_conversations_is_the_same_run(config, tmp_path, monkeypatch):
    changes = {"train.num_steps": 4, "eval.every": 2, "train.clip_grad": 1.0}
    whole = fine_tune(replaced(config, {**changes, "run.dir": str(tmp_path / "whole")})).directory
    parts = replaced(config, {**changes, "run.dir": str(tmp_path / "parts")})
    with monkeypatch.context() as patch:
        interrupt_at_call(patch, "accumulate_gradients", 3)
        with pytest.raises(Interrupted):
            fine_tune(parts)
    assert_same_run(whole, fine_tune(parts).directory)
    described = json.loads((whole / "data.json").read_text())
    assert (described["rows"], described["sequences"]) == (TALKS, TALKS * TURNS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3"], indirect=True)
def test_a_sweep_and_a_plan_take_conversations(config, tmp_path, monkeypatch):
    in_this_process(monkeypatch)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(replaced(config, {"run.dir": str(tmp_path / "sweep"), "train.num_steps": 2, "eval.every": 0})))
    assert main(["plan", str(path), "--json"]) == 0
    assert main(["sweep", str(path), "--sizes", "2,4", "--out", str(tmp_path / "sweep")]) == 0
    rows = [json.loads(each.read_text())["rows"] for each in sorted((tmp_path / "sweep").rglob("data.json"))]
    assert sorted(rows)[-2:] == [2, 4]
