"""How rows are read whose columns have known names: the way that the names, and what the first rows hold under them, decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tutelage.data.shapes.messages import is_messages
from tutelage.data.shapes.names import CONTEXT, PROMPT, REFERENCE, WORK, is_system, is_thought, is_tools, kind_of, rank_of
from tutelage.data.shapes.parsed import Purpose, holds
from tutelage.data.shapes.paths import column_of
from tutelage.data.shapes.ways import Conversation, Mapped, Named, Way
from tutelage.data.shapes.works import LONG, is_bare, is_work

WORK_NAMES = frozenset({"response", "completion"})
"""Beside ``prompt``, a work of such a name is the response as it is."""


@dataclass(frozen=True)
class Facts:
    """What the first rows hold, by the names of their columns.

    Attributes:
        lists: columns of messages.
        items: columns of lists of texts.
        bare: columns with the name of a work, and answers alone in most rows.
        long: columns with the name of a reference answer, and in most rows a text that is more than an answer.
    """

    lists: frozenset[str]
    items: frozenset[str]
    bare: frozenset[str]
    long: frozenset[str]


def held_by(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of each column that say anything."""
    held: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            if holds(value):
                held.setdefault(name, []).append(value)
    return held


def facts_of(rows: Sequence[Mapping[str, Any]]) -> Facts:
    held = held_by(rows)

    def those(test: Callable[[Any], bool], kind: str | None = None) -> frozenset[str]:
        asked = {name: values for name, values in held.items() if kind is None or kind_of(name) == kind}
        return frozenset(name for name, values in asked.items() if mostly(map(test, values)))

    return Facts(
        lists=those(is_messages),
        items=those(lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value)),
        bare=those(is_bare, "work"),
        long=those(lambda value: isinstance(value, str) and (len(value) >= LONG or is_work(value)), "reference"),
    )


def mostly(said: Iterable[bool]) -> bool:
    """Whether at least half of some, and one at least, are true."""
    each = list(said)
    return bool(each) and sum(each) * 2 >= len(each)


def way_of(names: Sequence[str], facts: Facts, purpose: Purpose) -> Way | None:
    """The way to read a row with these columns; None where their names do not say which is the prompt."""
    prompts = ranked(names, "prompt", PROMPT)
    works, references = _works_and_references(names, facts)
    system = next((name for name in names if is_system(name)), "")
    tools = next((name for name in names if is_tools(name)), "")
    needless = frozenset(name for name in names if kind_of(name) == "work") if purpose.problems else frozenset()
    talks = [name for name in names if kind_of(name) == "conversation" and (name in facts.lists or not prompts)]
    if prompts and prompts[0] in facts.lists:
        completion = works[0] if works else ""
        known = frozenset({prompts[0], completion, system, tools}) | needless
        return Conversation(prompts[0], completion, system, tools, references, known, purpose)
    if talks and not (prompts and works):
        known = frozenset({talks[0], system, tools}) | needless
        return Conversation(talks[0], "", system, tools, references, known, purpose)
    if not prompts or (not works and not references and kind_of(prompts[0]) == "prompt" and prompts[0] in ("input", "text", "task")):
        return None
    prompt, work = prompts[0], works[0] if works else ""
    if work in facts.lists and not purpose.problems:
        columns = (("prompt", column_of(prompt, "data.columns")), ("response", column_of(work, "data.columns")))
        return Mapped(columns, {"prompt": (), "response": (), "reference": references}, None, purpose)
    if not work:
        long = [name for name in references if name in facts.long]
        work = long[0] if long and len(long) < len(references) else ""
        references = tuple(name for name in references if name != work)
    return Named(
        prompt=prompt, work=work, references=references, twin=talks[0] if talks else "",
        known=frozenset({prompt, work, *talks[:1]}) | needless, thought=is_thought(work),
        verbatim=prompt == "prompt" and work in WORK_NAMES, purpose=purpose,
    )  # fmt: skip


def ranked(names: Iterable[str], kind: str, known: tuple[str, ...]) -> list[str]:
    """The names of a kind, the likeliest first."""
    return sorted((name for name in names if kind_of(name) == kind), key=lambda name: rank_of(name, known))


def is_context(name: str, prompt: str) -> bool:
    """Whether a column has the name of what a model is given beside the prompt."""
    return name != prompt and (kind_of(name) == "context" or rank_of(name, CONTEXT)[0] == 0)


def likely_columns(rows: Sequence[Mapping[str, Any]], problems: bool = False) -> dict[str, str]:
    """`data.columns` that rows of no known shape probably need: known names, also within tables; {} where none are likely."""
    paths = list(dict.fromkeys(path for row in rows for path in _paths_of(row)))
    wanted = {"prompt": PROMPT, "reference": REFERENCE} if problems else {"prompt": PROMPT, "response": WORK, "reference": REFERENCE}
    kinds = {"prompt": "prompt", "response": "work", "reference": "reference"}
    found = {}
    for field, known in wanted.items():
        named = [path for path in paths if kind_of(_last(path)) == kinds[field]]
        if named:
            found[field] = min(named, key=lambda path: (rank_of(_last(path), known), path.count(".")))
    needed = {"prompt", "reference"} if problems else {"prompt", "response"}
    return found if needed <= set(found) else {}


def rest_of(names: Sequence[str], taken: Iterable[str], facts: Facts) -> dict[str, tuple[str, ...]]:
    """For fields that `data.columns` leaves out, the columns of their names that it does not read already, the likeliest first."""
    left = [name for name in names if name not in set(taken)]
    works, references = _works_and_references(left, facts)
    return {"prompt": tuple(ranked(left, "prompt", PROMPT)[:1]), "response": tuple(works), "reference": references}


def median_length(texts: Iterable[str]) -> float:
    lengths = [len(text) for text in texts]
    return median(lengths) if lengths else 0.0


def _works_and_references(names: Sequence[str], facts: Facts) -> tuple[list[str], tuple[str, ...]]:
    """Columns of works, and of reference answers, the likeliest first.

    A ``solution`` that is an answer alone is a reference, beside a work or where there is no other reference.
    """
    named = ranked(names, "work", WORK)
    references = ranked(names, "reference", REFERENCE)
    works = [name for name in named if name not in facts.bare]
    solutions = [name for name in named if name in facts.bare and "solution" in name.lower()]
    if not works:
        works = [name for name in named if name not in solutions]
        if not works and references:
            works, solutions = solutions, []
    works.sort(key=lambda name: name in facts.items)
    return works, (*references, *solutions)


def _paths_of(row: Mapping[str, Any], before: str = "") -> Iterable[str]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _paths_of(value, f"{before}{key}.")
        elif holds(value):
            yield f"{before}{key}"


def _last(path: str) -> str:
    return path.rpartition(".")[2]
