"""A model is asked: answers come as they are written, a conversation keeps its turns where the template shows them."""

from __future__ import annotations

import io
import sys

import pytest
from chain import SAYS, make_chain_model

from tutelage.cli import ask, main
from tutelage.config import load_config
from tutelage.errors import InputError
from tutelage.evaluation.engine.contract import Sampling
from tutelage.evaluation.engine.native import generate, generating
from tutelage.machines import Asked


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> str:
    """After "a" it says "éSTOPx", whose first letter is two tokens, and its end."""
    return make_chain_model(tmp_path_factory.mktemp("chain"), words=SAYS)


def test_the_text_so_far_grows_by_full_characters_into_the_answer(model, tokenizer):
    sampling, prompts, told = Sampling(12, 0.0, stop=("zz",)), [tokenizer.encode("Ava has"), tokenizer.encode("Two")], []
    with generating(model, tokenizer, sampling) as continued:
        [answered] = continued(prompts[:1], on_text=told.append)
        assert continued(prompts) == generate(model, tokenizer, prompts, sampling)
    assert len(told) == 11 and all("�" not in text for text in told)
    assert all(answered.text.startswith(text.rstrip()) for text in told)


def test_an_answer_is_written_as_it_comes(chain, capsys, monkeypatch):
    written = []
    monkeypatch.setattr("tutelage.console.stream", written.append)
    config = load_config(None, [f"--model.id={chain}", "--data.prompt=none", "--eval.max_new_tokens=20", "--model.device=cpu"])
    with ask.answering(config) as answer:
        said = ask.answer_aloud(answer, ask.row_of([], "a"))
    assert [part for part in written if part] == ["é", "S", "T", "O", "P", "x"] and said == "éSTOPx"
    assert capsys.readouterr().out.endswith("\n")


def answers(*texts):
    """Answers one text after the other, and keeps what was asked."""
    left, asked = list(texts), []

    def answer(row, on_text):
        asked.append(row)
        text = left.pop(0)
        if isinstance(text, BaseException):
            raise text
        on_text(text[:2])
        return text, "[cut off]" if text == "eight" else ""

    return answer, asked


def test_a_conversation_keeps_its_turns_until_it_is_reset(capsys):
    answer, asked = answers("four", "eight", KeyboardInterrupt(), InputError("too long"), "one")
    ask.talk(answer, ["2 + 2?", "", "twice?", "stop me", "long", "/reset", "1?", "/quit", "never"], chat=True)
    assert [len(row.messages) for row in asked] == [0, 3, 5, 5, 0]
    assert [turn["content"] for turn in asked[2].messages] == ["2 + 2?", "four", "twice?", "eight", "stop me"]
    out = capsys.readouterr().out
    assert out.startswith("/reset forgets") and "four\neight\n[cut off]\n [stopped]\ntoo long\none\n" in out


def test_a_polite_signal_ends_a_conversation_as_it_ends_any_command(monkeypatch):
    answer, _ = answers(Asked("SIGTERM: interrupted", 130))
    with pytest.raises(Asked):
        ask.talk(answer, ["1?", "2?"], chat=True)
    monkeypatch.setattr("builtins.input", lambda prompt: (_ for _ in ()).throw(Asked("SIGTERM: interrupted", 130)))
    with pytest.raises(Asked):
        list(ask._typed())


def test_without_a_chat_template_each_question_is_asked_by_itself(capsys):
    answer, asked = answers("four", "eight")
    ask.talk(answer, ["2 + 2?", "/help", "twice?"], chat=False)
    assert [(row.prompt, row.messages) for row in asked] == [("2 + 2?", ()), ("twice?", ())]
    out = capsys.readouterr().out
    assert out.startswith("each question is asked by itself") and "there is no /help; /reset forgets" in out


def test_a_word_that_is_spelt_anew_is_not_lost(capsys):
    answer, _ = answers("four")
    assert ask.answer_aloud(lambda row, on_text: on_text("fur") or ("four", ""), ask.row_of([], "?")) == "four"
    assert capsys.readouterr().out == "fur\nfour\n"
    assert ask.answer_aloud(answer, ask.row_of([], "?")) == "four" and capsys.readouterr().out == "four\n"


def test_what_is_typed_ends_with_ctrl_d_and_with_ctrl_c(monkeypatch):
    for end in (EOFError, KeyboardInterrupt):
        typed = iter(["one", end()])

        def typing(prompt, typed=typed):
            line = next(typed)
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", typing)
        assert list(ask._typed()) == ["one"]


def test_each_line_of_standard_input_is_a_question(chain, monkeypatch, capsys):
    flags = ["--data.prompt=none", "--eval.max_new_tokens=20", "--model.device=cpu"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n\na\n"))
    assert main(["ask", chain, *flags]) == 0
    assert capsys.readouterr().out == "éSTOPx\néSTOPx\n"
    monkeypatch.setattr("tutelage.model.load_policy", None)  # what cannot be asked is told before the model is loaded
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert main(["ask", chain, *flags]) == 2
    assert "the question is empty; give one, or write one on each line" in capsys.readouterr().err


def test_a_conversation_goes_through_the_chat_template(chain, monkeypatch):
    seen = []
    config = load_config(None, [f"--model.id={chain}", "--data.prompt=chat", "--eval.max_new_tokens=2", "--model.device=cpu"])
    monkeypatch.setattr("tutelage.data.encode_prompt", lambda tokenizer, prompt: seen.append(prompt) or tokenizer.encode(prompt))
    with ask.answering(config) as answer:
        answer(ask.row_of([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "c"), lambda text: None)
        with pytest.raises(InputError, match="has positions for 512"):
            answer(ask.row_of([], "c " * 600), lambda text: None)
    assert [seen[0].count(f"<|im_start|>{role}") for role in ("user", "assistant")] == [2, 2]
