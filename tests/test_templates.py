from __future__ import annotations

import dataclasses
import datetime
import pickle

import pytest
from chat_templates import GPT_OSS, LLAMA3, QWEN3, SOURCES, TOKENS, tokenizer_of

from tutelage.data import Parsed, Template, is_rendered, rendered_words, special_tokens, template_of, write_turns
from tutelage.data.shapes.reader import BadRow
from tutelage.data.templates import template as templates_module
from tutelage.data.templates.template import thought_argument
from tutelage.data.templates.thoughts import has_thought, seam, split_thought
from tutelage.errors import InputError

TURNS = [
    {"role": "user", "content": "2+3?"},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": "3+3?"},
]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_single_question_and_turns_are_shown_as_for_serving(kind):
    tokenizer = tokenizer_of(kind)
    template = template_of("chat", tokenizer)
    for turns in (TURNS[:1], TURNS):
        for generation in (True, False):
            served = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation)
            assert template.render(turns, generation=generation) == served
    assert template.wrap(" 2+3? ") == template.render(TURNS[:1])
    assert template.end == TOKENS[kind][1]


@pytest.mark.parametrize("source", [LLAMA3, GPT_OSS])
def test_a_template_kept_today_shows_the_same_tomorrow(source, monkeypatch):
    tokenizer = tokenizer_of("llama3")
    tokenizer.chat_template = source
    template = template_of("chat", tokenizer)
    assert template.now == datetime.date.today().isoformat()
    kept = Template.from_json(dataclasses.replace(template, now="2021-02-03").to_json())
    shown = kept.render(TURNS)
    assert "03 Feb 2021" in shown or "2021-02-03" in shown
    assert pickle.loads(pickle.dumps(kept)).render(TURNS) == shown


def test_a_template_without_a_date_has_no_day():
    assert template_of("chat", tokenizer_of("qwen3")).now == ""


def test_a_kept_template_needs_nothing_of_the_tokenizers_own(tmp_path):
    tokenizer = tokenizer_of("llama3")
    template = template_of("chat", tokenizer)
    file = tmp_path / "template.json"
    file.write_text(template.to_json(), encoding="utf-8")
    tokenizer.chat_template = None
    kept = template_of(str(file), tokenizer)
    assert dataclasses.asdict(kept) == dataclasses.asdict(template)
    assert kept.render(TURNS) == template.render(TURNS)
    text = template_of("r1_zero", tokenizer)
    file.write_text(text.to_json(), encoding="utf-8")
    assert dataclasses.asdict(template_of(str(file), tokenizer)) == dataclasses.asdict(text)
    with pytest.raises(InputError, match="a text alone"):
        template_of(str(file), tokenizer, {"enable_thinking": True})


def test_other_arguments_write_the_kept_template_anew(tmp_path):
    tokenizer = tokenizer_of("qwen3")
    file = tmp_path / "template.json"
    file.write_text(template_of("chat", tokenizer, {"enable_thinking": False}).to_json(), encoding="utf-8")
    tokenizer.chat_template = None
    assert template_of(str(file), tokenizer).text.endswith("<think>\n\n</think>\n\n")
    assert template_of(str(file), tokenizer, {"enable_thinking": False}).text.endswith("</think>\n\n")
    assert template_of(str(file), tokenizer, {"enable_thinking": True}).text.endswith("assistant\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no template that a run has kept"),
        ("{}", "other keys"),
        (Template().to_json().replace("{question}", "q"), "exactly once"),
        (Template().to_json().replace('"chat": ""', '"chat": 3'), "chat is int"),
    ],
)
def test_a_json_file_that_is_no_kept_template_is_named(tmp_path, tokenizer, text, says):
    file = tmp_path / "other.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        template_of(str(file), tokenizer)


def test_a_missing_kept_template_is_named(tokenizer):
    with pytest.raises(InputError, match=r"no-such\.json cannot be read"):
        template_of("no-such.json", tokenizer)


def test_arguments_reach_the_chat_template_and_no_other():
    tokenizer = tokenizer_of("gpt-oss")
    assert "Reasoning: high" in template_of("chat", tokenizer, {"reasoning_effort": "high"}).text
    assert template_of("chat", tokenizer, {"unknown": 1}).text == template_of("chat", tokenizer).text
    with pytest.raises(InputError, match=r'data\.prompt = "r1_zero" takes none'):
        template_of("r1_zero", tokenizer, {"reasoning_effort": "high"})
    with pytest.raises(InputError, match="messages is not for a config to set"):
        template_of("chat", tokenizer, {"messages": []})


