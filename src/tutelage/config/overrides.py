"""Settings on the command line, ``--section.key value`` or ``--section.key=value``, told apart from a command's own arguments."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.errors import InputError


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(a command's own arguments, the overrides with their values)."""
    others: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not _is_override(argument):
            others.append(argument)
            continue
        overrides.append(argument)
        if "=" not in argument and rest and not _is_override(rest[0]):
            overrides.append(rest.pop(0))
    return others, overrides


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """``["--train.lr", "1e-5", "--data.filter=false"]`` → ``[("train.lr", "1e-5"), ("data.filter", "false")]``."""
    pairs: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not _is_override(argument):
            raise InputError(f"unexpected argument {argument!r}: overrides look like --section.key value")
        key, separator, value = argument[2:].partition("=")
        if not separator:
            if not rest or _is_override(rest[0]):
                raise InputError(f"--{key} needs a value")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def _is_override(argument: str) -> bool:
    return argument.startswith("--") and "." in argument.partition("=")[0]
