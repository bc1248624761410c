from __future__ import annotations

import pytest
import torch

from tutelage.evaluation.engine.contract import Completion, Sampling, cut_at_stop
from tutelage.evaluation.engine.decoding import choose
from tutelage.evaluation.engine.native import generate
from tutelage.model.specification import compute_entropy

TEXTS = ["Ava has 3 pens.", "There are 4 rows of 5 sweets, and 2 more.", "A", "Ben has 2 times as many"]


@pytest.fixture
def prompts(tokenizer):
    return [tokenizer.encode(text) for text in TEXTS]


def greedy_by_hand(model, prompt, count):
    """One row, no cache, no padding: (tokens, entropies)."""
    ids, entropies = list(prompt), []
    model.eval()
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.tensor([ids])).logits[0, -1]
            entropies.append(compute_entropy(logits).item())
            ids.append(int(logits.argmax()))
            if ids[-1] == 0:
                break
    return ids[len(prompt) :], entropies


def test_batched_generation_with_a_cache_equals_one_row_without(model, tokenizer, prompts):
    completions = generate(model, tokenizer, prompts, Sampling(12, temperature=0, stop=()), batch_size=3)
    for prompt, completion in zip(prompts, completions, strict=True):
        tokens, entropies = greedy_by_hand(model, prompt, 12)
        assert list(completion.token_ids) == tokens
        assert completion.entropies == pytest.approx(entropies, abs=1e-4)


def test_a_sampled_response_does_not_depend_on_its_batch(model, tokenizer, prompts):
    for top_p in (0.9, 1.0):
        sampling = Sampling(10, temperature=1.0, top_p=top_p, stop=(), seed=5)
        batched = generate(model, tokenizer, prompts, sampling, batch_size=4)
        single = generate(model, tokenizer, prompts, sampling, batch_size=1)
        assert [completion.token_ids for completion in batched] == [completion.token_ids for completion in single]
        (one,) = generate(model, tokenizer, prompts[2:3], sampling, indices=[2])
        assert one.token_ids == batched[2].token_ids
    other = generate(model, tokenizer, prompts, Sampling(10, temperature=1.0, stop=(), seed=6))
    assert [completion.token_ids for completion in other] != [completion.token_ids for completion in batched]


def test_generation_leaves_the_random_state_the_mode_and_the_tokenizer_alone(model, tokenizer, prompts):
    model.train()
    side, state = tokenizer.padding_side, torch.get_rng_state()
    generate(model, tokenizer, prompts, Sampling(3, temperature=1.0))
    assert model.training and tokenizer.padding_side == side and torch.equal(torch.get_rng_state(), state)


def test_the_training_mode_is_restored_after_an_error(model, tokenizer):
    model.train()
    with pytest.raises(IndexError):
        generate(model, tokenizer, [[10**9]], Sampling(3))
    assert model.training


class Script:
    """A model that says fixed tokens, whatever it is asked."""

    def __init__(self, tokens: list[int], vocabulary: int) -> None:
        self.tokens, self.vocabulary, self.said, self.training, self.config = tokens, vocabulary, 0, False, None

    def get_input_embeddings(self):
        return torch.nn.Embedding(2, 2)

    def modules(self):
        return [torch.nn.Identity()]

    def eval(self):
        return self

    def train(self, mode: bool = True):
        return self

    def __call__(self, input_ids, **_):
        from types import SimpleNamespace

        logits = torch.zeros(len(input_ids), 1, self.vocabulary)
        logits[..., self.tokens[self.said]] = 50.0
        self.said += 1
        return SimpleNamespace(logits=logits)


def said(tokenizer, text: str, cap: int = 200, stop=("</answer>",), end: bool = False) -> Completion:
    tokens = tokenizer.encode(text) + ([tokenizer.eos_token_id] if end else []) + tokenizer.encode(" and so on" * 100)
    return generate(Script(tokens, len(tokenizer)), tokenizer, [[1, 2]], Sampling(cap, temperature=0, stop=stop))[0]


def test_generation_ends_at_the_stop_string_which_stays_in_the_text(tokenizer):
    completion = said(tokenizer, "<think> a </think> <answer> 4 </answer> more")
    assert completion.text == "<think> a </think> <answer> 4 </answer>" and completion.finish_reason == "stop"


def test_generation_ends_at_the_end_token_which_does_not(tokenizer):
    completion = said(tokenizer, "4 it is", end=True)
    assert (completion.text, completion.finish_reason) == ("4 it is", "stop")
    assert completion.token_ids[-1] == tokenizer.eos_token_id