def test_the_chat_template_needs_to_exist(tokenizer):
    with pytest.raises(InputError, match="no chat template"):
        template_of("chat", tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    )
    assert template_of("chat", tokenizer).text == "<u>{question}</u><a>"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ raise_exception('A system turn is needed') }}", "A system turn is needed"),
        ("{{ messages[1].content }}", "cannot show a single question"),
        ("<u>", "exactly once"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "exactly once"),
        ("{question}{{ messages[0].content }}", "exactly once"),
        ("{{ messages[0].content | tojson }}", "escapes"),
        ("{{ messages[0].content | e }}", "escapes"),
        ("{{ messages[0].content", "cannot show a single question"),
    ],
)
def test_a_template_that_does_not_show_the_question_is_an_error(tokenizer, source, says):
    tokenizer.chat_template = source
    with pytest.raises(InputError, match=says):
        template_of("chat", tokenizer)


def test_a_template_for_tools_is_used_where_there_are_two(tokenizer):
    tokenizer.chat_template = {"default": "D{{ messages[0].content }}", "tool_use": "T{{ messages[0].content }}"}
    template = Template.from_json(template_of("chat", tokenizer).to_json())
    assert template.render(TURNS) == "D2+3?"
    assert template.render(TURNS, [{"type": "function", "function": {"name": "f"}}]) == "T2+3?"


def test_what_a_template_refuses_is_told_in_its_own_words():
    template = template_of("chat", tokenizer_of("mistral"))
    with pytest.raises(BadRow, match="Conversation roles must alternate user/assistant"):
        template.render([TURNS[0], TURNS[0]])


def test_the_end_of_turn_is_what_the_template_writes_not_the_end_token():
    tokenizer = tokenizer_of("qwen3")
    tokenizer.eos_token = "<|endoftext|>"
    assert template_of("chat", tokenizer).end == "<|im_end|>"
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    assert template_of("chat", tokenizer).end == ""


@pytest.mark.parametrize(
    ("condition", "line"),
    [
        ("enable_thinking is defined and enable_thinking", "{ enable_thinking = true }"),
        ("thinking", "{ thinking = true }"),
        ("not no_think | default(true)", "{ no_think = false }"),
        ("reasoning_effort in ('high', 'medium')", '{ reasoning_effort = "high" }'),
        ("mode == 'on'", '{ mode = "on" }'),
        ("false", ""),
    ],
)
def test_the_argument_that_opens_a_closed_thought_is_found(condition, line):
    source = QWEN3.rpartition("{% if enable_thinking is defined")[0]
    empty = "<think>\n\n</think>\n\n"
    body = "{% if " + condition + " %}<think>\n{% else %}" + empty
    template = Template(chat=source + body + "{% endif %}{% endif %}", tokens={"bos_token": "<s>"})
    assert template.render(TURNS).endswith(empty)
    assert thought_argument(template) == (f"data.template_arguments = {line}" if line else "")


def test_other_arguments_stay_in_the_line_that_opens_a_thought():
    template = template_of("chat", tokenizer_of("deepseek31"), {"thinking": False, "who": "x"})
    assert thought_argument(template) == 'data.template_arguments = { thinking = true, who = "x" }'


@pytest.mark.parametrize(
    ("prompt", "response", "joined"),
    [
        ("A: <think>", "<think> Count. </think>", " Count. </think>"),
        ("A: <think>", "\n<think>Count.</think>", "Count.</think>"),
        ("A: <think>", " Count. </think>", " Count. </think>"),
        ("<think>\n", "<think>\nCount.\n</think>", "Count.\n</think>"),
        ("<think>\n", "<think>Count.</think>", "Count.</think>"),
        ("<think>\n", "<think> Count.</think>", "Count.</think>"),
        ("<think>\n", "<think>\n    x = 1\n</think>", "    x = 1\n</think>"),
        ("<think>\n", "Count.\n</think>", "Count.\n</think>"),
        ("<think>\n", "\nCount.\n</think>", "Count.\n</think>"),
        ("<think>\n", "<think>\n\n</think>\n\n5", "\n</think>\n\n5"),
        ("<thinking>\n", "<thinking>\nCount.", "Count."),
        ("[THINK]", "[THINK]Count.[/THINK]", "Count.[/THINK]"),
        ("A: ", "<think>\nCount.\n</think>", "<think>\nCount.\n</think>"),
        ("</think>\n\n", "\n5", "\n5"),
    ],
)
def test_a_thought_is_opened_once_at_the_seam(prompt, response, joined):
    assert seam(prompt, response) == joined


def test_a_template_that_opens_the_thought_is_joined_with_the_response():
    row = Parsed("r", " 2+3? ", "<think> Count. </think> <answer> 5 </answer>")
    (turn,) = write_turns(row, Template("Q: {question}\nA: <think>"), "all", ())
    assert turn.prompt + turn.response == "Q: 2+3?\nA: <think> Count. </think> <answer> 5 </answer>"
    (turn,) = write_turns(row, Template(), "all", ())
    assert (turn.prompt, turn.response) == (row.prompt, row.response)


