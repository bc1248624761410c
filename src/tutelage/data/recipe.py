"""How rows become texts and ids: all that these depend on besides the rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tutelage.data.longest import characters_per_token
from tutelage.data.overlap import normalised, question_in
from tutelage.data.shapes import BadRow, Parsed, Reader
from tutelage.data.stops import Stops
from tutelage.data.templates import (
    Template,
    Turn,
    asks_template,
    encode_texts,
    guarded,
    is_rendered,
    special_tokens,
    write_problem,
    write_turns,
)

MALFORMED, LEFT_OUT = "malformed", "left out"


@dataclass(frozen=True)
class Recipe:
    """How rows become ids: all that ids depend on besides the rows.

    Attributes:
        turns: as `data.turns`.
        problems: whether rows are problems, of which the prompt alone is written.
        common: the sentences that the questions of the first rows have in common.
        limit: a sequence of more tokens is never trained on; None: that is not known.
    """

    reader: Reader
    template: Template
    tokenizer: Any
    turns: Literal["last", "all"] = "all"
    problems: bool = False
    common: frozenset[str] = frozenset()
    limit: int | None = None

    @functools.cached_property
    def specials(self) -> Any:
        return special_tokens(self.tokenizer)

    @functools.cached_property
    def stops(self) -> Stops:
        return Stops.of(self.tokenizer)

    def write(self, parsed: Parsed) -> list[Turn]:
        """As `write_all`, of one row. Raises BadRow."""
        [written] = self.write_all([parsed])
        if isinstance(written, BadRow):
            raise written
        return written

    def _write(self, parsed: Parsed) -> list[Turn]:
        if self.problems:
            return [Turn(write_problem(parsed, self.template, self.specials), "")]
        return write_turns(parsed, self.template, self.turns, self.specials)

    def write_all(self, rows: Sequence[Parsed]) -> list[list[Turn] | BadRow]:
        """The texts of what is learnt of each row, or of what is asked, or why there are none; chat templates render under guard.

        Raises:
            InputError: the template exceeds its limits at a row, or the rows ask a question.
        """
        asked = [asks_template(row, self.template) for row in rows]
        if any(asked):
            _ = self.template.traits  # known before the process is copied
        found = iter(guarded(self._in_json, [row for row, asks in zip(rows, asked, strict=True) if asks], lambda row: row.source))
        return [self._of_json(next(found)) if asks else self._written(row) for row, asks in zip(rows, asked, strict=True)]

    def _of_json(self, found: Any) -> list[Turn] | BadRow:
        return found if isinstance(found, BadRow) else [Turn(*turn) for turn in found]

    def _written(self, row: Parsed) -> list[Turn] | BadRow:
        try:
            return self._write(row)
        except BadRow as bad:
            return bad

    def _in_json(self, row: Parsed) -> list[tuple[str, str, str]]:
        return [(turn.prompt, turn.response, turn.end) for turn in self._write(row)]

    def encode(self, turns: Sequence[Turn]) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, response ids with the end token) of each turn. Raises BadRow."""
        turns = [self._start_of(turn) if self.is_cut(turn) else turn for turn in turns]
        prompts = encode_texts(self.tokenizer, [turn.prompt for turn in turns], begin=True)
        if self.problems:
            return [(prompt, []) for prompt in prompts]
        responses = encode_texts(self.tokenizer, [turn.response for turn in turns])
        ends = [self._end_of(turn) for turn in turns]
        return [(prompt, [*response, end]) for prompt, response, end in zip(prompts, responses, ends, strict=True)]

    @functools.cached_property
    def _most_characters(self) -> int | None:
        """So many characters are more than `limit` tokens."""
        longest = characters_per_token(self.tokenizer)
        return None if self.limit is None or self.problems or longest is None else (self.limit + 1) * longest

    def is_cut(self, turn: Turn) -> bool:
        """Whether a sequence has more than `limit` tokens, which its characters prove: its start alone is encoded."""
        most = self._most_characters
        if most is None or len(turn.prompt) + len(turn.response) <= 2 * most:
            return False
        return not turn.is_marked  # marks are no part of what is encoded

    def _start_of(self, turn: Turn) -> Turn:
        """A sequence whose longer text is cut to what is more than `limit` tokens all the same."""
        return replace(turn, prompt=turn.prompt[: self._most_characters], response=turn.response[: self._most_characters])

    def _end_of(self, turn: Turn) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(turn.end)) if turn.end else self.stops.end_token_id


@dataclass
class Made:
    """A row as it was made: what it says, the texts of its sequences, and whether its prompt holds a template.

    Attributes:
        raw, item: the index of its raw row in the part, and of the item that it is there.
        asked, question: its question as it is, and normalised.
        fate, why: "malformed" or "left out", and the reason; "" for a row that is well-formed.
    """

    raw: int
    item: int
    parsed: Parsed
    turns: list[Turn]
    asked: str = ""
    question: str = ""
    rendered: bool = False
    fate: str = ""
    why: str = ""


def made_of(recipe: Recipe, read: Sequence[tuple[int, int, Parsed]]) -> Iterator[Made]:
    """Rows as they are made, of (raw, item, what the row says)."""
    written = iter(recipe.write_all([parsed for _, _, parsed in read if _is_readable(parsed)]))
    for raw, item, parsed in read:
        yield _made(recipe, Made(raw, item, parsed, []), next(written) if _is_readable(parsed) else [])


def _made(recipe: Recipe, made: Made, written: list[Turn] | BadRow) -> Made:
    parsed = made.parsed
    if not _is_readable(parsed):
        made.fate, made.why = (MALFORMED, parsed.fault) if parsed.fault else (LEFT_OUT, parsed.left_out)
        return made
    if isinstance(written, BadRow):
        made.fate, made.why = MALFORMED, str(written)
    else:
        made.turns = written
    made.rendered = not parsed.messages and is_rendered(parsed.prompt, recipe.template, recipe.specials)
    made.asked = question_of(parsed, recipe.template.text)
    made.question = normalised(made.asked)
    return made


def _is_readable(parsed: Parsed) -> bool:
    """Whether a row is neither malformed nor left out as it was read."""
    return not parsed.fault and not parsed.left_out


def question_of(parsed: Parsed, template: str) -> str:
    """What a row asks: its prompt, or what the user says in all turns up to the last one of the assistant."""
    asked = [str(message["content"]) for message in parsed.messages if message["role"] == "user"]
    return "\n".join(asked) if asked else question_in(parsed.prompt, template)
