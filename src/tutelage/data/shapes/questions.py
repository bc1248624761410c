"""Questions to the user: rows that can be read in two ways, or in none. Each shows the lines of the configuration that answer it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.data.shapes.names import CONTEXT, PROMPT, is_about, is_thought, kind_of, rank_of
from tutelage.data.shapes.parsed import BadRow, Found, Purpose, holds, said_in, stands_in
from tutelage.data.shapes.paths import Column
from tutelage.data.shapes.recognise import Facts, is_context, likely_columns, median_length, mostly
from tutelage.data.shapes.ways import WITHOUT, Conversation, Named, Way
from tutelage.data.shapes.works import LONG, boxed, is_bare, is_work

Columns = dict[str, str]
Option = tuple[str, Columns]
"""A mapping to choose, with what it means in a few words."""
Find = Callable[[Mapping[str, Any]], tuple[Way, list[Found]]]
BEHIND = ("input", "option", "choice", "hint", "schema")
"""Contexts that stand behind the question, not before it."""
ASKS = PROMPT[: PROMPT.index("task")]
"""Names of prompts that are no less likely beside a likelier one."""


@dataclass(frozen=True)
class Seen:
    """The first rows of a source, and what they are read for."""

    path: str
    setting: str
    purpose: Purpose
    rows: Sequence[Mapping[str, Any]]
    facts: Facts


@dataclass(frozen=True)
class Reading:
    """A row as it is read: its way, the texts of prompt and response, the columns that nothing reads."""

    row: Mapping[str, Any]
    way: Named | Conversation
    prompt: str
    response: str
    unread: tuple[str, ...]


def ask_of(seen: Seen, find: Find) -> str:
    """What the first rows leave open, with the lines that decide it; "" where nothing is open."""
    problems = seen.purpose.problems
    if not problems and any(holds(row.get("chosen")) and holds(row.get("rejected")) for row in seen.rows):
        return _preference(seen)
    readings, faults = _read(seen, find)
    if not readings:
        return _nothing_reads(seen, faults)
    works = [] if problems else _open_works(readings, seen.facts)
    contexts = _open_contexts(readings)
    if not works and not contexts:
        return ""
    base = _base(readings, seen)
    options = _of_works(base, works, readings, seen.facts) if works else [("", base)]
    if contexts:
        options = _with_contexts(options, contexts, readings)
    what = [f"{_and(works)} may be the worked solution" if works else "", f"{_and(contexts)} may belong to the prompt" if contexts else ""]
    them = "it" if len(works + contexts) == 1 else "them"
    read = f" (the response is {base['response']})" if works and "response" in base else ""
    lines = _shown(options, seen) + (_of_boxes(works, readings) if works and seen.purpose.reward != "question_only" else "")
    return f"{', and '.join(filter(None, what))}, and nothing reads {them}{read}. Say which is meant:\n{lines}"


def wants_columns(seen: Seen, columns: Mapping[str, Column]) -> str:
    """Validation rows that have neither the training's columns nor a shape of their own."""
    likely = likely_columns(seen.rows, problems=True) or {"prompt": "…", "reference": "…"}
    missing = sorted({path.text for column in columns.values() for path in column.paths})
    keys = sorted({str(key) for row in seen.rows for key in row})
    return (
        f"{seen.path}: these rows have neither the columns {_and(missing)} of the training rows nor a known shape; their keys are"
        f" {keys}. Write:\n{_lines(likely, seen, 'data.validation')}"
    )


def ask_which_work(columns: Mapping[str, Column], works: Sequence[str], seen: Seen) -> str:
    """`data.columns` that name no response, where several columns may be it."""
    written = {field: column.text for field, column in columns.items()}
    options = [(name, written | {"response": name}) for name in works]
    return f"{seen.setting}.columns names no response, and {_and(works)} may be it. Say which is meant:\n{_shown(options, seen)}"


