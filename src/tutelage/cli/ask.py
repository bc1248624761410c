"""``tutelage ask``: ask a model one question."""

from __future__ import annotations

import argparse
import contextlib
import sys

from tutelage.cli.command import MODEL, OVERRIDES, Commands, Outcome, add_command, config_of, start
from tutelage.errors import InputError


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "ask", run, "ask a model one question", takes_settings=True, prints_json=False, description=OVERRIDES
    )
    parser.add_argument("model", help=MODEL)
    parser.add_argument("question")


def run(arguments: argparse.Namespace) -> Outcome:
    from tutelage import console

    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answer
        start()
        answer = ask(arguments.model, arguments.question, arguments.overrides)
    console.out(answer)
    return Outcome()


def ask(model: str, question: str, overrides: list[str]) -> str:
    """The model's response to one question, in the prompt it was trained with."""
    from tutelage import console
    from tutelage.data import BadRow, Parsed, encode_prompt, guarded, special_tokens, template_of, write_problem
    from tutelage.evaluation import native, sampling_of
    from tutelage.model import load_policy, tokenizer_of

    config = config_of(model, overrides)
    if not question.strip():
        raise InputError("the question is empty")
    tokenizer = tokenizer_of(config)
    template, specials = template_of(config.data.prompt, tokenizer, config.data.template_arguments), special_tokens(tokenizer)
    parsed = Parsed(source="the question", prompt=question)
    try:
        [prompt] = guarded(lambda row: write_problem(row, template, specials), [parsed], lambda row: row.source)
        if isinstance(prompt, BadRow):
            raise prompt
        ids = encode_prompt(tokenizer, prompt)
    except BadRow as error:
        raise InputError(f"the question cannot be asked: {error}") from None
    saved = config.model.as_saved()
    with console.progress("loading the model"):
        policy = load_policy(saved, tokenizer, to_train=False)
    sampling = sampling_of(config.eval, policy.stops)
    with console.progress("answering"), policy.computing(with_head=True):
        completion = native.generate(policy.model, policy.tokenizer, [ids], sampling)[0]
    answer = completion.text.strip()
    if completion.finish_reason == "stop":
        return answer
    return f"{answer}\n[cut off after {config.eval.max_new_tokens} tokens; --eval.max_new_tokens allows more]"
