"""A configuration from TOML and dotted overrides, what ``--help`` says of it, and what two of them differ in.

Nothing unknown is accepted, and an unknown key is answered with the nearest known one.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ValidationError

from tutelage.config.aliases import of_another_tool
from tutelage.config.data_settings import TrainSource
from tutelage.config.overrides import parse_overrides
from tutelage.config.section import MAY_CHANGE, Section
from tutelage.config.settings import Config
from tutelage.errors import InputError

SHOWN = 80
"""Characters of a wrong value that its message repeats."""


def load_config(path: str | Path | None = None, overrides: list[str] | None = None) -> Config:
    """The configuration in a TOML file, then ``--section.key value`` (or ``--section.key=value``) overrides.

    Raises:
        InputError: the file is missing or is not TOML; a key is unknown (the nearest is named); a value is of the wrong type.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"config file not found: {path}") from None
        except OSError as error:
            raise InputError(f"config file {str(path)!r:.{SHOWN}}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # no TOML, no UTF-8 text, or no name of a file; thousands of digits or brackets
            raise InputError(f"{path}: cannot be read as TOML: {error}") from None
    return with_settings(raw, parse_overrides(overrides or []), where=str(path) if path else "config")


def as_config(given: Config | Mapping[str, Any] | str | Path | None) -> Config:
    """A configuration from what a script has: one, the path of a TOML file, or a dict of settings; None: the defaults.

    A dict is nested, ``{"train": {"lr": 1e-4}}``, or has dotted names, ``{"train.lr": 1e-4}``, or both.

    Raises:
        InputError: as `load_config`, or it is something else.
    """
    if isinstance(given, Config):
        return given
    if given is None or isinstance(given, str | Path):
        return load_config(given)
    if not isinstance(given, Mapping):
        raise InputError(f"config is of type {type(given).__name__}; it is a Config, the path of a TOML file, a dict, or None")
    raw = {str(key): dict(value) if isinstance(value, Mapping) else value for key, value in given.items() if "." not in str(key)}
    for key, value in given.items():
        if "." in str(key):
            _assign(raw, str(key), value)
    return parse_config(raw)


def with_settings(raw: dict[str, Any], settings: Iterable[tuple[str, str]], where: str = "config") -> Config:
    """A configuration from nested dicts with some settings changed, given as text as on the command line.

    Raises:
        InputError: a key is unknown, a value is of the wrong type.
    """
    settings = list(settings)
    for dotted, text in settings:
        _assign(raw, dotted, _parse_value(dotted, text))
    return parse_config(raw, where, [dotted for dotted, _ in settings])


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """The same with other values of some settings, by their dotted names; the values are taken as they are."""
    sections: dict[str, dict[str, Any]] = {}
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        sections.setdefault(section, {})[key] = value
    return config.model_copy(update={name: getattr(config, name).model_copy(update=changed) for name, changed in sections.items()})


def parse_config(raw: dict[str, Any], where: str = "config", flags: Collection[str] = ()) -> Config:
    """A validated Config from nested dicts; every problem in one message.

    Args:
        where: the file that the settings are from.
        flags: settings that are from the command line, by their dotted names.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise InputError("\n".join(_blamed(problem, where, flags) for problem in error.errors())) from None


def _blamed(problem: Any, where: str, flags: Collection[str]) -> str:
    """A problem behind the file or the flag that it is of; behind both where a section is refused and each has written to it."""
    path = [str(part) for part in problem["loc"]]
    explained = _explain(problem)
    flag = next((flag for flag in flags if path[: flag.count(".") + 1] == flag.split(".")), None)
    if flag is not None:
        return f"--{explained}" if explained.startswith(f"{flag}:") else f"--{flag}: {explained}"
    in_section = [f"--{flag}" for flag in flags if flag.split(".")[: len(path)] == path]
    return f"{where} with {' '.join(in_section)}: {explained}" if in_section else f"{where}: {explained}"


def _parse_value(key: str, text: str) -> Any:
    """None and bracketed TOML values are decoded; anything else stays text, which the field's own type parses."""
    if text.lower() == "none" and _accepts_none(key):
        return None
    if text[:1] in "[{":
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"--{key}: {text!r} is not a TOML value: {error}") from None
    return text


