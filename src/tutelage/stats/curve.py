"""What more training rows would bring: a curve through accuracies by size, continued beyond the data, with its band.

**The curves.** accuracy = a + b · x(rows), where x is one of a family: log₂ rows (log-linear), or −rows^(−e) (saturating: a power
law with the asymptote a). Each member is a straight line in x, so each is fitted by least squares, in closed form.

**The choice.** Each size in turn is held out, and predicted by a line through the others; the member with the least squared error
is chosen.

**The band.** The fit and the choice are repeated on resamples. Questions are drawn with replacement, the same for all sizes, which
have answered the same questions. To the mean of each size is added what seeds differ by: normal, its variance drawn by what is known
of it (scaled inverse χ²). It is the spread between seeds within sizes, or, of one seed each, that of the points around their line.

**Cannot be told**: fewer than three sizes; sizes that all have the same scores; points farther from every curve than chance puts
them in one case of a hundred (a curve that rises and falls again); a band of the gain that is wider than 20 points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EXPONENTS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Of the curves that are tried; zero is log-linear."""
FEWEST_SIZES = 3
WIDEST = 0.2
"""The width of a band beyond which it says nothing: ± 10 points."""
FIT = 0.01
"""How rarely chance alone may put points as far from the best curve as they are."""
DOUBLINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far beyond the largest size the curve is continued, in doublings."""


@dataclass(frozen=True)
class Continued:
    """A curve beyond its data, or why there is none.

    Attributes:
        why_not: why nothing can be told; empty if something can.
        exponent: of the curve: 0 is log-linear, above that saturating.
        rows, values, low, high: the curve from the largest size to twice that, and its band.
        gain, gain_low, gain_high: accuracy at twice the largest size minus that at the largest, as a share.
    """

    why_not: str = ""
    exponent: float = 0.0
    sizes: int = 0
    rows: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    gain: float = 0.0
    gain_low: float = 0.0
    gain_high: float = 0.0


def continued(
    scores: Mapping[int, Sequence[Sequence[float]]], confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Continued:
    """Continue a curve to twice its largest size.

    Args:
        scores: for each number of training rows, for each question (the same ones, in the same order), its score by each seed.
    """
    import numpy as np

    sizes = sorted(scores)
    if len(sizes) < FEWEST_SIZES:
        return Continued(
            f"{len(sizes)} size{'' if len(sizes) == 1 else 's'}; a curve needs {FEWEST_SIZES} at least", sizes=len(sizes)
        )
    by_size = [np.asarray(scores[size], dtype=float) for size in sizes]
    if any(each.shape[0] != by_size[0].shape[0] or each.shape[0] < 2 for each in by_size):
        raise ValueError("each size needs the scores of the same questions, two at least")
    means = np.stack([each.mean(1) for each in by_size], axis=1)  # (questions, sizes)
    random = np.random.default_rng(seed)
    weights = random.multinomial(len(means), np.full(len(means), 1 / len(means)), size=resamples) / len(means)
    drawn = weights @ means + _of_seeds(by_size, sizes, random, resamples)
    rows = [round(sizes[-1] * 2**doublings) for doublings in DOUBLINGS]
    (curve,), (exponent,) = _continue(means.mean(0)[None], sizes, rows)
    curves, _ = _continue(drawn, sizes, rows)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(curves, ends, axis=0)
    gain_low, gain_high = np.quantile(curves[:, -1] - curves[:, 0], ends)
    gain = float(curve[-1] - curve[0])
    if np.abs(curves[:, -1] - curves[:, 0]).max() < 1e-9:  # no drawn curve rises or falls, rounding aside
        return Continued("all sizes have the same score on every question", sizes=len(sizes))
    if np.mean(_misfit(drawn - means.mean(0), sizes) + 1e-12 >= _misfit(means.mean(0)[None], sizes)) < FIT:
        return Continued("no curve of either shape goes through the points and their intervals", sizes=len(sizes))
    if gain_high - gain_low > WIDEST:
        return Continued(f"its band is {100 * (gain_high - gain_low):.0f} points wide", sizes=len(sizes))
    curve, low, high = (tuple(map(float, each)) for each in (curve, low, high))
    ends_of_gain = {"gain_low": min(float(gain_low), gain), "gain_high": max(float(gain_high), gain)}
    return Continued("", float(exponent), len(sizes), tuple(rows), curve, low, high, gain, **ends_of_gain)


def gain_in_words(found: Continued) -> str:
    """``twice the rows (2048): +3.1 points [-1.0, +6.2]``, or why that cannot be told."""
    if found.why_not:
        return f"what twice the rows would bring cannot be told: {found.why_not}"
    shape = "saturating" if found.exponent else "log-linear"
    interval = f"[{100 * found.gain_low:+.1f}, {100 * found.gain_high:+.1f}]"
    return f"twice the rows ({found.rows[-1]}): {100 * found.gain:+.1f} points {interval} ({shape} curve through {found.sizes} sizes)"


def _of_seeds(by_size: Sequence[Any], sizes: Sequence[int], random: Any, resamples: int) -> Any:
    """What seeds add to the mean of each size, in each resample: (resamples, sizes)."""
    import numpy as np

    spreads = [(each.mean(0).var(ddof=1), each.shape[1] - 1) for each in by_size if each.shape[1] > 1]
    if spreads:
        freedom = sum(count for _, count in spreads)
        variance = sum(spread * count for spread, count in spreads) / freedom
    else:
        means = np.array([each.mean() for each in by_size])
        freedom = len(sizes) - 2
        variance = float(_misfit(means[None], sizes)[0]) / freedom
    drawn = np.sqrt(variance * freedom / random.chisquare(freedom, (resamples, 1)))
    return drawn * random.normal(size=(resamples, len(sizes))) / np.sqrt([each.shape[1] for each in by_size])


def _family(sizes: Sequence[float]) -> list[Any]:
    """x of each size, by each member of the family: on scales of their own, which a line does not see."""
    import numpy as np

    ratios = np.asarray(sizes, dtype=float) / sizes[0]
    return [np.log2(ratios) if exponent == 0 else -(ratios**-exponent) for exponent in EXPONENTS]


def _hat(x: Any, at: Any = None) -> Any:
    """The matrix that takes values at `x` to the least-squares line's values `at` other places (or at x)."""
    import numpy as np

    design = np.stack([np.ones_like(x), x], axis=1)
    wanted = design if at is None else np.stack([np.ones_like(at), at], axis=1)
    return wanted @ np.linalg.pinv(design)


def _misfit(means: Any, sizes: Sequence[int]) -> Any:
    """The squared distance of each line of means from the curve that is nearest to it: (lines,)."""
    import numpy as np

    return np.min([((means - means @ _hat(x).T) ** 2).sum(1) for x in _family(sizes)], axis=0)


def _continue(means: Any, sizes: Sequence[int], rows: Sequence[int]) -> tuple[Any, Any]:
    """(the chosen curve at `rows`, its exponent) of each line of means: ((curves, rows), (curves,))."""
    import numpy as np

    errors, predicted = [], []
    for x in _family([*sizes, *rows]):
        inside, beyond = x[: len(sizes)], x[len(sizes) :]
        hat = _hat(inside)
        held_out = (means - means @ hat.T) / (1 - np.diag(hat))  # leave one out, in closed form
        errors.append((held_out**2).sum(1))
        predicted.append(np.clip(means @ _hat(inside, beyond).T, 0.0, 1.0))
    best = np.argmin(errors, axis=0)
    return np.stack(predicted)[best, np.arange(len(means))], np.asarray(EXPONENTS)[best]