def _read(seen: Seen, find: Find) -> tuple[list[Reading], Counter[str]]:
    readings: list[Reading] = []
    faults: Counter[str] = Counter()
    for row in seen.rows:
        try:
            way, found = find(row)
        except BadRow as problem:
            faults[str(problem)] += 1
            continue
        if isinstance(way, Named | Conversation):
            left = found[0]["unread"] + ((way.twin,) if isinstance(way, Named) and way.twin and way.differs(row) else ())
            readings.append(Reading(row, way, said_in(found[0]), found[0]["response"], left))
    return readings, faults


def _open_works(readings: Sequence[Reading], facts: Facts) -> list[str]:
    """Columns that may be the work and that nothing reads: by name, or by a long text beside a short response."""
    usual = median_length(reading.response for reading in readings)
    found = []
    for name in _unread(readings):
        held = [(reading, _text(reading.row[name])) for reading in readings if name in reading.unread and holds(reading.row[name])]
        if kind_of(name) == "conversation":
            is_open = mostly(name == getattr(reading.way, "twin", "") for reading, _ in held)
        elif kind_of(name) == "work":
            is_open = mostly(not is_bare(text) and bool(text) and text.strip() not in _raw(reading) for reading, text in held)
        elif is_about(name) or is_context(name, "") or name in facts.lists:
            is_open = False
        else:
            long = (
                len(text) >= LONG and len(text) >= 3 * usual and " " in text and not _is_rendering(text, reading) for reading, text in held
            )
            is_open = len(held) * 2 >= len(readings) and mostly(long)
        if is_open:
            found.append(name)
    return found


def _open_contexts(readings: Sequence[Reading]) -> list[str]:
    """Columns that may belong to the prompt and that nothing reads: by name, or by texts that are long, differ, and stand nowhere."""
    found = []
    for name in _unread(readings):
        held = [(reading, reading.row[name]) for reading in readings if name in reading.unread and holds(reading.row[name])]
        if is_context(name, "") or rank_of(name, ASKS)[0] == 0:
            is_open = any(not stands_in(value, reading.prompt) for reading, value in held)
        elif is_about(name) or kind_of(name) in ("work", "reference", "conversation"):
            is_open = False
        else:
            texts = [_text(value) if isinstance(value, str) else "" for _, value in held]
            prose = (_is_prose(text) and not _is_rendering(text, reading) for text, (reading, _) in zip(texts, held, strict=True))
            is_open = len(held) * 2 >= len(readings) and len(set(texts)) >= max(2, len(texts) / 2) and mostly(prose)
        if is_open:
            found.append(name)
    return found


def _unread(readings: Sequence[Reading]) -> list[str]:
    """The columns that nothing reads, in their order."""
    return list(dict.fromkeys(name for reading in readings for name in reading.unread if name in reading.row))


def _raw(reading: Reading) -> str:
    """All that is learnt of a row."""
    way = reading.way
    return reading.response + "\n" + reading.prompt + (str(reading.row.get(way.work, "")) if isinstance(way, Named) else "")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        texts = [item for item in value if isinstance(item, str)]
        return max(texts, key=len) if texts and len(texts) == len(value) else ""
    return value if isinstance(value, str) else ""


def _is_prose(text: str) -> bool:
    return len(text) >= LONG and text.count(" ") >= 4 and not text.lstrip().startswith(("{", "[", "http"))


def _is_rendering(text: str, reading: Reading) -> bool:
    """Whether a text is the prompt, or prompt and response, once more, or a part of them."""
    said, prompt, response = text.strip(), reading.prompt.strip(), reading.response.strip()
    if said in prompt or said in response:
        return True
    return len(prompt) > 10 and prompt in said and (is_bare(response) is False or len(said) < len(prompt) + LONG)


def _base(readings: Sequence[Reading], seen: Seen) -> Columns:
    """The mapping that says what is read without any answer."""
    reading = readings[0]
    way, row = reading.way, reading.row
    if isinstance(way, Named):
        work = way.work or next((name for name in way.references if isinstance(row.get(name), str) and is_work(row[name])), "")
        columns = {"prompt": way.prompt, "response": work}
        references = tuple(name for name in way.references if name != work)
    else:
        columns, references = _of_turns(way, readings), way.references
    reference = next((name for name in references if any(holds(each.row.get(name)) for each in readings)), "")
    columns |= {"reference": reference}
    if seen.purpose.problems:
        columns.pop("response", None)
    return {field: text for field, text in columns.items() if text}


