"""A reference answer from whatever a row holds."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol

from tutelage.grading.taking.answers import answer_in, final_after_marks


class HasToList(Protocol):
    """A scalar or an array of NumPy, PyTorch, pandas or JAX."""

    def tolist(self) -> Any: ...


Answer = str | int | float | Decimal | Fraction | HasToList | None
GroundTruth = Answer | Sequence[Answer]
"""What a row may hold as its reference answer; of several answers any is right. `reference_of` reads it."""
Reference = str | tuple[str, ...]
"""A reference answer; several, of which any is right; "" where there is none."""

_NOTHING = frozenset(
    {
        "", "proof", "notfound", "not found", "n/a", "#n/a", "<na>", "none", "null", "nan", "unknown", "no answer", "not available",
        "not applicable",
    }
)  # fmt: skip
"""What people write where there is no answer. NA is not among them: a chemist means something by it."""
MOST_WORDS = 30
"""A text of more words is no answer that a response could be compared with."""
MOST_DIGITS = 1000


def reference_of(value: Any) -> Reference:
    """The reference that a value of a row says.

    Args:
        value: text, a number (int, float, Decimal, Fraction), a scalar or an array of NumPy, PyTorch or pandas, a list or tuple of
            these (any of them is right), or None.

    Returns:
        The text of the answer; a tuple of several; "" where there is none: None, NaN, an empty text or list, what people write for
        nothing (``proof``, ``notfound``, ``N/A``), or prose of more than a line. Of a text with boxes, the answer is what its boxes
        give; of GSM8K's ``work #### 72``, what stands behind the marks.

    Raises:
        ValueError: the value is of another type, a bool, or a list within a list.
    """
    if isinstance(value, str):
        return _of_text(value)
    if (items := _items(value)) is None:
        return _of_one(value)
    if any(_items(item) is not None for item in items):
        raise ValueError("the reference is a list within a list: give one answer, or a list of answers of which any is right")
    texts = tuple(dict.fromkeys(text for item in items if (text := _of_one(item))))
    return texts[0] if len(texts) == 1 else texts or ""


def alternatives_of(reference: Reference) -> tuple[str, ...]:
    """The answers of which any is right; none where there is no reference."""
    return reference if isinstance(reference, tuple) else (reference,) if reference else ()


def reference_text(reference: Any) -> str:
    """A reference (as JSON gives it back: a list of several) as a page or a line shows it: "1/2 or 0.5"."""
    return " or ".join(map(str, reference)) if isinstance(reference, list | tuple) else str(reference)


def _items(value: Any) -> list[Any] | None:
    """The items of a list, a tuple or an array with dimensions; None for anything else."""
    if isinstance(value, list | tuple) or (hasattr(value, "tolist") and getattr(value, "shape", None)):
        return list(value)
    return None


def _of_one(value: Any) -> str:
    if hasattr(value, "tolist") and not isinstance(value, str):  # a scalar of NumPy or PyTorch
        value = _plain(value)
    match value:
        case bool():
            raise ValueError(f"the reference is {value}, a truth value: write the answer as text")
        case str():
            return _of_text(value)
        case int():
            return str(int(value))
        case float():
            return _digits(Decimal(float.__repr__(value))).removesuffix(".0")
        case Decimal():
            return _digits(value)
        case Fraction():
            return str(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    raise ValueError(f"the reference is of type {type(value).__name__}: an answer is text, a number or a list of them")


def _plain(value: Any) -> Any:
    """A scalar as Python's; one of few bits by the digits that name it (0.1, not the float32 0.10000000149011612)."""
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):
        raise ValueError(f"the reference is of type {type(value).__name__}: write the date as text")
    plain = value.tolist()
    if not isinstance(plain, float):
        return plain
    if hasattr(value, "new_tensor"):  # PyTorch writes four digits, whatever a tensor holds
        short = (float(f"{plain:.{digits}g}") for digits in range(1, 17))
        return next((number for number in short if value.new_tensor(number).tolist() == plain), plain)
    with contextlib.suppress(ValueError):
        return float(str(value))
    return plain


def _digits(value: Decimal) -> str:
    """All digits of a number, without an exponent: 1e-07 is 0.0000001."""
    if value.is_nan():
        return ""
    if value.is_infinite():
        return "-\\infty" if value < 0 else "\\infty"
    # 1E+999999999 would fill the memory
    return str(value) if abs(value.adjusted()) > MOST_DIGITS else format(value, "f")


def _of_text(text: str) -> str:
    text = text.strip()
    if text.casefold() in _NOTHING:
        return ""
    if "\\boxed" in text or "\\fbox" in text:
        return answer_in(text)
    work, final = final_after_marks(text)
    if final and "####" not in work:  # a heading of Markdown occurs several times
        return _of_text(final)
    may_be_prose = "\n" in text or len(text) > 2 * MOST_WORDS
    return "" if may_be_prose and _is_prose(text) else text


def _is_prose(text: str) -> bool:
    """Whether a text explains rather than answers: several lines of words, or more words than an answer has.

    One answer a line and an environment (matrix, cases, aligned) are no prose.
    """
    if "\\begin" in text:
        return False
    lines = [re.findall(r"(?<![\\A-Za-z])[^\W\d_]{2,}", line) for line in text.split("\n") if line.strip()]
    return sum(map(len, lines)) > MOST_WORDS or (len(lines) > 1 and any(len(words) > 2 for words in lines))
