"""What people call their columns: the one table of names, and what a name means."""

from __future__ import annotations

import functools
import re

PROMPT = ("prompt", "question", "problem", "instruction", "query", "task", "input", "text")
"""Names of prompts, the likeliest first."""
WORK = (
    "response", "solution", "completion", "output", "generation", "attempt", "explanation", "proof", "work",
    "reasoning_content", "chain_of_thought", "reasoning", "rationale", "thinking", "thought", "think", "cot", "trajectory", "trace",
)  # fmt: skip
"""Names of worked solutions, the likeliest first."""
THOUGHT = frozenset(WORK[WORK.index("reasoning_content") :])
"""Those of them that name a thought without its answer."""
REFERENCE = (
    "reference_answer", "reference", "ground_truth", "expected_answer", "final_answer", "gold_answer", "correct_answer", "gold",
    "answer", "target", "label",
)  # fmt: skip
"""Names of reference answers, the likeliest first."""
CONTEXT = (
    "system", "system_prompt", "tool", "function", "input", "context", "passage", "hint", "background", "document", "article",
    "paragraph", "premise", "history", "option", "choice", "image", "schema",
)  # fmt: skip
"""Names of what a model is given beside the question."""
CONVERSATION = ("message", "conversation", "dialogue", "dialog")

_META = frozenset({
    "id", "uuid", "idx", "index", "source", "src", "dataset", "data", "original", "origin", "subject", "topic", "domain",
    "level", "difficulty", "type", "kind", "category", "tag", "url", "link", "model", "generator", "engine", "author",
    "license", "date", "time", "timestamp", "version", "score", "rating", "rank", "rate", "count", "num", "number", "length",
    "len", "token", "size", "lang", "language", "meta", "metadata", "extra", "split", "name", "title", "style", "ability",
    "hash", "md5", "valid", "correct", "correctness", "is", "has", "used", "complete", "completeness", "finish", "finished",
    "stop", "status", "mode", "format", "effort", "grade", "grader", "judge", "verdict", "verify", "verified", "verifier",
    "test", "case", "cost", "usage", "temperature", "seed", "config", "param", "parameter", "synthetic", "year", "page",
    "competition", "contest", "reward", "unit", "code", "info", "template", "incorrect", "wrong", "rejected", "bad",
    "negative", "distractor",
})  # fmt: skip
"""A name with such a word says something about the row, and nothing of the row."""


@functools.lru_cache(maxsize=4096)
def kind_of(column: str) -> str:
    """What a column's name says that it holds: conversation, prompt, work, reference, context, or "" for anything else.

    A name may have words before or behind the known one: ``deepseek_attempt``, ``model_output``, ``solution_1``. ``input`` and
    ``text`` are prompts, too: beside a likelier prompt, ``input`` is context.
    """
    words = _words(column)
    exact = "_".join(words)
    for kind, names in _KINDS:
        if exact in names:
            return kind
    if _META & set(words[1:] if words[:1] == ("model",) else words):  # a model's output is no metadata, a model's name is
        return ""
    for kind, names in _KINDS:
        if any(exact.endswith("_" + name) for name in names):
            return kind
    for kind, names in _KINDS:
        if any(exact.startswith(name + "_") for name in names):
            return kind
    return ""


@functools.lru_cache(maxsize=4096)
def rank_of(column: str, names: tuple[str, ...]) -> tuple[int, int]:
    """How likely a column is to be what the names mean: a known name first, then one with words around it; smaller is likelier."""
    exact = "_".join(_words(column))
    if exact in names:
        return 0, names.index(exact)
    return 1, next((index for index, name in enumerate(names) if name in exact), len(names))


def is_thought(column: str) -> bool:
    """Whether a name is that of a thought, which wants an answer behind it."""
    exact = "_".join(_words(column))
    return any(exact == name or exact.endswith("_" + name) or exact.startswith(name + "_") for name in THOUGHT)


def is_about(column: str) -> bool:
    """Whether a name tells that its column says something about the row (its source, a score, …)."""
    return kind_of(column) == "" and bool(_META & set(_words(column)))


def is_system(column: str) -> bool:
    return "_".join(_words(column)) in ("system", "system_prompt", "system_message")


def is_tools(column: str) -> bool:
    return "_".join(_words(column)) in ("tool", "function")


_KINDS = (("conversation", CONVERSATION), ("prompt", PROMPT), ("context", CONTEXT), ("work", WORK), ("reference", REFERENCE))


@functools.lru_cache(maxsize=4096)
def _words(column: str) -> tuple[str, ...]:
    """The words of a name in lower case, without the plural's s: ("deepseek", "attempt"), ("generation",), ("complex", "cot")."""
    parts = re.split(r"[^A-Za-z0-9]+", column)
    words = [word for part in parts for word in _split(part)]
    return tuple(map(_singular, words))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _split(part: str) -> list[str]:
    lower = part.lower()
    if lower in ("cot", "md5") or part.isupper():
        return [lower]
    return [word.lower() for word in re.findall(r"[A-Z]*[a-z]+|[A-Z]+|\d+", part)]
