"""The errors a person is meant to read: one clear message, no traceback."""

from __future__ import annotations


class InputError(ValueError):
    """Something the person gave is wrong (a key, a row, a file), found before any compute is spent. Exit code 2."""


class RunError(RuntimeError):
    """A run could not go on (a full disk, a loss that is not a number). Exit code 1."""
