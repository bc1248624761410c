"""A reference answer from whatever a row holds."""

from __future__ import annotations

from typing import Any

Reference = str | tuple[str, ...]
"""A reference answer; several, of which any is right; "" where there is none."""


def reference_of(value: Any) -> Reference:
    """The reference that a value of a row says: text, a number, a list of them, or nothing."""
    return "" if value is None else str(value)
