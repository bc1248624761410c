"""Properties of rows, ids and grades: nothing of them needs the model."""

from __future__ import annotations

from tutelage.check.subject import Finding, Subject
from tutelage.console import percent
from tutelage.data import Ledger, Row, choose_problems
from tutelage.evaluation import REWARD_FUNCTIONS, prompt_ids
from tutelage.model import pack

MOST_ROWS = 2000
"""Rows that are looked at, at most; the grader looks at a tenth."""
LARGEST_PACK = 64
"""Rows that are laid out together to look at the targets."""
WRONG = "the answer is not 123456.789"
SELF_TEST = ((r"\frac{1}{2}", "0.5", True), ("72", "72.0", True), ("72", "73", False), ("(1, 2)", "(2, 1)", False))
"""(reference, answer, whether they are equal)."""


def ids(subject: Subject) -> Finding:
    """What was tokenized is read back as the same text, and the prompt's ids are those that validation would send for that row."""
    tokenizer, pool = subject.policy.tokenizer, subject.pool
    rows = subject.prepared.train[:MOST_ROWS]
    start = [tokenizer.bos_token_id]
    for row in rows:
        example = pool.by_source[row.source]
        prompt = list(row.prompt_ids)
        if prompt[:1] == start and not example.prompt.startswith(tokenizer.bos_token or "\0"):
            prompt = prompt[1:]
        response = list(row.response_ids[:-1] if row.ends else row.response_ids)
        for what, found, text in (("prompt", prompt, example.prompt), ("response", response, example.response)):
            again = tokenizer.decode(found, clean_up_tokenization_spaces=False)
            whole = row.ends or what == "prompt"
            # a cut may go through a character
            if again != text if whole else not text.startswith(again.rstrip("\ufffd")):
                return Finding(False, f"{row.source}: the {what}'s ids read back as {_where(again, text)}")
    asked = _as_validation(subject, [row.source for row in rows])
    for row in rows:
        # a row without a reference cannot be asked; its prompt is made as the others are
        if row.source in asked and asked[row.source] != list(row.prompt_ids):
            return Finding(False, f"{row.source}: validation would send other ids for the same prompt than it was trained on")
    return Finding(True, f"{len(rows)} rows, {sum(map(len, rows)):,} ids")


def _where(found: str, text: str) -> str:
    """Where two texts part."""
    place = next((n for n, (a, b) in enumerate(zip(found, text, strict=False)) if a != b), min(len(found), len(text)))
    return f"another text from character {place} on: {found[place : place + 20]!r} for {text[place : place + 20]!r}"


def _as_validation(subject: Subject, sources: list[str]) -> dict[str, list[int]]:
    """The ids that an evaluation sends for the same rows."""
    pool, data = subject.pool, subject.pool.config.data
    rows = [Row(source, pool.raw[source]) for source in sources]
    lenient = pool.config.model_copy(update={"data": data.model_copy(update={"on_bad_row": "skip"})})
    problems = choose_problems(rows, pool.template, Ledger(()), lenient)
    sent = prompt_ids(subject.policy.tokenizer, problems)
    found = {problem.source: ids for problem, ids in zip(problems, sent, strict=True)}
    # a row without a reference is trained on unfiltered, and cannot be asked; its prompt is made as the others are
    return found


def end_token(subject: Subject) -> Finding:
    """The last target of every row that was not cut is the end token, and no other is."""
    end = subject.policy.stops.end_token_id
    rows = subject.prepared.train[:MOST_ROWS]
    cut = [row for row in rows if not row.ends]
    for row in rows:
        if not row.ends:
            continue
        batch = pack([row])
        targets = batch.labels[batch.of_examples[0]].tolist()
        if targets.count(end) != 1 or targets[-1] != end:
            return Finding(
                False, f"{row.source}: the end token {end} is a target {targets.count(end)} times, and should be the last once"
            )
    if len(cut) == len(rows):
        return Finding(False, "every row is cut (data.truncate), so the model never learns to stop: raise data.max_length")
    return Finding(True, f"{len(rows) - len(cut)} of {len(rows)} rows" + (f"; {len(cut)} are cut" if cut else ""))


def mask(subject: Subject) -> Finding:
    """In a pack of many rows, the targets of each are its response, all of it and nothing else."""
    rows = subject.prepared.train[:LARGEST_PACK]
    batch = pack(rows)
    for row, targets in zip(rows, batch.of_examples, strict=True):
        if batch.labels[targets].tolist() != list(row.response_ids):
            return Finding(False, f"{row.source}: its targets are not its response")
    expected = sum(len(row.response_ids) for row in rows)
    counted = float(batch.weights.sum())
    if counted != expected:
        return Finding(False, f"{counted:.0f} predictions carry the loss, where the responses have {expected} tokens")
    responses = sum(len(row.response_ids) for row in subject.prepared.train)
    share = responses / sum(map(len, subject.prepared.train))
    return Finding(True, f"{percent(share)} of {sum(map(len, subject.prepared.train)):,} tokens carry the loss")


def grader(subject: Subject) -> Finding:
    """Known pairs are graded rightly; every row's own reference earns 1, and another answer 0."""
    reward = subject.config.eval.reward
    grade = REWARD_FUNCTIONS[reward]

    def says(answer: str) -> str:
        return f"so it is. </think> <answer> {answer} </answer>" if reward == "r1_zero" else f"So it is \\boxed{{{answer}}}."

    for reference, answer, equal in SELF_TEST:
        if (grade(says(answer), reference)["answer_reward"] == 1.0) != equal:
            return Finding(False, f"{answer!r} for {reference!r} should be {'right' if equal else 'wrong'}")
    examples = [*subject.pool.examples, *subject.pool.problems]
    references = list(dict.fromkeys(example.reference for example in examples if example.reference.strip()))[: MOST_ROWS // 10]
    for reference in references:
        if grade(says(reference), reference)["answer_reward"] != 1.0:
            return Finding(False, f"the reference {reference!r} is not graded as right against itself")
        if grade(says(WRONG), reference)["answer_reward"] != 0.0:
            return Finding(False, f"{WRONG!r} is graded as right for {reference!r}")
        if grade("no answer at all", reference)["reward"] != 0.0:
            return Finding(False, f"a response without an answer is graded as right for {reference!r}")
    return Finding(True, f"{len(SELF_TEST)} known pairs; {len(references)} of your references, each right, wrong and missing")