def test_generation_cut_off_at_the_cap_says_so(tokenizer):
    completion = said(tokenizer, "on and on", cap=3)
    assert completion.finish_reason == "length" and len(completion.token_ids) == len(completion.entropies) == 3


def test_the_text_ends_with_the_earliest_stop_string():
    assert cut_at_stop("a STOP b END", ("END", "STOP")) == ("a STOP", True)
    assert cut_at_stop("a b", ("END",)) == ("a b", False)


def drawn(logits, sampling, uniforms):
    return choose(logits, sampling, torch.tensor(uniforms, dtype=torch.float64)).tolist()


def test_sampling_follows_the_distribution_and_top_p():
    """Without top-p in the vocabulary's order, with it in the order of probability; what has none is never drawn."""
    logits = torch.log(torch.tensor([[0.0, 0.15, 0.5, 0.0, 0.05, 0.3, 0.0]]))
    uniforms = [(index + 0.5) / 1000 for index in range(1000)]

    def counts(**how):
        tokens = drawn(logits.expand(1000, -1), Sampling(**{"temperature": 1.0, **how}), uniforms)
        return torch.bincount(torch.tensor(tokens), minlength=7).tolist()

    assert counts() == counts(top_p=0.999) == [0, 150, 500, 0, 50, 300, 0]
    assert counts(top_p=0.8) == [0, 0, 625, 0, 0, 375, 0]
    assert counts(temperature=1e-3) == [0, 0, 1000, 0, 0, 0, 0]
    assert drawn(logits, Sampling(temperature=1.0, top_p=1e-6), [0.999]) == [2]
    for extreme, expected in ((0.0, 1), (1 - 2**-53, 5)):
        assert drawn(logits, Sampling(temperature=1.0), [extreme]) == [expected]


def test_nothing_is_sorted_where_top_p_is_one(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("sorted")

    monkeypatch.setattr(torch.Tensor, "sort", refuse)
    assert drawn(torch.zeros(2, 8), Sampling(temperature=1.0), [0.1, 0.9]) == [0, 7]
    with pytest.raises(AssertionError, match="sorted"):
        drawn(torch.zeros(2, 8), Sampling(temperature=1.0, top_p=0.9), [0.1, 0.9])


def test_samples_of_a_prompt_follow_each_other_and_differ(model, tokenizer, prompts):
    """More samples do not change the first ones."""
    few, many = (
        generate(model, tokenizer, prompts, Sampling(8, temperature=1.0, stop=(), samples=count), batch_size=3)
        for count in (2, 3)
    )
    assert len(many) == 3 * len(prompts)
    for prompt in range(len(prompts)):
        three = [completion.token_ids for completion in many[3 * prompt : 3 * prompt + 3]]
        assert len(set(three)) == 3 and three[:2] == [completion.token_ids for completion in few[2 * prompt : 2 * prompt + 2]]


def test_nothing_ends_a_response_before_its_least_length(tokenizer):
    """Neither a stop string, which ends it only when it is said again, nor the end token."""
    text = "a STOP b c d e STOP f g"
    tokens = tokenizer.encode(text) + tokenizer.encode(" and so on" * 20)
    early = len(tokenizer.encode("a STOP b"))
    sampling = Sampling(60, temperature=0, stop=("STOP",), min_new_tokens=early)
    (completion,) = generate(Script(tokens, len(tokenizer)), tokenizer, [[1, 2]], sampling)
    assert completion.text == "a STOP b c d e STOP" and completion.finish_reason == "stop"
    ending = [*tokenizer.encode("a b"), tokenizer.eos_token_id, *tokenizer.encode(" and so on" * 20)]
    (completion,) = generate(Script(ending, len(tokenizer)), tokenizer, [[1, 2]], Sampling(20, temperature=0, min_new_tokens=15))
    assert tokenizer.eos_token_id not in completion.token_ids and len(completion.token_ids) == 20


@pytest.mark.parametrize(
    "arguments", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"samples": 0}, {"min_new_tokens": 600}]
)
def test_impossible_sampling_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        Sampling(**arguments)


def test_each_token_has_the_log_probability_that_the_model_gives_it(model, tokenizer):
    """Before temperature and top-p, and before what min_new_tokens forbids."""
    prompt = tokenizer.encode("Ava has 3 pens.")
    sampling = Sampling(6, temperature=1.5, top_p=0.9, stop=(), min_new_tokens=6)
    completion = generate(model, tokenizer, [prompt], sampling)[0]
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    with torch.no_grad():
        log_probs = model(ids).logits[0].log_softmax(-1)
    expected = [log_probs[len(prompt) - 1 + place, token].item() for place, token in enumerate(completion.token_ids)]
    assert completion.log_probs == pytest.approx(expected, abs=1e-4)
