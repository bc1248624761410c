"""What all sections of the configuration have in common: kinds of values, each with the bounds that it can have."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

MAY_CHANGE = "an unfinished run may go on with another value"
"""Marks settings that change where and how fast a run computes, but not what."""
LONGEST_NAME = 255
"""Bytes of a file's name."""


def _within(low: float, high: float, why: str, *, above: bool = False) -> AfterValidator:
    """A number from `low` to `high`; `above`: more than `low`.

    Args:
        why: what the upper bound is for; it ends the message.
    """

    def check(value: Any) -> Any:
        if value < low or (above and value == low):
            raise PydanticCustomError("bound", f"must be {'above' if above else 'at least'} {low:,.12g}")
        if value > high:
            raise PydanticCustomError("bound", f"must be at most {high:,.12g} ({why})")
        return value

    return AfterValidator(check)


def above(low: float, high: float, why: str) -> AfterValidator:
    """A number greater than `low`, `high` at most."""
    return _within(low, high, why, above=True)


def between(low: float, high: float, why: str) -> AfterValidator:
    """A number from `low` to `high`."""
    return _within(low, high, why)


def below(low: float, high: float) -> AfterValidator:
    """A share: from `low` to less than `high`."""

    def check(value: float) -> float:
        if not low <= value < high:
            raise PydanticCustomError("bound", f"must be at least {low:g} and less than {high:g}")
        return value

    return AfterValidator(check)


_A_STEP_A_SECOND = "a step a second for thirty years"
Steps = Annotated[int, between(1, 10**9, _A_STEP_A_SECOND)]
StepsOrZero = Annotated[int, between(0, 10**9, _A_STEP_A_SECOND)]
Rows = Annotated[int, between(1, 10**9, "more rows than a machine holds")]
RowsOrZero = Annotated[int, between(0, 10**9, "more rows than a machine holds")]
RowsAtOnce = Annotated[int, between(1, 10**6, "rows that a device computes at once")]
Tokens = Annotated[int, between(1, 10**8, "ten times the longest context of any model")]
TokensOrZero = Annotated[int, between(0, 10**8, "ten times the longest context of any model")]
Count = Annotated[int, between(1, 10**6, "a million")]
Seed = Annotated[int, between(0, 2**32 - 1, "seeds are of 32 bits")]
Seconds = Annotated[float, above(0, 10**6, "eleven days")]
DecayRate = Annotated[float, below(0, 1)]


def _is_a_name(value: str) -> str:
    """A text that names a file, a directory, or something on a hub."""
    if not value.strip():
        raise PydanticCustomError("name", "must not be empty")
    if "\0" in value:
        raise PydanticCustomError("name", "holds a NUL character, which no file name can")
    if any(len(part.encode("utf-8", "surrogateescape")) > LONGEST_NAME for part in PurePath(value).parts) or len(value) > 4095:
        raise PydanticCustomError("name", f"is longer than a file's name can be ({LONGEST_NAME} bytes)")
    return value


Name = Annotated[str, AfterValidator(_is_a_name)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_a_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        values = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(each, bool) for each in values) and kind is not bool and _of_numbers(kind):
            raise PydanticCustomError("number", "must be a number, not true or false")
        return value


def _of_numbers(kind: Any) -> bool:
    """Whether a value of a type is a number, or holds some."""
    arguments: Callable[[Any], tuple[Any, ...]] = typing.get_args
    return kind in (int, float) or any(_of_numbers(part) for part in arguments(kind))