def test_a_thought_is_split_from_the_text_behind_it():
    assert split_thought("<think>\n a\n</think>\n\nb") == ("a", "<think>\n a\n</think>\n\n", "b")
    assert split_thought("a\n</think>b </think>") == ("a", "<think>a\n</think>", "b </think>")
    assert split_thought("Well. <think>a</think>b") == ("", "", "Well. <think>a</think>b")
    assert split_thought("<think>a") == ("", "", "<think>a") and has_thought("<think>a")
    assert has_thought("a</think>b") and not has_thought("<think>\n\n</think>\n\nb") and not has_thought("b")


R1_ZERO = template_of("r1_zero", None)


@pytest.mark.parametrize(
    "prompt",
    [
        R1_ZERO.wrap("2+3?"),
        R1_ZERO.wrap("2+3?").removesuffix(" <think>"),
        "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n2+3?<|eot_id|>",
        "<s>[INST] 2+3? [/INST]",
        "[INST] 2+3? [/INST]",
        "<bos><start_of_turn>user\n2+3?<end_of_turn>\n<start_of_turn>model\n",
        "<｜begin▁of▁sentence｜><｜User｜>2+3?<｜Assistant｜>",
        "<｜User｜>2+3?<｜Assistant｜><think>\n",
        "<|start|>system<|message|>Current date<|end|><|start|>user<|message|>2+3?<|end|><|start|>assistant",
        "<|user|>\n2+3?<|end|>\n<|assistant|>\n",
        "[gMASK]<sop><|user|>\n2+3?<|assistant|>",
        "<|im_start|>user<|im_sep|>2+3?<|im_end|><|im_start|>assistant<|im_sep|>",
    ],
)
@pytest.mark.parametrize("name", ["none", "r1_zero", "plain", "question_only"])
def test_a_prompt_that_holds_a_template_is_recognised(prompt, name):
    assert is_rendered(prompt, template_of(name, None), ())


@pytest.mark.parametrize("kind", SOURCES)
def test_what_a_chat_template_wrote_is_recognised_whatever_data_prompt_is(kind):
    tokenizer = tokenizer_of(kind)
    template = template_of("chat", tokenizer)
    for name in ("chat", "none", "r1_zero"):
        assert is_rendered(template.wrap("2+3?"), template_of(name, tokenizer), special_tokens(tokenizer))


def test_markup_of_ones_own_is_recognised_by_the_special_tokens():
    specials = ("<ask>", "<say>", "<fin>")
    assert is_rendered("<ask>2+3?<fin><say>", R1_ZERO, specials) and is_rendered(
        "<ask>2+3?<say>model\n<think>\n", R1_ZERO, specials
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "What is 2+3?",
        "What does <|im_start|>user mean?",
        "<|im_end|> is a token. Which one begins a turn?",
        "<ask> is written when? And <say>, which stands at its end, is not the same at all.",
        "A conversation between User and Assistant.",
        "Question: 2+3?",
        "[INSTRUCTIONS] 2+3?",
        "",
    ],
)
def test_a_question_is_no_rendered_prompt(prompt):
    for name in ("none", "r1_zero", "plain", "question_only"):
        assert not is_rendered(prompt, template_of(name, None), ("<|im_start|>", "<|im_end|>", "<ask>", "<say>"))


def test_a_short_template_is_recognised_by_both_of_its_ends():
    plain = template_of("plain", None)
    assert is_rendered(plain.wrap("2+3?"), plain, ()) and not is_rendered("Question: 2+3?", plain, ())
    boxed = Template("{question}\nPut the answer in \\boxed{}.")
    assert is_rendered("2+3?\nPut the answer in \\boxed{}.", boxed, ()) and not is_rendered("2+3?", boxed, ())


def test_recognised_prompts_are_told_in_words():
    assert rendered_words(0, 5, "chat") == ""
    said = rendered_words(1200, 3000, "r1_zero")
    assert said == '1,200 of 3,000 prompts hold a template already, and data.prompt = "r1_zero" is not put around them again'
    assert "the prompt holds" in rendered_words(1, 1, "chat")


def test_todays_date_is_the_one_of_the_day_the_template_is_made(monkeypatch):
    class Day(datetime.date):
        @classmethod
        def today(cls):
            return cls(2030, 1, 2)

    monkeypatch.setattr(templates_module.datetime, "date", Day)
    assert "Today Date: 02 Jan 2030" in template_of("chat", tokenizer_of("llama3")).text
