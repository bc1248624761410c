"""Conversations in rows: turns as people write them, in one form."""

from __future__ import annotations

import pytest
from shaped import BOXED, WORK, chat, read, two

from tutelage.data.shapes.messages import turns_of
from tutelage.data.shapes.parsed import BadRow


def test_more_than_a_question_and_its_answer_is_kept_as_messages():
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "5", "tool_call_id": "x"},
        {"role": "assistant", "content": "b", "reasoning": "c", "weight": 1},
        {"role": "user", "content": "d"},
        {"role": "assistant", "content": "e", "weight": 0},
    ]
    parsed = read([{"messages": turns, "tools": '[{"name": "f"}]'}])[0]
    assert [turn["role"] for turn in parsed.messages] == [turn["role"] for turn in turns] and parsed.tools == ({"name": "f"},)
    assert parsed.messages[2] == {"role": "assistant", "content": "", "tool_calls": turns[2]["tool_calls"]}
    assert parsed.messages[3] == {"role": "tool", "content": "5", "tool_call_id": "x"}
    assert parsed.messages[4] == {"role": "assistant", "content": "b", "reasoning_content": "c"}
    assert parsed.messages[6] == {"role": "assistant", "content": "e", "train": False}
    assert (parsed.prompt, parsed.response) == ("d", "e")
    problem = read([{"messages": turns, "answer": 5}], problems=True)[0]
    assert problem.messages[-1] == {"role": "user", "content": "d"} and problem.response == ""


def test_tools_beside_a_question_and_its_answer_make_a_conversation():
    row = {"messages": chat(0), "functions": [{"name": "f"}], "answer": 5}
    parsed, problem = read([row])[0], read([row], problems=True)[0]
    assert [len(each.messages) for each in (parsed, problem)] == [2, 1] and parsed.tools == problem.tools == ({"name": "f"},)
    assert "tools is text that is not valid JSON" in read([{"messages": chat(0), "tools": "{"}])[0].fault


def test_a_system_column_is_the_systems_turn_of_a_conversation():
    parsed = read(two(system="Be brief.", conversations=chat))[0]
    assert parsed.messages[0] == {"role": "system", "content": "Be brief."} and not parsed.unread
    assert read(two(system="", conversations=chat))[0].messages == ()


def test_an_empty_system_turn_is_left_out_and_an_open_question_is_named():
    turns = [{"role": "system", "content": ""}, *chat(0), {"role": "user", "content": "Thanks!"}]
    parsed = read([{"messages": turns}])[0]
    assert (parsed.response, parsed.messages, parsed.unread) == (WORK, (), ("messages[-1]",))


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], r"messages\[0\].content has a part of type 'image'"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\] has the role 'robot'"),
        ([{"role": "user", "content": ""}], r"messages\[0\].content is empty"),
        ([{"role": "assistant", "content": "x", "weight": 0.5}], r"messages\[0\].weight is 0.5, and should be 0 or 1"),
        ([{"role": "assistant", "content": "x", "train": "no"}], r"messages\[0\].train is 'no'"),
        ([{"role": "assistant", "content": "x", "train": True, "weight": 0}], "different things"),
        ([{"role": "assistant", "content": "x", "reasoning": "a", "thinking": "b"}], "several thoughts"),
        ([{"role": "assistant", "content": "<think>a</think>x", "reasoning": "b"}], "thought in its content and another"),
        ([{"role": "assistant", "content": None}], r"messages\[0\].content is empty"),
        (["x"], r"messages\[0\] is str, not a message"),
    ],
)
def test_a_message_that_cannot_be_read_says_why(turns, what):
    with pytest.raises(BadRow, match=what):
        turns_of(turns, "messages")


def test_a_conversation_of_which_nothing_is_trained_is_a_fault():
    rows = [{"messages": [chat(0)[0], {**chat(0)[1], "train": False}]}, {"messages": chat(1)}]
    assert "no turn of messages is trained" in read(rows)[0].fault


@pytest.mark.parametrize(
    ("user", "assistant", "row", "reference"),
    [
        ({"info": {"reference_answer": ""}}, {"info": {"reference_answer": "5"}}, {"answer": "6"}, "5"),
        ({"info": {"reference_answer": None}}, {"reference": "5"}, {}, "5"),
        ({}, {"reference": "5"}, {"answer": "6"}, "6"),
        ({}, {}, {"reward_model": {"ground_truth": "5"}, "extra_info": {"answer": "6"}}, "5"),
        ({}, {}, {"extra_info": {"answer": "x\n#### 1,000"}}, "1000"),
        ({}, {"content": BOXED}, {}, "5"),
    ],
)
def test_the_reference_of_a_conversation_is_found_where_it_is(user, assistant, row, reference):
    turns = [chat(0)[0] | user, chat(0)[1] | assistant]
    assert read([{"messages": turns, **row}])[0].reference == reference


def test_fields_of_messages_that_nothing_reads_are_named():
    turns = [chat(0)[0] | {"timestamp": 7}, chat(0)[1] | {"annotations": [], "logprobs": [0.1]}]
    assert read([{"messages": turns, "id": 3}])[0].unread == ("messages[].timestamp", "messages[].logprobs", "id")
