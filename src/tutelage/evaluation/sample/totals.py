"""What a pool of responses says: fates, accuracy, pass@k with intervals over problems, lengths and entropies; memory by problems alone."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from tutelage.evaluation.sample.judge import FATES
from tutelage.stats import clustered_interval, mean, pass_at_k, powers_of_two, wilson_interval


@dataclass
class Totals:
    """Sums over responses, and of each problem how many are right.

    Attributes:
        samples: responses per problem.
        ids_differ: rows that training tokenizes otherwise than the model said them.
    """

    samples: int
    right: array[int] = field(default_factory=lambda: array("l"))
    fates: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    ids_differ: int = 0
    tokens: int = 0
    entropy: float = 0.0
    with_entropy: int = 0

    def add(self, responses: Sequence[dict[str, Any]], kept: Collection[int]) -> None:
        """Take in the responses of the next problem, with their final fates, and the indices of those that become rows."""
        fates = Counter(each["fate"] for each in responses)
        self.fates += fates
        self.right.append(fates["right"] + fates["duplicate"])
        self.kept += len(kept)
        self.ids_differ += sum(responses[index]["ids_differ"] for index in kept)
        self.tokens += sum(len(each["token_ids"]) for each in responses)
        known = [each["token_entropy"] for each in responses if each["token_entropy"] is not None]
        self.entropy += sum(known)
        self.with_entropy += len(known)

    def summary(self) -> dict[str, Any]:
        problems, samples = len(self.right), self.samples
        solved = sum(count > 0 for count in self.right)
        return {
            "problems": problems,
            "samples": samples,
            "responses": problems * samples,
            "kept": self.kept,
            "fates": {fate: self.fates[fate] for fate in FATES if self.fates[fate]},
            "rows_whose_ids_differ": self.ids_differ,
            "solved_at_least_once": solved,
            "solved_share_ci95": list(wilson_interval(solved, problems)),
            "pass_at_k": {str(k): self._pass_at(k) for k in powers_of_two(samples)},
            "accuracy": sum(self.right) / (problems * samples),
            "accuracy_ci95": list(clustered_interval(self.right, samples)),
            "avg_response_length": self.tokens / (problems * samples),
            "avg_token_entropy": self.entropy / self.with_entropy if self.with_entropy else None,
        }

    def _pass_at(self, k: int) -> dict[str, Any]:
        """The chance that at least one of k responses is right, and its interval over problems.

        Of the `samples` responses of a problem there are `samples // k` groups of k that share none: a problem tells as much as so
        many trials at most.
        """
        chances = [pass_at_k(right, self.samples, k) for right in self.right]
        groups = self.samples // k
        low, high = clustered_interval(cast("Sequence[int]", [chance * groups for chance in chances]), groups)
        return {"estimate": mean(chances), "low": low, "high": high}
