"""How a response becomes a row that training reads as the model saw and said it: the same prompt ids, the same response ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tutelage.config import Config
from tutelage.data import (
    BadRow,
    Example,
    Parsed,
    Stops,
    Template,
    encode_prompt,
    encode_texts,
    plain,
    special_tokens,
    template_of,
    write_turns,
)
from tutelage.evaluation.engine import Completion


@dataclass(frozen=True)
class Form:
    """The prompt template and the tokenizer that both asking and training use."""

    template: Template
    tokenizer: Any

    @staticmethod
    def of(config: Config, tokenizer: Any) -> Form:
        return Form(template_of(config.data.prompt, tokenizer, config.data.template_arguments), tokenizer)

    @cached_property
    def specials(self) -> tuple[str, ...]:
        return special_tokens(self.tokenizer)

    @cached_property
    def end_token_id(self) -> int:
        return Stops.of(self.tokenizer).end_token_id

    def prompt_of(self, problem: Example) -> str:
        """The prompt as a row says it, from which training makes the ids that the model is asked with.

        It is the text that the model sees. Where training would read that otherwise (its template is not recognised in it, or
        the question holds a special token as text), it is the question alone, which the template is put around again.

        Raises:
            BadRow: neither gives the same ids.
        """
        asked, seen = encode_prompt(self.tokenizer, problem.prompt), plain(problem.prompt)
        for text in (seen, *self._question_in(seen)):
            if self.gives(text, asked):
                return text
        raise BadRow("no row gives its prompt's ids: training would read the prompt otherwise than the model is asked")

    def gives(self, text: str, asked: Sequence[int]) -> bool:
        """Whether training makes these ids of a row with this prompt."""
        turn = self._turn(text, "a response")
        return turn is not None and list(encode_prompt(self.tokenizer, turn)) == list(asked)

    def _question_in(self, prompt: str) -> list[str]:
        """The question of a prompt that a template of text alone was put around; none where that is not so."""
        before, _, after = self.template.text.partition("{question}")
        if self.template.chat or not prompt.startswith(before) or not prompt.endswith(after):
            return []
        return [prompt.removeprefix(before).removesuffix(after)]

    def _turn(self, prompt: str, response: str) -> str | None:
        """The prompt that training makes of a row; None where it refuses the row."""
        try:
            return self._written(prompt, response)[0]
        except BadRow:
            return None

    def _written(self, prompt: str, response: str) -> tuple[str, str]:
        """(prompt, response) as training writes a row. Raises BadRow: it refuses the row."""
        [turn] = write_turns(Parsed("response", prompt=prompt, response=response), self.template, "last", self.specials)
        return turn.prompt, turn.response

    def faults(self, prompt: str, completions: Sequence[Completion]) -> list[tuple[str, bool]]:
        """Of each response to a prompt: why it is no row ("" if it is one), and whether its ids differ from those generated.

        Args:
            prompt: as the row says it (`prompt_of`).
        """
        found: list[tuple[str, bool]] = []
        for completion in completions:
            try:
                _, response = self._written(prompt, completion.text)
                [ids] = encode_texts(self.tokenizer, [response])
            except BadRow as bad:
                found.append((str(bad), True))
                continue
            if (
                plain(response) not in completion.text
            ):  # a thought that the prompt opens may be opened again, and is not learnt twice
                found.append(("training would read another text than the model said", True))
            else:
                found.append(("", tuple(ids) != self._said(completion)))
        return found

    def _said(self, completion: Completion) -> tuple[int, ...]:
        """The ids that were generated, without the end token."""
        ids = completion.token_ids
        return ids[:-1] if ids and ids[-1] == self.end_token_id else ids