def _accepts_none(dotted: str) -> bool:
    section, _, field = dotted.partition(".")
    model = Config.model_fields[section].annotation if section in Config.model_fields else None
    info = model.model_fields.get(field) if isinstance(model, type) and issubclass(model, Section) else None
    return info is not None and type(None) in typing.get_args(info.annotation)


def _assign(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        raw = raw.setdefault(part, {})
        if not isinstance(raw, dict):
            raise InputError(f"{dotted}: {part} is not a section")
    raw[last] = value


def _explain(problem: Any) -> str:
    """One pydantic problem in words: the key, what was wrong, what to do."""
    several = problem["loc"][:3] == ("data", "train", "several")
    path = [str(part) for part in problem["loc"] if part not in ("one", "several")]
    dotted = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = [f"data.train.{path[2]}.{key}" for key in TrainSource.model_fields] if several else known_keys()
        if len(path) == 1:  # a section
            known = list(Config.model_fields)
        same_name = [key for key in known if key.split(".")[-1] == path[-1]]
        elsewhere = "" if same_name else of_another_tool(path[-1])
        nearest = same_name or difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
        hint = elsewhere or (f"did you mean {nearest[0]}?" if nearest else "`tutelage train --help` lists the keys")
        return f"unknown key {dotted}: {hint}"
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    given = repr(problem["input"])
    given = given if len(given) <= SHOWN else f"{given[:SHOWN]}… ({len(given)} characters)"
    return f"{dotted}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {given}"


def known_keys() -> list[str]:
    """Every ``section.key`` there is."""
    return [f"{section}.{key}" for section, key, *_ in describe()]


def describe() -> list[tuple[str, str, str, str, str]]:
    """(section, key, type, default, docstring) of every field: what ``--help`` prints."""
    rows = []
    for section, info in Config.model_fields.items():
        model = typing.cast(type[Section], info.annotation)
        for key, field in model.model_fields.items():
            rows.append((section, key, _type_name(field.annotation), shown(field.default), field.description or ""))
    return rows


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(_type_name(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is list:
        return f"list of {_type_name(typing.get_args(annotation)[0])}"
    if annotation is type(None):
        return "none"
    if typing.get_origin(annotation) in (dict, tuple):
        return "table" if typing.get_origin(annotation) is dict else "list"
    return str(annotation.__name__)


def shown(value: Any) -> str:
    """A value as it is printed."""
    if isinstance(value, Section):
        given = value.model_dump(exclude_defaults=True)
        return f"{{ {', '.join(f'{name} = {shown(each)}' for name, each in given.items())} }}"
    if isinstance(value, list) and any(isinstance(each, Section) for each in value):
        return f"[{', '.join(map(shown, value))}]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def to_toml(config: Config) -> str:
    """The resolved configuration as TOML; fields that are None are left out, as TOML has no null."""
    return tomli_w.dumps(config.model_dump(exclude_none=True, mode="json"))


def changeable() -> frozenset[str]:
    """The settings that an unfinished run may be continued with another value of, by their dotted names."""
    return frozenset(
        f"{section}.{key}"
        for section, info in Config.model_fields.items()
        for key, field in typing.cast(type[Section], info.annotation).model_fields.items()
        if MAY_CHANGE in field.metadata
    )


def differences(old: Config, new: Config, may_change: Collection[str] = ()) -> list[str]:
    """``section.key: old → new`` for every value that changed, but those that may.

    How a step's rows are split into micro-batches may only change if the rows of a step do not.
    """
    if old.train.rows_per_step != new.train.rows_per_step:
        may_change = set(may_change) - {"train.batch_size", "train.grad_accum"}
    return [
        f"{section}.{key}: {shown(a)} → {shown(b)}"
        for section, key, *_ in describe()
        if f"{section}.{key}" not in may_change
        and (a := getattr(getattr(old, section), key)) != (b := getattr(getattr(new, section), key))
    ]
