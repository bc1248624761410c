"""A configuration's text with other values of some settings: comments, order and everything else stay as they are."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tomli_w

from tutelage.config.read import describe
from tutelage.errors import InputError

Path = tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """Some lines of a TOML text: one statement, one header, or one line that says nothing.

    Attributes:
        kind: "statement", "header" or "remark".
        table: the table that the piece stands in; of a header, the one that it begins.
        path: the full path of the key that a statement sets; of a header, its table; of a remark, nothing.
    """

    kind: str
    table: Path
    path: Path
    text: str


def edited(text: str, changes: Mapping[str, Any], remarks: Mapping[str, str] | None = None, explained: bool = False) -> str:
    """TOML with other values of some settings, by their dotted names. None takes a setting out.

    Args:
        remarks: comments behind the values, by the names of the settings. Otherwise, the comment that is there stays.
        explained: whether a new setting gets its meaning in comment lines above it. A setting that is taken out takes those along.

    Raises:
        InputError: the text is written in a way that hides where a setting belongs.
    """
    wanted = tomllib.loads(text)
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        if value is None:
            wanted.get(section, {}).pop(key, None)
            text = _joined(_without(_pieces(text), (section, key)))
        elif wanted.get(section, {}).get(key) != value or dotted in (remarks or {}):
            wanted.setdefault(section, {})[key] = value
            text = _with(text, (section, key), value, (remarks or {}).get(dotted, ""), explained)
    if _filled(tomllib.loads(text)) != _filled(wanted):
        raise InputError(f"the file is written in a way that {', '.join(changes)} cannot be changed in; change it by hand")
    return text


def inline(value: Any) -> str:
    """A value as it stands behind the equals sign, on one line."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(name)} = {inline(each)}' for name, each in value.items())} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline, value))}]"
    return tomli_w.dumps({"x": value}).partition(" = ")[2].strip()


def meaning_of(section: str, key: str) -> list[str]:
    """What a setting means, as comment lines; nothing for a setting that there is not."""
    text = next((text for of, name, _, _, text in describe() if (of, name) == (section, key)), "")
    return [f"# {line}" for line in text.splitlines()]


def _key(name: str) -> str:
    return tomli_w.dumps({name: 0}).partition(" = ")[0]


def _filled(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Without sections that set nothing."""
    return {section: values for section, values in raw.items() if values != {}}


def _pieces(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    table: Path = ()
    lines = text.splitlines(keepends=True)
    while lines:
        line = lines.pop(0)
        start = line.strip()
        if not start or start.startswith("#"):
            pieces.append(Piece("remark", table, (), line))
        elif start.startswith("["):
            table = _path(tomllib.loads(line))
            pieces.append(Piece("header", table, table, line))
        else:
            while not _is_toml(line) and lines:
                line += lines.pop(0)
            pieces.append(Piece("statement", table, table + _key_of(line), line))
    return pieces


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _path(nested: Any) -> Path:
    """The keys that lead to the innermost table of a header."""
    if isinstance(nested, list):
        nested = nested[0]
    if not isinstance(nested, dict) or not nested:
        return ()
    key, inner = next(iter(nested.items()))
    return key, *_path(inner)


def _key_of(statement: str) -> Path:
    """The path that a statement sets, in its own table."""
    return _path(tomllib.loads(f"{_before_value(statement)}= 0"))


def _before_value(statement: str) -> str:
    """The key as it is written; an equals sign may be part of it."""
    ends = (index for index, character in enumerate(statement) if character == "=")
    return next(statement[:end] for end in ends if _is_toml(f"{statement[:end]}= 0"))


def _joined(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _without(pieces: list[Piece], path: Path) -> list[Piece]:
    """The text without a setting, its own tables, and the comment lines above it that say what it means."""
    meaning = meaning_of(*path)
    kept: list[Piece] = []
    for piece in pieces:
        if piece.path[:2] == path:
            above = [each.text.strip() for each in kept[len(kept) - len(meaning) :]]
            if meaning and above == meaning:
                del kept[len(kept) - len(meaning) :]
            while piece.kind == "header" and kept and not kept[-1].text.strip():
                kept.pop()
        elif piece.path == path[:1] and piece.kind == "statement":  # the section is an inline table
            rest = {key: value for key, value in _value(piece).items() if key != path[1]}
            kept.append(_set(piece, rest, ""))
        else:
            kept.append(piece)
    return kept


def _value(piece: Piece) -> Any:
    found: Any = tomllib.loads(piece.text)
    for key in _key_of(piece.text):
        found = found[key]
    return found


def _set(piece: Piece, value: Any, remark: str) -> Piece:
    """A statement with another value; its comment stays, unless there is a new one."""
    before = _before_value(piece.text).rstrip() + " "
    comment = f"# {remark}" if remark else _comment(piece.text)
    end = "\n" if piece.text.endswith("\n") else ""
    return Piece(piece.kind, piece.table, piece.path, f"{before}= {inline(value)}{'  ' + comment if comment else ''}{end}")


def _comment(statement: str) -> str:
    """The comment behind the value of a statement; "" if there is none."""
    said = tomllib.loads(statement)
    last = statement.rstrip("\n")
    for index, character in enumerate(last):
        if character == "#" and _is_toml(last[:index]) and tomllib.loads(last[:index]) == said:
            return last[index:].rstrip()
    return ""


def _with(text: str, path: Path, value: Any, remark: str, explained: bool) -> str:
    pieces = _pieces(text)
    mine = [index for index, piece in enumerate(pieces) if piece.path[:2] == path]
    if len(mine) == 1 and pieces[mine[0]].path == path and pieces[mine[0]].kind == "statement":
        pieces[mine[0]] = _set(pieces[mine[0]], value, remark)
        return _joined(pieces)
    covering = [index for index, piece in enumerate(pieces) if piece.kind == "statement" and piece.path == path[:1]]
    if covering:
        piece = pieces[covering[0]]
        pieces[covering[0]] = _set(piece, _value(piece) | {path[1]: value}, remark)
        return _joined(pieces)
    return _inserted(_without(pieces, path), path, value, remark, explained)


def _inserted(pieces: list[Piece], path: Path, value: Any, remark: str, explained: bool) -> str:
    """The text with a new statement: at the end of its section, or in a new section at the end."""
    section, key = path
    line = f"{_key(key)} = {inline(value)}{'  # ' + remark if remark else ''}\n"
    above = "".join(f"{each}\n" for each in meaning_of(section, key)) if explained else ""
    own = [index for index, piece in enumerate(pieces) if piece.kind != "remark" and piece.table == (section,)]
    dotted = [index for index, piece in enumerate(pieces) if piece.table == () and piece.path[:1] == (section,)]
    if own or dotted:
        last = (own or dotted)[-1]
        before = _joined(pieces[: last + 1])
        line = above + (line if own else f"{section}.{line}")
        return f"{before}{'' if before.endswith(chr(10)) else chr(10)}{line}{_joined(pieces[last + 1 :])}"
    text = _joined(pieces)
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{gap}[{section}]\n{above}{line}"
