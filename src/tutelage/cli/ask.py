"""``tutelage ask``: ask a model a question, or several, and read the answers as they are written."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from tutelage.cli.command import MODEL, OVERRIDES, Commands, Outcome, add_command, config_of, start
from tutelage.errors import InputError
from tutelage.machines import Asked

if TYPE_CHECKING:
    from tutelage.config import Config
    from tutelage.data import Parsed

Answer = Callable[["Parsed", Callable[[str], None]], tuple[str, str]]
"""Answers what a row asks, and tells of the text so far, again and again: what was said in the end, and a remark on that ("": none)."""
HELP = "/reset forgets the conversation, /quit or Ctrl-D ends; Ctrl-C stops an answer"


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "ask",
        run,
        "ask a model a question, or talk with it",
        takes_settings=True,
        prints_json=False,
        description=OVERRIDES,
    )
    parser.add_argument("model", help=MODEL)
    parser.add_argument("question", nargs="?", help="without it: a conversation, or one question for each line of standard input")


def run(arguments: argparse.Namespace) -> Outcome:
    answers, talks = sys.stdout, arguments.question is None and sys.stdin.isatty() and sys.stdout.isatty()
    config = config_of(arguments.model, arguments.overrides)
    first, questions = None, _typed()
    if not talks:
        first, questions = _asked(sys.stdin if arguments.question is None else [arguments.question])
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answers
        start()
        with answering(config, first) as answer, contextlib.redirect_stdout(answers):
            if talks:
                talk(answer, questions, config.data.prompt == "chat")
            else:
                for question in questions:
                    answer_aloud(answer, row_of([], question))
    return Outcome()


@contextlib.contextmanager
def answering(config: Config, first: str | None = None) -> Iterator[Answer]:
    """What answers questions as the model of a configuration was taught to be asked.

    Args:
        first: a question that is to be possible. Raises InputError before the model is loaded: it is not.
    """
    from tutelage import console
    from tutelage.data import BadRow, encode_prompt, guarded, special_tokens, template_of, write_problem
    from tutelage.evaluation import native, sampling_of
    from tutelage.model import check_positions, load_policy, tokenizer_of

    tokenizer = tokenizer_of(config)
    template, specials = template_of(config.data.prompt, tokenizer, config.data.template_arguments), special_tokens(tokenizer)

    def ids_of(row: Parsed) -> list[int]:
        try:
            [prompt] = guarded(lambda row: write_problem(row, template, specials), [row], lambda row: row.source)
            if isinstance(prompt, BadRow):
                raise prompt
            return list(encode_prompt(tokenizer, prompt))
        except BadRow as error:
            raise InputError(f"the question cannot be asked: {error}") from None

    if first is not None:
        ids_of(row_of([], first))
    with console.progress("loading the model"):
        policy = load_policy(config.model.as_saved(), tokenizer, to_train=False)
    sampling = sampling_of(config.eval, policy.stops)
    more = f"[cut off after {sampling.max_new_tokens} tokens; --eval.max_new_tokens allows more]"

    with policy.computing(with_head=True), native.generating(policy.model, tokenizer, sampling) as generate:

        def answer(row: Parsed, on_text: Callable[[str], None]) -> tuple[str, str]:
            ids = ids_of(row)
            check_positions(policy, len(ids), "what is asked")
            [completion] = generate([ids], on_text=on_text)
            return completion.text.strip(), "" if completion.finish_reason == "stop" else more

        yield answer


def row_of(turns: list[dict[str, str]], question: str) -> Parsed:
    """A question, after the turns of a conversation, if there are any."""
    from tutelage.data import Parsed

    asked = {"role": "user", "content": question}
    return Parsed(source="the question", prompt=question, messages=(*turns, asked) if turns else ())


def answer_aloud(answer: Answer, row: Parsed) -> str:
    """Answer on standard output as tokens come; what was said."""
    from tutelage import console

    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        text = text.strip()
        if text.startswith(shown):  # a tokenizer may spell a word anew when the next one is there
            console.stream(text[len(shown) :])
            shown = text

    said, remark = answer(row, show)
    if not said.startswith(shown):
        console.stream("\n")
        shown = ""
    console.out(said[len(shown) :])
    if remark:
        console.out(remark)
    return said


def talk(answer: Answer, questions: Iterable[str], chat: bool) -> None:
    """A conversation on a terminal.

    Args:
        chat: whether the prompt template shows earlier turns; without that, each question is asked by itself.
    """
    from tutelage import console

    console.out(HELP if chat else f"each question is asked by itself; {HELP.partition(', ')[2]}")
    turns: list[dict[str, str]] = []
    for question in questions:
        if question == "/quit":
            return
        if question == "/reset":
            turns.clear()
        elif question.startswith("/") and question.strip("/").isalpha():
            console.out(f"there is no {question}; {HELP}")
        elif question.strip():
            try:
                said = answer_aloud(answer, row_of(turns, question))
            except KeyboardInterrupt as stop:
                if isinstance(stop, Asked):  # SIGTERM and the like, no Ctrl-C
                    raise
                console.out(" [stopped]")
            except InputError as error:  # a word of the template, or a conversation that is longer than the model's positions
                console.out(str(error))
            else:
                if chat:
                    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": said}]


def _typed() -> Iterator[str]:
    """Lines that are typed, until Ctrl-D, or Ctrl-C where no answer is on its way."""
    from tutelage import console

    with contextlib.suppress(ImportError):  # lines can then be edited, and earlier ones be had again
        import readline  # noqa: F401
    try:
        while True:
            yield input("> ")
    except (EOFError, KeyboardInterrupt) as stop:
        if isinstance(stop, Asked):
            raise
    console.out("")


def _asked(lines: Iterable[str]) -> tuple[str, Iterator[str]]:
    """The first line that holds something, which is waited for, and all of them. Raises InputError: none does."""
    questions = (line.rstrip("\r\n") for line in lines if line.strip())
    first = next(questions, None)
    if first is None:
        raise InputError("the question is empty; give one, or write one on each line of standard input")
    return first, itertools.chain([first], questions)
