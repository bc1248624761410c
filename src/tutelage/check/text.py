"""Properties of rows, ids and grades: nothing of them needs the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from tutelage.check.subject import Finding, Subject
from tutelage.console import percent
from tutelage.data import Example, Parsed, Sequences, Store, TokenizedExample, Validation, normalised
from tutelage.evaluation import REWARD_FUNCTIONS, prompt_ids
from tutelage.model import pack

MOST_ROWS = 2000
"""Rows that are looked at, at most; the grader looks at a tenth."""
LARGEST_PACK = 64
"""Rows that are laid out together to look at the targets."""
WRONG = "the answer is not 123456.789"
SELF_TEST = (("0.5", r"\frac{1}{2}", True), ("72.0", "72", True), ("73", "72", False), ("(2, 1)", "(1, 2)", False))
"""(answer, reference, whether they are equal)."""


def ids(subject: Subject) -> Finding:
    """What was tokenized is read back as the same text, and the prompt's ids are those that validation would send for that row."""
    train = subject.prepared.train
    assert isinstance(train, Sequences)
    rows = train[:MOST_ROWS]
    for index, row in enumerate(rows):
        example = train.example(index)
        for what, again, text, is_cut in _read_back(subject.policy.tokenizer, row, example):
            # a cut may go through a character
            if not text.startswith(again.rstrip("\ufffd")) if is_cut else again != text:
                return Finding(False, f"{row.source}: the {what}'s ids read back as {_difference(again, text)}")
        if prompt_ids(subject.policy.tokenizer, [train.asked(index)])[0] != list(row.prompt_ids):
            return Finding(False, f"{row.source}: validation would send other ids for the same prompt than it was trained on")
    return Finding(True, f"{len(rows)} rows, {sum(map(len, rows)):,} ids")


def _read_back(tokenizer: Any, row: TokenizedExample, example: Example) -> list[tuple[str, str, str, bool]]:
    """(which part, what its ids read back as, its text, whether it is cut) of prompt and response."""
    prompt, response = list(row.prompt_ids), list(row.response_ids[: -1 if row.ends else None])
    if prompt[:1] == [tokenizer.bos_token_id] and not example.prompt.startswith(tokenizer.bos_token or "\0"):
        prompt = prompt[1:]
    again = [tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in (prompt, response)]
    return [("prompt", again[0], example.prompt, False), ("response", again[1], example.response, not row.ends)]


def _difference(found: str, text: str) -> str:
    """From which character on two texts differ, and how."""
    pairs = itertools.zip_longest(found, text)
    index = next((index for index, (a, b) in enumerate(pairs) if a != b), 0)
    return f"another text from character {index} on: {found[index : index + 20]!r} for {text[index : index + 20]!r}"


def end_token(subject: Subject) -> Finding:
    """The last target of every row that was not cut is the end token, and no other is."""
    end = subject.policy.stops.end_token_id
    rows = subject.prepared.train[:MOST_ROWS]
    ending = [row for row in rows if row.ends]
    for row in ending:
        batch = pack([row])
        targets = batch.labels[batch.of_examples[0]].tolist()
        if targets.count(end) != 1 or targets[-1] != end:
            times = targets.count(end)
            return Finding(False, f"{row.source}: the end token {end} is a target {times} times, and should be the last once")
    if not ending:
        return Finding(False, "every row is cut (data.truncate), so the model never learns to stop: raise data.max_length")
    cut = len(rows) - len(ending)
    return Finding(True, f"{len(ending)} of {len(rows)} rows" + (f"; {cut} are cut" if cut else ""))


def mask(subject: Subject) -> Finding:
    """In a pack of many rows, the targets of each are its response, all of it and nothing else."""
    rows = subject.prepared.train[:LARGEST_PACK]
    batch = pack(rows)
    for row, targets in zip(rows, batch.of_examples, strict=True):
        if batch.labels[targets].tolist() != list(row.response_ids):
            return Finding(False, f"{row.source}: its targets are not its response")
    expected = sum(len(row.response_ids) for row in rows)
    counted = float((batch.weights if batch.counts is None else batch.counts).sum())
    if counted != expected:
        return Finding(False, f"{counted:.0f} predictions carry the loss, where the responses have {expected} tokens")
    tokens = subject.prepared.tokens
    share = subject.prepared.response_tokens / tokens
    return Finding(True, f"{percent(share)} of {tokens:,} tokens carry the loss")


def leak(subject: Subject) -> Finding:
    """No training row asks what is validated on: both are read again, and compared with each other here."""
    data, pool, train = subject.config.data, subject.pool, subject.prepared.train
    assert isinstance(train, Sequences)
    if pool.asked.store is pool.store and data.test_size == 0:
        return Finding(None, "validation is on training rows (data.validation is none and data.test_size is 0)")
    problems = [(each.source, question) for each, question in _questions(pool.asked.store, pool.asked.rows.tolist())]
    rows = list(_questions(pool.store, train.rows[:MOST_ROWS].tolist()))
    whys = Validation(problems).overlaps([question for _, question in rows])
    found = [f"{row.source}: {why}" for (row, _), why in zip(rows, whys, strict=True) if why]
    if found and data.overlap == "keep":
        return Finding(None, f'{len(found)} of {len(rows)} training rows overlap (data.overlap = "keep"); {found[0]}')
    if found:
        return Finding(False, f"{len(found)} of {len(rows)} training rows are trained on and validated on; {found[0]}")
    return Finding(True, f"{len(rows)} training rows, {len(problems)} validation problems: none equal, none near")


def _questions(store: Store, rows: Sequence[int]) -> Iterator[tuple[Parsed, str]]:
    """What some rows say, and their question, normalised."""
    for row in rows:
        yield store.parsed(row), normalised(store.question(row))


def grader(subject: Subject) -> Finding:
    """Known pairs are graded rightly; every row's own reference earns 1, and another answer, or none, 0."""
    style = subject.config.eval.reward
    grade = REWARD_FUNCTIONS[style]
    says = "so it is. </think> <answer> {} </answer>" if style == "r1_zero" else r"So it is \boxed{{{}}}."
    rows = subject.pool.candidates[: MOST_ROWS // 10].tolist()
    examples = [*(subject.pool.example(row) for row in rows), *subject.pool.problems[: MOST_ROWS // 10]]
    several = (example.reference for example in examples)
    each = (one for reference in several for one in ((reference,) if isinstance(reference, str) else reference))
    references = list(dict.fromkeys(reference for reference in each if reference))[: MOST_ROWS // 10]
    cases = [(says.format(answer), reference, equal) for answer, reference, equal in SELF_TEST]
    for reference in references:
        cases += [(says.format(reference), reference, True), (says.format(WRONG), reference, False), ("no answer", reference, False)]
    for response, reference, equal in cases:
        if grade(response, reference)["reward"] != float(equal):
            return Finding(False, f"{response!r} for the reference {reference!r} should be {'right' if equal else 'wrong'}")
    return Finding(True, f"{len(SELF_TEST)} known pairs; {len(references)} of your references, each right, wrong and missing")
