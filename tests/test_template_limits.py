"""Chat templates that raise, loop, grow or break out: one message with their line, and no process that stays."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_templates import tokenizer_of

from tutelage.cli import main
from tutelage.data import Parsed, Template, end_token, guarded, prepare, template_of
from tutelage.data.recipe import Recipe
from tutelage.data.shapes import BadRow
from tutelage.data.templates import guard
from tutelage.errors import InputError

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
DOUBLE = "{% set n = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
APART = (
    "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(40) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
    "{{ n.a == n.b }}"
)
"""Two lists that are compared for years, in one operation."""
PLAIN = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}"
REFUSED = {
    "an attribute": ("{{ messages[0].content.__class__.__mro__ }}", "at its line 2"),
    "an attribute called": ("{{ messages.__init__.__globals__ }}", "at its line 2"),
    "format": ("{{ '{0.__class__}'.format(messages) }}", "does not show the user's message"),
    "syntax": ("{% for %}", "at its line 2"),
    "an open tag": ("{{ messages[0].content", "at its line 2"),
    "no such filter": ("{{ 'x' | nothing }}", "at its line 2"),
    "refusal": ("{{ raise_exception('A system turn is needed') }}", "A system turn is needed, at its line 2"),
    "include": ("{% include 'x' %}", "at its line 2"),
    "import": ("{% import '/etc/passwd' as x %}", "at its line 2"),
    "extends": ("{% extends 'x' %}", "at its line 2"),
    "range": ("{% for a in range(10 ** 9) %}{% endfor %}", "at its line 2"),
    "a float": ("{{ messages[0].content * 3e9 }}", "at its line 2"),
    "a missing turn": ("{{ messages[7].content.x }}", "at its line 2"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion.*at its line 2"),
    "chance": ("{{ [1, 2] | random }}", "random numbers.*at its line 2"),
    "chance of words": ("{{ lipsum(n=3) }}", "at its line 2"),
    "a loop": (LOOP, "more than 0.3 seconds of computing, at its line 2"),
    "a loop in a filter": (LOOP.replace("range(99999)", "range(99999) | list"), "seconds of computing"),
    "a product": ("{{ messages[0].content * 3000000000 }}", r"more than 0\.25 GiB of memory, at its line 2"),
    "a sum": (DOUBLE + "{{ n.x }}", "GiB of memory, at its line 2|seconds of computing"),
    "a list": ("{{ ([0] * 3000000000) | length }}", "GiB of memory"),
    "a wide column": ("{{ 'x' | center(9000000000) }}", "GiB of memory"),
    "a large output": ("{{ messages[0].content }}{{ 'x' * 20000000 }}", "writes 20,000,0.. characters of"),
    "a power": ("{{ (messages | length * 9) ** (9 ** 9) }}", "seconds of computing|GiB of memory"),
    "one operation": (APART, "more than 0.3 seconds of computing, in one operation"),
    "a long source": ("x" * 10_000_000, "10,000,004 characters"),
    "deep brackets": ("{{ " + "(" * 60000 + "1" + ")" * 60000 + " }}", "recursion|nested|memory|ended"),
    "deep blocks": ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, "recursion|nested|memory|ended"),
}  # fmt: skip
"""(what stands on the second line of a template, what the message says)."""


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.3)
    monkeypatch.setattr(guard, "SECONDS_TO_SAY_SO", 0.3)
    monkeypatch.setattr(guard, "MEMORY", 1 << 28)


def children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_template_is_one_message_with_its_line(kind, strict):
    source, says = REFUSED[kind]
    before = children()
    tokenizer = tokenizer_of("qwen3")
    tokenizer.chat_template = "<a>\n" + source
    with pytest.raises(InputError, match=says) as caught:
        end_token(tokenizer, chat=True, wanted=None)
        template_of("chat", tokenizer)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    assert children() == before


def test_what_the_template_of_a_run_asks_is_rendered_within_limits_too(strict):
    """A template may behave for one question, and not for a thought, a system turn or tools."""
    tokenizer = tokenizer_of("qwen3")
    for condition in ("messages | length > 1", "messages[-1].thinking", "messages[0].role == 'system'"):
        tokenizer.chat_template = PLAIN + "{% if " + condition + " %}" + LOOP + "{% endif %}"
        with pytest.raises(InputError, match="more than 0.3 seconds of computing, at its line 1"):
            template_of("chat", tokenizer)


def rows(tmp_path, *texts) -> str:
    file = tmp_path / "rows.jsonl"
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "5"}] for text in texts]
    file.write_text("".join(json.dumps({"messages": each, "reference": "5"}) + "\n" for each in turns))
    return str(file)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (LOOP, "seconds of computing, at its line 1"),
        ("{{ 'x' * 3000000000 }}", "GiB of memory"),
        (APART, "in one operation"),
        ("{{ m.content * 3000000 }}", "writes"),
    ],
)
def test_a_template_that_behaves_until_one_row_names_that_row(what, says, strict, make_config, tmp_path):
    tokenizer = tokenizer_of("qwen3")
    tokenizer.chat_template = PLAIN + "{% for m in messages %}{% if 'evil' in m.content %}" + what + "{% endif %}{% endfor %}"
    config = make_config(data__prompt="chat", data__train=rows(tmp_path, "2+3?", "1+4?", "evil?", "4+1?"), data__filter=False)
    with pytest.raises(InputError, match=f"rows.jsonl:3: the chat template .*({says})") as caught:
        prepare(config, tokenizer)
    assert "\n" not in str(caught.value)


def test_a_template_that_refuses_one_row_is_told_of_that_row_alone(make_config, tmp_path):
    tokenizer = tokenizer_of("qwen3")
    tokenizer.chat_template = "{% if 'evil' in messages[0].content %}\n{{ messages.append.__self__.x }}{% endif %}" + PLAIN
    config = make_config(data__prompt="chat", data__train=rows(tmp_path, "2+3?", "evil?", "4+1?"), data__filter=False)
    with pytest.raises(InputError, match="rows.jsonl:2: .*the chat template refuses the turns: .*at its line 2"):
        prepare(config, tokenizer)


def test_a_kept_template_is_tried_before_it_is_used(strict, tmp_path):
    tokenizer = tokenizer_of("qwen3")
    kept = template_of("chat", tokenizer)
    file = tmp_path / "template.json"
    for source, says in ((PLAIN + LOOP, "seconds of computing"), ("{% for %}", "at its line 1"), ("x" * 1_000_001, "characters")):
        file.write_text(dataclasses.replace(kept, chat=source).to_json())
        with pytest.raises(InputError, match=says):
            template_of(str(file), tokenizer)


@pytest.mark.parametrize("sources", [5, ["a"], {"default": 5}, {"default": ["x"]}, {"tool_use": "x"}, {}])
def test_a_chat_template_that_is_no_text_is_named(sources):
    tokenizer = tokenizer_of("qwen3")
    tokenizer.chat_template = sources
    with pytest.raises(InputError, match="and no text|no chat template"):
        template_of("chat", tokenizer)


def test_arguments_that_a_template_fails_on_are_one_message(strict):
    tokenizer = tokenizer_of("qwen3")
    tokenizer.chat_template = PLAIN + "\n{% for a in range(n) %}{% for b in range(n) %}{% endfor %}{% endfor %}"
    assert template_of("chat", tokenizer, {"n": 3}).text
    for value, says in ((90000, "seconds of computing, at its line 2"), (10**9, "Range too big"), ("x", "at its line 2")):
        with pytest.raises(InputError, match=says):
            template_of("chat", tokenizer, {"n": value})


def test_what_is_rendered_under_guard_is_what_is_rendered_here(make_config, tmp_path):
    tokenizer = tokenizer_of("qwen3")
    texts = ["2+3? \ud800", "<|im_start|>", "caf\u00e9 \u2028 \x00 \n", "x" * 2_000_000]
    template = template_of("chat", tokenizer)
    recipe = Recipe(None, template, tokenizer)
    parsed = [Parsed(str(index), text, "<think>\na\n</think>\n\n5") for index, text in enumerate(texts)] + [Parsed("bad", "x", " ")]
    written = recipe.write_all(parsed)
    assert written[:-1] == [recipe.write(row) for row in parsed[:-1]] and isinstance(written[-1], BadRow)
    assert recipe.write_all([]) == [] and isinstance(template, Template)


def test_an_error_of_ours_and_a_copy_that_dies_are_told():
    with pytest.raises(InputError, match="third: the chat template ended the process that rendered it .SIGALRM"):
        guarded(lambda job: os.kill(os.getpid(), signal.SIGALRM) if job == "third" else job, ["first", "second", "third"], str)
    with pytest.raises(InputError, match="ended in division by zero"):
        guarded(lambda job: 1 / 0, ["first"], str)
    assert guarded(len, ["ab", "abc"], str) == [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "eval", "ask", "check", "plan"])
def test_commands_end_with_two_and_one_message(command, tiny_model, data_file, tmp_path, capsys):
    folder = tmp_path / "evil"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text("<a>\n{% for %}")
    file = tmp_path / "config.toml"
    words = [f"--model.id={folder}", "--model.device=cpu", "--data.prompt=chat", f"--data.train={data_file}"]
    given = {"eval": [str(folder), str(data_file)], "ask": [str(folder), "2+3?"]}.get(command, [str(file)])
    file.write_text(f'[model]\nid = "{folder}"\ndevice = "cpu"\n[data]\ntrain = "{data_file}"\nprompt = "chat"\n[run]\ndir = "{tmp_path / "run"}"\n')
    assert main([command, *given, *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "at its line 2" in " ".join(said) and "Traceback" not in " ".join(said)


@pytest.mark.slow
def test_a_copy_ends_with_its_owner_and_leaves_signals_to_it(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(
        "import os, signal\n"
        "from tutelage.data import guarded\n"
        "def job(name):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "    while True: pass\n"
        "guarded(job, ['x'], str)\n"
    )
    owner = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    copy = int((tmp_path / "pid").read_text())
    owner.kill()
    owner.wait()

    def lives() -> bool:
        stat = Path(f"/proc/{copy}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    while lives() and time.monotonic() < until:
        time.sleep(0.05)
    assert not lives()
