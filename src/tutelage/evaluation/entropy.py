"""The entropy of what was generated: by one packed pass of the policy, where an engine does not tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from tutelage.data import TokenizedExample, characters_of
from tutelage.evaluation.engine import Completion
from tutelage.model import Policy
from tutelage.stats import mean

Entropy = Literal["exact", "top-k", "off"]
TOP_K = 20
"""Tokens that `entropy="top-k"` sums over: as many as vLLM returns unless it is started otherwise."""


def add_entropies(
    records: Sequence[dict[str, Any]],
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Completion],
    log_tokens: bool = False,
) -> None:
    """Fill in each record's exact token entropy, by one packed pass of the policy over prompts and completions.

    Args:
        log_tokens: also the entropy of each token, and its negative log-likelihood.
    """
    samples = len(completions) // len(prompts)
    rows = [
        TokenizedExample(f"response {index}", tuple(prompts[index // samples]), completion.token_ids)
        for index, completion in enumerate(completions)
    ]
    scored = [
        replace(completion, entropies=tuple(entropies.tolist()), log_probs=tuple(log_probs.tolist()))
        for completion, (log_probs, entropies) in zip(completions, policy.score_responses(rows), strict=True)
    ]
    for record, completion in zip(records, scored, strict=True):
        record["token_entropy"] = mean(list(completion.entropies or ()))
    if log_tokens:
        add_tokens(records, scored, policy.tokenizer)


def add_tokens(records: Sequence[dict[str, Any]], completions: Sequence[Completion], tokenizer: Any) -> None:
    """Give each record its ``tokens``, three lists: how many characters of the response each token brings, the token's entropy and
    its negative log-likelihood, in nats. A completion without entropies gives none."""
    for record, completion in zip(records, completions, strict=True):
        if completion.entropies is not None and completion.log_probs is not None:
            record["tokens"] = {
                "characters": characters_of(tokenizer, completion.token_ids, completion.text),
                "entropy": [round(value, 3) for value in completion.entropies],
                "nll": [round(-value, 3) for value in completion.log_probs],
            }


def drop_entropies(records: Sequence[dict[str, Any]]) -> None:
    """Take out what `add_entropies` may have filled in before it failed."""
    for record in records:
        record["token_entropy"] = None
        record.pop("tokens", None)
