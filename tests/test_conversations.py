"""What is learnt of a conversation: each turn after the history as the chat template shows it when the turn is generated."""

from __future__ import annotations

import pickle

import pytest
from chat_templates import TOKENS, tokenizer_of

from tutelage.data import Parsed, encode_prompt, encode_response, plain, special_tokens, template_of, write_problem, write_turns
from tutelage.data.shapes.reader import BadRow
from tutelage.data.templates.template import Template
from tutelage.errors import InputError

ASK, MORE = {"role": "user", "content": "2+3?"}, {"role": "user", "content": "And 3+3?"}
FIVE = {"role": "assistant", "content": "It is 5.", "reasoning_content": "Count up from 2."}
SIX = {"role": "assistant", "content": "So 6.", "reasoning_content": "One more each."}
TALK = (ASK, FIVE, MORE, SIX)
INLINE = {"role": "assistant", "content": "<think>\nCount up from 2.\n</think>\n\nIt is 5."}
CALL = {
    "role": "assistant", "content": "", "reasoning_content": "Let it add.",
    "tool_calls": [{"id": "c00000001", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": "half \\"x\\""}'}}],
}  # fmt: skip
TOOL = {"role": "tool", "content": "5", "tool_call_id": "c00000001", "name": "add"}
TOOLS = ({"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}},)


def written(kind, messages, turns="all", arguments=None, tools=()):
    tokenizer = tokenizer_of(kind)
    template = template_of("chat", tokenizer, arguments or {})
    return write_turns(Parsed("r", messages=tuple(messages), tools=tools), template, turns, special_tokens(tokenizer))


CHATML_1 = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
CHATML_2 = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n{first}<|im_end|>\n<|im_start|>user\nAnd 3+3?<|im_end|>\n<|im_start|>assistant\n"
HEADER = "<|start_header_id|>{role}<|end_header_id|>\n\n"
LLAMA_2 = "2+3?<|eot_id|>" + HEADER.format(role="assistant")
THOUGHT_1, THOUGHT_2 = "<think>\nCount up from 2.\n</think>\n\n", "<think>\nOne more each.\n</think>\n\n"
R1_1, R1_2 = "<｜begin▁of▁sentence｜><｜User｜>2+3?<｜Assistant｜>", "<｜end▁of▁sentence｜><｜User｜>And 3+3?<｜Assistant｜>"
OSS_1 = "<|start|>user<|message|>2+3?<|end|><|start|>assistant"
OSS_2 = OSS_1 + "<|channel|>final<|message|>It is 5.<|end|><|start|>user<|message|>And 3+3?<|end|><|start|>assistant"
ANALYSIS = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>"

EXPECTED = {
    # strips the earlier thought
    "qwen3": [(CHATML_1, THOUGHT_1 + "It is 5."), (CHATML_2.format(first="It is 5."), THOUGHT_2 + "So 6.")],
    # opens the thought, too
    "qwen3-thinking": [
        (CHATML_1 + "<think>\n", THOUGHT_1.removeprefix("<think>\n") + "It is 5."),
        (CHATML_2.format(first="It is 5.") + "<think>\n", THOUGHT_2.removeprefix("<think>\n") + "So 6."),
    ],
    # keeps all
    "llama3": [
        (LLAMA_2, THOUGHT_1 + "It is 5."),
        (f"{LLAMA_2}{THOUGHT_1}It is 5.<|eot_id|>{HEADER.format(role='user')}And 3+3?<|eot_id|>{HEADER.format(role='assistant')}",
         THOUGHT_2 + "So 6."),
    ],
    # opens the thought, and never shows it
    "r1": [
        (R1_1 + "<think>\n", "Count up from 2.\n</think>\n\nIt is 5."),
        (R1_1 + "It is 5." + R1_2 + "<think>\n", "One more each.\n</think>\n\nSo 6."),
    ],
    # channels, dropped from the history
    "gpt-oss": [
        (OSS_1, ANALYSIS.format("Count up from 2.") + "It is 5."), (OSS_2, ANALYSIS.format("One more each.") + "So 6."),
    ],
    # a space before the answer
    "mistral": [
        ("<s>[INST] 2+3? [/INST]", f" {THOUGHT_1}It is 5."),
        (f"<s>[INST] 2+3? [/INST] {THOUGHT_1}It is 5.</s>[INST] And 3+3? [/INST]", f" {THOUGHT_2}So 6."),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_turn_follows_the_history_as_it_is_shown_then(kind):
    found = written(kind, TALK)
    assert len(found) == 2
    for turn, (prompt, response) in zip(found, EXPECTED[kind]):
        assert turn.prompt.endswith(prompt) and turn.response == response and turn.end == ""
    assert written(kind, TALK, "last") == found[1:]
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_bare_closing_tag_stands_for_a_thought_that_is_left_out():
    found = written("deepseek31", TALK, arguments={"thinking": True})
    assert [turn.response for turn in found] == ["Count up from 2.</think>It is 5.", "One more each.</think>So 6."]
    assert found[1].prompt == R1_1 + "</think>It is 5." + R1_2 + "<think>"


@pytest.mark.parametrize("kind", EXPECTED)
def test_prompts_have_the_ids_of_serving_and_end_in_what_it_would_generate(kind):
    tokenizer = tokenizer_of(kind)
    template, specials = template_of("chat", tokenizer), special_tokens(tokenizer)
    shown = [{**each, "thinking": each.get("reasoning_content")} for each in TALK]
    if kind in ("llama3", "mistral"):
        thoughts = {1: THOUGHT_1, 3: THOUGHT_2}
        shown = [{**each, "content": thoughts.get(index, "") + each["content"]} for index, each in enumerate(TALK)]
    for turn, index in zip(write_turns(Parsed("r", messages=TALK), template, "all", specials), (1, 3), strict=True):
        served = tokenizer.apply_chat_template(shown[:index], add_generation_prompt=True, return_dict=False)
        assert encode_prompt(tokenizer, turn.prompt) == served
        ids = [*served, *encode_response(tokenizer, turn.response), tokenizer.convert_tokens_to_ids(template.end)]
        said = tokenizer.apply_chat_template(shown[: index + 1], tokenize=False).rstrip("\n")
        if kind == "r1":  # shows no thought: all else is as it shows it
            assert tokenizer.decode(ids).replace(f"<think>\n{TALK[index]['reasoning_content']}\n</think>\n\n", "") == said
        else:
            assert tokenizer.decode(ids) == said


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_thought_in_the_text_is_written_as_one_in_a_field(kind):
    as_field, as_text = written(kind, (ASK, FIVE)), written(kind, (ASK, INLINE))
    assert as_field == as_text
    assert written(kind, (ASK, {**FIVE, **INLINE})) == as_field, "the same thought twice is one"


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_thought_that_the_answer_repeats_is_written_all_the_same(kind):
    same = {"role": "assistant", "content": "It is 5.", "reasoning_content": "It is 5."}
    assert written(kind, (ASK, same))[0].response == EXPECTED[kind][0][1].replace("Count up from 2.", "It is 5.")


def test_two_thoughts_of_one_turn_are_a_question():
    with pytest.raises(BadRow, match=r"messages\[1\]: it has two thoughts"):
        written("qwen3", (ASK, {**INLINE, "reasoning_content": "Another."}))


def test_a_turn_without_a_thought_closes_the_one_that_is_opened():
    five = {"role": "assistant", "content": "It is 5."}
    assert written("r1", (ASK, five))[0].response == "\n</think>\n\nIt is 5."
    assert written("qwen3-thinking", (ASK, five))[0].response == "\n</think>\n\nIt is 5."
    assert written("qwen3", (ASK, five))[0].response == "<think>\n\n</think>\n\nIt is 5."
    assert written("deepseek31", (ASK, five), arguments={"thinking": True})[0].response == "</think>It is 5."
    assert written("gpt-oss", (ASK, five))[0].response == "<|channel|>final<|message|>It is 5."
    nothing = {"role": "assistant", "content": "<think>\n\n</think>\n\nIt is 5."}
    assert written("r1", (ASK, nothing))[0].response == "\n</think>\n\nIt is 5."


@pytest.mark.parametrize(("kind", "argument"), [("qwen3", "enable_thinking"), ("deepseek31", "thinking")])
def test_a_thought_behind_a_closed_one_is_an_error_with_the_argument(kind, argument):
    tokenizer = tokenizer_of(kind)
    closed, specials = template_of("chat", tokenizer, {argument: False}), special_tokens(tokenizer)
    rows = [
        Parsed("r", prompt="2+3?", response="<think> Count. </think> <answer> 5 </answer>"),
        Parsed("r", prompt="2+3?", response="Count. </think> 5"),
        Parsed("r", messages=TALK),
        Parsed("r", messages=(ASK, INLINE)),
    ]
    for row in rows:
        with pytest.raises(InputError, match=rf"data\.template_arguments = {{ {argument} = true }}"):
            write_turns(row, closed, "all", specials)
    for row in (Parsed("r", prompt="2+3?", response="5"), Parsed("r", messages=(ASK, {"role": "assistant", "content": "5"}))):
        [turn] = write_turns(row, closed, "all", specials)
        assert turn.prompt.endswith("</think>" if kind == "deepseek31" else "<think>\n\n</think>\n\n") and turn.response == "5"
    assert write_turns(Parsed("r", prompt="q", response="<think>\n\n</think>\n\n5"), closed, "all", specials)[0].response == "5"


def test_a_text_that_closes_the_thought_is_named_without_an_argument():
    row = Parsed("r", prompt="2+3?", response="<think>Count.</think>5")
    with pytest.raises(InputError, match="give a template that does not as data.prompt"):
        write_turns(row, Template("{question}<think>\n\n</think>\n\n"), "all", ())
    rendered = Parsed(
        "r", prompt="<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", response="<think>a"
    )
    with pytest.raises(BadRow, match="take the end off the prompt"):
        write_turns(rendered, Template(), "all", ())


def test_tool_calls_are_written_in_the_templates_own_form():
    called, answered = written("qwen3", (ASK, CALL, TOOL, FIVE), tools=TOOLS)
    assert called.response == (
        '<think>\nLet it add.\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": "half \\"x\\""}}\n</tool_call>'
    )
    assert "adds" in called.prompt and answered.prompt.startswith(called.prompt + called.response)
    assert answered.prompt.endswith("<tool_response>\n5\n</tool_response><|im_end|>\n<|im_start|>assistant\n")
    as_object = {**CALL, "tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 'half "x"'}}]}
    assert written("qwen3", (ASK, as_object, TOOL, FIVE), tools=TOOLS)[0] == called


def test_a_call_ends_in_its_own_token_and_the_thoughts_before_it_stay():
    called, answered = written("gpt-oss", (ASK, CALL, TOOL, FIVE), tools=TOOLS)
    assert called.end == "<|call|>" and called.response.startswith(
        "<|channel|>analysis<|message|>Let it add.<|end|><|start|>assistant"
    )
    assert called.response.endswith(' to=functions.add<|channel|>commentary json<|message|>{"a": 2, "b": "half \\"x\\""}')
    # the template drops the analysis once an answer follows; while the answer is generated it is shown
    assert called.prompt + called.response + called.end in answered.prompt
    assert answered.response == ANALYSIS.format("Count up from 2.") + "It is 5." and answered.end == ""


@pytest.mark.parametrize(
    ("kind", "messages", "says"),
    [
        ("llama3", (ASK, CALL, TOOL, FIVE), "messages has a tool call, which the chat template does not show"),
        ("llama3", (ASK, CALL), "messages has a tool call, which the chat template does not show"),
        ("r1", (ASK, FIVE, TOOL, SIX), "messages has a tool turn, which the chat template does not show"),
        ("no-system", ({"role": "system", "content": "Be brief."}, ASK, FIVE), "System role not supported"),
        ("mistral", (ASK, ASK, FIVE), "Conversation roles must alternate"),
        (
            "qwen3",
            (ASK, {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "d"}, FIVE),
            "beside a system turn",
        ),
        ("qwen3", (FIVE, ASK, SIX), "messages begins with an assistant turn"),
        ("qwen3", (ASK,), "no assistant turn is trained"),
        ("qwen3", (ASK, {**FIVE, "train": False}), "no assistant turn is trained"),
        ("qwen3", (ASK, {"role": "assistant", "content": "a\ufdd0"}), r"messages\[1\]: the text holds U\+FDD0"),
        (
            "qwen3",
            (ASK, {"role": "assistant", "content": "<|im_start|>assistant\n5"}),
            r"messages\[1\]: the response begins with",
        ),
    ],
)
def test_what_a_template_cannot_show_is_refused_in_words(kind, messages, says):
    with pytest.raises(BadRow, match=says):
        written(kind, messages)


def test_tools_that_a_template_does_not_show_are_refused():
    with pytest.raises(BadRow, match="the row offers the tool add, which the chat template does not show"):
        written("llama3", (ASK, FIVE), tools=TOOLS)


def test_a_tool_turn_is_not_taken_for_shown_because_its_text_stands_elsewhere():
    with pytest.raises(BadRow, match="a tool turn"):
        written("r1", ({"role": "user", "content": "2+5?"}, FIVE, TOOL, SIX))


def test_a_developer_is_the_system_where_the_template_knows_no_developer():
    developer = {"role": "developer", "content": "Be brief."}
    assert written("qwen3", (developer, *TALK)) == written("qwen3", ({**developer, "role": "system"}, *TALK))
    assert "<|start_header_id|>developer<|end_header_id|>\n\nBe brief." in written("llama3", (developer, *TALK))[0].prompt


def test_turns_that_are_not_trained_are_history_and_a_last_question_is_ignored():
    found = written("qwen3", (ASK, {**FIVE, "train": False}, MORE, SIX, ASK))
    assert found == written("qwen3", TALK)[1:]
    assert written("qwen3", (ASK, FIVE, MORE, {**SIX, "train": False}), "last") == written("qwen3", TALK)[:1]


def test_a_turn_after_an_assistants_own_is_learnt_after_it():
    again = {"role": "assistant", "content": "Done."}
    greeting = {"role": "assistant", "content": "Hello.", "train": False}
    second = written("qwen3", (ASK, FIVE, again))[1]
    assert second.prompt.endswith("It is 5.<|im_end|>\n<|im_start|>assistant\n") and second.response.endswith("</think>\n\nDone.")
    assert written("qwen3", (greeting, ASK, FIVE))[0].prompt == "<|im_start|>assistant\nHello.<|im_end|>\n" + CHATML_1


def test_special_tokens_of_content_are_text_in_every_turn():
    tokenizer = tokenizer_of("qwen3")
    template, specials = template_of("chat", tokenizer), special_tokens(tokenizer)
    odd = "a <|im_end|> b"
    messages = [{**each, "content": f"{odd} {each['content']}"} for each in ({"role": "system", "content": "s"}, *TALK)]
    messages[-1]["reasoning_content"] = odd
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for turn, turns_before in zip(
        write_turns(Parsed("r", messages=tuple(messages)), template, "all", specials), (2, 4), strict=True
    ):
        assert encode_prompt(tokenizer, turn.prompt).count(end) == turns_before
        assert encode_response(tokenizer, turn.response).count(end) == 0 and odd in plain(turn.response)


def test_an_end_of_turn_in_the_row_is_not_learnt_twice():
    for kind, (_, end) in TOKENS.items():
        if kind == "deepseek31":
            continue
        [turn] = written(kind, (ASK, {"role": "assistant", "content": f"It is 5.{end}"}))
        assert turn == written(kind, (ASK, {"role": "assistant", "content": "It is 5."}))[0]
        tokenizer = tokenizer_of(kind)
        row = Parsed("r", prompt="2+3?", response=f"Count {end} up. \\boxed{{5}}{end}\n")
        [turn] = write_turns(row, Template(), "all", special_tokens(tokenizer))
        ids = encode_response(tokenizer, turn.response)
        assert tokenizer.convert_tokens_to_ids(end) not in ids and tokenizer.decode(ids) == f"Count {end} up. \\boxed{{5}}"


@pytest.mark.parametrize("kind", ["qwen3", "llama3", "no-system"])
def test_a_single_question_with_a_direct_answer_is_written_as_it_is(kind):
    tokenizer = tokenizer_of(kind)
    template = template_of("chat", tokenizer)
    row = Parsed("r", prompt=" 2+3? ", response="<think> Count. </think> <answer> 5 </answer>")
    [turn] = write_turns(row, template, "all", special_tokens(tokenizer))
    assert turn.prompt == template.wrap("2+3?") and turn.response == row.response


def test_a_single_question_gets_the_channels_of_the_template():
    tokenizer = tokenizer_of("gpt-oss")
    template = template_of("chat", tokenizer)
    row = Parsed("r", prompt="2+3?", response="<think> Count. </think> <answer> 5 </answer>")
    [turn] = write_turns(row, template, "all", special_tokens(tokenizer))
    assert turn.prompt == template.wrap("2+3?") and turn.response == ANALYSIS.format("Count.") + "<answer> 5 </answer>"


def test_a_single_question_meets_the_opened_thought_once():
    tokenizer = tokenizer_of("r1")
    template, specials = template_of("chat", tokenizer), special_tokens(tokenizer)
    [turn] = write_turns(Parsed("r", prompt="2+3?", response="<think>\nCount.\n</think>\n\n5"), template, "all", specials)
    assert (turn.prompt + turn.response).endswith("<｜Assistant｜><think>\nCount.\n</think>\n\n5")
    [turn] = write_turns(Parsed("r", prompt="2+3?", response="5"), template, "all", specials)
    assert (turn.prompt + turn.response).endswith("<｜Assistant｜><think>\n\n</think>\n\n5")


def test_a_recognised_prompt_keeps_its_markup_and_meets_the_response():
    prompt = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    tokenizer = tokenizer_of("qwen3")
    for name in ("none", "r1_zero", "chat"):
        template, specials = template_of(name, tokenizer), special_tokens(tokenizer)
        row = Parsed("r", prompt=prompt, response="<think>\nCount.\n</think>\n<answer> 5 </answer>")
        [turn] = write_turns(row, template, "all", specials)
        assert turn.prompt == prompt == write_problem(row, template, specials)
        assert turn.response == "Count.\n</think>\n<answer> 5 </answer>"
        assert encode_prompt(tokenizer, turn.prompt) == tokenizer.encode(prompt, add_special_tokens=False)


@pytest.mark.parametrize("name", ["none", "r1_zero"])
def test_a_recognised_prompt_begins_the_assistants_turn(name):
    row = Parsed("r", prompt="<|im_start|>user\n2+3?<|im_end|>\n", response="5")
    with pytest.raises(BadRow, match=r"ends in <\|im_end\|>: add the beginning of the assistant's turn"):
        write_turns(row, template_of(name, None), "all", ("<|im_start|>", "<|im_end|>"))


def test_a_text_template_writes_a_thought_of_its_own_in_its_form():
    r1_zero, plain_text = template_of("r1_zero", None), template_of("plain", None)
    row = Parsed("r", messages=(ASK, FIVE))
    [turn] = write_turns(row, r1_zero, "all", ())
    assert turn.prompt == r1_zero.wrap("2+3?")
    assert turn.prompt.endswith("<think>") and turn.response == " Count up from 2. </think> <answer> It is 5. </answer>"
    tagged = {**FIVE, "content": "So <answer> 5 </answer>"}
    [turn] = write_turns(Parsed("r", messages=(ASK, tagged)), r1_zero, "all", ())
    assert turn.response == " Count up from 2. </think> So <answer> 5 </answer>"
    [turn] = write_turns(row, plain_text, "all", ())
    assert turn.response == "<think>\nCount up from 2.\n</think>\n\nIt is 5."
    [turn] = write_turns(Parsed("r", messages=(ASK, INLINE)), plain_text, "all", ())
    assert turn.response == INLINE["content"]


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        (TALK, "several turns"),
        (({"role": "system", "content": "s"}, ASK, FIVE), "a system turn"),
        (({"role": "developer", "content": "s"}, ASK, FIVE), "a developer turn"),
        ((ASK, TOOL, FIVE), "a tool turn"),
        ((ASK, CALL), "a tool call"),
        ((ASK, FIVE, MORE), "several turns"),
    ],
)
def test_a_text_template_refuses_conversations_and_says_what_writes_them(messages, what):
    with pytest.raises(BadRow, match=rf'messages has {what}: data\.prompt = "chat"'):
        write_turns(Parsed("r", messages=messages), template_of("r1_zero", None), "all", ())


def test_a_text_template_never_drops_the_tools_of_a_row():
    text = template_of("r1_zero", None)
    tools = ({"type": "function", "function": {"name": "add"}},)
    with pytest.raises(BadRow, match=r'the row offers tools: data\.prompt = "chat"'):
        write_turns(Parsed("r", messages=(ASK, FIVE), tools=tools), text, "all", ())
    with pytest.raises(BadRow, match=r'the row offers tools: data\.prompt = "chat"'):
        write_problem(Parsed("r", messages=(ASK,), tools=tools), text, ())


def test_a_problem_is_asked_with_the_ids_that_training_taught():
    for kind in EXPECTED:
        tokenizer = tokenizer_of(kind)
        template, specials = template_of("chat", tokenizer), special_tokens(tokenizer)
        trained = write_turns(Parsed("r", messages=TALK), template, "all", specials)
        assert write_problem(Parsed("r", messages=TALK[:3]), template, specials) == trained[1].prompt
        assert write_problem(Parsed("r", messages=TALK), template, specials) == trained[1].prompt
        assert write_problem(Parsed("r", prompt="2+3?"), template, specials) == trained[0].prompt
    assert write_problem(Parsed("r", messages=(ASK,)), template_of("plain", None), ()) == "Question: 2+3?\nSolution: "


def test_an_empty_response_is_refused():
    with pytest.raises(BadRow, match="the response is empty"):
        write_turns(Parsed("r", prompt="2+3?", response="<|im_end|>"), Template(), "all", ("<|im_end|>",))