def _of_turns(way: Conversation, readings: Sequence[Reading]) -> Columns:
    """Paths to the question and the answer of a conversation; where it has more turns, the conversation itself."""
    messages = [reading.row[way.column] for reading in readings if isinstance(reading.row[way.column], list)]
    content = "value" if any("value" in message for each in messages for message in each if isinstance(message, Mapping)) else "content"
    turns = max((len(each) for each in messages), default=0)
    if way.completion:
        return {"prompt": f"{way.column}[-1].{content}" if turns == 1 else way.column, "response": way.completion}
    if turns > 2:
        return {"prompt": way.column}
    return {"prompt": f"{way.column}[0].{content}", "response": f"{way.column}[1].{content}" if turns == 2 else ""}


def _of_works(base: Columns, works: Sequence[str], readings: Sequence[Reading], facts: Facts) -> list[Option]:
    """The mappings to choose from: a thought with its answer, each work alone, and what is read now."""
    row = next((reading.row for reading in readings if all(holds(reading.row.get(name)) for name in works)), readings[0].row)
    values = {name: _expression(name, row, facts) for name in works}
    current = base.get("response", "")
    answers = {name: text for name, text in values.items() if not is_thought(name) and "[*]" not in text}
    thoughts = [name for name in works if is_thought(name)]
    if current and not is_thought(current) and "{" not in current:
        answers[current] = current
    elif current:
        thoughts.append(current)
        values[current] = current
    options = []
    for thought in thoughts:
        fitting = [name for name in answers if name != thought]
        if fitting:
            answer = max(fitting, key=lambda name: (_common(name, thought), name != current))
            tagged = readings[0].way.purpose.reward == "question_only" or "</answer>" in str(row.get(answer, ""))
            joined = _joined(values[thought].replace("[*]", "[0]"), answers[answer], tagged)
            options.append((f"{thought}, then {answer}", base | {"response": joined}))
    for name in works:
        one = base | {"response": values[name]}
        if "[*]" in values[name] and (flags := _flags(name, row)):
            one["where"] = f"{flags}[*]"
        options.append((f"{name} alone", one))
    return [*options, (f"{current} alone", base)]


def _of_boxes(works: Sequence[str], readings: Sequence[Reading]) -> str:
    """A line about the grader, where works give their answers in boxes and have no tags."""
    texts = [_text(reading.row.get(name)) for reading in readings for name in works]
    return '\n# a response that ends in \\boxed{} wants eval.reward = "question_only"' if any(map(boxed, texts)) else ""


def _joined(thought: str, answer: str, as_it_is: bool) -> str:
    block = f"{{{answer}}}" if as_it_is else f"<answer>\n{{{answer}}}\n</answer>"
    return f"<think>\n{{{thought}}}\n</think>\n{block}"


def _expression(name: str, row: Mapping[str, Any], facts: Facts) -> str:
    if name in facts.lists:
        content = "value" if any("value" in message for message in row[name] if isinstance(message, Mapping)) else "content"
        return f"{name}[-1].{content}"
    return f"{name}[*]" if name in facts.items else name


def _flags(name: str, row: Mapping[str, Any]) -> str:
    """A column that says of each item whether it is right."""
    for other, value in row.items():
        is_flags = isinstance(value, list) and bool(value) and all(isinstance(item, bool) for item in value)
        if is_flags and len(value) == len(row[name]) and any(word in other for word in ("correct", "verif", "valid")):
            return other
    return ""


