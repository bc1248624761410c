"""Prompt templates: the text around a question, which training, validation and `tutelage ask` share, and how turns are written.

A template is made once for a run and kept with it. The date that it shows is then the same tomorrow.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tutelage.data.shapes import BadRow
from tutelage.data.templates.guard import ExceededError, guarded, line_of_error, no_memory
from tutelage.data.templates.marks import pattern_of, special_tokens
from tutelage.data.templates.thoughts import closes_thought
from tutelage.data.templates.traits import ANSWER, ANSWERED, ASKED, QUESTION, traits_of
from tutelage.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BARE = "{question}"
"""The template that adds nothing."""

_HARD = "a \"b\" 'c' <d> & {e} \\f%\n\n{{ g }} \u00bd"
"""What a template that escapes texts would change."""

MOST_CHARACTERS, TIMES_AS_LONG = 1_000_000, 10
"""A template writes so many characters at most, and so many times those that it is given."""
LONGEST_SOURCE = 1_000_000
"""Characters of a template's source; those in use have some ten thousand, and a longer one is read for minutes."""

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Template:
    """How texts are written for the model.

    Attributes:
        text: the prompt of a single question, with ``{question}`` in its place, exactly once.
        chat, tool_chat: the Jinja sources of a chat template, and of the one for rows with tools where there are two; "" if the
            template is a text alone.
        arguments: what the chat template is given beside the messages (`data.template_arguments`).
        tokens: the special tokens that it may write, by name (``bos_token``).
        now: the day, in ISO form, that its dates show; "" if it shows none.
        end: the end of turn that it writes after an assistant's turn; "" if it writes none.
    """

    text: str = BARE
    chat: str = ""
    tool_chat: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    now: str = ""
    end: str = ""

    def wrap(self, question: str) -> str:
        """The prompt of a single question."""
        return self.text.replace(BARE, question if self.text == BARE else question.strip())

    def render(self, messages: Messages, tools: Messages = (), generation: bool = True) -> str:
        """What the chat template writes.

        Args:
            generation: whether the beginning of the assistant's next turn is written, too.

        Raises:
            BadRow: the template refuses the messages, in its own words.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        day = datetime.datetime.fromisoformat(self.now or "1970-01-01")
        given = {"strftime_now": day.strftime, **self.tokens, **self.arguments}
        source = self.tool_chat if tools and self.tool_chat else self.chat
        try:
            _without_chance(source)
            [text], _ = render_jinja_template(
                conversations=[[dict(message) for message in messages]], tools=[dict(tool) for tool in tools] or None,
                chat_template=source, add_generation_prompt=generation, **given,
            )  # fmt: skip
        except ExceededError:
            raise
        except MemoryError as error:
            raise ExceededError(f"{no_memory()}{line_of_error(error)}") from None
        except Exception as error:  # a template is a program: whatever it raises is about these messages
            words = first_line(error).rstrip(".")
            raise BadRow(f"the chat template refuses the turns: {words}{line_of_error(error)}") from None
        if len(text) > MOST_CHARACTERS:
            given_characters = len(repr((messages, tools)))
            if len(text) > MOST_CHARACTERS + TIMES_AS_LONG * given_characters:
                raise ExceededError(f"writes {len(text):,} characters of {given_characters:,} that it is given")
        return str(text)

    @functools.cached_property
    def traits(self) -> dict[str, Any]:
        """What the chat template does with turns of each kind (`traits_of`), as a guarded copy of this process has seen it."""
        return dict(guarded(traits_of, [self], lambda _: "")[0]) if self.chat else traits_of(self)

    @property
    def thought_key(self) -> str:
        """The key of a message under which the chat template takes an assistant's thought; "" if it knows none."""
        return str(self.traits["thought_key"])

    @property
    def keeps_thoughts(self) -> bool:
        """Whether the chat template shows the thought that an assistant's text begins with."""
        return bool(self.traits["keeps_thoughts"])

    @property
    def knows_developer(self) -> bool:
        """Whether the chat template shows a developer's turn."""
        return bool(self.traits["knows_developer"])

    @property
    def knows_system(self) -> bool:
        """Whether the chat template shows a system turn."""
        return bool(self.traits["knows_system"])

    @property
    def answers_directly(self) -> bool:
        """Whether a response stands right after the prompt, its thought in ``<think>``.

        A template with channels writes markup between prompt and response, or thoughts in a form of its own.
        """
        return bool(self.traits["answers_directly"])

    @property
    def call_form(self) -> tuple[bool, bool]:
        """How the chat template shows tool calls: (whether their arguments are JSON text, whether a turn without text has null)."""
        as_text, as_null = self.traits["call_form"]
        return as_text, as_null

    def shown(self, *turns: Mapping[str, Any], generation: bool = False) -> str:
        """What the chat template writes; "" if it refuses the turns."""
        try:
            return self.render(turns, generation=generation)
        except BadRow:
            return ""

    def to_json(self) -> str:
        """The template as a run keeps it; `data.prompt` may name such a file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Template:
        """Raises ValueError: the text is no kept template."""
        found = json.loads(text)
        if not isinstance(found, dict) or set(found) != {each.name for each in fields(Template)}:
            raise ValueError("it has other keys")
        for name, value in found.items():
            if not isinstance(value, dict if name in ("arguments", "tokens") else str):
                raise ValueError(f"{name} is {type(value).__name__}")
        if found["text"].count(BARE) != 1:
            raise ValueError("text holds {question} exactly once")
        return Template(**found)


def template_of(prompt: str, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None) -> Template:
    """The template that `data.prompt` names.

    Args:
        prompt: "chat" (the tokenizer's own), a shipped template, "none", a file with ``{question}``, or a kept template (.json), with
            which nothing of the tokenizer's own is used.
        arguments: `data.template_arguments`.

    Raises:
        InputError: there is no such template, it does not show the question once as it is, or it takes no arguments.
    """
    given = json.loads(json.dumps(dict(arguments or {}), default=str))
    if prompt.endswith(".json"):
        return _kept(prompt, given)
    if prompt == "chat":
        return _chat(tokenizer, given)
    if given:
        raise InputError(f'data.template_arguments are for the tokenizer\'s chat template; data.prompt = "{prompt}" takes none')
    return Template(load_template(prompt))


def load_template(name: str) -> str:
    """The text of a prompt template: a shipped one by name, "none" for the row's own text, or a file with ``{question}``."""
    if name == "none":
        return BARE
    shipped = resources.files("tutelage.data") / "prompts"
    try:
        file = shipped / f"{name}.txt"
        text = file.read_text(encoding="utf-8") if file.is_file() else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        known = sorted(file.name.removesuffix(".txt") for file in shipped.iterdir() if file.name.endswith(".txt"))
        raise InputError(
            f"data.prompt: {name!r} is neither a template ({', '.join(known)}, none, chat) nor a readable file"
        ) from None
    if text.count(BARE) != 1:
        raise InputError(f"{name}: a prompt template holds {{question}} exactly once")
    return text


def _kept(name: str, arguments: Mapping[str, Any]) -> Template:
    try:
        kept = Template.from_json(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"data.prompt: {name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"data.prompt: {name} is no template that a run has kept: {error}") from None
    if arguments and not kept.chat:
        raise InputError(f"data.template_arguments are for a chat template; {name} is a text alone")
    if not kept.chat:
        return kept
    _check_source(name, kept.chat, kept.tool_chat)
    template = replace(kept, arguments=arguments or kept.arguments)
    [(text, _, traits)] = guarded(_tried, [(template, ())], lambda _: f"data.prompt: {name}")
    return _with_traits(kept if template.arguments == kept.arguments else replace(template, text=text), traits)


def _chat(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> Template:
    """The tokenizer's own chat template. Its date is that of today, without an hour: runs of one day share their token ids."""
    chat, tool_chat = chat_sources(tokenizer)
    if not chat:
        raise InputError(f'data.prompt = "chat", but the tokenizer of {tokenizer.name_or_path} has no chat template')
    taken = {"messages", "tools", "documents", "add_generation_prompt", "chat_template", "conversations"} & set(arguments)
    if taken:
        raise InputError(f"data.template_arguments: {min(taken)} is not for a config to set")
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)}
    now = datetime.date.today().isoformat() if "strftime_now" in chat + tool_chat else ""
    template = Template(chat=chat, tool_chat=tool_chat, arguments=arguments, tokens=tokens, now=now)
    [(text, end, traits)] = guarded(_tried, [(template, special_tokens(tokenizer))], lambda _: str(tokenizer.name_or_path))
    return _with_traits(replace(template, text=text, end=end), traits)


def chat_sources(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The Jinja sources of a tokenizer's chat template, and of the one for tools; "" where there is none.

    Raises:
        InputError: they are no text, or longer than any that is meant.
    """
    sources: Any = tokenizer.chat_template
    if isinstance(sources, dict):
        chat, tool_chat = sources.get("default") or "", sources.get("tool_use") or ""
    else:
        chat, tool_chat = sources or "", ""
    _check_source(str(tokenizer.name_or_path or "the tokenizer"), chat, tool_chat)
    return chat, tool_chat


def _check_source(name: str, *sources: Any) -> None:
    for source in sources:
        if not isinstance(source, str):
            raise InputError(f"{name}: the chat template is {type(source).__name__}, and no text")
        if len(source) > LONGEST_SOURCE:
            raise InputError(f"{name}: the chat template has {len(source):,} characters, and may have {LONGEST_SOURCE:,}")


def _tried(job: tuple[Template, tuple[str, ...]]) -> tuple[str, str, dict[str, Any]]:
    """(the text around a single question, the end of turn, the traits) of a chat template."""
    template, specials = job
    text = _single_question(template)
    return text, _end_of_turn(template, specials), traits_of(replace(template, text=text))


def _with_traits(template: Template, traits: dict[str, Any]) -> Template:
    template.__dict__["traits"] = traits  # it need not be asked again
    return template


@functools.lru_cache
def _without_chance(source: str) -> None:
    """Take out of a compiled template what draws random numbers: what is learnt, and what was tried, is the same each time."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(source).environment
    environment.globals.pop("lipsum", None)
    environment.filters["random"] = _refuse_chance


def _refuse_chance(*_: Any) -> NoReturn:
    raise ValueError("it draws random numbers, and what is learnt must not depend on them")


def _single_question(template: Template) -> str:
    """The text that a chat template writes around a single question."""
    try:
        shown = template.render([ASKED])
        hard = template.render([{"role": "user", "content": _HARD}])
    except BadRow as error:
        raise InputError(f"the tokenizer's chat template cannot show a single question: {error}") from None
    text = shown.replace(QUESTION, BARE)
    if shown.count(QUESTION) != 1 or text.count(BARE) != 1:
        raise InputError("the chat template does not show the user's message exactly once")
    if text.replace(BARE, _HARD) != hard:
        raise InputError("the chat template changes the user's message (it escapes some characters): give a file as data.prompt")
    return text


def _end_of_turn(template: Template, specials: tuple[str, ...]) -> str:
    """The first special token after an assistant's text; "" if other text, or none, stands there."""
    shown, pattern = template.shown(ASKED, ANSWERED), pattern_of(specials)
    after = shown.rpartition(ANSWER)[2].lstrip() if ANSWER in shown else ""
    found = pattern.match(after) if pattern else None
    return found[0] if found else ""


def thought_argument(template: Template) -> str:
    """The line of a configuration with which the chat template does not close an empty thought; "" if no argument does that."""
    return str(guarded(_thought_argument, [template], lambda _: "")[0]) if template.chat else ""


def _thought_argument(template: Template) -> str:
    import jinja2.meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    source = _compile_jinja_template(template.chat).environment.parse(template.chat)
    taken = {"messages", "tools", "documents", "add_generation_prompt", *template.tokens}
    names = jinja2.meta.find_undeclared_variables(source) - taken
    for name in sorted(names, key=lambda name: (not re.search("think|thought|reason", name), name)):
        for value in (True, False, "high", "on", "enabled"):
            changed = replace(template, arguments={**template.arguments, name: value})
            if not closes_thought(changed.shown(ASKED, generation=True) or "</think>"):
                arguments = ", ".join(f"{key} = {json.dumps(each)}" for key, each in changed.arguments.items())
                return f"data.template_arguments = {{ {arguments} }}"
    return ""