def _common(one: str, other: str) -> int:
    """How many characters two names have in common at their beginnings."""
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _with_contexts(options: Sequence[Option], contexts: Sequence[str], readings: Sequence[Reading]) -> list[Option]:
    """Each mapping with the contexts in its prompt, and the first one without them."""
    values = [reading.row[name] for reading in readings for name in contexts if holds(reading.row.get(name))]
    left_out = [(f"{words}, without {_and(contexts)}".lstrip(", "), columns) for words, columns in options]
    if not all(isinstance(value, str) for value in values):
        return [(f"{words} (a function, data.shape, can read them)", columns) for words, columns in left_out]
    behind = [name for name in contexts if rank_of(name, BEHIND)[0] == 0]
    before = sorted((name for name in contexts if name not in behind), key=lambda name: rank_of(name, CONTEXT))
    with_them = []
    for words, columns in options:
        names = [*before, columns["prompt"], *behind]
        joined = "\n\n".join(f"{{{name}}}" for name in names)
        with_them.append((f"{words}, with {_and(contexts)}".lstrip(", "), columns | {"prompt": joined}))
    return [*with_them, *left_out]


def _preference(seen: Seen) -> str:
    row = next(row for row in seen.rows if holds(row.get("chosen")))
    talk = isinstance(row["chosen"], list)
    asked = "prompt" if holds(row.get("prompt")) else "chosen[0].content"
    columns = {"prompt": asked, "response": "chosen[-1].content" if talk else "chosen"}
    if not talk and "prompt" not in row:
        columns["prompt"] = next((name for name in row if kind_of(name) == "prompt"), "…")
    return f"chosen and rejected are of a preference set; to train on the chosen responses, write:\n{_lines(columns, seen)}"


def _nothing_reads(seen: Seen, faults: Counter[str]) -> str:
    """No row could be read, and none could be with other columns either; "" where the rows themselves are at fault."""
    likely = likely_columns(seen.rows, seen.purpose.problems)
    nested = any("." in likely.get(field, "") for field in ("prompt", "response"))
    listed = [name for name in seen.rows[0] if kind_of(name) == "work" and name in seen.facts.items]
    if not seen.purpose.problems and listed and "prompt" in likely:
        options = []
        for name in listed:
            flags = _flags(name, seen.rows[0])
            options.append((f"each of {name}", likely | {"response": f"{name}[*]"} | ({"where": f"{flags}[*]"} if flags else {})))
            options.append((f"the first of {name}", likely | {"response": f"{name}[0]"}))
        return f"{_and(listed)} holds a list of works. Say which are meant:\n{_shown(options, seen)}"
    fault = faults.most_common(1)[0][0]
    if nested:
        return f"{fault}. Probably:\n{_lines(likely, seen)}"
    long = [name for name in seen.facts.long if any(name in row for row in seen.rows)]
    if long and "prompt" in (columns := likely_columns([{**row, "response": row.get(long[0])} for row in seen.rows])):
        columns = {"prompt": columns["prompt"], "response": long[0]}
        return (
            f"{long[0]} is text that shows no answer (no tags, no \\boxed{{}}, no ####): it may be the response, or the reference of a"
            f" problem without its work. To learn it, write:\n{_lines(columns, seen)}"
        )
    if WITHOUT in fault:
        answer = next((name for name in ("solution", "answer") if name in seen.rows[0]), "")
        prompt = likely_columns(seen.rows, problems=True).get("prompt", "")
        aside = f". To learn the bare {answer}, write:\n{_lines({'prompt': prompt, 'response': answer}, seen)}" if answer and prompt else ""
        return fault + aside
    return fault if all("of no known shape" in each for each in faults) else ""


def _shown(options: Sequence[Option], seen: Seen) -> str:
    distinct = {json.dumps(columns): (words, columns) for words, columns in reversed(options)}
    return "\n".join(f"# {words}\n{_lines(columns, seen)}" for words, columns in reversed(distinct.values()))


def _lines(columns: Columns, seen: Seen, setting: str = "") -> str:
    """The lines of the configuration, to copy."""
    section = setting or seen.setting
    lines = [f"# the table of this source, {section}:" if section.startswith("data.train[") else f"[{section}]"]
    if section == "data.validation":
        lines.append(f"path = {json.dumps(seen.path, ensure_ascii=False)}")
    pairs = ", ".join(f"{field} = {json.dumps(text, ensure_ascii=False)}" for field, text in columns.items() if field != "where")
    lines.append(f"columns = {{ {pairs} }}")
    return "\n".join([*lines, *([f"where = {json.dumps(columns['where'])}"] if "where" in columns else [])])


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
